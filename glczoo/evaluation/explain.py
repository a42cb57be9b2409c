"""What a model makes of its bands, and where it errs: response curves, permutation importance, blocks.

Shapes: x[N, C, S, S] · values[B, T], T places along the range of each of B bands · f1[N] of N surveys.

Importance tells what this model reads, not what plants need: of two bands that say the same either may look
useless, since the other still tells it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glczoo.data.loader import load
from glczoo.data.occurrences import Points, Samples
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.splits import block_bounds, spatial_blocks
from glczoo.errors import GlczooError
from glczoo.metrics import bootstrap, sample_f1
from glczoo.progress import Track
from glczoo.runs.trained import TrainedModel

__all__ = [
    "Blocks",
    "Importance",
    "ResponseCurves",
    "ResponseLevels",
    "errors_by_block",
    "permutation_importance",
    "response_curves",
]

_STEPS = 33  # places along the range of a band


@dataclass(frozen=True)
class ResponseCurves:
    """What a model answers along the range of each band of numbers, the other bands at their middle."""

    bands: list[str]  # B bands of numbers
    values: np.ndarray  # float64[B, T], in the bands' units
    answers: np.ndarray  # float64[B, T, n]
    median: np.ndarray  # float64[B]: what a band is while others vary
    levels: "dict[str, ResponseLevels]"  # of categorical bands


@dataclass(frozen=True)
class ResponseLevels:
    """What a model answers at each level of a categorical band, the other bands at their middle."""

    levels: list[str]  # L
    answers: np.ndarray  # float64[L, n]
    commonest: str  # the level of the band while others vary


@dataclass(frozen=True)
class Importance:
    """What F1 loses when groups of bands are another survey's; intervals are 95 % of a bootstrap."""

    f1: float  # with every band in place
    lost: np.ndarray  # float64[G], mean over surveys
    low: np.ndarray  # float64[G]
    high: np.ndarray  # float64[G]


@dataclass(frozen=True)
class Blocks:
    """Mean F1 in spatial blocks."""

    bounds: np.ndarray  # float64[n, 4]: west, south, east, north in degrees
    f1: np.ndarray  # float64[n]
    number: np.ndarray  # int64[n]: surveys


