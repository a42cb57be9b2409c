# Each target makes its own set-up: on a fresh machine with Python (>= 3.11) and make, `make demo` and
# `make test` are all there is to type.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo sample test walk lint docs faults fuzz bench clean help

help:            ## what there is to make
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $@

demo: .venv/installed   ## a virtual region, three steps, two models, an ensemble, a map: minutes on two cores
	$(BIN)/glczoo demo --out demo

sample: .venv/installed ## remake the region and the model that travel with glczoo: minutes on a core
	rm -rf build/sample
	OMP_NUM_THREADS=1 $(BIN)/python -m glczoo.make_sample build/sample
	rm -rf glczoo/sample && mkdir glczoo/sample
	cp -R build/sample/model build/sample/region glczoo/sample/

test: .venv/installed   ## the tests; GLCZOO_TEST_DATA=folder adds those on real data
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

walk: .venv/installed   ## README.md from top to bottom in an empty environment
	rm -rf build/walk build/lib
	$(BIN)/python tests/readme_walk.py build/walk

lint: .venv/installed   ## ruff, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed   ## the documentation as site/: broken links and unexplained names fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

faults: .venv/installed ## the tests of hostile days alone: kills, full disks, broken and hostile files
	GLCZOO_KILLS=all GLCZOO_FUZZ=200 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal tests/faults

fuzz: .venv/installed   ## 10,000 mutated examples of every file that is read, in the place of 20 (make faults: 200)
	GLCZOO_FUZZ=10000 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal tests/faults -k fuzzed

bench: .venv/installed  ## what reading the data costs beside the usual ways, on 9 GB of files under bench/
	$(BIN)/python tests/benchmarks/full_size.py bench $(if $(GLCZOO_TEST_DATA),--jpegs $(GLCZOO_TEST_DATA)/glc23-sample/SatelliteImages)
	$(BIN)/python tests/benchmarks/data.py bench --json bench/data.json

clean:           ## remove the environment and what the demo made
	rm -rf .venv demo runs bench
