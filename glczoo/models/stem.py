"""From an RGB stem to one with other channels, and the start from ImageNet weights.

The paper says only that "ImageNet weights initialize the backbones", not what happens to a first
convolution that has 3 channels where a branch has 19. On correlated covariates timm's way (`repeat`) shrinks
the response of the stem to about a quarter at 19 channels; batch norm hides that in training, but steps of
Adam are then larger relative to the weights. `repeat_norm` keeps the filters' norms, `rgb_mean` keeps the
response to a true RGB image. `repeat` is the default: it is what timm, and so most likely the paper, does.

Shapes: weight[F, 3, k, k] of an RGB stem, F filters of k x k cells; the result is [F, C, k, k].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from timm.models.resnet import ResNet
from torch import Tensor, nn

from glczoo.errors import CheckpointError, GlczooError
from glczoo.models.fusresnet import FusResNet

__all__ = ["HOWS", "adapt_stem", "init_from_imagenet"]

HOWS = ("repeat", "repeat_norm", "rgb_mean", "rgb_zero", "mean", "random")
"""Ways of adapting three-channel weights of a stem to other channels."""

WAYS_OUT = (
    "Either name a local file of the weights in timm's format, weights=FILE (recipe key imagenet.weights), "
    "or start from random weights (recipe: init: random)."
)


def adapt_stem(
    weight: Tensor, in_chans: int, how: str = "repeat", rgb: Sequence[int] | None = None
) -> Tensor:
    """Turn the RGB stem weight[F, 3, k, k] into a stem [F, in_chans, k, k].

    With C = in_chans, and w[f, c] the kernel of filter f for channel c:

    - `repeat`: R G B R G B … cut to C channels, times 3/C; the sum over RGB for C = 1; unchanged for C = 3.
      Identical to timm's `adapt_input_conv`.
    - `repeat_norm`: `repeat`, then each filter scaled to its L2 norm over the RGB stem,
      w'[f] = w[f] * |rgb[f]| / |w[f]|; a filter that sums to zero stays zero.
    - `rgb_mean`: R, G, B at the positions `rgb`; every other channel is the mean of the three.
    - `rgb_zero`: R, G, B at the positions `rgb`; every other channel is zero.
    - `mean`: the mean of the three in every channel, times 3/C.
    - `random`: new weights as timm's ResNet draws them (Kaiming normal, fan out; torch's global generator).

    Args:
        weight: RGB weights.
        in_chans: Number of channels C of the new stem.
        how: One of the above.
        rgb: Positions of red, green and blue among the C channels, [0, 1, 2] when None.

    Raises:
        GlczooError: Unknown `how`, a weight that is not RGB, fewer than one channel, or positions outside it.
    """
    if how not in HOWS:
        raise GlczooError(f"Unknown way to adapt a stem: {how!r}. The ways are {', '.join(HOWS)}.")
    if weight.ndim != 4 or weight.shape[1] != 3 or in_chans < 1:
        raise GlczooError(
            f"adapt_stem takes an RGB weight [F, 3, k, k] and at least one channel, "
            f"got {tuple(weight.shape)} and {in_chans}."
        )
    source = weight.float()  # means and norms of half-precision weights would lose digits
    shape = (weight.shape[0], in_chans, *weight.shape[2:])
    if how == "random":
        new = nn.init.kaiming_normal_(source.new_empty(shape), mode="fan_out", nonlinearity="relu")
    elif how == "mean":
        new = source.mean(1, keepdim=True).expand(shape) * (3 / in_chans)
    elif how in ("rgb_mean", "rgb_zero"):
        positions = [0, 1, 2] if rgb is None else list(rgb)
        if len(positions) != 3 or len(set(positions) & set(range(in_chans))) != 3:
            raise GlczooError(
                f"{how} needs rgb, the three positions of red, green and blue among {in_chans} channels; "
                f"got {positions}."
            )
        new = (
            source.mean(1, keepdim=True).repeat(1, in_chans, 1, 1)
            if how == "rgb_mean"
            else source.new_zeros(shape)
        )
        new[:, positions] = source
    else:
        new = adapt_input_conv(in_chans, source)
        if how == "repeat_norm":
            norm = new.flatten(1).norm(dim=1).clamp_min(torch.finfo(new.dtype).tiny)
            new = new * (source.flatten(1).norm(dim=1) / norm)[:, None, None, None]
    return new.to(weight.dtype)


def init_from_imagenet(
    model: nn.Module,
    tag: str,
    how: str | Mapping[str, str] = "repeat",
    rgb: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    weights: str | Path | None = None,
) -> None:
    """Fill every branch of `model` in place with the weights of an RGB ResNet; the head stays as it is.

    So do branches of values, which are no ResNets.

    Args:
        model: A FusResNet, or one of timm's ResNets, which counts as one branch named "model".
        tag: Name of the timm model with the weights, such as "resnet50.a1_in1k", loaded through timm.
        how: Way of `adapt_stem` for all branches, or per branch ("repeat" for those left out).
        rgb: Positions of red, green and blue for all branches, or per branch.
        weights: Local safetensors file of `tag` in timm's format, instead of a download.

    Raises:
        TypeError: `model` is neither.
        GlczooError: Unknown way or branch, or `weights` is not a safetensors file.
        MissingError: There is no file `weights`.
        CheckpointError: `tag` could not be loaded, or its keys and shapes are not the branches'. The model is
            unchanged then.
    """
    if isinstance(model, FusResNet):
        branches: dict[str, Any] = {n: b for n, b in model.branches.items() if isinstance(b, ResNet)}
    elif isinstance(model, ResNet):
        branches = {"model": model}
    else:
        raise TypeError(f"init_from_imagenet fills a FusResNet or timm's ResNet, not {type(model).__name__}.")
    hows: Mapping[str, str] = how if isinstance(how, Mapping) else dict.fromkeys(branches, how)
    rgbs: Mapping[str, Any] = rgb if isinstance(rgb, Mapping) else dict.fromkeys(branches, rgb)
    if unknown := {*hows, *rgbs} - branches.keys():
        raise GlczooError(
            f"No such branch: {', '.join(sorted(unknown))}. The branches are {', '.join(branches)}."
        )
    ways = {name: (b.in_chans, hows.get(name, "repeat"), rgbs.get(name)) for name, b in branches.items()}
    for way in ways.values():  # a bad way or position is reported before any download
        adapt_stem(torch.empty(1, 3, 1, 1, device="meta"), *way)

    source = _load_rgb_resnet(tag, weights)
    stem = "conv1.weight" if "conv1.weight" in source else "conv1.0.weight"  # the second is a deep stem's
    filled = {}
    for name, branch in branches.items():
        target = {key: value for key, value in branch.state_dict().items() if not key.startswith("fc.")}
        new = dict(source)
        if stem in source.keys() & target.keys():
            new[stem] = adapt_stem(source[stem], *ways[name])
        wrong = sorted(
            key
            for key in new.keys() | target.keys()
            if key not in new or key not in target or new[key].shape != target[key].shape
        )
        if wrong:
            raise CheckpointError(
                f"{weights or tag} is {_layout(source)}, but branch {name} is {_layout(target)}; "
                f"{len(wrong)} keys differ, such as {', '.join(wrong[:4])}. Take weights of the same network."
            )
        filled[name] = new
    for name, branch in branches.items():  # only now that all fit
        branch.load_state_dict(filled[name], strict=False)  # keys are checked; only a head is left out


def _load_rgb_resnet(tag: str, weights: str | Path | None) -> dict[str, Tensor]:
    """The checkpoint without its head."""
    if weights is None:
        try:
            state = timm.create_model(tag, pretrained=True, num_classes=0).state_dict()
        except Exception as error:  # an unknown tag, no weights, and every way in which a network fails
            raise CheckpointError(
                f"The ImageNet weights {tag!r} could not be loaded ({error}). {WAYS_OUT}"
            ) from error
    else:
        try:
            state = load_file(weights)
        except SafetensorError as error:
            raise GlczooError(
                f"{weights} is not a safetensors file ({error}). Pickles (.pth, .bin) are never read: "
                "they can run code. Convert a file that you trust with safetensors.torch.save_file."
            ) from error
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _layout(state: Mapping[str, Tensor]) -> str:
    """Blocks per stage read from the keys, such as '3+4+6+3 blocks (Bottleneck) with a 7x7 stem'."""
    blocks = {key.rsplit(".conv", 1)[0] for key in state if key.startswith("layer") and ".conv1." in key}
    counts = [sum(b.startswith(f"layer{stage}.") for b in blocks) for stage in range(1, 5)]
    kinds = {"Bottleneck" if f"{block}.conv3.weight" in state else "BasicBlock" for block in blocks}
    stem = "7x7" if "conv1.weight" in state else "deep"
    return f"{'+'.join(map(str, counts))} blocks ({' and '.join(sorted(kinds)) or 'none'}) with a {stem} stem"
