"""What a page tells of a place: the species there, what the model saw, and whether to trust it.

The page itself is `app`. Species come from `predict.answer`, the same that `glczoo predict` writes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glczoo.data.occurrences import Points
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.splits import nearest_km
from glczoo.data.tables import read_points, read_species
from glczoo.figures.click_map import ClickMap
from glczoo.figures.style import png
from glczoo.prediction.layers import applicability_of
from glczoo.prediction.points import Answers, answer, predict_points
from glczoo.regions.check import read_table
from glczoo.regions.check_page import extent_of
from glczoo.runs.run import load_members, locate, region_of

__all__ = ["Guide", "Patch", "Told", "read_place"]

_BACKGROUND = 400  # cells along a side of the map's background
_SHOWN = 64  # pixels along a side of a band's picture, at most
_COLOUR = ("red", "green", "blue")


@dataclass(frozen=True)
class Patch:
    """A band (or red, green and blue) as the model saw it: a PNG, and what is written below."""

    modality: str
    name: str
    picture: bytes
    text: str


@dataclass(frozen=True)
class Told:
    """What is told of a place."""

    asked: Points  # the one point that was asked
    answers: Answers
    applicable: bool | None  # None: not known
    notes: list[str]  # what to know before the answer is believed
    patches: list[Patch]


class Guide:
    """One or several models, opened once, and asked place by place."""

    def __init__(
        self, runs: Sequence[str | Path], region: Region | None = None, batch_size: int = 256
    ) -> None:
        """Load the models, draw the map, and measure the training surveys.

        Tables of the region that are not there cost their dots on the map and the area of applicability.

        Args:
            runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
            region: where the rasters are; the first run's if None.
            batch_size: points in a batch.

        Raises:
            FileNotFoundError: a run or a raster is not there.
            ValueError: the runs do not fit each other or the region.
        """
        self.members, self._batch_size = load_members(runs), batch_size
        self.region = region or region_of(locate(runs[0]))
        for member in self.members:
            member.open(self.region)
        widest = max(range(len(runs)), key=lambda i: len(self.members[i].bands))
        self.shown = self.members[widest]
        self.source = self.shown.open(self.region)
        self.places = self._read_places()
        self.near, self.unmeasured = None, ""
        try:
            self.near = applicability_of(runs[widest], self.shown, self.source)
        except (ValueError, FileNotFoundError) as error:
            self.unmeasured = str(error)
        jpegs = self.source.jpegs.bands if self.source.jpegs else ()
        self.background = next((band for band in self.source.bands if band not in jpegs), "")
        self.map = self._drawn()

    def at(self, lon: float, lat: float, top: int = 15) -> Told:
        """Ask the models at a place, or, where they see JPEG patches, at the nearest place that has one.

        Args:
            lon: degrees east.
            lat: degrees north.
            top: species to list at least, in the set or not.

        Raises:
            ValueError: nothing can be said there; the message says why.
        """
        asked, notes = Points(*(np.array([v]) for v in (lon, lat, -1, 0))), []
        if self.source.jpegs is not None:
            asked, note = self._nearest(asked)
            notes += [note] if note else []
        answers = answer(self.members, self.region, asked, top=top, batch_size=self._batch_size)
        if len(answers.left):
            raise ValueError(self._outside(lon, lat, str(answers.reason[0])))
        applicable, note = self._applicable(asked)
        return Told(asked, answers, applicable, [*notes, note], self._patches(asked))

    def table(self, points: Path, out: Path) -> dict[str, Any]:
        """Answer a CSV as `glczoo predict --points` does; see `predict.predict_points`."""
        try:
            given = read_points(self.region, points)
            return predict_points(self.members, self.region, given, out, batch_size=self._batch_size)
        except ValueError as error:
            raise ValueError(str(error).replace(str(points), points.name)) from None

    def _read_places(self) -> Points:
        """Samples (else records) and test points; those with a patch, where one is needed."""
        found, tables = [], self.region.tables
        for name in ("pa" if "pa" in tables else "po", "test"):
            if name in tables:
                try:
                    found.append(read_table(self.region, name, read_species(self.region)))
                except FileNotFoundError:
                    continue
        columns = ([getattr(points, name) for points in found] for name in ("lon", "lat", "patch_id", "ids"))
        places = Points(*(np.concatenate([[], *column]) for column in columns))
        places = Points(places.lon, places.lat, places.patch_id.astype(np.int64), places.ids.astype(np.int64))
        return places if self.source.jpegs is None else places.at(~self.source.jpegs.missing(places.patch_id))

    def _reach(self) -> tuple[float, float, float, float]:
        """West, south, east, north of where all rasters are, in degrees."""
        bounds = np.array([stack.bounds for stack in self.source.stacks] or [(-180, -90, 180, 90)])
        (west, south), (east, north) = bounds[:, :2].max(0).tolist(), bounds[:, 2:].min(0).tolist()
        return west, south, east, north

    def _drawn(self) -> ClickMap:
        west, south, east, north = self._reach()
        extent = west, east, south, north
        if len(self.places):
            west, east, south, north = extent = extent_of(self.source, [self.places])
        steps = (np.arange(_BACKGROUND) + 0.5) / _BACKGROUND
        lon, lat = np.meshgrid(west + steps * (east - west), north - steps * (north - south))
        nowhere = np.full(lon.size, -1)
        values = self.source.values(Points(lon.ravel(), lat.ravel(), nowhere, nowhere))
        first = values[:, 0] if self.background else np.full(lon.size, np.nan)
        return ClickMap(first.reshape(lon.shape), extent, (self.places.lon, self.places.lat))

    def _nearest(self, clicked: Points) -> tuple[Points, str]:
        lon, lat = clicked.lon[0], clicked.lat[0]
        if not len(self.places):
            raise ValueError(
                f"{self.shown.name} sees satellite patches, which lie around points with a patchID, and no "
                f"table of region {self.region.name} with such points is here: upload a CSV with patchID"
            )
        apart = np.hypot((self.places.lon - lon) * np.cos(np.radians(lat)), self.places.lat - lat)
        asked = self.places.at(np.array([apart.argmin()]))
        there = self.source.unanswerable(replace(clicked, patch_id=asked.patch_id))
        if reasons := [why for why, mask in there.items() if mask[0]]:
            raise ValueError(self._outside(lon, lat, "; ".join(reasons)))
        far = nearest_km(clicked, asked)[0]
        if far < 1e-3:
            return asked, ""
        return asked, (
            f"Satellite patches lie around known points only: asked at the nearest, {far:.1f} km away "
            f"(lon {asked.lon[0]:.5f}, lat {asked.lat[0]:.5f}, patch {asked.patch_id[0]})."
        )

    def _outside(self, lon: float, lat: float, reason: str) -> str:
        told = f"Nothing can be said of lon {lon:.5f}, lat {lat:.5f}: {reason}."
        west, south, east, north = self._reach()
        told += f" The rasters reach from lon {west:.3f} to {east:.3f}, lat {south:.3f} to {north:.3f}."
        if west <= lat <= east and south <= lon <= north:
            told += " With lon and lat exchanged the place would lie there: lon comes first."
        return told

    def _applicable(self, asked: Points) -> tuple[bool | None, str]:
        if self.near is None:
            return None, f"Not compared with the training surveys: {self.unmeasured}."
        index, limit = float(self.near.dissimilarity(self.source.values(asked))[0]), self.near.threshold
        if np.isnan(index):
            return (
                None,
                "A raster has no value here: unknown whether it is like the training surveys.",
            )
        told = f"dissimilarity {index:.2f}, those among themselves up to {limit:.2f}"
        if index <= limit:
            return True, f"The environment is like that of the training surveys ({told})."
        return False, (
            f"The environment is unlike that of any training survey ({told}): the model was never tested on "
            "such places, do not rely on its answer."
        )

    def _patches(self, asked: Points) -> list[Patch]:
        """The input of the model that sees most, back in the bands' units."""
        member, source = self.shown, self.source
        x = PatchBuilder(source, asked, member.mean, member.std)(torch.arange(1))[0].numpy()
        mean, std = (np.array(v)[:, None, None] for v in (member.mean, member.std))
        step = -(-source.size // _SHOWN)
        seen = dict(zip(source.bands, x * std + mean, strict=True))
        jpegs = source.jpegs.bands if source.jpegs else ()
        rasters = [band for band in source.bands if band not in jpegs]
        here = dict(zip(rasters, source.values(asked)[0].tolist(), strict=True))
        filled, patches = source.filled(asked), []
        for modality in self.region.select(list(source.modalities)):
            told = f"{modality.name} · {source.size} × {source.size} cells"
            told += f" of {modality.resolution}" if modality.resolution else ""
            units = {band.name: band.unit for band in modality.bands}
            if set(_COLOUR) <= units.keys() & set(jpegs):
                colours = np.stack([seen[band] for band in _COLOUR], axis=-1).round().clip(0, 255)
                patches.append(Patch(told, "red, green, blue", png(colours.astype(np.uint8)), ""))
                units = {name: unit for name, unit in units.items() if name not in _COLOUR}
            for name, unit in units.items():
                i, text = source.bands.index(name), ""
                if name in here:
                    value = f"{here[name]:.5g}" + (f" [{unit}]" if unit else "")
                    text = "no value here" if np.isnan(here[name]) else value
                    text += f", {100 * filled[name]:.0f} % filled" if filled[name] else ""
                low, high = (member.mean[i] + side * member.std[i] for side in (-2, 2))
                patches.append(Patch(told, name, png(seen[name][::step, ::step], low, high), text))
        return patches


def read_place(text: str) -> tuple[float, float]:
    """lon, lat of what somebody pasted: two numbers of degrees.

    Raises:
        ValueError: it is something else.
    """
    words = [word for word in re.split(r"[\s,;]+", text.strip()) if word]
    try:
        lon, lat = map(float, words)
    except ValueError:
        raise ValueError(
            f"{text.strip()[:80]!r} is no place: give longitude and latitude in degrees, such as 6.52, 46.91"
        ) from None
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        swapped = ": are the two exchanged? lon comes first" if abs(lat) <= 180 and abs(lon) <= 90 else ""
        raise ValueError(
            f"lon {lon:g}, lat {lat:g} is no place on Earth, lon lies in [-180, 180] and lat in [-90, 90]"
            + swapped
        )
    return lon, lat
