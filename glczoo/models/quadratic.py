"""A generalised linear model of the environment at a point: the unlike member of an ensemble of CNNs.

Linear, quadratic and product features of the covariates, MaxEnt's L, Q and P (Phillips, Anderson, Schapire
2006, doi:10.1016/j.ecolmodel.2005.03.026), read by one linear layer. Trained by cross-entropy on
presence-only records it is a multinomial model of which species is recorded where something is recorded:
where people go cancels out, as with a target-group background (Phillips et al. 2009, doi:10.1890/07-2153.1).

Shapes: x[B, C, H, W] normalised · logits[B, K] · features[B, F], where D is C times the number of windows and
F = D + D (D + 1) / 2: 594 for 33 covariates. With a `prior` log probabilities[B, K] follow the features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.models.fusresnet import checkpoint_filter_fn
from glczoo.models.pretrained import fit_cfg, from_zoo
from glczoo.models.prior import Correction, Prior

__all__ = ["Quadratic"]

_FAR = 4.0  # standard deviations: beyond, a square would claim more than any record supports


class Quadratic(nn.Module):
    """Logits linear in the covariates around a point, their squares and their products."""

    _pairs: Tensor
    fc: nn.Module

    def __init__(
        self,
        num_classes: int = 10039,
        in_chans: int = 33,
        windows: Sequence[int] = (1,),
        linear: int = 0,
        prior: Sequence[Any] | None = None,
        drop_rate: float = 0.0,
        global_pool: str = "",
    ) -> None:
        """Build the model with a head of zeros: every species is as likely until something is learnt.

        Args:
            num_classes: Number of species K; 0 for no head.
            in_chans: Number of covariates C.
            windows: Sides, in cells, of the centred windows over which each covariate is averaged.
            linear: So many of the last channels count as they are at the point: no windows, no squares and no
                products, for covariates that are features already.
            prior: A model whose log probabilities this one corrects (see `Prior`): its logits are slope × log
                p of every species plus what the features add. In a recipe: true, and `init` names the run.
            drop_rate: Dropout of features.
            global_pool: Not used; timm gives it to every model.

        Raises:
            GlczooError: a window is no positive odd number: it would have no centre. Or `linear` is more than
                there are channels, or the prior is none.
        """
        super().__init__()
        if not 0 <= linear <= in_chans:
            raise GlczooError(f"linear must be some of the {in_chans} channels, got {linear}")
        if not windows or any(side < 1 or side % 2 == 0 for side in windows):
            raise GlczooError(f"windows must be positive odd numbers of cells, got {list(windows)}")
        self.in_chans, self.windows, self.squared = in_chans, tuple(windows), in_chans - linear
        number = self.squared * len(self.windows)
        self.register_buffer("_pairs", torch.triu_indices(number, number), persistent=False)
        self._own_features = number + number * (number + 1) // 2 + linear
        self.norm = nn.BatchNorm1d(self._own_features, affine=False)
        self.drop = nn.Dropout(drop_rate)
        self.prior = Prior(prior, num_classes) if prior else None
        self.num_features = self.head_hidden_size = self._own_features + (num_classes if prior else 0)
        self.feature_info: list[dict[str, Any]] = []
        self.reset_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of timm's layer groups."""
        return dict(stem=r"^norm|^prior", blocks=r"^fc")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """There is nothing to recompute."""

    def get_classifier(self, name_only: bool = False) -> Any:
        """Return the head, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new head of zeros for `num_classes` species, 0 for none.

        Raises:
            GlczooError: there is a prior, and it predicts another number of species.
        """
        if self.prior is not None:
            if num_classes != self.num_features - self._own_features:
                raise GlczooError(
                    f"the prior predicts {self.num_features - self._own_features} species, not "
                    f"{num_classes}: train another on their records"
                )
            self.num_classes, self.fc = num_classes, Correction(self._own_features, num_classes)
            return
        self.num_classes = num_classes
        self.fc = nn.Identity()
        if num_classes:
            head = nn.Linear(self.num_features, num_classes)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            self.fc = head

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to features[B, F]; a window that is larger than the patch is the patch.

        With a prior its log probabilities follow: [B, F + K].
        """
        row, col = x.shape[2] // 2, x.shape[3] // 2
        parts = []
        for side in self.windows:
            top, left = row - side // 2, col - side // 2
            window = x[:, : self.squared, max(top, 0) : top + side, max(left, 0) : left + side]
            parts.append(window.mean((2, 3)))
        z = torch.cat(parts, 1).clamp(-_FAR, _FAR)
        first, second = self._pairs
        linear = x[:, self.squared :, row, col].clamp(-_FAR, _FAR)
        features = self.norm(torch.cat([z, z[:, first] * z[:, second], linear], 1))
        return features if self.prior is None else torch.cat([features, self.prior(x)], 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """features[B, F] to logits[B, K]."""
        x = self.drop(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "quadratic_glc23": dict(
            num_classes=10039, input_size=(33, 128, 128), pool_size=(1, 1), crop_pct=1.0,
            interpolation="bilinear", mean=(0.0,) * 33, std=(1.0,) * 33, first_conv=None, classifier="fc",
            license="apache-2.0",
        )
    }
)  # fmt: skip


@register_model
def quadratic_glc23(pretrained: bool = False, **kwargs: Any) -> Quadratic:
    """Linear, quadratic and product features of any number of covariates at a point."""
    if pretrained:
        kwargs = from_zoo("quadratic_glc23", kwargs)
    fit_cfg(kwargs, kwargs.setdefault("in_chans", 33))
    return build_model_with_cfg(
        Quadratic, "quadratic_glc23", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
