"""What another climate changes: layers made of a model's predictions in two regions, batch by batch.

The regions have the same bands from other files, such as the climate of today and of the end of the century.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.region import Region
from glczoo.prediction.applicability import Applicability
from glczoo.prediction.cartography import Layer
from glczoo.prediction.grids import Block, Cells
from glczoo.prediction.layers import Layers, block_values
from glczoo.runs.trained import TrainedModel

__all__ = ["ChangeLayers"]


class ChangeLayers:
    """Layers of the difference between a region and what it is held against.

    `change_ID`: the probability of a chosen species less that of before · `gain_ID`, `loss_ID`, `stable_ID`:
    1 where it is in the predicted set only then, only before, or both times, else 0 (the set by the model's
    decoding, or by expected F1 where that is top k) · `richness_change`: of the sum of probabilities ·
    `gain`, `loss`, `stable`: how many species do so · `dissimilarity` to the training samples then ·
    `applicable`: 1 where both times lie in the area of applicability. Sets and sums are left out where
    probabilities are a softmax over species. It stands in the place of `Layers`.
    """

    def __init__(
        self,
        model: TrainedModel,
        region: Region,
        against: Region,
        species: Sequence[str],
        device: torch.device,
        batch_size: int,
        clamp: bool = False,
    ) -> None:
        """Open the files of both regions for every member, and describe the layers.

        Args:
            model: one, or several as their mean.
            region: such as a future climate.
            against: what it is compared with, such as today's.
            species: speciesIds or names to have layers each.
            device: where the model predicts.
            batch_size: places in a batch.
            clamp: hold every raster band within the range of the training samples' values.

        Raises:
            MissingError: a raster is not there.
            GlczooError: a region is not the model's, a species is unknown, or there is nothing to map.
        """
        self.model, self.region, self.against, self.clamp = model, region, against, clamp
        self._then = Layers(model, region, species, device, batch_size, clamp)
        self._before = Layers(model, against, species, device, batch_size, clamp)
        self._sides = (self._then, self._before)
        for side in self._sides:  # a species that one of the two protects is protected in the change
            side.species = model.species.guarded(region.sensitive).guarded(against.sensitive)
        self.sources = [source for side in self._sides for source in side.sources]
        self.predictions = self._described()
        self.uncertain = {"dissimilarity"}

    @property
    def applicability(self) -> Applicability | None:
        """The area of applicability, once it was measured."""
        return self._then.applicability

    @property
    def layers(self) -> list[Layer]:
        """All layers: changes and, where it was measured, the area of applicability."""
        return [*self.predictions, *self._then.layers[len(self._then.predictions) :]]

    def _described(self) -> list[Layer]:
        layers = []
        for number, name, tags in self._then.chosen:
            title = f"{name}: change of {self._then.model.answer}"
            layers.append(Layer(f"change_{number}", title, "difference", tags, centred=True))
            if self._then.sums:
                layers += [
                    Layer(f"gain_{number}", f"{name}: gained", "1: yes", tags),
                    Layer(f"loss_{number}", f"{name}: lost", "1: yes", tags),
                    Layer(f"stable_{number}", f"{name}: present both times", "1: yes", tags),
                ]
        if self._then.sums:
            layers += [
                Layer("richness_change", "Change of expected species richness", "species", centred=True),
                Layer("gain", "Species gained in the predicted set", "species"),
                Layer("loss", "Species lost from the predicted set", "species"),
                Layer("stable", "Species in the predicted set both times", "species"),
            ]
        return layers

    def refuse_keyed(self) -> None:
        """As `Layers.refuse_keyed`."""
        self._then.refuse_keyed()

    def add_applicability(self) -> None:
        """As `Layers.add_applicability`: of the training samples, for both regions."""
        for side in self._sides:
            side.add_applicability()

    def rasters(self) -> list[tuple[str, int, int]]:
        """Which files are read, of both regions."""
        return [file for side in self._sides for file in side.rasters()]

    def reach(self) -> str:
        """How far the rasters of both regions reach, for a message."""
        return "; ".join(side.reach() for side in self._sides)

    def block(self, cells: Cells, block: Block) -> tuple[np.ndarray, int]:
        """values[L, h, w] of a block, and at how many places the models predicted for it."""
        return block_values(cells, block, self.sources, len(self.layers), self._predicted)

    def _predicted(self, points: Points) -> np.ndarray:
        """Layers at places that can be answered in both regions, float32[n, L]."""
        values = np.empty((len(points), len(self.layers)), np.float32)
        for index, then, before in self._pairs(points):
            values[index.numpy(), : len(self.predictions)] = self._compared(then, before).cpu().numpy()
        if self.applicability is not None:
            threshold = self.applicability.threshold
            unlike, unlike_before = (side.dissimilarity(points) for side in self._sides)
            column = {layer.name: number for number, layer in enumerate(self.layers)}
            values[:, column["dissimilarity"]] = unlike
            inside = (unlike <= threshold) & (unlike_before <= threshold)  # false where unknown
            values[:, column["applicable"]] = inside
        return values

    def _pairs(self, points: Points) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """index[B] and the mean probabilities[B, K] in both regions."""
        for (index, then, _), (_, before, _) in zip(
            self._then.means(points), self._before.means(points), strict=True
        ):
            yield index, then, before

    def _compared(self, then: Tensor, before: Tensor) -> Tensor:
        """Layers of a batch, float32[B, L]."""
        change = then - before
        if not self._then.sums:
            return change[:, self._then.columns]
        there, was_there = (self._then.sets(p.nan_to_num(0)) for p in (then, before))
        turns = [there & ~was_there, was_there & ~there, there & was_there]  # gain, loss, stable
        layers = []
        for column in self._then.columns.tolist():
            layers += [change[:, column], *(turn[:, column].float() for turn in turns)]
        layers += [change.nan_to_num(0).sum(1), *(turn.sum(1).float() for turn in turns)]
        return torch.stack(layers, dim=1)
