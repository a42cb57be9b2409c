"""What the verbs share: how they parse and list themselves, the options of several, and their output."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from glczoo import files
from glczoo.files import first_process, whole

__all__ = [
    "CONTEXT",
    "PATH",
    "Several",
    "Verb",
    "Verbs",
    "batch_size_option",
    "first_process",
    "json_option",
    "licence_option",
    "overrides_argument",
    "part_option",
    "region_option",
    "runs_argument",
    "truth_option",
    "will_write",
    "write_json",
]

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110}
PATH = click.Path(path_type=Path)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Several(click.Option):
    """An option of one or more words: `--species 3 20`."""

    def __init__(self, names: Sequence[str], metavar: str, **settings: Any) -> None:
        """Take what `click.option` gives; `metavar` is that of a word."""
        super().__init__(names, multiple=True, metavar=f"{metavar} …", **settings)


class Verb(click.Command):
    """A verb: options and overrides may stand in any order, and some options take several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse words, `--species 3 20` as click knows it: `--species 3 --species 20`."""
        options = {name for param in self.params if isinstance(param, Several) for name in param.opts}
        words: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in options else None
            elif option and words[-1] != option:
                words.append(option)
            words.append(word)
        return super().parse_args(ctx, words)


class Verbs(click.Group):
    """A group of verbs that lists them in sections, each with its whole first sentence."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[click.Command]], **settings: Any) -> None:
        """Hold the verbs of `sections`, a mapping from a title to its verbs."""
        super().__init__(*args, **settings)
        self.sections = sections
        for verbs in sections.values():
            for verb in verbs:
                self.add_command(verb)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; click itself would cut the sentences at the width of a line."""
        width = max(len(name) for name in self.commands)
        for title, verbs in self.sections.items():
            with formatter.section(title):
                rows = [(f"{verb.name:{width}}", _first_sentence(verb)) for verb in verbs]
                formatter.write_dl(rows)


def _first_sentence(verb: click.Command) -> str:
    return " ".join((verb.help or "").split("\n\n")[0].split()).removesuffix(".")


runs_argument = click.argument("runs", nargs=-1, required=True, metavar="RUN…")
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
region_option = click.option("--region", type=PATH, help="region.yaml or its folder; else the first run's")
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, help="Points in a batch."
)
json_option = click.option("--json", "json_file", type=PATH, metavar="FILE", help="Also write it as JSON.")
licence_option = click.option(
    "--licence", default="not stated", help="Of the weights, e.g. cc-by-4.0: mind the terms of the data."
)
part_option = click.option(
    "--part", type=click.Choice(["train", "validation", "test"]), help="By default test, else validation."
)


def truth_option(purpose: str) -> Decorator:
    """`--truth`, which each verb uses for its own purpose."""
    return click.option(
        "--truth", type=PATH, help=f"Table of true species (Id;speciesId, or a solution file): {purpose}."
    )


def will_write(
    *paths: Path | None, folder: bool = False, runs: Sequence[str | Path] = (), region: Path | None = None
) -> None:
    """Print where a verb will write, before the work, once it is known that it can.

    Args:
        paths: of files, those that are None are not wanted.
        folder: whether these are folders.
        runs: that the verb reads: what is no finished run is refused before anything is printed.
        region: that it reads, likewise.

    Raises:
        GlczooError: a path cannot be written.
        MissingError, GlczooError: an input cannot be read.
    """

    def inputs() -> None:
        if runs:
            from glczoo.hub_client import PREFIX
            from glczoo.runs.run import Run

            for run in runs:
                if not str(run).startswith(PREFIX):  # the Hub is asked once, by the verb itself
                    Run.find(run)
        if region is not None:
            from glczoo.data.region import Region

            Region.load(region)

    files.will_write(*paths, folder=folder, inputs=inputs)


def write_json(path: Path | None, result: Any) -> None:
    """Write a result where the user wants it."""
    if path:
        with whole(path) as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def pairs(words: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE words as a dictionary."""
    return dict(word.partition("=")[::2] for word in words)
