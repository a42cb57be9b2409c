"""A hook of MkDocs: pages that are made from the code when the site is built, and what they must hold.

Made are a page for each section of the command, the keys of recipes, regions, fits and studies, a page for
each module, and the files of the repository's top that belong to the site. What nothing explains is a
warning, with which `mkdocs build --strict` fails: an option without help, a key without description, a public
name without docstring, a parameter that neither its docstring nor `reference/python/words.md` names.
"""

import re
import types
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import griffe
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glczoo.cli import command
from glczoo.data.region import Region
from glczoo.evaluation.nceas import Benchmark
from glczoo.evaluation.study import Study
from glczoo.fit.settings import Fit
from glczoo.losses import LOSSES
from glczoo.recipe import Recipe

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "docs" / "reference" / "python" / "words.md"

COPIED = {
    "contributing/index.md": "CONTRIBUTING.md",
    "contributing/security.md": "SECURITY.md",
    "contributing/changelog.md": "CHANGELOG.md",
    "evidence/log.md": "recipes/studies/LOG.md",
}
"""Pages that are files of the repository."""

FILES: dict[str, tuple[str, type[BaseModel], str]] = {
    "recipe": ("a recipe", Recipe, "All that determines a training run: `glczoo train RECIPE`."),
    "region": ("region.yaml", Region, "All that is known about a region's data before it is read."),
    "fit": ("a fit", Fit, "Keys that can be set behind `glczoo fit REGION`, such as `folds=5`."),
    "study": ("a study", Study, "A grid of runs and seeds: `glczoo study STUDY`."),
    "benchmark": ("a benchmark", Benchmark, "A study of presence-only training, judged by surveys."),
}
"""Pages of keys: title, schema and opening sentence by the page's name."""

HIDDEN = ("glczoo.cli", "glczoo.__main__")
"""Python that is no interface: the command, which pages of its own explain."""

log = get_plugin_logger("reference")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made into the navigation."""
    made: dict[str, list[Any]] = {
        "[COMMANDS]": [f"reference/commands/{_slug(title)}.md" for title in command.sections],
        "[FILES]": [f"reference/{name}.md" for name in FILES] + ["reference/environment.md"],
        "[PYTHON]": ["reference/python/index.md", "reference/python/words.md", *_python_nav()],
        "[CARDS]": [f"evidence/cards/{path.name}" for path in _cards()],
        "[FURTHER]": [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "index.md"],
    }
    config.nav = _filled(config.nav, made)
    return config


def _filled(nav: Any, made: dict[str, list[Any]]) -> Any:
    """The navigation with its placeholders, such as [PYTHON], replaced by pages."""
    if isinstance(nav, dict):
        return {title: _filled(entry, made) for title, entry in nav.items()}
    if isinstance(nav, list) and len(nav) == 1 and isinstance(nav[0], str) and f"[{nav[0]}]" in made:
        return made[f"[{nav[0]}]"]
    if not isinstance(nav, list):
        return nav
    entries = [_filled(entry, made) for entry in nav]
    return [entry for entry in entries if not isinstance(entry, dict) or list(entry.values()) != [[]]]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and warn of what nothing explains."""
    for problem in [*unexplained_options(), *unexplained_keys(), *unexplained_names()]:
        log.warning(problem)
    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    for path in sorted((ROOT / "model_cards" / "pictures").glob("*.png")):
        files.append(File.generated(config, f"assets/pictures/{path.name}", abs_src_path=str(path)))
    return files


def pages() -> dict[str, str]:
    """Every page that is made, by its place."""
    made = {uri: (ROOT / source).read_text("utf-8") for uri, source in COPIED.items()}
    made |= {f"evidence/cards/{path.name}": _card(path) for path in _cards()}
    made |= {f"reference/commands/{_slug(title)}.md": _commands(title) for title in command.sections}
    made |= {f"reference/{name}.md": _keys(*about) for name, about in FILES.items()}
    return made | {_module_page(path): _module(path) for path in modules()}


def _cards() -> list[Path]:
    return sorted(path for path in (ROOT / "model_cards").glob("*.md") if path.name != "template.md")


def _card(path: Path) -> str:
    """A model card without the header that is the Hub's, beneath a title of its own."""
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text("utf-8"), flags=re.S)
    return text.replace("](pictures/", "](../../assets/pictures/")


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


# The command


