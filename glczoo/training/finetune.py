"""From a trained model to another region: bands are matched by name, the head is made for its own species.

A band that the model knows keeps its slice of the stem and the statistics it was normalised by (a
temperature means the same everywhere); a new band of a known modality starts from the mean of that modality's
slices; what the region lacks is dropped. Levels of a categorical band are matched by value: one that the
model does not know starts from the mean of the band's others, or as a new band where there are none. Every
other weight is carried over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from glczoo.data.patch_source import Statistics
from glczoo.data.region import Band, Region
from glczoo.data.units import between
from glczoo.errors import GlczooError
from glczoo.models.published import Config, create

__all__ = ["Plan", "freeze"]


@dataclass(frozen=True)
class Plan:
    """What of a trained model goes where in a new one."""

    config: Config  # of the trained model
    name: str  # what the model was asked for by
    bands: dict[str, tuple[str, list[int]]]  # new band → its branch, and its origins: channels of the model
    modalities: list[str]  # of the region, to read
    left_out: list[str]  # modalities of the region that the model knows nothing of
    branches: dict[str, int] | None  # new branches and their channels; None: a network of one stem

    @classmethod
    def make(
        cls,
        config: Config,
        region: Region,
        modalities: list[str] | None,
        name: str,
        levels: Mapping[str, Sequence[int]] | None = None,
    ) -> "Plan":
        """Match a region's bands to a trained model's.

        Args:
            config: the trained model's config.json.
            region: to fine-tune on.
            modalities: which of it the new model shall see; all that the model knows something of if None.
            name: of the trained model, for messages.
            levels: of the categorical bands; those that the model knows where they are not named.

        Raises:
            GlczooError: no band is known, a unit differs, a band is categorical on one side alone, or the
                bands of a branch do not lie side by side.
        """
        old = {name: channel for channel, name in enumerate(config.glczoo.band_names)}
        described = config.glczoo.bands
        branch_of, branched = _branch_of_channels(config)
        bands: dict[str, tuple[str, list[int]]] = {}
        visible, left_out = [], []
        for modality in region.select(modalities):
            channels = {
                band.name: _channels(band, old, name, (levels or {}).get(band.name))
                for band in modality.bands
            }
            known = [old[channel] for each in channels.values() for channel in each if channel in old]
            kin = {described[channel].modality for channel in known} or {modality.name}
            siblings = [channel for channel, band in enumerate(described) if band.modality in kin]
            homes = sorted({branch_of[channel] for channel in known or siblings})
            if not homes:
                left_out.append(modality.name)
                continue
            if len(homes) > 1:
                raise GlczooError(
                    f"the bands of modality {modality.name} belong to the branches {homes} of {name}: "
                    "describe them in region.yaml as one modality for each branch"
                )
            visible.append(modality.name)
            for band in modality.bands:
                if band.name in old:
                    _same_unit(band.name, band.unit, described[old[band.name]].unit, name)
                own_levels = _levels(band.name, old)
                for channel in channels[band.name]:
                    origin = [old[channel]] if channel in old else list(own_levels.values()) or siblings
                    bands[channel] = (homes[0], [c for c in origin if branch_of[c] == homes[0]])
        if modalities is not None and left_out:
            raise GlczooError(
                f"{name} knows no band of the modalities {left_out}: take them out of the recipe"
            )
        if not set(bands) & set(old):
            raise GlczooError(
                f"region {region.name} has no band that {name} knows; it knows {list(old)}. Bands are "
                "matched by name: give them these names in region.yaml"
            )
        order = [branch for branch, _ in groupby(branch for branch, _ in bands.values())]
        if len(set(order)) < len(order):
            raise GlczooError(
                f"the bands of one branch of {name} must lie side by side, region {region.name} has the "
                f"order {order}: reorder the modalities in region.yaml"
            )
        counts = {branch: [b for b, _ in bands.values()].count(branch) for branch in order}
        plan = cls(config, name, bands, visible, left_out, counts if branched else None)
        if config.architecture == "ensemble_glc23" and not plan.same_bands:
            raise GlczooError(
                f"{name} is an ensemble: it is fine-tuned on the same bands in the same order, {list(old)}. "
                "For other bands fine-tune a member"
            )
        return plan

    @property
    def same_bands(self) -> bool:
        """Whether the new model sees exactly the bands of the old one."""
        return list(self.bands) == self.config.glczoo.band_names

    def text(self, species: list[str]) -> str:
        """The plan for people, before training starts. `species`: the new vocabulary."""
        old = self.config.glczoo.band_names
        carried = [band for band in self.bands if band in old]
        lines = [f"fine-tuning {self.name}: {len(carried)} of its {len(old)} bands are here"]
        for branch in self.branches or {"": 0}:
            inside = {b: origins for b, (home, origins) in self.bands.items() if home == branch}
            here = [band for band in inside if band in old]
            lines.append(f"  {f'branch {branch}' if branch else 'stem'}: carried over: {_listed(here)}")
            for band in inside:
                if band not in old:
                    lines.append(f"    {band}: new, the mean of {_listed([old[i] for i in inside[band]])}")
        if dropped := [band for band in old if band not in self.bands]:
            lines.append(f"  dropped, not in the region: {_listed(dropped)}")
        if self.left_out:
            lines.append(f"  left out, the model knows nothing like it: {_listed(self.left_out)}")
        number = len(self.config.label_names)
        lines.append(
            f"  head: kept, {number} species"
            if self.keeps_head(species)
            else f"  head: new, {len(species)} species (the model had {number})"
        )
        return "\n".join(lines)

    def keeps_head(self, species: list[str]) -> bool:
        """Whether the head fits: the same species on the same branches."""
        same_branches = self.branches is None or list(self.branches) == list(_branches(self.config))
        return species == self.config.label_names and same_branches

    def model_args(self, num_classes: int) -> dict[str, Any]:
        """Keywords of the new model's architecture."""
        args = {k: v for k, v in self.config.model_args.items() if k != "in_chans"}
        args["num_classes"] = num_classes
        if self.branches is not None:
            return args | {"branches": self.branches}
        return args | {"in_chans": len(self.bands)}

    def fill(self, model: nn.Module, state: Mapping[str, Tensor], species: list[str]) -> None:
        """Bring the trained weights `state` into the new model; a head that is not kept stays as it is.

        Raises:
            GlczooError: a weight has no place or another shape, as after other `model_args`.
        """
        named = self.config.pretrained_cfg.classifier or []
        heads = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named))
        kept = self.keeps_head(species)
        own = model.state_dict()
        new = {key: value for key, value in state.items() if kept or not key.startswith(heads)}
        starts, start = {}, 0
        for branch, number in _branches(self.config).items():
            starts[branch], start = start, start + number
            prefix = f"branches.{branch}." if self.branches is not None else ""
            stem = self._stem(prefix, state) if not self.same_bands else None
            if stem is None:
                continue
            if self.branches is not None and branch not in self.branches:
                new = {key: value for key, value in new.items() if not key.startswith(prefix)}
                continue
            origins = [origins for home, origins in self.bands.values() if home == branch]
            slices = [state[stem][:, [c - starts[branch] for c in each]].mean(1) for each in origins]
            new[stem] = torch.stack(slices, dim=1)
        missing = [key for key in own if key not in new and not key.startswith(heads)]
        wrong = [key for key in new if key not in own or own[key].shape != new[key].shape] + missing
        if wrong:
            raise GlczooError(
                f"the weights of {self.name} do not fit the new model: {len(wrong)} differ, such as "
                f"{wrong[:3]}; are other model_args given?"
            )
        model.load_state_dict(own | new)

    def _stem(self, prefix: str, state: Mapping[str, Tensor]) -> str:
        first = self.config.pretrained_cfg.first_conv or "conv1"
        for name in (first, f"{first}.0"):  # timm's deep stems are a sequence
            if f"{prefix}{name}.weight" in state:
                return f"{prefix}{name}.weight"
        raise GlczooError(f"{self.name}: the first convolution of {prefix or 'the model'} is not found")

    def statistics(self, own: Statistics) -> Statistics:
        """The model's mean and standard deviation of the bands it knows, the region's `own` of others."""
        cfg = self.config.pretrained_cfg
        at = {name: channel for channel, name in enumerate(self.config.glczoo.band_names)}
        mean, std = (
            [float(trained[at[band]]) if band in at else values[i] for i, band in enumerate(self.bands)]
            for trained, values in ((cfg.mean, own.mean), (cfg.std, own.std))
        )
        return Statistics(mean, std, own.filled)


