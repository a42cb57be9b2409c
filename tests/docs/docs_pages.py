"""The code on the documentation's pages: read, parsed against the command and the schemas, and run.

A fenced block of `sh` or `python` is run, in the order of the page; one of `yaml` is checked against the
schemas. A comment before a block says what is otherwise:

    <!-- docs: parse, REASON -->     the block is not run: its words must parse, its files exist
    <!-- docs: add WORDS -->         words that make the block's commands small enough for a test
    <!-- docs: after PAGE -->        anywhere: PAGE is run before, in the same folder

`python tests/docs/docs_pages.py` prints what a test runs of each page.
"""

import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import click
import yaml
from pydantic import TypeAdapter

from glczoo.cli import command
from glczoo.data.region import Region
from glczoo.data.schema import parse as parse_schema
from glczoo.data.schema import read_yaml
from glczoo.evaluation.nceas import Benchmark
from glczoo.evaluation.study import Study
from glczoo.fit.settings import read_settings
from glczoo.losses import LOSSES, NEEDS
from glczoo.packaged import locate
from glczoo.recipe import RENAMED, Recipe, override

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COPIED = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")

_FENCE = re.compile(r"(?:^<!-- docs: (parse|add)(?:, | )(.*?) -->\n)?^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)
_AFTER = re.compile(r"<!-- docs: after (\S+) -->")
_LAUNCH = ["accelerate", "launch"]
_MODULE = ["-m", "glczoo.train"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    parse: str = ""  # why it is not run
    add: tuple[str, ...] = ()  # words for a test

    def commands(self) -> list[list[str]]:
        """Words of each line of a shell block, continued lines joined, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in map(_words, _whole_lines(lines)) if words]

    def shortened(self, words: list[str]) -> list[str]:
        """A command as a test runs it: of an option that is given twice the last one counts."""
        return [*words, *self.add] if words[0] == "glczoo" else words


def _whole_lines(lines: list[str]) -> Iterator[str]:
    """Lines, those of one quotation joined."""
    whole = ""
    for line in lines:
        whole = f"{whole}\n{line}" if whole else line
        if whole.count('"') % 2 == 0:
            yield whole
            whole = ""


def _words(line: str) -> list[str]:
    """Words as a shell splits them, a pattern as the paths that fit it."""
    words = shlex.split(line, comments=True)
    return [path for word in words for path in (sorted(glob(word)) if "*" in word else []) or [word]]


def pages() -> list[Path]:
    """Every page that people write."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are code."""
    found = []
    for kind, more, language, text in _FENCE.findall(page.read_text("utf-8")):
        if language in ("sh", "python", "yaml"):
            parse = more if kind == "parse" else ""
            add = tuple(shlex.split(more)) if kind == "add" else ()
            found.append(Block(page, language, text, parse, add))
    return found


def prerequisite(page: Path) -> Path | None:
    """The page that is run before this one."""
    named = _AFTER.search(page.read_text("utf-8"))
    return DOCS / named[1] if named else None


def check(block: Block) -> None:
    """Whether a block can be right: words parse, files and keys exist.

    Raises:
        AssertionError, ValueError, click.ClickException: it cannot.
    """
    if block.language == "python":
        compile(block.text, str(block.page), "exec")
    elif block.language == "yaml":
        _check_keys(yaml.safe_load(block.text))
    else:
        for words in block.commands():
            _check_command(words)


def _check_command(words: list[str]) -> None:
    if words[0] == "glczoo":
        return _check_verb(words[1:])
    if words[:2] == _LAUNCH:
        place = words.index("-m")
        assert words[place : place + 2] == _MODULE
        if "--config_file" in words:
            assert locate(words[words.index("--config_file") + 1]).is_file(), words
        return _check_verb(["train", *words[place + 2 :]])
    if words[0] == "python":
        if words[1] == "-c":
            compile(words[2], "python -c", "exec")
            return None
        assert (ROOT / words[1]).is_file(), words
        return None
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [extra for word in words for extra in re.findall(r"glczoo\[(\w+)\]", word)]
        assert set(named) <= set(extras), words
        return None
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
        return None
    assert words[0] in ("export", "git", "cd"), f"{words}: what is this?"


def _check_verb(words: list[str]) -> None:
    """Parse words as the command does, and the recipe or study that they name with its overrides."""
    verb: click.Command = command
    names: list[str] = []
    while isinstance(verb, click.Group) and words and words[0] in verb.commands:
        names.append(words[0])
        verb, words = verb.commands[words[0]], words[1:]
    assert not isinstance(verb, click.Group) or verb.invoke_without_command, f"{names} {words}: no such verb"
    values = verb.make_context(" ".join(names), list(words)).params
    overrides = list(values.get("overrides") or [])
    if names[0] == "fit":
        read_settings(Region.model_construct(split=None), overrides)
    named = values.get("recipe") or values.get("study")
    if named and (path := locate(str(named))).is_file():
        schema = Recipe if "recipe" in values else _kind_of_study(path)
        if schema is Study:  # its overrides are keys of recipes too
            parse_schema(schema, read_yaml(path), str(path))
        else:
            parse_schema(schema, override(read_yaml(path), overrides), str(path), RENAMED)
    elif named:
        assert not str(named).startswith("recipes/"), f"{named} is no packaged file"


def _kind_of_study(path: Path) -> type[Study] | type[Benchmark]:
    return Benchmark if "benchmark" in read_yaml(path) else Study


def _check_keys(data: dict[str, Any]) -> None:
    """Keys of a piece of region.yaml or of a recipe, with values that they take."""
    for key, value in data.items():
        fields = Region.model_fields.get(key) or Recipe.model_fields.get(key)
        assert fields is not None, f"there is no key {key}"
        TypeAdapter(fields.annotation).validate_python(value)


class Scratch:
    """A folder in which pages are run; what was run in it is not run again."""

    def __init__(self, path: Path, run: Callable[[list[str]], None]) -> None:
        """Run commands of glczoo by `run`, in the working directory, which is `path`."""
        self.path, self._run = path, run
        self._done: set[Path] = set()
        self._commands: set[str] = set()

    def follow(self, page: Path) -> None:
        """Run a page, after the one that it builds on."""
        if page in self._done:
            return
        if (before := prerequisite(page)) is not None:
            self.follow(before)
        self._done.add(page)
        module = sys.modules["page"] = ModuleType("page")  # decorators look their function's module up
        for block in blocks(page):
            check(block)
            if block.parse or block.language == "yaml":
                continue
            if block.language == "python":
                with patch.dict(LOSSES), patch.dict(NEEDS):  # a page may register a loss
                    exec(compile(block.text, str(page), "exec"), vars(module))
                continue
            for words in map(block.shortened, block.commands()):
                if words[0] == "glczoo" and shlex.join(words) not in self._commands:
                    self._commands.add(shlex.join(words))
                    self._run(words[1:])


def summary() -> Iterator[str]:
    """A line for each page: how many commands a test runs, how many are parsed alone, and why."""
    yield "| page | run | parsed or checked alone, because |"
    yield "|---|---|---|"
    for page in [*pages(), *COPIED]:
        run = {"sh": 0, "python": 0}
        parsed = []
        for block in blocks(page):
            count = len(block.commands()) if block.language == "sh" else 1
            if block.language == "yaml":
                parsed.append("YAML: against the schema")
            elif block.parse or page in COPIED:
                parsed.append(
                    f"{_counted(block.language, count)}: {block.parse or 'see tests/test_readme.py'}"
                )
            else:
                run[block.language] += count
        shown = page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT)
        texts = [_counted(language, count) for language, count in run.items() if count]
        yield f"| {shown} | {', '.join(texts) or '–'} | {'; '.join(parsed) or '–'} |"


def _counted(language: str, count: int) -> str:
    """Three commands, one piece of Python."""
    if language == "python":
        return f"{count} {'pieces' if count > 1 else 'piece'} of Python"
    return f"{count} command{'s' if count > 1 else ''}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(summary()) + "\n")