def verbs(group: click.Group = command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb with its words."""
    for name, verb in group.commands.items():
        if isinstance(verb, click.Group):
            yield from verbs(verb, *path, name)
        if not isinstance(verb, click.Group) or verb.invoke_without_command:
            yield (*path, name), verb


def unexplained_options() -> list[str]:
    """Options without help, and verbs without a sentence."""
    problems = []
    for words, verb in verbs():
        options = [param for param in verb.params if isinstance(param, click.Option)]
        problems += [f"glczoo {' '.join(words)}: no help for {o.opts[0]}" for o in options if not o.help]
        problems += [] if verb.help else [f"glczoo {' '.join(words)}: no help"]
    return problems


def _commands(title: str) -> str:
    """The page of a section of `glczoo --help`."""
    named = {verb.name for verb in command.sections[title]}
    texts = [f"# {title}: commands" if title != "First" else "# The demonstration: command"]
    texts += [_verb(words, verb) for words, verb in verbs() if words[0] in named]
    return "\n\n".join(texts) + "\n"


def _verb(words: tuple[str, ...], verb: click.Command) -> str:
    name = " ".join(("glczoo", *words))
    context = click.Context(verb, info_name=name)
    usage = " ".join(verb.collect_usage_pieces(context))
    texts = [f"## {name}", f"```text\n{name} {usage}\n```", _prose(verb.help or "")]
    if words[0] in ("train", "fit"):
        texts.append(f"The keys: [{words[0]}](../{'recipe' if words[0] == 'train' else 'fit'}.md).")
    for option in verb.params:
        if isinstance(option, click.Option):
            texts.append(_option(option))
    return "\n\n".join(texts)


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    kind = f" `{_metavar(option)}`" if not option.is_flag else ""
    facts = ["required"] if option.required else []
    if not option.is_flag and option.default not in (None, "", ()) and "UNSET" not in repr(option.default):
        default = option.default
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        facts.append(f"default `{shown}`")
    note = f" ({', '.join(facts)})" if facts else ""
    return f"{names}{kind}{note}\n:   {_escaped(option.help or '')}"


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar.removesuffix(" …") + (" …" if option.multiple else "")
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return {"integer range": "INTEGER", "float range": "NUMBER", "float": "NUMBER", "path": "PATH"}.get(
        option.type.name, option.type.name.upper()
    )


def _prose(text: str) -> str:
    return _escaped("\n\n".join(" ".join(part.split()) for part in text.split("\n\n")))


def _escaped(text: str) -> str:
    """Text as Markdown shows it, `code` kept."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", p) for p in parts)


# The keys of YAML files


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that a type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections(part)]


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """Every key of a schema and of the sections inside it: key, schema's name, field."""
    for key, field in schema.model_fields.items():
        yield f"{prefix}{key}", schema.__name__, field
        for section in sections(field.annotation):
            many = get_origin(field.annotation)
            inside = {list: "[].", dict: ".NAME."}.get(many, ".") if many else "."
            yield from keys(section, f"{prefix}{key}{inside}")


def unexplained_keys() -> list[str]:
    """Keys without a description."""
    return [
        f"{name}.yaml: no description of {key}"
        for name, (_, schema, _) in FILES.items()
        for key, _, field in keys(schema)
        if not field.description and not (sections(field.annotation) and _about(field))
    ]


def _about(field: FieldInfo) -> str:
    """The description, or the first paragraph of what the section's schema says of itself."""
    if field.description or not (inner := sections(field.annotation)):
        return field.description or ""
    return " ".join((inner[0].__doc__ or "").split("\n\n")[0].split())


def _keys(title: str, schema: type[BaseModel], sentence: str) -> str:
    texts = [f"# Keys of {title}", sentence]
    texts.append(
        "A key inside a section is written with a dot, as an override takes it; `[]` stands for each entry "
        "of a list and `NAME` for a name of your own. A key that is not listed here is refused."
    )
    for key, _, field in keys(schema):
        inner = sections(field.annotation)
        if inner and "." not in key:
            texts.append(f"## {key}")
        if inner:
            texts.append(
                f"`{key}` (section{_fact(field, section=True)})\n:   {_escaped(_about(field).strip())}"
            )
            continue
        if "." not in key and not texts[-1].startswith("`") and not inner and len(texts) == 2:
            texts.append("## Top")
        texts.append(
            f"`{key}` ({type_words(field.annotation)}{_limits(field)}{_fact(field)})\n"
            f":   {_escaped(_about(field).strip())}"
        )
    if schema is Recipe:
        texts.append(_losses())
    return "\n\n".join(texts) + "\n"


