"""What a map says of places: layers made of the answers of models, batch by batch.

Shapes: values[L, h, w] of L layers in a block of cells · probabilities[B, K] of a batch of places.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glczoo.data.cache import fingerprint
from glczoo.data.loader import load
from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.tables import read_folds
from glczoo.decoding import Decoding, Rule
from glczoo.models.ensemble import Ensemble
from glczoo.prediction.applicability import Applicability
from glczoo.prediction.cartography import Layer
from glczoo.prediction.grids import Block, Cells
from glczoo.recipe import read_run_recipe
from glczoo.runs.run import TrainedModel, activate, locate, mean_decoding, region_of, require_bands
from glczoo.training.initial_model import starting_samples

__all__ = ["Layers", "applicability_of"]

_SURVEYS = 200_000  # training surveys that an area of applicability looks at


class Layers:
    """The models, the files that they see, and the layers that come of their answers."""

    def __init__(
        self,
        members: list[TrainedModel],
        region: Region,
        species: Sequence[str],
        device: torch.device,
        batch_size: int,
    ) -> None:
        """Open the region's files for every model, and describe the layers of its predictions.

        Args:
            members: share a vocabulary.
            region: where the places lie.
            species: speciesIds or names to have a layer each.
            device: where models answer.
            batch_size: places in a batch.

        Raises:
            FileNotFoundError: a raster is not there.
            ValueError: the region is not the models', a species is unknown, or there is nothing to map.
        """
        self.members, self.region, self.device, self._batch_size = members, region, device, batch_size
        chosen = members[0].species.find(species)
        self._chosen = torch.from_numpy(chosen).to(device)
        self.near: Applicability | None = None
        opened: dict[tuple, PatchSource] = {}
        for member in members:
            member.model.to(device).eval()
            key = (*member.modalities, member.patch_size)
            opened[key] = opened.get(key) or member.open(region)
        self.sources = list(opened.values())
        self._source_of = [opened[*member.modalities, member.patch_size] for member in members]
        self._sums = all(member.activation != "softmax" for member in members)
        kept, _ = mean_decoding(members)
        self._decoding = kept if kept.rule is not Rule.TOP_K else Decoding(Rule.EXPECTED_F1)  # k is no map
        self.predictions = self._described(chosen)
        if not self.predictions:
            raise ValueError(
                f"{members[0].name} answers with a softmax over species, which has neither a richness nor a "
                "set size: name --species to map"
            )

    @property
    def layers(self) -> list[Layer]:
        """All layers: predictions and, where it was measured, the area of applicability."""
        if self.near is None:
            return self.predictions
        title = f"Dissimilarity to the training surveys (applicable up to {self.near.threshold:.3g})"
        told = (("threshold", repr(self.near.threshold)),)
        return [
            *self.predictions,
            Layer("dissimilarity", title, "index", told, limit=2 * self.near.threshold),
            Layer("applicable", "Area of applicability: 1 inside, 0 outside", ""),
        ]

    def _described(self, chosen: np.ndarray) -> list[Layer]:
        species, all_members = self.members[0].species, sum(_number(m) for m in self.members)
        ids = species.ids[chosen].tolist()
        names = [species.names[k] if species.names else f"species {species.ids[k]}" for k in chosen.tolist()]
        told = [(("speciesId", str(i)), ("species", name)) for i, name in zip(ids, names, strict=True)]
        layers = [
            Layer(f"species_{i}", f"{name}: probability of presence", "probability", tags)
            for i, name, tags in zip(ids, names, told, strict=True)
        ]
        if self._sums:
            layers += [
                Layer("richness", "Expected species richness (sum of probabilities)", "species"),
                Layer("set_size", f"Species in the answered set ({self._decoding})", "species"),
            ]
        if all_members > 1:
            of = f"standard deviation among {all_members} members"
            layers += [Layer("disagreement", f"Disagreement: sum over species of the {of}", "species")]
            layers += [
                Layer(f"disagreement_{i}", f"{name}: {of}", "probability", tags)
                for i, name, tags in zip(ids, names, told, strict=True)
            ]
        return layers

    def refuse_jpegs(self) -> None:
        """The cells of a grid have no patchID, and JPEG patches lie around nothing else.

        Raises:
            ValueError: a model sees JPEG bands; the message names its modality.
        """
        for source, member in zip(self._source_of, self.members, strict=True):
            if source.jpegs is not None:
                kinds = {m.name: m.kind for m in self.region.modalities}
                named = [name for name in member.modalities if kinds[name] == "jpeg"]
                raise ValueError(
                    f"{member.name} sees the modality {', '.join(named)} ({', '.join(source.jpegs.bands)}): "
                    "JPEG patches lie around points with a patchID, and the cells of a grid have none. Map a "
                    "model that sees rasters alone, or the cells that hold the points of --points (CSV with "
                    "lon, lat and patchID)"
                )

    def add_applicability(self, runs: Sequence[str | Path]) -> None:
        """Measure the training surveys of the model that sees most bands, in the region it was trained on.

        Args:
            runs: where the members come from.

        Raises:
            FileNotFoundError: that region's tables or rasters are not there.
            ValueError: the model sees no raster, or its training surveys cannot be told apart.
        """
        widest = max(range(len(runs)), key=lambda i: len(self.members[i].bands))
        self._predictors = self._source_of[widest]
        try:
            self.near = applicability_of(runs[widest], self.members[widest], self._predictors, self.device)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{error}. --no-applicability maps without it") from None

    def rasters(self) -> list[tuple[str, int, int]]:
        """Which files are read, so that another version of them is not taken for the same."""
        seen = {band for source in self.sources for stack in source.stacks for band in stack.bands}
        return [
            fingerprint(self.region.find_file(modality, band.file))
            for band, modality in self.region.bands() if band.name in seen
        ]  # fmt: skip

    def block(self, cells: Cells, block: Block) -> tuple[np.ndarray, int]:
        """values[L, h, w] of a block, and how many places were asked for it."""
        values = np.full((len(self.layers), len(block)), np.nan, np.float32)
        here, points = cells.of(block)
        place = np.zeros(len(here), np.int64)
        for source in self.sources:
            own = source.places(points)
            place = np.unique(place * (own.max(initial=0) + 1) + own, return_inverse=True)[1]
        _, first, inverse = np.unique(place, return_index=True, return_inverse=True)
        distinct = points.at(first)
        lacks = [mask for source in self.sources for mask in source.unanswerable(distinct).values()]
        answerable = ~np.any([*lacks, np.zeros(len(distinct), bool)], axis=0)
        found = np.full((len(distinct), len(self.layers)), np.nan, np.float32)
        if answerable.any():
            found[answerable] = self._answers(distinct.at(answerable))
        values[:, here] = found[inverse].T
        return values.reshape(len(self.layers), block.height, block.width), int(answerable.sum())

    def reach(self) -> str:
        """How far the rasters reach, for a message."""
        told = []
        for stack in (stack for source in self.sources for stack in source.stacks):
            west, south, east, north = stack.bounds
            told.append(
                f"{stack.bands[0]} reaches from lon {west:.3f} to {east:.3f}, lat {south:.3f} to {north:.3f}"
            )
        return "; ".join(told)

    def _answers(self, points: Points) -> np.ndarray:
        """Layers at places that can be answered, float32[n, L]."""
        found = np.empty((len(points), len(self.layers)), np.float32)
        for index, predicted in self._batches(points):
            found[index.numpy(), : len(self.predictions)] = predicted.cpu().numpy()
        if self.near is not None:
            found[:, -2] = self.near.dissimilarity(self._predictors.values(points))
            found[:, -1] = found[:, -2] <= self.near.threshold  # false where it is not known
        return found

    def _batches(self, points: Points) -> Iterator[tuple[Tensor, Tensor]]:
        """index[B] and layers[B, L] of the predictions; members of the same input share its patches."""
        batches = list(torch.arange(len(points)).split(self._batch_size))
        inputs = [
            (source, tuple(member.mean), tuple(member.std))
            for source, member in zip(self._source_of, self.members, strict=True)
        ]
        patches = {
            key: load(PatchBuilder(key[0], points, key[1], key[2], self.device), batches)
            for key in dict.fromkeys(inputs)
        }
        for built in zip(*patches.values(), strict=True):
            x = {key: batch for key, (_, batch) in zip(patches, built, strict=True)}
            with torch.inference_mode():
                asked = [_ask(member, x[key]) for member, key in zip(self.members, inputs, strict=True)]
                mean = torch.stack([mean for mean, _ in asked]).mean(0)
                layers = self._reduce(mean, [p for _, each in asked for p in each])
            yield built[0][0], layers

    def _reduce(self, mean: Tensor, each: list[Tensor]) -> Tensor:
        """Layers of a batch, float32[B, L], from the mean of probabilities[B, K] and those of all members."""
        layers = [mean[:, self._chosen]]
        if self._sums:
            layers += [mean.sum(1, keepdim=True), self._decoding(mean).sum(1, keepdim=True)]
        if len(each) > 1:
            apart = torch.stack(each).std(0, correction=0)
            layers += [apart.sum(1, keepdim=True), apart[:, self._chosen]]
        return torch.cat([layer.float() for layer in layers], dim=1)


def applicability_of(
    run: str | Path, member: TrainedModel, source: PatchSource, device: torch.device | str = "cpu"
) -> Applicability:
    """Measure the training surveys of a model by the raster bands that it sees.

    Args:
        run: where the model comes from; names the region that it was trained on.
        member: the model.
        source: what it is asked with.
        device: where distances are computed.

    Raises:
        FileNotFoundError: that region's tables or rasters are not there.
        ValueError: the model sees no raster, or its training surveys cannot be told apart.
    """
    try:
        run = locate(run)
        region = region_of(run)
        rasters = [m.name for m in region.select(member.modalities) if m.kind == "raster"]
        jpegs = source.jpegs.bands if source.jpegs else ()
        if not rasters:
            raise ValueError(f"{member.name} sees no raster band: there is no environment to compare")
        trained_on = PatchSource(region, rasters, member.patch_size)
        seen = [band for band in member.bands if band not in jpegs]
        require_bands(trained_on.bands, seen, f"region {region.name}", member.name)
        recipe, _ = read_run_recipe(run)
        surveys = starting_samples(recipe, region).training
        surveys = surveys.subset(np.random.default_rng(0).permutation(len(surveys))[:_SURVEYS])
        by_file = recipe.data.split == "file" and recipe.data.tables == ["pa"]
        fold = read_folds(region, surveys)[0] if by_file else None
        return Applicability(trained_on.values(surveys), fold, device)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(
            f"the area of applicability needs the surveys that {member.name} was trained on: {error}"
        ) from None


def _number(member: TrainedModel) -> int:
    return len(member.model.members) if isinstance(member.model, Ensemble) else 1


def _ask(member: TrainedModel, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Probabilities[B, K] of a model, and of each of its members."""
    if isinstance(member.model, Ensemble):
        logits, each = member.model.forward_members(x)
        return activate(logits, member.activation), each
    probabilities = activate(member.model(x), member.activation)
    return probabilities, [probabilities]
