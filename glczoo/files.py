"""Files that are whole or not there."""

import os
from pathlib import Path

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a text beside its place and rename it: a killed process leaves the old file, or none."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text)
    os.replace(partial, path)