def freeze(model: Any) -> None:
    """Let only the head learn. For batch norm to keep its statistics too, train the model in eval mode."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in model.get_classifier().parameters():
        parameter.requires_grad_(True)


def _branches(config: Config) -> dict[str, int]:
    """Branches of a model and their channels; one without a name for a network of one stem."""
    with torch.device("meta"):
        model = create(config)
    return getattr(model, "branch_chans", None) or {"": len(config.glczoo.bands)}


def _branch_of_channels(config: Config) -> tuple[list[str], bool]:
    """The branch of every channel, and whether the model has branches at all."""
    branches = _branches(config)
    return [branch for branch, number in branches.items() for _ in range(number)], list(branches) != [""]


def _channels(
    band: Band, old: Mapping[str, int], name: str, levels: Sequence[int] | None = None
) -> list[str]:
    """The channels of a band: of a categorical one its levels, or those that the model knows.

    Raises:
        GlczooError: it is categorical here and a number there, or the other way round.
    """
    known = list(_levels(band.name, old))
    if band.kind == "number":
        if known:
            raise GlczooError(_other_kind(band.name, "a number here and categorical", name))
        return [band.name]
    if band.name in old:
        raise GlczooError(_other_kind(band.name, "categorical here and a number", name))
    if levels is not None:
        return [f"{band.name}={level}" for level in levels]
    return known or [band.name]


def _levels(band: str, old: Mapping[str, int]) -> dict[str, int]:
    """The channels of a categorical band's levels that a model knows."""
    return {channel: number for channel, number in old.items() if channel.rpartition("=")[0] == band}


def _other_kind(band: str, what: str, name: str) -> str:
    return f"band {band} is {what} in {name}: set its kind in region.yaml, or give it another name"


def _same_unit(band: str, here: str, there: str, name: str) -> None:
    if here and there and between(here, there, band) is None:
        raise GlczooError(
            f"band {band} is in {here!r} here and in {there!r} in {name}: a name must mean the same; convert "
            "the raster, or give the band another name"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
