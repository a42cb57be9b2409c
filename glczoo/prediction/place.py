"""What a place looks like to a model: prediction, neighbourhood, area of applicability, and the map to click.

Used by `app`, without anything of its page.
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from glczoo.data.occurrences import Points
from glczoo.data.region import Region
from glczoo.data.sensitive import shown_places
from glczoo.data.splits import nearest_km
from glczoo.data.table_files import open_table
from glczoo.data.tables import read_points, read_species
from glczoo.errors import GlczooError
from glczoo.figures.click_map import ClickMap
from glczoo.figures.style import png
from glczoo.prediction.layers import applicability_of
from glczoo.prediction.points import Answers, PredictedTable, answer, predict_points
from glczoo.regions.check import read_table
from glczoo.regions.check_page import extent_of
from glczoo.runs.run import Run

__all__ = ["Patch", "PlaceAnswer", "PlacePredictor", "read_place"]

_MOST_POINTS = 100_000  # that an uploaded table may have
_MOST_BYTES = 2**26  # that it may unpack to
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
class PlaceAnswer:
    """What is predicted at a place."""

    place: Points  # the one point that was predicted at
    answers: Answers
    applicable: bool | None  # None: not known
    notes: list[str]  # what to know before the prediction is believed
    patches: list[Patch]


class PlacePredictor:
    """One or several models, opened once, and asked place by place.

    Attributes:
        model: one, or several as their mean.
        region: where the rasters are.
        shown: the member that sees most bands, whose input is shown.
        source: the files that it sees.
        places: of the region's surveys (else records) and test points.
        applicability: measured at the training samples; None where they are not there, and `unmeasured` says
            why.
        background: the band that colours the map, "" for none.
        map: the picture that is clicked.
    """

    def __init__(
        self, runs: Sequence[str | Path], region: Region | None = None, batch_size: int = 256
    ) -> None:
        """Load the models, draw the map, and measure the training samples.

        Tables of the region that are not there cost their dots on the map and the area of applicability.

        Args:
            runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
            region: where the rasters are; the first run's if None.
            batch_size: points in a batch.

        Raises:
            MissingError: a run or a raster is not there.
            GlczooError: the runs do not fit each other or the region.
        """
        self.model, self._batch_size = Run.load(runs), batch_size
        self.region = region or self.model.region
        self.shown = self.model.widest
        self.source = self.model.open(self.region)
        self.places = self._read_places()
        self.applicability, self.unmeasured = None, ""
        try:
            self.applicability = applicability_of(self.shown, self.source)
        except (ValueError, FileNotFoundError) as error:
            self.unmeasured = str(error)
        rasters = {band for stack in self.source.stacks for band in stack.bands}
        self.background = next((band for band in self.source.bands if band in rasters), "")
        self.map = self._drawn()

    @property
    def middle(self) -> tuple[float, float] | None:
        """lon, lat of the known place nearest to the middle of all of them; None where there are none."""
        if not len(self.places):
            return None
        lon, lat = self.places.lon, self.places.lat
        nearest = np.hypot(lon - np.median(lon), lat - np.median(lat)).argmin()
        return float(lon[nearest]), float(lat[nearest])

    def at(self, lon: float, lat: float, top: int = 15) -> PlaceAnswer:
        """Predict at a place, or, where the models see JPEG patches, at the nearest place that has one.

        Args:
            lon: degrees east.
            lat: degrees north.
            top: species to list at least, in the set or not.

        Raises:
            GlczooError: nothing can be predicted there; the message says why.
        """
        place, notes = Points(*(np.array([value]) for value in (lon, lat, -1, 0))), []
        if self.source.keyed:
            place, note = self._nearest(place)
            notes += [note] if note else []
        answers = answer(self.model, place, self.region, top=top, batch_size=self._batch_size)
        if len(answers.left_out):
            raise GlczooError(self._outside(lon, lat, str(answers.reasons[0])))
        applicable, note = self._applicable(place)
        return PlaceAnswer(place, answers, applicable, [*notes, note], self._patches(place))

    def table(self, points: Path, out: Path) -> PredictedTable:
        """Predict at the points of a CSV as `glczoo predict --points` does; see `points.predict_points`.

        Raises:
            GlczooError: it is no table of places, or one of more than 100,000 rows: this is for visitors of a
                page, who wait for one another.
        """
        try:
            _refuse_vast(points)
            table = read_points(self.region, points)
            _refuse_many(len(table))
            return predict_points(self.model, table, out, self.region, batch_size=self._batch_size)
        except ValueError as error:
            raise GlczooError(str(error).replace(str(points), points.name)) from None

    def _read_places(self) -> Points:
        """Surveys (else records) and test points; those with a patch, where one is needed."""
        read, tables = [], self.region.tables
        for name in ("pa" if "pa" in tables else "po", "test"):
            if name in tables:
                try:
                    species = read_species(self.region)
                    read.append(shown_places(read_table(self.region, name, species), species))
                except FileNotFoundError:
                    continue
        none = np.empty(0, np.int64)
        places = Points.joined([*read, Points(none.astype(float), none.astype(float), none, none)])
        missing = [*self.source.without_file(places).values()]
        places = places.at(~np.any([*missing, np.zeros(len(places), bool)], axis=0))
        if gaps := self.source.gaps(places):
            places = places.at(~np.all([*gaps.values()], axis=0))
        return places

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
        first = np.full(lon.size, np.nan)
        if self.background:
            first = values[:, self.source.value_channels.index(self.background)]
        return ClickMap(first.reshape(lon.shape), extent, (self.places.lon, self.places.lat))

    def _nearest(self, clicked: Points) -> tuple[Points, str]:
        lon, lat = clicked.lon[0], clicked.lat[0]
        if not len(self.places):
            raise GlczooError(
                f"{self.shown.name} sees {', '.join(self.source.keyed)}, which belongs to known samples, "
                f"and no table of region {self.region.name} with such samples is here: upload a table of "
                f"points with {' and '.join(self.source.keyed.values())}"
            )
        apart = np.hypot((self.places.lon - lon) * np.cos(np.radians(lat)), self.places.lat - lat)
        place = self.places.at(np.array([apart.argmin()]))
        there = self.source.unanswerable(replace(place, lon=clicked.lon, lat=clicked.lat))
        if reasons := [reason for reason, mask in there.items() if mask[0]]:
            raise GlczooError(self._outside(lon, lat, "; ".join(reasons)))
        far = nearest_km(clicked, place)[0]
        if far < 1e-3:
            return place, ""
        what = "Satellite patches lie around" if self.source.jpegs is not None else "Values belong to"
        return place, (
            f"{what} known points only: predicted at the nearest, {far:.1f} km away "
            f"(lon {place.lon[0]:.5f}, lat {place.lat[0]:.5f}, patch {place.patch_id[0]})."
        )

    def _outside(self, lon: float, lat: float, reason: str) -> str:
        message = f"Nothing can be predicted at lon {lon:.5f}, lat {lat:.5f}: {reason}."
        west, south, east, north = self._reach()
        message += f" The rasters reach from lon {west:.3f} to {east:.3f}, lat {south:.3f} to {north:.3f}."
        if west <= lat <= east and south <= lon <= north:
            message += " With lon and lat exchanged the place would lie there: lon comes first."
        return message

    def _applicable(self, place: Points) -> tuple[bool | None, str]:
        if self.applicability is None:
            return None, f"Not compared with the training samples: {self.unmeasured}."
        limit = self.applicability.threshold
        index = float(self.applicability.dissimilarity(self.source.values(place))[0])
        if np.isnan(index):
            return None, "A raster has no value here: unknown whether it is like the training samples."
        numbers = f"dissimilarity {index:.2f}, those among themselves up to {limit:.2f}"
        if index <= limit:
            return True, f"The environment is like that of the training samples ({numbers})."
        return False, (
            f"The environment is unlike that of any training sample ({numbers}): the model was never tested "
            "on such places, do not rely on its prediction."
        )

    def _patches(self, place: Points) -> list[Patch]:
        """The input of the model that sees most, back in the bands' units."""
        member, source = self.shown, self.source
        x = member.builder(place, self.region)(torch.arange(1))[0].numpy()
        mean, std = (np.array(values)[:, None, None] for values in (member.mean, member.std))
        seen = dict(zip(source.bands, x * std + mean, strict=True))
        numbers = [channel for channel in source.value_channels if "=" not in channel]
        texts = self._values(place, numbers)
        step = -(-source.size // _SHOWN)
        patches = []
        for modality in self.region.select(list(source.modalities)):
            title = f"{modality.name} · {source.size} × {source.size} cells"
            title += f" of {modality.resolution}" if modality.resolution else ""
            names = [band.name for band in modality.bands]
            if set(_COLOUR) <= set(names) & set(source.pictures):
                colours = np.stack([seen[band] for band in _COLOUR], axis=-1).round().clip(0, 255)
                patches.append(Patch(title, "red, green, blue", png(colours.astype(np.uint8)), ""))
                names = [name for name in names if name not in _COLOUR]
            for name in names:
                if levels := member.levels(name):
                    of_levels = np.stack([seen[f"{name}={level}"] for level in levels])
                    names_of = member.level_names(name)
                    patches.append(_levels_patch(title, name, names_of, of_levels[:, ::step, ::step]))
                    continue
                i = source.bands.index(name)
                low, high = (member.mean[i] + side * member.std[i] for side in (-2, 2))
                picture = png(seen[name][::step, ::step], low, high)
                patches.append(Patch(title, name, picture, texts.get(name, "")))
        return patches

    def _values(self, place: Points, channels: Sequence[str]) -> dict[str, str]:
        """Texts below bands: their value at the place, and how much of the patch is filled."""
        here = dict(zip(self.source.value_channels, self.source.values(place)[0].tolist(), strict=True))
        units, filled = {band.name: band.unit for band, _ in self.region.bands()}, self.source.filled(place)
        texts = {}
        for name in channels:
            value = here[name]
            text = "no value here"
            if not np.isnan(value):
                text = f"{value:.5g}" + (f" [{units[name]}]" if units[name] else "")
            texts[name] = text + (f", {100 * filled[name]:.0f} % filled" if filled[name] else "")
        return texts


def _levels_patch(modality: str, band: str, levels: Sequence[str], seen: np.ndarray) -> Patch:
    """A categorical band as the model sees it, seen[L, S, S]: a shade for each level, darkest for none."""
    codes = np.where(seen.any(0), seen.argmax(0) + 1, 0)
    centre = codes[codes.shape[0] // 2, codes.shape[1] // 2]
    text = f"level {levels[centre - 1]}" if centre else "no level that the model knows"
    return Patch(modality, band, png(codes.astype(np.float32), 0, len(levels)), text)


def read_place(text: str) -> tuple[float, float]:
    """lon, lat of what somebody pasted: two numbers of degrees.

    Raises:
        GlczooError: it is something else.
    """
    words = [word for word in re.split(r"[\s,;]+", text.strip()) if word]
    try:
        lon, lat = map(float, words)
    except ValueError:
        raise GlczooError(
            f"{text.strip()[:80]!r} is no place: give longitude and latitude in degrees, such as 6.52, 46.91"
        ) from None
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        swapped = ": are the two exchanged? lon comes first" if abs(lat) <= 180 and abs(lon) <= 90 else ""
        raise GlczooError(
            f"lon {lon:g}, lat {lat:g} is no place on Earth, lon lies in [-180, 180] and lat in [-90, 90]"
            + swapped
        )
    return lon, lat


def _refuse_vast(table: Path) -> None:
    """Count rows and bytes of a table that somebody uploaded before it is read."""
    size = 0
    if zipfile.is_zipfile(table):  # an Excel workbook too
        with zipfile.ZipFile(table) as archive:
            size = sum(info.file_size for info in archive.infolist())
    if size > _MOST_BYTES:
        raise GlczooError(f"{table} unpacks to {size:,} bytes, this page reads {_MOST_BYTES:,}: {_ELSEWHERE}")
    _refuse_many((open_table(table).most_rows or 0) - 2)  # less the header, and an end without a line


def _refuse_many(rows: int) -> None:
    if rows > _MOST_POINTS:
        raise GlczooError(
            f"the table has {rows:,} rows, this page answers {_MOST_POINTS:,} at once: {_ELSEWHERE}"
        )


_ELSEWHERE = "cut it up, or give it to `glczoo predict RUN --points`, which has no limit"
