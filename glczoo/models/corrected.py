"""Records' models corrected by surveys: of each species its own slopes, and what all covariates add.

    logit p_k = b_k + Σ_j a_kj own_kj + Σ_f w_kf shared_f

own_kj are what the j-th records' model predicts for species k and how dense its records are nearby; shared
are the environment, and predictions and densities of every species. Slopes a_k vary around a mean that all
species have in common, w is shrunk to nothing (a hierarchical generalised linear model, as in joint species
distribution models: Ovaskainen & Abrego 2020, doi:10.1017/9781108591720). With `hidden` small networks of the
shared values stand in the place of w. Fitted by `training.fit_corrected`.

Shapes: x[B, C, H, W] normalised · values[B, V] of `Covariates` · logits[B, K] of a sigmoid.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from glczoo.models.covariates import Covariates
from glczoo.models.fixed_species import FixedSpecies
from glczoo.models.fusresnet import checkpoint_filter_fn
from glczoo.models.pointwise import FAR, trunk
from glczoo.models.pretrained import fit_cfg, from_zoo

__all__ = ["Corrected"]

_FAR_SQUARED = 4.0  # standard deviations: beyond, a square would claim more than any survey supports


class Corrected(FixedSpecies):
    """Own slopes of every species and a correction by all covariates."""

    called, made_by = "a corrected model", "glczoo fit"
    _pairs: Tensor
    _far: Tensor
    own_shift: Tensor
    own_scale: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        num_classes: int = 30,
        in_chans: int = 33,
        windows: Sequence[int] = (1,),
        densities: int = 0,
        records: Sequence[Sequence[Any]] = (),
        reduced: int = 0,
        products: bool = False,
        hidden: int = 0,
        depth: int = 2,
        copies: int = 1,
        drop_rate: float = 0.0,
        global_pool: str = "",
    ) -> None:
        """Build the model; it predicts one half for everything until it is fitted.

        Args:
            num_classes: Number of species K.
            in_chans: Number of channels C.
            windows: See `Covariates`, as for the next three.
            densities: Layers of densities.
            records: Models of presence-only records.
            reduced: Principal components of the species' values.
            products: Whether squares and products of the first window's means are shared values too.
            hidden: Width of the networks that correct; 0: a linear correction.
            depth: Their layers.
            copies: How many of them are averaged, as probabilities.
            drop_rate: Dropout after each layer.
            global_pool: Not used; timm gives it to every model.
        """
        super().__init__()
        self.num_classes, self.in_chans, self.products = num_classes, in_chans, products
        self.covariates = Covariates(num_classes, in_chans, windows, densities, records, reduced)
        self.num_features = self.head_hidden_size = self.covariates.number
        self.feature_info: list[dict[str, Any]] = []
        bands, layers = self.covariates.environment, self.covariates.layers
        self.register_buffer("_pairs", torch.triu_indices(bands, bands), persistent=False)
        number = self.covariates.num_shared + (len(self._pairs[0]) if products else 0)
        # Components are as wide as they are: the first may lie far beyond any limit.
        far = torch.full([number], FAR)
        far[self.covariates.averaged : self.covariates.averaged + reduced] = torch.inf
        self.register_buffer("_far", far, persistent=False)
        self.register_buffer("own_shift", torch.zeros(layers))
        self.register_buffer("own_scale", torch.ones(layers))
        self.register_buffer("shift", torch.zeros(number))
        self.register_buffer("scale", torch.ones(number))
        self.slope = nn.Parameter(torch.zeros(num_classes, layers))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.copies = copies if hidden else 1
        self.trunks = nn.ModuleList(
            trunk(number, hidden, depth, drop_rate) for _ in range(copies if hidden else 0)
        )
        self.fc = nn.ModuleList(
            nn.Linear(hidden or number, num_classes, bias=bool(hidden)) for _ in range(self.copies)
        )
        for head in self._heads():
            nn.init.zeros_(head.weight)
            if head.bias is not None:
                nn.init.zeros_(head.bias)

    def _heads(self) -> Any:
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of timm's layer groups."""
        return dict(stem=r"^covariates|^own_|^shift|^scale", blocks=r"^trunks\.\d+\.(\d+)|^fc|^slope|^bias")

    def inputs(self, values: Tensor) -> Tensor:
        """values[B, V] to those that the correction reads, [B, F], not yet standardised."""
        shared = self.covariates.shared(values)
        if not self.products:
            return shared
        point = values[:, : self.covariates.environment].clamp(-_FAR_SQUARED, _FAR_SQUARED)
        first, second = self._pairs
        return torch.cat([shared, point[:, first] * point[:, second]], 1)

    def standardised(self, values: Tensor) -> Tensor:
        """values[B, V] to the standardised inputs of the correction, [B, F]."""
        return ((self.inputs(values) - self.shift) / self.scale).clamp(-self._far, self._far)

    def standardised_own(self, values: Tensor) -> Tensor:
        """values[B, V] to the standardised own values of every species, [B, K, J]."""
        return (self.covariates.own(values) - self.own_shift) / self.own_scale

    def uncorrected(self, values: Tensor) -> Tensor:
        """values[B, V] to what own values alone say, logits[B, K]."""
        return (self.standardised_own(values) * self.slope).sum(2) + self.bias

    def correction(self, copy: int, inputs: Tensor) -> Tensor:
        """Standardised inputs[B, F] to what a copy adds to the logits, [B, K]."""
        return self.fc[copy](self.trunks[copy](inputs) if len(self.trunks) else inputs)

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to values[B, V]."""
        return self.covariates(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """values[B, V] to logits[B, K]."""
        if pre_logits:
            return x
        start, inputs = self.uncorrected(x), self.standardised(x)
        each = [start + self.correction(copy, inputs) for copy in range(self.copies)]
        if len(each) == 1:
            return each[0]
        logits = torch.stack(each)  # the mean of probabilities, from logarithms
        present, absent = (nn.functional.logsigmoid(part).logsumexp(0) for part in (logits, -logits))
        return present - absent

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "corrected_glc23": dict(
            num_classes=30, input_size=(33, 128, 128), pool_size=(1, 1), crop_pct=1.0,
            interpolation="bilinear", mean=(0.0,) * 33, std=(1.0,) * 33, first_conv=None, classifier=(),
            license="apache-2.0",
        )
    }
)  # fmt: skip


@register_model
def corrected_glc23(pretrained: bool = False, **kwargs: Any) -> Corrected:
    """What presence-only records say, corrected by surveys."""
    if pretrained:
        kwargs = from_zoo("corrected_glc23", kwargs)
    fit_cfg(kwargs, kwargs.setdefault("in_chans", 33))
    return build_model_with_cfg(
        Corrected, "corrected_glc23", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
