"""What a map shows of places: layers made of the predictions of models, batch by batch.

Shapes: values[L, h, w] of L layers in a block of cells · probabilities[B, K] of a batch of places.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from glczoo.data.cache import fingerprint
from glczoo.data.loader import load
from glczoo.data.occurrences import Points, Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.sensitive import cell_centres, shown_places
from glczoo.data.tables import read_folds
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.models.ensemble import mean_probabilities
from glczoo.prediction.applicability import Applicability
from glczoo.prediction.cartography import Layer
from glczoo.prediction.grids import Block, Cells
from glczoo.runs.trained import TrainedModel, require_bands

__all__ = ["Layers", "applicability_of", "block_values", "training_range"]

_SURVEYS = 200_000  # training samples that an area of applicability looks at


class Layers:
    """A model, the files that it sees, and the layers that come of its predictions.

    Attributes:
        predictions: the layers of the model.
        chosen: the species that have a layer each: id, name and tags; `columns`: their classes.
        sums: whether sums over species mean something: not where p is a softmax over them.
        sets: the rule of the predicted sets.
        uncertain: names of those of `layers` that show doubt: disagreement and dissimilarity.
        applicability: of the model that sees most bands, once it was measured.
    """

    def __init__(
        self,
        model: TrainedModel,
        region: Region,
        species: Sequence[str],
        device: torch.device,
        batch_size: int,
        clamp: bool = False,
    ) -> None:
        """Open the region's files for every member, and describe the layers of the predictions.

        Args:
            model: one, or several as their mean.
            region: where the places lie.
            species: speciesIds or names to have a layer each.
            device: where the model predicts.
            batch_size: places in a batch.
            clamp: hold every raster band within the range of the training samples' values.

        Raises:
            MissingError: a raster is not there, or to clamp, the training samples' are not.
            GlczooError: the region is not the model's, a species is unknown, or there is nothing to map.
        """
        self.model, self.region, self.device, self._batch_size = model, region, device, batch_size
        self.species = model.species.guarded(region.sensitive)  # which are shown no finer than what
        self.against, self.clamp = None, clamp
        columns = model.species.find(species)
        self.columns = torch.from_numpy(columns).to(device)
        self.chosen = _chosen(model, columns)
        self.applicability: Applicability | None = None
        self._compared = False  # the region's values with those that the models were trained on
        model.open(region)
        self._sources = [member.to(device).open(region) for member in model.each]
        inputs = {(*m.modalities, m.patch_size): s for m, s in zip(model.each, self._sources, strict=True)}
        self.sources = list(inputs.values())
        self.sums = all(member.activation == "sigmoid" for member in model.each)
        kept = model.decoding
        self.sets = kept if kept.rule is not Rule.TOP_K else Decoding(Rule.EXPECTED_F1)  # k is no map
        self._ranges: list[tuple[Tensor, Tensor] | None] = [None] * len(self._sources)
        if clamp:
            self._ranges = [
                training_range(member, source, device)
                for member, source in zip(model.each, self._sources, strict=True)
            ]
        self.uncertain: set[str] = set()
        self.predictions = self._described()
        if not self.predictions:
            why = "predicts by a softmax over species, which has"
            if model.answers_ranks:
                why = "answers ranks of suitability, which have"
            raise GlczooError(
                f"{model.each[0].name} {why} neither a richness nor a set size: name --species to map"
            )

    @property
    def layers(self) -> list[Layer]:
        """All layers: predictions and, where it was measured, the area of applicability."""
        if self.applicability is None:
            return self.predictions
        threshold = self.applicability.threshold
        title = f"Dissimilarity to the training samples (applicable up to {threshold:.3g})"
        tags = (("threshold", repr(threshold)),)
        return [
            *self.predictions,
            Layer("dissimilarity", title, "index", tags, limit=2 * threshold),
            Layer("applicable", "Area of applicability: 1 inside, 0 outside", ""),
        ]

    def _described(self) -> list[Layer]:
        number, described = self.model.number, self.chosen
        what = "probability of presence"
        if self.model.answers_ranks:
            what = "rank of suitability among the places of records, no probability of presence"
        layers = [
            Layer(f"species_{i}", f"{name}: {what}", self.model.answer, own) for i, name, own in described
        ]
        if self.sums:
            layers += [
                Layer("richness", "Expected species richness (sum of probabilities)", "species"),
                Layer("set_size", f"Species in the predicted set ({self.sets})", "species"),
            ]
        if number > 1:
            of = f"standard deviation among {number} members"
            doubt = [Layer("disagreement", f"Disagreement: sum over species of the {of}", "species")]
            doubt += [
                Layer(f"disagreement_{i}", f"{name}: {of}", self.model.answer, own)
                for i, name, own in described
            ]
            self.uncertain |= {layer.name for layer in doubt}
            layers += doubt
        return layers

    def refuse_keyed(self) -> None:
        """The cells of a grid have no key, and JPEG patches and tables of values know nothing else.

        Raises:
            GlczooError: a model sees such bands; the message names its modalities.
        """
        for source, member in zip(self._sources, self.model.each, strict=True):
            if source.keyed:
                needed = " and ".join(source.keyed.values())
                raise GlczooError(
                    f"{member.name} sees the modality {', '.join(source.keyed)}, which belongs to samples "
                    f"and not to places: it needs {needed}, and the cells of a grid have none. Map a model "
                    "that sees rasters alone, or the cells that hold the points of --points (a table with "
                    "lon, lat and these columns)"
                )

    def add_applicability(self) -> None:
        """Measure the training samples of the member that sees most bands, where it was trained.

        Raises:
            MissingError: that region's tables or rasters are not there.
            GlczooError: the model sees no raster, or its training samples cannot be told apart.
        """
        widest = self.model.widest
        self._predictors = self._sources[self.model.each.index(widest)]
        try:
            self.applicability = applicability_of(widest, self._predictors, self.device)
        except GlczooError as error:
            raise type(error)(f"{error}. --no-applicability maps without it") from None
        self.uncertain.add("dissimilarity")

    def rasters(self) -> list[tuple[str, int, int]]:
        """Which files are read, so that another version of them is not taken for the same."""
        seen = {band for source in self.sources for stack in source.stacks for band in stack.bands}
        return [
            fingerprint(self.region.find_file(modality, band.file))
            for band, modality in self.region.bands()
            if band.name in seen
        ]

    def block(self, cells: Cells, block: Block) -> tuple[np.ndarray, int]:
        """values[L, h, w] of a block, and at how many places the models predicted for it."""
        return block_values(cells, block, self.sources, len(self.layers), self._predicted)

    def reach(self) -> str:
        """How far the rasters reach, for a message."""
        texts = []
        for stack in (stack for source in self.sources for stack in source.stacks):
            west, south, east, north = stack.bounds
            texts.append(
                f"{stack.bands[0]} reaches from lon {west:.3f} to {east:.3f}, lat {south:.3f} to {north:.3f}"
            )
        return "; ".join(texts)

    def _predicted(self, points: Points) -> np.ndarray:
        """Layers at places that can be answered, float32[n, L]."""
        if not self._compared:
            self.model.refuse_shifted(points, self.region)
            self._compared = True
        values = np.empty((len(points), len(self.layers)), np.float32)
        for index, mean, each in self.means(points):
            values[index.numpy(), : len(self.predictions)] = self._reduce(mean, each).cpu().numpy()
        if self.applicability is not None:
            unlike = self.dissimilarity(points)
            column = {layer.name: number for number, layer in enumerate(self.layers)}
            values[:, column["dissimilarity"]] = unlike
            values[:, column["applicable"]] = unlike <= self.applicability.threshold  # false where unknown
        return values

    def dissimilarity(self, points: Points) -> np.ndarray:
        """Of every place to the training samples, float32[n]; an area of applicability must be there."""
        assert self.applicability is not None
        return self.applicability.dissimilarity(self._predictors.values(points))

    def means(self, points: Points) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """index[B], the mean of all members[B, K] and each[B, K], as they may be shown.

        Those of a sensitive species are the ones at the centre of its cell, nan where that has no data.
        """
        coarse = self._at_centres(points)
        for index, mean, each in self._means(points):
            shown = [mean, *each]
            for columns, number, values in coarse:
                own = values[:, number[index]].to(mean)
                shown = [p.index_copy(1, columns, o) for p, o in zip(shown, own, strict=True)]
            yield index, shown[0], shown[1:]

    def _at_centres(self, points: Points) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Classes[S] of sensitive species, cell[n] of the places, values[1 + members, cells, S] there."""
        groups = []
        for km, classes in self.species.sensitive_groups():
            centres, number = cell_centres(points, km)
            reasons = [mask for source in self.sources for mask in source.unanswerable(centres).values()]
            there = np.flatnonzero(~np.any([*reasons, np.zeros(len(centres), bool)], axis=0))
            columns = torch.from_numpy(classes)
            values = torch.full((1 + self.model.number, len(centres), len(classes)), torch.nan)
            if len(there):
                for index, mean, each in self._means(centres.at(there)):
                    kept = torch.stack([predicted.cpu()[:, columns] for predicted in (mean, *each)])
                    values[:, torch.from_numpy(there)[index]] = kept
            groups.append((columns.to(self.device), torch.from_numpy(number), values))
        return groups

    def _means(self, points: Points) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """As `means`, at the places themselves; members of the same input share patches."""
        batches = list(torch.arange(len(points)).split(self._batch_size))
        keys = [
            (*member.modalities, member.patch_size, *member.mean, *member.std) for member in self.model.each
        ]
        patches = {}
        for key, member, source in zip(keys, self.model.each, self._sources, strict=True):
            if key not in patches:
                source.complete(points, "places")
                build = PatchBuilder(source, points, member.mean, member.std, self.device)
                patches[key] = load(build, batches)
        for built in zip(*patches.values(), strict=True):
            x = {key: batch for key, (_, batch) in zip(patches, built, strict=True)}
            predicted = [
                member.predict_members(x[key] if limits is None else x[key].clamp(*limits))
                for member, key, limits in zip(self.model.each, keys, self._ranges, strict=True)
            ]
            mean = mean_probabilities((mean for mean, _ in predicted), self.model.weights)
            yield built[0][0], mean, [p for _, each in predicted for p in each]

    def _reduce(self, mean: Tensor, each: list[Tensor]) -> Tensor:
        """Layers of a batch, float32[B, L], from the mean of probabilities[B, K] and those of all members."""
        layers = [mean[:, self.columns]]
        if self.sums:
            known = mean.nan_to_num(0)
            layers += [known.sum(1, keepdim=True), self.sets(known).sum(1, keepdim=True)]
        if len(each) > 1:
            apart = torch.stack(each).std(0, correction=0)
            layers += [apart.nan_to_num(0).sum(1, keepdim=True), apart[:, self.columns]]
        return torch.cat([layer.float() for layer in layers], dim=1)


