"""What `glczoo region check` reports, as text and as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["ROWS", "BandRange", "RegionCheck", "SplitCheck", "TableCheck", "TableName"]

TableName = Literal["po", "pa", "test"]
"""Tables that are checked."""
ROWS = {"po": "records", "pa": "surveys", "test": "points"}
"""What the rows of a table become."""


@dataclass(frozen=True)
class BandRange:
    """Least and greatest value of a band, and the share of cells without data, over the whole raster."""

    min: float
    max: float
    missing: float


@dataclass
class TableCheck:
    """What one table holds. Counts of species are None for a table of points."""

    name: TableName
    rows: int  # records, surveys or points
    places: int
    occurrences: int | None = None
    species: int | None = None
    species_per_survey: float | None = None
    without_species: int | None = None  # surveys
    duplicates: int | None = None  # records whose species and place another one has
    datasets: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # reason → rows of the file that are no samples
    notes: list[str] = field(default_factory=list)  # how the file was understood
    incomplete: dict[str, int] = field(default_factory=dict)  # reason → samples whose patch cannot be read
    filled_samples: dict[str, int] = field(default_factory=dict)  # reason → samples that values lack
    unreadable_patches: int = 0
    filled: dict[str, float] = field(default_factory=dict)  # band → share of the patches' cells without data
    suspicious: dict[str, int] = field(default_factory=dict)  # reason → rows

    def text(self) -> str:
        """A line for each count."""
        counts: dict[str, object] = {ROWS[self.name]: self.rows}
        if self.species is not None:
            counts |= {"occurrences": self.occurrences, "species": self.species}
        if self.name == "pa":
            counts |= {"species per survey": f"{self.species_per_survey:.2f}"}
            counts |= {"surveys without species": self.without_species}
        if self.duplicates is not None:
            counts["duplicates"] = self.duplicates
        if any(self.datasets):
            named = [name or "not named" for name in self.datasets]
            counts["data sets"] = ", ".join(named[:5]) + (" …" if len(named) > 5 else "")
        counts["places"] = self.places
        shown = {r: n for r, n in self.left_out.items() if n or r.startswith("records.")}  # of a filter 0 too
        counts |= {f"left out {reason}": number for reason, number in shown.items()}
        counts |= self.incomplete | self.filled_samples
        counts |= {"unreadable patches": self.unreadable_patches} if self.unreadable_patches else {}
        most = sorted(self.filled.items(), key=lambda item: -item[1])[:3]
        shares = ", ".join(f"{band} {100 * share:.2f} %" for band, share in most if share > 0)
        counts["filled cells (most)"] = shares or "none"
        counts |= {reason: number for reason, number in self.suspicious.items() if number}
        lines = [f"  {key}  {value}" for key, value in counts.items()]
        return "\n".join([self.name, *(f"  {note}" for note in self.notes), *lines])


@dataclass(frozen=True)
class SplitCheck:
    """How near the held-out folds of a fixed split come to the others."""

    held_out: int  # surveys
    training: int
    nearest_km: float | None
    within: int  # held-out surveys within the buffer of one that trains


@dataclass
class RegionCheck:
    """What a region holds, and what would stop or mislead a training run."""

    region: str
    root: str
    bands: list[str]
    patch_size: int
    species: int
    rasters: dict[str, BandRange]
    tables: dict[TableName, TableCheck] = field(default_factory=dict)
    split: SplitCheck | None = None
    problems: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)  # lines of region.yaml that are marked so
    citations: list[str] = field(default_factory=list)  # of the data sets, with their DOI
    picture: str | None = None

    def text(self) -> str:
        """For people."""
        head = (
            f"region {self.region} at {self.root}: {len(self.bands)} bands, {self.species} species, "
            f"patches of {self.patch_size} cells"
        )
        parts = [head, *(table.text() for table in self.tables.values())]
        if self.split:
            line = f"split  {self.split.held_out} surveys held out of {self.split.training} others"
            if self.split.nearest_km is not None:
                line += f", {self.split.nearest_km:.3g} km apart at the nearest"
            parts.append(line)
        if self.guesses:
            hint = "guessed by init: delete the comment of those that are right"
            parts.append("\n  ".join([hint, *self.guesses]))
        if self.citations:
            parts.append("\n  ".join(["to cite", *self.citations]))
        parts.append("\n  ".join(["problems", *self.problems]) if self.problems else "no problems")
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