def _fact(field: FieldInfo, section: bool = False) -> str:
    """Whether a key is needed, else its default."""
    if field.is_required():
        return ", required"
    default = field.get_default(call_default_factory=True)
    if section or isinstance(default, BaseModel):
        return ", default null" if default is None else ""
    if isinstance(default, StrEnum):
        default = str(default)
    shown = (
        {None: "null", True: "true", False: "false", "": "empty"}.get(default) if _hashable(default) else None
    )
    return f", default `{shown or default}`"


def _hashable(value: object) -> bool:
    return not isinstance(value, list | dict) and type(value) in (type(None), bool, str)


def _limits(field: FieldInfo) -> str:
    words = []
    for limit in field.metadata:
        match limit:
            case Ge(ge=value):
                words.append(f"at least {value}")
            case Gt(gt=value):
                words.append(f"above {value}")
            case Le(le=value):
                words.append(f"at most {value}")
            case Lt(lt=value):
                words.append(f"below {value}")
            case MinLen(min_length=value):
                words.append(f"{value} or more of them")
            case MaxLen(max_length=value):
                words.append(f"at most {value} letters")
    return "".join(f", {word}" for word in words)


_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}


def type_words(annotation: Any) -> str:
    """A type in words: `list[str] | None` is "list of text or null"."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return " or ".join(f"`{value}`" for value in annotation)
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(part) for part in arguments)
    if origin is list:
        return f"list of {type_words(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: {', '.join(type_words(part) for part in arguments)}"
    if origin is dict:
        return f"mapping of {type_words(arguments[0])} to {type_words(arguments[1])}"
    return "anything" if annotation is Any else getattr(annotation, "__name__", str(annotation))


def _losses() -> str:
    texts = ["## Losses", "What `loss` and `po_loss` can name; the settings stand beside the name."]
    for name in LOSSES:
        loss = LOSSES[name]
        defaults = {**(loss.__kwdefaults__ or {})}
        shown = ", ".join(f"`{k}: {v}`" for k, v in defaults.items() if isinstance(v, int | float | str))
        sentence = _prose((loss.__doc__ or "").split("\n\n")[0])
        texts.append(f"`{name}`{f' ({shown})' if shown else ''}\n:   {sentence}")
    return "\n\n".join(texts)


# Python


def modules() -> list[str]:
    """Paths of the modules that have a page, lowest rooms not first: by name."""
    found = []
    for path in sorted((ROOT / "glczoo").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        empty = path.name == "__init__.py" and "__all__" not in path.read_text("utf-8")
        reexports = path.name == "__init__.py" and name != "glczoo"
        if not name.startswith(HIDDEN) and not empty and not reexports:
            found.append(name)
    return found


def _module_page(name: str) -> str:
    rest = name.split(".")[1:] or ["glczoo"]
    return f"reference/python/{'/'.join(rest)}.md"


def _module(name: str) -> str:
    return f"# {name}\n\n::: {name}\n"


def _python_nav() -> list[Any]:
    """Modules at the top of the package, then a section for each room."""
    rooms: dict[str, list[Any]] = {}
    for name in modules():
        parts = name.split(".")
        room = parts[1] if len(parts) > 2 else ""
        rooms.setdefault(room, []).append({parts[-1]: _module_page(name)})
    return [*rooms.pop(""), *({room: entries} for room, entries in rooms.items())]


def words() -> set[str]:
    """Names of parameters that mean the same everywhere, from the page that explains them."""
    return set(re.findall(r"`(\w+)`", "".join(re.findall(r"^((?:`\w+`(?:, )?)+)", WORDS.read_text(), re.M))))


def unexplained_names() -> list[str]:
    """Public names without docstring, and parameters that nothing names."""
    package = griffe.load("glczoo", search_paths=[str(ROOT)], docstring_parser="google")
    known, problems = words(), []
    for name in modules():
        module = package[name.partition(".")[2]] if "." in name else package
        exported = {str(entry) for entry in module.exports or []}
        for member in module.members.values():
            if member.name in exported and not member.is_alias and not member.is_module:
                problems += _unexplained(member, known)
    return problems


def _unexplained(member: Any, known: set[str]) -> list[str]:
    if not member.docstring:
        return [f"{member.path}: no docstring"]
    problems = []
    if member.is_function:
        text = member.docstring.value
        own = [p.name for p in member.parameters if p.name not in ("self", "cls", "args", "kwargs")]
        lost = [name for name in own if name not in known and not re.search(rf"\b{name}\b", text)]
        problems += [f"{member.path}: nothing explains the parameter(s) {', '.join(lost)}"] if lost else []
    if member.is_class:
        for inner in member.members.values():
            if inner.is_function and not inner.name.startswith("_") and not inner.is_alias:
                problems += _unexplained(inner, known)
    return problems
