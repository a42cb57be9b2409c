"""A trained model: the one way from places to probabilities of named species.

Shapes: x[B, C, S, S] of patches · probabilities[N, K] of N places and K species.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from glczoo.data.occurrences import Points, SpeciesIndex
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.models.ensemble import Ensemble, activate, checked_weights, mean_probabilities
from glczoo.runs.scoring import default_accelerator, score

if TYPE_CHECKING:
    from glczoo.runs.run import Run

__all__ = ["TrainedModel", "require_bands"]


@dataclass
class TrainedModel:
    """A network and what is needed to ask it, or several whose probabilities are averaged.

    Of an ensemble, modalities, bands, patch size and statistics are those of the member that sees most bands
    (the first of equals), which is `widest`.
    """

    model: nn.Module
    species: SpeciesIndex
    name: str  # what tables call it
    modalities: list[str]
    bands: list[str]
    patch_size: int
    mean: list[float]
    std: list[float]
    activation: str
    decoding: Decoding
    tuned: dict[str, float]  # the best number of every rule, where tuning samples allow it
    run: "Run | None" = None  # where it comes from
    members: tuple["TrainedModel", ...] = ()  # of an ensemble of runs
    weights: tuple[float, ...] | None = None  # of the members; None: they count alike
    _opened: tuple[Region, PatchSource] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def ensemble(
        cls, members: Sequence["TrainedModel"], weights: Sequence[float] | None = None
    ) -> "TrainedModel":
        """Several models as one, whose probabilities are the mean of theirs; a single one is itself.

        Their decodings are averaged (see `Decoding.mean`), and so is what all of them have tuned.

        Args:
            members: share a vocabulary; each sees its own bands.
            weights: of the members, non-negative and one in sum; None: they count alike.

        Raises:
            GlczooError: there are no members, they know different species, or the weights do not fit.
        """
        if not members:
            raise GlczooError("an ensemble needs a model")
        first = members[0]
        for member in members:
            if not np.array_equal(member.species.ids, first.species.ids):
                raise GlczooError(
                    f"{member.name} and {first.name} predict different species ({len(member.species)} and "
                    f"{len(first.species)}): they cannot be averaged"
                )
        checked = checked_weights(weights, len(members))
        if len(members) == 1:
            return first
        widest = _widest(members)
        return cls(
            model=nn.ModuleList(member.model for member in members),
            species=first.species,
            name=" + ".join(member.name for member in members),
            modalities=widest.modalities,
            bands=widest.bands,
            patch_size=widest.patch_size,
            mean=widest.mean,
            std=widest.std,
            activation=_together(members),
            decoding=Decoding.mean([member.decoding for member in members]),
            tuned=_mean_tuned(members),
            run=first.run,
            members=tuple(members),
            weights=checked,
        )

    @property
    def each(self) -> tuple["TrainedModel", ...]:
        """The members of an ensemble of runs, or the model itself."""
        return self.members or (self,)

    @property
    def widest(self) -> "TrainedModel":
        """The member that sees most bands."""
        return _widest(self.each)

    @property
    def channels(self) -> dict[str, list[int]]:
        """Channels of every band: one of numbers, or one for each level of a categorical band."""
        channels: dict[str, list[int]] = {}
        for channel, name in enumerate(self.bands):
            channels.setdefault(name.partition("=")[0], []).append(channel)
        return channels

    def levels(self, band: str) -> list[str]:
        """Names of the levels of a categorical band, in the order of its channels; none of numbers."""
        names = (self.bands[channel].partition("=") for channel in self.channels[band])
        return [level for _, equals, level in names if equals]

    def level_names(self, band: str) -> list[str]:
        """As `levels`, with the name behind the number of a level that the model's author named."""
        named = {each.name: each.level for each in self.run.config.glczoo.bands} if self.run else {}
        names = [named.get(f"{band}={level}") for level in self.levels(band)]
        pairs = zip(self.levels(band), names, strict=True)
        return [f"{level} {name}" if name else level for level, name in pairs]

    @property
    def number(self) -> int:
        """How many networks are averaged, those inside of an `ensemble_glc23` too."""
        return sum(len(m.model.members) if isinstance(m.model, Ensemble) else 1 for m in self.each)

    @property
    def answers_ranks(self) -> bool:
        """Whether its answers are ranks of suitability, and no probabilities of presence."""
        return self.activation == "rank"

    @property
    def answer(self) -> Literal["probability", "suitability"]:
        """What a table calls its answers: `suitability` is a rank in (0, 1), no probability of presence."""
        return "suitability" if self.answers_ranks else "probability"

    def rules(self, own: Decoding | None = None) -> list[Decoding]:
        """Its own rule, or `own`, and others to compare it with; of ranks none that adds probabilities up."""
        own = own or self.decoding
        return [own] if self.answers_ranks else own.others(self.tuned)

    @property
    def region(self) -> Region:
        """The region that the run was trained on; of an ensemble, its first member's.

        Raises:
            MissingError: the region's file is not where it was.
            GlczooError: the model does not come from a run.
        """
        if self.run is None:
            raise GlczooError(f"{self.name} belongs to no run: name a region")
        return self.run.region

    @property
    def units(self) -> dict[str, str]:
        """The unit of each band that the model was trained on, where it is known."""
        return self.run.config.glczoo.units if self.run else {}

    @property
    def fills(self) -> bool:
        """Whether it was trained to be asked without some of the files of a sample's pictures."""
        return self.run is not None and self.run.recipe.data.incomplete == "fill"

    def open(self, region: Region | None = None) -> PatchSource:
        """Open a region's files for this model (of an ensemble: for every member, and return the widest's).

        The files that were opened last are kept open.

        Raises:
            MissingError: a file is not there.
            GlczooError: the region's bands are not the model's, in the model's order.
        """
        region = region or self.region
        if self.members:
            opened: dict[str, PatchSource] = {}
            for member in self.members:  # those that read the same files share them
                key = "/".join([*member.modalities, str(member.patch_size), *member.bands])
                if key in opened:
                    require_bands(opened[key].bands, member.bands, f"region {region.name}", member.name)
                    member._opened = region, opened[key]
                opened[key] = member.open(region)
            return self.widest.open(region)
        if self._opened is None or self._opened[0] is not region:
            source = PatchSource(
                region,
                self.modalities,
                self.patch_size,
                channels=self.bands,
                units=self.units,
                fill=self.fills,
            )
            require_bands(source.bands, self.bands, f"region {region.name}", self.name)
            self._opened = region, source
        return self._opened[1]

    def unanswerable(self, points: Points, region: Region | None = None) -> dict[str, np.ndarray]:
        """Why some member can predict nothing at a point: bool[N] for each reason."""
        reasons: dict[str, np.ndarray] = {}
        for member in self.each:
            reasons |= member.open(region).unanswerable(points)
        return reasons

    def refuse_shifted(self, points: Points, region: Region | None = None) -> None:
        """See that a region's values are of the kind that each member was trained on.

        Raises:
            GlczooError: the mean of a band lies further from that of the training samples than 5 of their
                standard deviations, both at the points and over the region's raster.
        """
        for member in self.each:
            shifts = member.open(region).shifted(points, member.mean, member.std)
            if shifts:
                raise GlczooError(
                    f"the values of region {(region or self.region).name} are not of the kind that "
                    f"{member.name} was trained on: {'; '.join(map(str, shifts[:5]))}. Are they in another "
                    "unit? What `unit:` of a band in region.yaml says is converted where it can be"
                )

    def builder(
        self, points: Points, region: Region | None = None, device: torch.device | str = "cpu"
    ) -> PatchBuilder:
        """What builds the patches at points as the model (of an ensemble: the widest member) sees them.

        Raises:
            MissingError: a raster or a patch is not there.
            GlczooError: the region's bands are not the model's, or a point cannot be read.
        """
        member = self.widest
        source = member.open(region)
        source.complete(points, "points")
        return PatchBuilder(source, points, member.mean, member.std, device)

    def probabilities(
        self,
        points: Points,
        region: Region | None = None,
        *,
        batch_size: int = 256,
        accelerator: Accelerator | None = None,
    ) -> Tensor:
        """Probabilities of the model's species at points, float32[N, K] on the CPU.

        Args:
            points: N places.
            region: where they lie; None: the region that the model was trained on.
            batch_size: points in a batch.
            accelerator: several processes share the work, all get the whole; None: the fastest device.

        Raises:
            MissingError: a raster or a patch is not there.
            GlczooError: the region's bands are not the model's, or a point cannot be read.
        """
        accelerator = accelerator or default_accelerator()
        if self.members:
            parts = (
                member.probabilities(points, region, batch_size=batch_size, accelerator=accelerator)
                for member in self.members
            )
            return mean_probabilities(parts, self.weights)
        build = self.builder(points, region, accelerator.device)
        self.refuse_shifted(points, region)
        return score(accelerator, self.model.to(accelerator.device), build, batch_size, self.activation)

    def to(self, device: torch.device | str) -> "TrainedModel":
        """Move the weights, and return the model ready to predict."""
        self.model.to(device).eval()
        return self

    @torch.inference_mode()
    def predict_patches(self, x: Tensor) -> Tensor:
        """Probabilities[B, K] of patches x[B, C, S, S], normalised as `builder` does."""
        return activate(self.model(x), self.activation)

    @torch.inference_mode()
    def predict_members(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Probabilities[B, K] of patches, and those of each network inside of an `ensemble_glc23`."""
        if isinstance(self.model, Ensemble):
            logits, each = self.model.forward_members(x)
            return activate(logits, self.activation), each
        probabilities = self.predict_patches(x)
        return probabilities, [probabilities]


def _together(members: Sequence[TrainedModel]) -> str:
    """What makes answers of the mean of the members' answers."""
    kinds = {member.activation for member in members}
    if "rank" in kinds and len(kinds) > 1:
        ranks, other = (
            next(m for m in members if (m.activation == "rank") is is_rank) for is_rank in (True, False)
        )
        raise GlczooError(
            f"{ranks.name} answers ranks of suitability, {other.name} probabilities of presence: their mean "
            "would be neither"
        )
    return kinds.pop() if len(kinds) == 1 else "sigmoid"


def _widest(members: Sequence[TrainedModel]) -> TrainedModel:
    return max(members, key=lambda member: len(member.bands))


def _mean_tuned(members: Sequence[TrainedModel]) -> dict[str, float]:
    """The mean of what all members have tuned, by rule."""
    shared = [rule for rule in members[0].tuned if all(rule in member.tuned for member in members)]
    means = [
        Decoding.mean([Decoding(Rule(rule), member.tuned[rule]) for member in members]) for rule in shared
    ]
    return {mean.rule.value: mean.value for mean in means if mean.value is not None}


def require_bands(bands: list[str], expected: list[str], who: str, model: str, hint: str = "") -> None:
    """Shape cannot catch a wrong order of bands: compare the names. `hint` ends the message.

    `expected`: those of `model`; `who` has `bands`.

    Raises:
        GlczooError: the names differ; the message names the first difference.
    """
    if bands == expected:
        return
    pairs = enumerate(zip(bands, expected, strict=False))
    first = next((channel for channel, (here, there) in pairs if here != there), None)
    where = f"{len(bands)} bands instead of {len(expected)}"
    if first is not None:
        where = f"channel {first}: {bands[first]} instead of {expected[first]}"
    raise GlczooError(f"the bands of {who} are not those of {model} in its order, {where}{hint}")
