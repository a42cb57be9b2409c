"""What `glczoo region init` takes a stranger's table for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

__all__ = ["GuessedTable"]


@dataclass
class GuessedTable:
    """A table of samples, the keys of `region.yaml` that describe it, and its places and species.

    Rows are those that training would read: with coordinates, of presences where the table says so, and in a
    PO table with a species.
    """

    path: Path
    kind: Literal["po", "pa"]
    keys: dict[str, object]  # keys of Table and their values
    reasons: dict[str, str] = field(default_factory=dict)  # key → what the guess rests on
    doubts: list[str] = field(default_factory=list)  # what a person should look at
    lon: np.ndarray = field(default_factory=lambda: np.empty(0))  # float64[n]
    lat: np.ndarray = field(default_factory=lambda: np.empty(0))  # float64[n]
    ids: pd.Series | None = None  # int64[n]
    names: pd.Series | None = None  # str[n]; of a wide table str[species]
    num_surveys: int = 0
    named: list[str] = field(default_factory=list)  # keys whose column a person named
    patch_ids: np.ndarray | None = None  # int64[n], -1 where none: names of JPEG patches

    def doubt(self, text: str) -> None:
        """Add what a person should look at."""
        self.doubts.append(text)

    def drop(self, reason: str) -> None:
        """Let rows be left out that have no place or no species. `reason`: shown beside what was guessed."""
        self.keys["incomplete"] = "drop"
        before = self.reasons.get("incomplete")
        self.reasons["incomplete"] = f"{before}, {reason}" if before else f"guessed: {reason}"
