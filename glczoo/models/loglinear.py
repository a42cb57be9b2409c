"""A log-linear model of suitability at a point, for presence-only records.

Every species has a softmax over the *sites* of its target group: log-likelihood Σ log softmax of the sites
with it, the likelihood of an inhomogeneous Poisson process given its number of points, hence MaxEnt (Renner
and Warton 2013, doi:10.1111/j.1541-0420.2012.01824.x), for all species at once (Ryckewaert et al. 2024).
Features are linear and quadratic, hinges (Phillips and Dudík 2008, doi:10.1111/j.0906-7590.2008.5203.x) and
random Fourier features (Rahimi and Recht 2007) of Matérn kernels on the covariates and on the coordinates:
smooth surfaces for what covariates do not explain. Fitted with a ridge (`training.fit_loglinear`), not by
batches.

Shapes: x[B, C, H, W] normalised, of which the centre counts · D numeric channels · features[B, F] ·
logits[B, K], defined up to a constant a species: they order places, not species.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.models.fusresnet import checkpoint_filter_fn
from glczoo.models.pretrained import fit_cfg, from_zoo
from glczoo.models.ranks import interpolate

__all__ = ["LogLinear"]

_FAR = 4.0  # standard deviations: beyond, a square would claim more than any record supports
_KNOTS = 6  # of hinges
_QUANTILES = 101  # by which covariates become uniform before a kernel compares them
_WAVES = 300  # random features of the kernel on covariates
_AMPLITUDE = 10.0  # of that kernel, in standard deviations of a weight
_SURFACES = ((1.0, 5.0), (0.3, 3.0))  # length, in standard deviations of the coordinates, and amplitude
_SURFACE_WAVES = 150


class LogLinear(nn.Module):
    """Scores linear in features of the covariates at the patch's centre, and of its coordinates."""

    low: Tensor
    high: Tensor
    centre: Tensor
    scale: Tensor
    knots: Tensor
    quantiles: Tensor
    uniform_mean: Tensor
    uniform_std: Tensor
    kernel_waves: Tensor
    kernel_phase: Tensor
    surface_centre: Tensor
    surface_scale: Tensor
    surface_waves: Tensor
    surface_phase: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int = 30,
        in_chans: int = 33,
        hinges: bool = False,
        kernel: bool = False,
        surfaces: int = 0,
        levels: Sequence[int] = (),
        drop_rate: float = 0.0,
        global_pool: str = "",
    ) -> None:
        """Make room for statistics and weights, which `describe` and the fit fill.

        Args:
            num_classes: Number of species K; 0 for no head.
            in_chans: Number of channels C; with surfaces the last two are coordinates, in one unit of length.
            hinges: Six forward and six reverse hinges of every numeric channel.
            kernel: Random features of a kernel on all covariates together, made uniform.
            surfaces: Number of smooth surfaces over the coordinates, the first of length 1, the second .3.
            levels: Channels that are 0 or 1: levels of a category, which have no squares and no hinges.
            drop_rate: Not used; timm gives it to every model.
            global_pool: Not used.

        Raises:
            GlczooError: a channel of `levels` is none of the covariates, or there are more surfaces than two.
        """
        super().__init__()
        covariates = in_chans - 2 * bool(surfaces)
        if not 0 <= surfaces <= len(_SURFACES) or any(not 0 <= level < covariates for level in levels):
            raise GlczooError(
                f"levels must be some of the {covariates} covariates and surfaces at most {len(_SURFACES)}; "
                f"got {list(levels)} and {surfaces}"
            )
        self.in_chans, self.hinges, self.kernel, self.surfaces = in_chans, hinges, kernel, surfaces
        self.levels = list(levels)
        self.numeric = [channel for channel in range(covariates) if channel not in set(levels)]
        number = len(self.numeric)
        plain = 2 * number + 2 * _KNOTS * number * hinges + len(self.levels)
        waves = _SURFACE_WAVES * surfaces
        shapes = {
            "low": (number,), "high": (number,), "centre": (number,), "scale": (number,),
            "knots": (_KNOTS * hinges, number), "mean": (plain,), "std": (plain,),
            "quantiles": (_QUANTILES * kernel, number), "uniform_mean": (covariates * kernel,),
            "uniform_std": (covariates * kernel,), "kernel_waves": (covariates * kernel, _WAVES * kernel),
            "kernel_phase": (_WAVES * kernel,), "surface_centre": (2 * bool(surfaces),), "surface_scale": (),
            "surface_waves": (2, waves), "surface_phase": (waves,),
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_buffer(
                name, torch.ones(shape) if name.endswith(("scale", "std")) else torch.zeros(shape)
            )
        self.num_features = self.head_hidden_size = plain + _WAVES * kernel + waves
        self.feature_info: list[dict[str, Any]] = []
        self.reset_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of timm's layer groups."""
        return dict(stem=r"^(?!fc)", blocks=r"^fc")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """There is nothing to recompute."""

    def get_classifier(self, name_only: bool = False) -> Any:
        """Return the head, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new head of zeros for `num_classes` species, 0 for none."""
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(
                self.num_features, num_classes, bias=False
            )  # a constant cancels in the softmax
            nn.init.zeros_(self.fc.weight)

    @torch.no_grad()
    def describe(self, z: Tensor, seed: int = 0) -> None:
        """Take statistics and draw random features from the values z[N, C] at the sites of the records."""
        numeric = z[:, self.numeric]
        self.low, self.high = numeric.amin(0), numeric.amax(0)
        self.centre, self.scale = numeric.mean(0), _spread(numeric)
        if self.hinges:
            self.knots = numeric.quantile(torch.linspace(0, 1, _KNOTS + 2)[1:-1], dim=0).contiguous()
        generator = torch.Generator().manual_seed(seed)
        if self.kernel:
            self.quantiles = numeric.quantile(torch.linspace(0, 1, _QUANTILES), dim=0).contiguous()
            uniform = self._uniform(z)
            self.uniform_mean, self.uniform_std = uniform.mean(0), _spread(uniform)
            length = uniform.shape[1] ** 0.5  # distances grow with the number of covariates
            self.kernel_waves, self.kernel_phase = _waves(generator, uniform.shape[1], _WAVES, length, 5)
        if self.surfaces:
            places = z[:, -2:]
            self.surface_centre = places.mean(0)
            self.surface_scale = places.var(0, unbiased=False).mean().sqrt()
            drawn = [
                _waves(generator, 2, _SURFACE_WAVES, length, 3) for length, _ in _SURFACES[: self.surfaces]
            ]
            self.surface_waves = torch.cat([waves for waves, _ in drawn], 1)
            self.surface_phase = torch.cat([phase for _, phase in drawn])
        plain = self._plain(z)
        self.mean, self.std = plain.mean(0), _spread(plain)

    def _clamped(self, z: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z[:, self.numeric], self.low), self.high)

    def _plain(self, z: Tensor) -> Tensor:
        """Linear, quadratic and hinge features and levels of z[B, C], not yet standardised."""
        numeric = self._clamped(z)
        standard = ((numeric - self.centre) / self.scale).clamp(-_FAR, _FAR)
        columns = [standard, standard.square()]
        for knot in self.knots:
            columns.append(((numeric - knot) / (self.high - knot + 1e-9)).clamp(0, 1))
            columns.append(((knot - numeric) / (knot - self.low + 1e-9)).clamp(0, 1))
        return torch.cat([*columns, z[:, self.levels]], 1)

    def _uniform(self, z: Tensor) -> Tensor:
        """Covariates by their rank among the sites, and the levels as they are."""
        ranks = interpolate(self._clamped(z), self.quantiles, torch.linspace(0, 1, _QUANTILES).to(z))
        return torch.cat([ranks, z[:, self.levels]], 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to features[B, F]."""
        z = x[:, :, x.shape[2] // 2, x.shape[3] // 2]
        features = [(self._plain(z) - self.mean) / self.std]
        if self.kernel:
            uniform = (self._uniform(z) - self.uniform_mean) / self.uniform_std
            wave = torch.cos(uniform @ self.kernel_waves + self.kernel_phase)
            features.append(_AMPLITUDE * (2 / _WAVES) ** 0.5 * wave)
        if self.surfaces:
            place = (z[:, -2:] - self.surface_centre) / self.surface_scale
            wave = torch.cos(place @ self.surface_waves + self.surface_phase)
            for part, (_, amplitude) in zip(wave.split(_SURFACE_WAVES, 1), _SURFACES, strict=False):
                features.append(amplitude * (2 / _SURFACE_WAVES) ** 0.5 * part)
        return torch.cat(features, 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """features[B, F] to logits[B, K]."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]."""
        return self.forward_head(self.forward_features(x))


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of every column, 1 where it is constant."""
    spread = values.std(0, unbiased=False)
    return torch.where(spread > 1e-6, spread, 1.0)


def _waves(
    generator: torch.Generator, inputs: int, number: int, length: float, freedom: int
) -> tuple[Tensor, Tensor]:
    """Frequencies [inputs, number] and phases of random features of a Matérn kernel of order freedom / 2.

    Its spectral density is a multivariate t distribution of `freedom` degrees (Rahimi and Recht 2007).
    """
    normal = torch.randn(inputs, number, generator=generator)
    chi_square = torch.randn(freedom, number, generator=generator).square().sum(0)
    phase = 2 * torch.pi * torch.rand(number, generator=generator)
    return normal / (chi_square / freedom).sqrt() / length, phase


default_cfgs = generate_default_cfgs(
    {
        "loglinear_glc23": dict(
            num_classes=30, input_size=(33, 128, 128), pool_size=(1, 1), crop_pct=1.0,
            interpolation="bilinear", mean=(0.0,) * 33, std=(1.0,) * 33, first_conv=None, classifier="fc",
            license="apache-2.0",
        )
    }
)  # fmt: skip


@register_model
def loglinear_glc23(pretrained: bool = False, **kwargs: Any) -> LogLinear:
    """Suitability at a point from presence-only records: a softmax over sites, linear in many features."""
    if pretrained:
        kwargs = from_zoo("loglinear_glc23", kwargs)
    fit_cfg(kwargs, kwargs.setdefault("in_chans", 33))
    return build_model_with_cfg(
        LogLinear, "loglinear_glc23", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
