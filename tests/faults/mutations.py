"""How files are damaged on purpose, and what may come of reading them: a value, or a `GlczooError`.

Of fewer than 2,000 letters, within seconds and without taking much memory.
"""

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from glczoo.errors import GlczooError

EXAMPLES = int(os.environ.get("GLCZOO_FUZZ", "20"))
SECONDS = 10
LONGEST = 2000  # characters of a message
MEMORY = 2**29  # bytes that reading may add to the most that this process ever took

# Up to 200 the same ones each time: a change is judged, not luck. `make fuzz` looks for new ones.
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 200,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def share(part: float) -> settings:
    """Settings of fewer examples, where one of them takes long: a part of what `fuzzed` takes."""
    return settings(fuzzed, max_examples=max(1, round(part * EXAMPLES)))


def refused_or_read(read: Callable[[], object]) -> None:
    """Read, and see how it ends."""
    start, before = time.process_time(), _most_memory()
    try:
        read()
    except GlczooError as error:
        message = str(error)
        assert 0 < len(message) < LONGEST, f"{len(message)} characters: {message[:500]}"
        message.encode()
    taken = time.process_time() - start
    assert taken < SECONDS, f"{taken:.1f} s"
    assert _most_memory() - before < MEMORY


def _most_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def written(path: Path, content: str | bytes) -> Path:
    """Write text (also such as no UTF-8 can hold) or bytes, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


# Values of YAML and JSON.

ODD = ["", "no", "../..", "/etc", "hf-hub:a/b", "top_k", "auto", "x" * 20_000, "\0", "pa", "1e-3"]
NUMBERS = [0, -1, 2**31, 2**63, 2**64, 10**30, 1e300, -0.0]
json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(NUMBERS),
    st.text(max_size=30),
    st.sampled_from(ODD),
)
scalars = json_scalars | st.dates()


def nested(leaves: st.SearchStrategy[object], keys: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Leaves, and lists and mappings of them."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


values = nested(scalars, st.text(max_size=8) | scalars)
json_values = nested(json_scalars, st.text(max_size=8))
LETTERS = ["&a ", "*a", "!!set ", "\t", "\x07", "[", "{", "- ", ": ", "'", '"', "|\n", "\n\n", "%", "\ud7ff"]
LETTERS += [";", ",", "NA", "-999", "1e400", "\r", "\ufeff", "9" * 30, "€"]


def exchanged(draw: st.DrawFn, data: object, new: st.SearchStrategy[object]) -> None:
    """Exchange, add or delete some values of nested mappings and lists, in place."""
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while True:
            names = [*place, "another"] if isinstance(place, dict) else list(range(len(place)))
            if not names:
                return
            name = draw(st.sampled_from(names))
            inner = None if name == "another" else place[name]
            if not (isinstance(inner, dict | list) and inner and draw(st.booleans())):
                break
            place = inner
        if name != "another" and draw(st.integers(0, 4)) == 0:
            del place[name]
        else:
            place[name] = draw(new)


@st.composite
def changed_yaml(draw: st.DrawFn, text: str) -> str:
    """A YAML file some of whose values are others."""
    data = yaml.safe_load(text)
    exchanged(draw, data, values)
    return yaml.safe_dump(data, allow_unicode=True)


@st.composite
def changed_json(draw: st.DrawFn, text: str) -> str:
    """A JSON file some of whose values are others."""
    data = json.loads(text)
    exchanged(draw, data, json_values)
    return json.dumps(data, ensure_ascii=draw(st.booleans()))


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    """A text with letters cut out or put in, or a piece of it repeated or moved."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 5, 200]))
        new = draw(st.sampled_from(LETTERS) | st.text(max_size=5) | st.just(text[start : start + 100]))
        text = text[:start] + new + text[end:]
    return text


@st.composite
def changed_cells(draw: st.DrawFn, text: str, separator: str) -> str:
    """A table some of whose cells, of the header too, are others, or with a row or column less."""
    rows = [line.split(separator) for line in text.splitlines()]
    cells = st.sampled_from(CELLS) | st.text(max_size=10) | json_scalars.map(str)
    for _ in range(draw(st.integers(1, 4))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        if not row:
            continue
        at = draw(st.integers(0, len(row) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                del row[at]
            case 1:
                row.insert(at, draw(cells))
            case 2:
                new = draw(cells)
                for other in rows[1:]:
                    other[at:] = [new, *other[at + 1 :]]
            case _:
                row[at] = draw(cells)
    return "\n".join(separator.join(row) for row in rows)


CELLS = ["", "NA", "nan", "-999", "0", "1e400", "inf", "-inf", "9" * 30, "1,5", "48°30'", "yes", '"', "a;b,c"]
CELLS += ["2020-01-01", "True", "=1+1", "speciesId", "lon", "x" * 5000, "1e19", "0x10", "1_000", "٣"]


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes, head: int = 600) -> bytes:
    """Bytes that were flipped, overwritten, cut out, put in or cut off, half of the time in the header."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        reach = min(head, len(data)) if draw(st.booleans()) else len(data)
        at = draw(st.integers(0, max(0, reach - 1)))
        new = draw(
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\x80"]) | st.binary(max_size=8)
        )
        match draw(st.integers(0, 5)):
            case 0:
                del data[at : at + draw(st.sampled_from([1, 4, 100]))]
            case 1:
                data[at:at] = new
            case 2:
                del data[at:]
            case _:
                data[at : at + len(new)] = new
    return bytes(data)