def response_curves(
    trained: TrainedModel,
    region: Region,
    points: Points,
    classes: Sequence[int] | np.ndarray,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> ResponseCurves:
    """Vary one band over its range and hold the others at their middle (Elith et al. 2005).

    Range (from the 1st to the 99th percentile) and middle, the median, are those of the bands' values at the
    points, cells without data counting as the mean, as the model sees them. A categorical band goes through
    its levels and is held at its commonest one. The patch is flat: each band has one value in all of its
    cells, so that the curve tells nothing of how the model reads texture.

    Elith, Ferrier, Huettmann, Leathwick 2005, "The evaluation strip", doi:10.1016/j.ecolmodel.2004.12.007.

    Args:
        trained: the model.
        region: where the points lie.
        points: whose values are the range: the training surveys, or some of them.
        classes: of the species to draw, n.
        batch_size: patches at a time.
        device: where the model answers.

    Raises:
        MissingError: a raster or a patch is not there.
        GlczooError: the region's bands are not the model's, there are no points, or one cannot be read.
    """
    build = _builder(trained, region, points, device)
    centre = build.size // 2
    batches = list(torch.arange(len(points)).split(batch_size))
    # A copy: the memory of x is filled again.
    seen = torch.cat([x[:, :, centre, centre].cpu().clone() for _, x in load(build, batches)])
    low, middle, high = torch.from_numpy(np.quantile(seen.numpy(), [0.01, 0.5, 0.99], axis=0)).float()
    levels = {band: channels for band, channels in trained.channels.items() if trained.levels(band)}
    commonest = {}
    for band, channels in levels.items():
        commonest[band] = int(seen[:, channels].sum(0).argmax())
        middle[channels] = torch.eye(len(channels))[commonest[band]]
    numbers = [channels[0] for band, channels in trained.channels.items() if band not in levels]
    along = low[numbers, None] + (high - low)[numbers, None] * torch.linspace(0, 1, _STEPS)
    places = middle.expand(len(numbers), _STEPS, -1).clone()  # band, place along it, every channel
    places[torch.arange(len(numbers)), :, numbers] = along
    parts = [places.flatten(0, 1)]
    for channels in levels.values():
        at_levels = middle.expand(len(channels), -1).clone()
        at_levels[:, channels] = torch.eye(len(channels))
        parts.append(at_levels)
    chosen = torch.as_tensor(classes, device=device)
    answers = []
    for some in Track(torch.cat(parts).split(batch_size), "response curves", unit="batches"):
        x = some.to(device)[:, :, None, None].repeat(1, 1, build.size, build.size)
        answers.append(trained.predict_patches(x)[:, chosen].cpu())
    of_numbers, *of_levels = torch.cat(answers).double().split([len(part) for part in parts])
    mean, std = (torch.tensor(values, dtype=torch.float64)[numbers] for values in (trained.mean, trained.std))
    return ResponseCurves(
        bands=[trained.bands[channel] for channel in numbers],
        values=(along * std[:, None] + mean[:, None]).numpy(),
        answers=of_numbers.view(len(numbers), _STEPS, len(chosen)).numpy(),
        median=(middle[numbers] * std + mean).numpy(),
        levels={
            band: ResponseLevels(
                trained.level_names(band), each.numpy(), trained.level_names(band)[commonest[band]]
            )
            for band, each in zip(levels, of_levels, strict=True)
        },
    )


def permutation_importance(
    trained: TrainedModel,
    region: Region,
    surveys: Samples,
    groups: Sequence[Sequence[int]] | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Importance:
    """What F1 (eq. 3, sets by the model's own decoding) loses when bands are those of another survey.

    Each survey gets the whole patches of these bands from another one, drawn at random, and keeps the others:
    permutation importance (Breiman 2001, doi:10.1023/A:1010933404324). All groups get them from the same one.
    Bands that the model does not read lose exactly nothing. Two batches are in memory, however many surveys.

    Args:
        trained: the model.
        region: where the surveys lie.
        surveys: two or more, best those that the model was not trained on.
        groups: channels that are permuted together, such as those of a modality; None: each band alone.
        batch_size: surveys at a time.
        device: where the model answers.
        seed: of the draw.

    Raises:
        MissingError: a raster or a patch is not there.
        GlczooError: the region's bands are not the model's, a survey cannot be read, or there is one alone.
    """
    number = len(surveys)
    if number < 2:
        raise GlczooError(f"permutation importance exchanges bands between surveys; there is {number}")
    if groups is None:
        groups = list(trained.channels.values())
    build, sources = _builder(trained, region, surveys, device), surveys.datasets
    order = torch.from_numpy(np.random.default_rng(seed).permutation(number))
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # nobody is their own
    f1 = torch.empty(1 + len(groups), number, dtype=torch.float64)
    batches = list(torch.arange(number).split(batch_size))
    with Track[None](total=len(batches) * len(f1), title="importance", unit="batches") as bar:
        for index in batches:
            x, other = build(index), build(partner[index])
            target = surveys.targets(index, len(trained.species), device)
            for row, channels in enumerate([[], *groups]):
                own = x[:, channels].clone()
                x[:, channels] = other[:, channels]
                named = None if sources is None else sources[index.numpy()]
                mask = trained.decoding(trained.predict_patches(x), named)
                f1[row, index] = sample_f1(mask, target).double().cpu()
                x[:, channels] = own
                bar.update()
    lost = f1[0] - f1[1:]
    low, high = np.array([bootstrap(each) for each in lost]).reshape(-1, 2).T
    return Importance(float(f1[0].mean()), lost.mean(1).numpy(), low, high)


def errors_by_block(points: Points, f1: Tensor, size_km: float) -> Blocks:
    """Mean of f1[N] in blocks of about `size_km` (see `splits.spatial_blocks`)."""
    block = spatial_blocks(points, size_km)
    number = np.bincount(block)
    return Blocks(block_bounds(points, size_km), np.bincount(block, f1.double().numpy()) / number, number)


def _builder(
    trained: TrainedModel, region: Region, points: Points, device: torch.device | str
) -> PatchBuilder:
    if not len(points):
        raise GlczooError(f"there are no points to ask {trained.name} at")
    trained.to(device)
    return trained.builder(points, region, device)
