"""A branch for numbers of a place: a residual perceptron with the stages of a ResNet.

FusResNet's input is one stack of planes, and a number of the place (an elevation, a mean climate, an
embedding) is a plane of one value. Convolutions would see its edges alone and take as long as for a picture;
this branch reads the value in the middle. It has a ResNet's stem and four stages, so that layer groups,
feature maps and pruning are the same for every branch.

Shapes: x[B, C, H, W] to x[:, :, H // 2, W // 2], then [B, channels, 1, 1] from each stage.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

__all__ = ["ValuesBranch"]


class _Block(nn.Module):
    """Two linear layers and the way around them, which is linear where the width changes."""

    def __init__(self, in_chans: int, out_chans: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(out_chans, **dd)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chans, **dd)
        self.downsample: nn.Module = nn.Identity()
        if in_chans != out_chans:
            self.downsample = nn.Conv2d(in_chans, out_chans, 1, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, 1, 1] to [B, out, 1, 1]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.downsample(x) + self.bn2(self.conv2(y)))


class ValuesBranch(nn.Module):
    """Numbers of the place to features; its methods are those of timm's ResNet that FusResNet calls."""

    layer1: Any
    layer2: Any
    layer3: Any
    layer4: Any

    def __init__(self, in_chans: int, widths: Sequence[int], device: Any = None, dtype: Any = None) -> None:
        """Build it with random weights.

        Args:
            in_chans: Number of values C.
            widths: Features of the stem and of each of the four stages.
            device: Of the weights.
            dtype: Of the weights.
        """
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_chans, self.grad_checkpointing = in_chans, False
        self.conv1 = nn.Conv2d(in_chans, widths[0], 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(widths[0], **dd)
        for stage in range(1, 5):
            block = _Block(widths[stage - 1], widths[stage], **dd)
            setattr(self, f"layer{stage}", nn.Sequential(block))
        self.num_features = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages' activations in the backward pass."""
        self.grad_checkpointing = enable

    def _stage(self, number: int, x: Tensor) -> Tensor:
        layer = getattr(self, f"layer{number}")
        return checkpoint(layer, x) if self.grad_checkpointing and x.requires_grad else layer(x)

    def _stem(self, x: Tensor) -> Tensor:
        row, col = x.shape[2] // 2, x.shape[3] // 2
        return F.relu(self.bn1(self.conv1(x[:, :, row : row + 1, col : col + 1])))

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to [B, num_features, 1, 1]."""
        x = self._stem(x)
        for number in range(1, 5):
            x = self._stage(number, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """The features, x[B, C, H, W] to [B, num_features, 1, 1]."""
        return self.forward_features(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features of the stem (0) and the stages (1 to 4), [B, channels, 1, 1] each.

        Args:
            x: [B, C, H, W].
            indices: Which of them; the last n for an int, all for None.
            norm: Nothing here, as in timm's ResNet.
            stop_early: Compute no stage after the last of `indices`.
            output_fmt: NCHW.
            intermediates_only: Return the list alone, not the last features and the list.
        """
        taken, last = feature_take_indices(5, indices)
        x, maps = self._stem(x), []
        for number in range(last + 1 if stop_early else 5):
            x = self._stage(number, x) if number else x
            maps += [x] if number in taken else []
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of `indices`; return the indices kept.

        Args:
            indices: As in `forward_intermediates`.
            prune_norm: Nothing here, as `prune_head`: there is neither.
            prune_head: See there.
        """
        taken, last = feature_take_indices(5, indices)
        for number in range(last + 1, 5):
            setattr(self, f"layer{number}", nn.Identity())
        return taken