def _chosen(model: TrainedModel, columns: np.ndarray) -> list[tuple[int, str, tuple[tuple[str, str], ...]]]:
    """Id, name and tags of chosen classes."""
    species = model.species
    chosen: list[tuple[int, str, tuple[tuple[str, str], ...]]] = []
    for column in columns.tolist():
        number = int(species.ids[column])
        name = str(species.names[column]) if species.names else f"species {number}"
        chosen.append((number, name, (("speciesId", str(number)), ("species", name))))
    return chosen


def block_values(
    cells: Cells,
    block: Block,
    sources: Sequence[PatchSource],
    number: int,
    predict: Callable[[Points], np.ndarray],
) -> tuple[np.ndarray, int]:
    """values[L, h, w] of a block, and at how many places `predict` was called for.

    Args:
        cells: of the map.
        block: of cells.
        sources: what is read; cells that read the same of all of them are predicted once.
        number: of layers L.
        predict: layers at n places that can be answered, float32[n, L].
    """
    values = np.full((number, len(block)), np.nan, np.float32)
    here, points = cells.of(block)
    place = np.zeros(len(here), np.int64)
    for source in sources:
        own = source.places(points)
        place = np.unique(place * (own.max(initial=0) + 1) + own, return_inverse=True)[1]
    _, first, inverse = np.unique(place, return_index=True, return_inverse=True)
    distinct = points.at(first)
    reasons = [mask for source in sources for mask in source.unanswerable(distinct).values()]
    answerable = ~np.any([*reasons, np.zeros(len(distinct), bool)], axis=0)
    by_place = np.full((len(distinct), number), np.nan, np.float32)
    if answerable.any():
        by_place[answerable] = predict(distinct.at(answerable))
    values[:, here] = by_place[inverse].T
    return values.reshape(number, block.height, block.width), int(answerable.sum())


