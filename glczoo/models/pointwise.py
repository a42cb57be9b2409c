"""A small network of the environment around a point, several copies of which are averaged.

Means over windows, two layers, one output for each species: what a multi-layer perceptron makes of a table of
covariates (Cole et al. 2023, "Spatial implicit neural representations"; for sites: Ryckewaert et al. 2024,
"Applying the maximum entropy principle to neural networks enhances multi-species distribution models", arXiv
2412.19217). Copies differ in their seed; their mean is steadier than each (Lakshminarayanan et al. 2017).

Shapes: x[B, C, H, W] normalised · means[B, windows × C] · logits[B, K].
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from glczoo.models.covariates import window_means
from glczoo.models.fusresnet import checkpoint_filter_fn
from glczoo.models.pretrained import fit_cfg, from_zoo

__all__ = ["Pointwise", "trunk"]

FAR = 6.0  # standard deviations: what lies beyond counts as lying there


def trunk(inputs: int, hidden: int, depth: int, drop_rate: float) -> nn.Sequential:
    """The layers before a head: `depth` times linear, ReLU and dropout.

    `inputs`: width of what goes in; `hidden`: of each layer.
    """
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(hidden if number else inputs, hidden), nn.ReLU(), nn.Dropout(drop_rate)]
    return nn.Sequential(*layers)


class Pointwise(nn.Module):
    """The mean of several small networks of the means over windows."""

    shift: Tensor
    scale: Tensor
    level: Tensor

    def __init__(
        self,
        num_classes: int = 10039,
        in_chans: int = 33,
        windows: Sequence[int] = (1, 9),
        hidden: int = 128,
        depth: int = 2,
        copies: int = 1,
        softmax: Literal["species", "sites"] = "species",
        drop_rate: float = 0.0,
        global_pool: str = "",
    ) -> None:
        """Build the networks with new weights.

        Args:
            num_classes: Number of species K; 0 for no heads.
            in_chans: Number of covariates C.
            windows: Sides, in cells, of the centred windows over which each covariate is averaged.
            hidden: Width of each layer.
            depth: Number of layers before the head.
            copies: How many networks are averaged.
            softmax: What outputs are relative to. `species`: the mean of log-softmaxes over species. `sites`:
                the mean of logits, each less its log mean exp over the places that it was fitted on.
            drop_rate: Dropout after each layer.
            global_pool: Not used; timm gives it to every model.
        """
        super().__init__()
        self.in_chans, self.windows, self.copies, self.softmax = in_chans, tuple(windows), copies, softmax
        number = in_chans * len(self.windows)
        self.register_buffer("shift", torch.zeros(number))
        self.register_buffer("scale", torch.ones(number))
        self.trunks = nn.ModuleList(trunk(number, hidden, depth, drop_rate) for _ in range(copies))
        self.hidden = hidden
        self.num_features = self.head_hidden_size = hidden * copies
        self.feature_info: list[dict[str, Any]] = []
        self.reset_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of timm's layer groups."""
        return dict(stem=r"^shift|^scale", blocks=r"^trunks\.\d+\.(\d+)")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """There is nothing worth recomputing."""

    def get_classifier(self, name_only: bool = False) -> Any:
        """Return the copies' heads, or their names."""
        return _heads(self.copies) if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make new heads for `num_classes` species, 0 for none."""
        self.num_classes = num_classes
        heads = [nn.Linear(self.hidden, num_classes) if num_classes else nn.Identity() for _ in self.trunks]
        self.fc = nn.ModuleList(heads)
        self.register_buffer("level", torch.zeros(self.copies, num_classes))

    def means(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to its means over the windows, [B, windows × C]."""
        return window_means(x, self.windows)

    def standardised(self, means: Tensor) -> Tensor:
        """means[B, windows × C] as the networks see them."""
        return ((means - self.shift) / self.scale).clamp(-FAR, FAR)

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to features[B, copies × hidden]."""
        z = self.standardised(self.means(x))
        return torch.cat([layers(z) for layers in self.trunks], 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """features[B, copies × hidden] to logits[B, K]."""
        if pre_logits or self.num_classes == 0:
            return x
        each = [head(part) for head, part in zip(self.fc, x.chunk(self.copies, 1), strict=True)]
        if self.softmax == "species":
            return torch.stack([logits.log_softmax(1) for logits in each]).mean(0)
        return (torch.stack(each) - self.level[:, None]).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]."""
        return self.forward_head(self.forward_features(x))


def _heads(number: int) -> tuple[str, ...]:
    return tuple(f"fc.{i}" for i in range(number))


default_cfgs = generate_default_cfgs(
    {
        "pointwise_glc23": dict(
            num_classes=10039, input_size=(33, 128, 128), pool_size=(1, 1), crop_pct=1.0,
            interpolation="bilinear", mean=(0.0,) * 33, std=(1.0,) * 33, first_conv=None,
            classifier=_heads(1), license="apache-2.0",
        )
    }
)  # fmt: skip


@register_model
def pointwise_glc23(pretrained: bool = False, **kwargs: Any) -> Pointwise:
    """Small networks of any number of covariates around a point, averaged."""
    if pretrained:
        kwargs = from_zoo("pointwise_glc23", kwargs)
    fit_cfg(kwargs, kwargs.setdefault("in_chans", 33), classifier=_heads(kwargs.get("copies", 1)))
    return build_model_with_cfg(
        Pointwise, "pointwise_glc23", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
