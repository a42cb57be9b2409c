"""Registers glczoo's models with timm, which has no plug-in discovery: at once, or when timm is imported.

timm and torch take seconds to import, and most of what a command line answers (`--help`, a mistake in a word,
the completion of a word) needs neither of them.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register"]


def register() -> None:
    """Register the models now if timm is there already, else as the last act of its import."""
    if "timm" in sys.modules:
        importlib.import_module("glczoo.models")
    else:
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(MetaPathFinder):
    """Finds timm as the other finders do, and adds the models to its loading."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _TimmLoader(spec.loader, self)
                return spec
        return None


class _TimmLoader(Loader):
    """Loads timm, then the models."""

    def __init__(self, loader: Loader, finder: _TimmFinder) -> None:
        self.loader = loader
        self.finder = finder

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # what tools ask of a loader: get_source, get_filename, …

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        importlib.import_module("glczoo.models")
