"""README.md from top to bottom in an empty environment: `make walk`, or `python tests/readme_walk.py FOLDER`.

Builds the wheel, makes an environment without packages, and gives every command and every line of Python as
the page has them. Two things differ: the wheel of this clone is installed in the place of the one on GitHub,
and `glczoo app` is asked for its page and then ended.
"""

import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[1]


class Block(NamedTuple):
    """A block of README.md: its language and what stands in it."""

    language: str
    text: str


def blocks() -> list[Block]:
    """The blocks of README.md with a language, in order; those without one are examples."""
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", _page(), re.M | re.S)]


def commands(block: Block) -> list[str]:
    """The command lines of a shell block, without comments."""
    lines = (shlex.split(line, comments=True) for line in block.text.splitlines())
    return [shlex.join(words) for words in lines if words]


def _page() -> str:
    return (TOP / "README.md").read_text("utf-8")


def main(folder: Path) -> None:
    """Walk, and print what is given, what comes of it, and how long it takes."""
    folder = folder.resolve()
    folder.mkdir(parents=True)
    (work := folder / "work").mkdir()
    _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, TOP], folder)
    (wheel,) = folder.glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
    _run([sys.executable, "-m", "venv", folder / "env"], folder)
    programs = folder / "env/bin"
    start, answered = time.monotonic(), False
    for number, block in enumerate(all_blocks := blocks()):
        if block.language == "python":
            output = _run([programs / "python", "-c", block.text], work)
            expected = all_blocks[number + 1]
            assert expected.language == "text" and output == expected.text, f"README says {expected.text}"
            if not answered:
                print(f"--- {time.monotonic() - start:.0f} s from pip install to the first species")
            answered = True
        for command in commands(block) if block.language == "sh" else []:
            program, *words = shlex.split(command)
            if program == "pip":
                extra = "".join(re.findall(r"\[\w+\]", command))
                versions = str(TOP / "constraints.txt")
                words = ["install", "--quiet", "--constraint", versions, f"{wheel}{extra}"]
            if words[0] == "app":
                _ask_page([programs / program, *words], work)
            else:
                _run([programs / program, *words], work)
    left = sorted(path.name for path in work.iterdir())
    print(f"--- {time.monotonic() - start:.0f} s in all; left behind: {left}")


def _run(command: list, folder: Path) -> str:
    """Give a command, and print it with its output and seconds.

    Raises:
        SystemExit: it failed.
    """
    words, start = [str(word) for word in command], time.monotonic()
    print(f"\n$ {shlex.join([Path(words[0]).name, *words[1:]])}", flush=True)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    print(f"{done.stdout}{done.stderr}({time.monotonic() - start:.1f} s)", flush=True)
    if done.returncode:
        raise SystemExit(f"it failed with {done.returncode}")
    return done.stdout


def _ask_page(command: list, folder: Path) -> None:
    """Start the page, read it once, and end it."""
    words, start = [str(word) for word in command], time.monotonic()
    print(f"\n$ {shlex.join([Path(words[0]).name, *words[1:]])}", flush=True)
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        page = urllib.request.urlopen(line.split()[0]).read().decode()
        print(f"{line}{len(page):,} characters of HTML ({time.monotonic() - start:.1f} s)", flush=True)
        server.terminate()
    assert "species to be expected" in page, "the page answers nothing before a click"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