def applicability_of(
    model: TrainedModel, source: PatchSource, device: torch.device | str = "cpu"
) -> Applicability:
    """Measure the training samples of a run by the raster bands that its model sees.

    Args:
        model: of a run, which knows the region and the samples that it was trained on.
        source: what it sees; says which bands are JPEGs.
        device: where distances are computed.

    Raises:
        MissingError: that region's tables or rasters are not there.
        GlczooError: the model sees no raster, or its training samples cannot be told apart.
    """
    try:
        samples, values = _training_values(model, source)
        assert model.run is not None
        data = model.run.recipe.data
        by_file = data.split == "file" and data.tables == ["pa"]
        fold = read_folds(model.region, samples)[0] if by_file else None
        return Applicability(values, fold, device)
    except GlczooError as error:
        raise type(error)(
            f"the area of applicability needs the samples that {model.name} was trained on: {error}"
        ) from None


def training_range(
    model: TrainedModel, source: PatchSource, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of every band at the training samples, [C, 1, 1] each, as the model sees them.

    JPEG bands have no range: -inf and inf.

    Raises:
        MissingError: that region's tables or rasters are not there.
        GlczooError: the model sees no raster.
    """
    try:
        _, values = _training_values(model, source)
    except GlczooError as error:
        raise type(error)(f"clamping needs the samples that {model.name} was trained on: {error}") from None
    limits = torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, len(model.bands))
    rasters = [channel for channel, band in enumerate(model.bands) if band not in source.pictures]
    limits[:, rasters] = torch.from_numpy(np.stack([np.nanmin(values, 0), np.nanmax(values, 0)])).float()
    low, high = ((limits - torch.tensor(model.mean)) / torch.tensor(model.std)).to(device)
    return low[:, None, None], high[:, None, None]


def _training_values(model: TrainedModel, source: PatchSource) -> tuple[Samples, np.ndarray]:
    """Samples that a run was trained on, and values[N, R] of its model's bands of rasters and tables."""
    run, region = model.run, model.region
    assert run is not None
    modalities = [m.name for m in region.select(model.modalities) if m.kind in ("raster", "values")]
    if not modalities:
        raise GlczooError(f"{model.name} sees no raster band: there is no environment to compare")
    trained_on = PatchSource(region, modalities, model.patch_size, channels=model.bands)
    seen = [band for band in model.bands if band not in source.pictures]
    require_bands(trained_on.bands, seen, f"region {region.name}", model.name)
    samples = Samples.concatenate([run.split(table).train for table in run.recipe.data.tables])
    samples = samples.subset(np.random.default_rng(0).permutation(len(samples))[:_SURVEYS])
    shown = shown_places(samples, run.species.guarded(run.region.sensitive))
    return samples, trained_on.values(shown)
