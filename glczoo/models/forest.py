"""A random forest as tensors: a tabular member that lives in the same file of weights as the CNNs.

Trees are arrays of nodes (Breiman 2001, doi:10.1023/A:1010933404324); all trees of all points go down one
level at a time. Fitted by scikit-learn (`glczoo forest`), not by gradients: it has no head to fine-tune.
With a `prior` the trees see its log probabilities beside the covariates.

Shapes: x[B, C, H, W] normalised · node tables [T, N] · shares of presences in the leaves value[T, N, K] ·
logits[B, K].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from glczoo.models.covariates import Covariates
from glczoo.models.fixed_species import FixedSpecies
from glczoo.models.pretrained import fit_cfg, from_zoo
from glczoo.models.prior import Prior

__all__ = ["Forest"]

_SURE = 1e-4  # a share of 0 or 1 would be an infinite logit


class Forest(FixedSpecies):
    """The mean of the trees' leaves at the patch's centre, as logits of a sigmoid."""

    called, made_by = "a forest", "glczoo forest"
    feature: Tensor
    threshold: Tensor
    child: Tensor
    value: Tensor

    def __init__(
        self,
        num_classes: int = 30,
        in_chans: int = 33,
        trees: int = 1,
        nodes: int = 1,
        depth: int = 0,
        prior: Sequence[Any] | None = None,
        covariates: Mapping[str, Any] | None = None,
        drop_rate: float = 0.0,
        global_pool: str = "",
    ) -> None:
        """Make room for a forest of empty trees; the tables come with the weights.

        Args:
            num_classes: Number of species K.
            in_chans: Number of covariates C.
            trees: Number of trees T.
            nodes: Nodes of the largest tree N.
            depth: Steps from the root to the deepest leaf.
            prior: A model whose log probabilities are further values (see `Prior`). In a recipe: true, and
                `init` names the run.
            covariates: Keywords of `Covariates`, whose shared values the trees see instead of the centre's.
            drop_rate: Not used; timm gives it to every model.
            global_pool: Not used.
        """
        super().__init__()
        self.num_classes, self.in_chans, self.depth = num_classes, in_chans, depth
        self.num_features = self.head_hidden_size = num_classes
        self.feature_info: list[dict[str, Any]] = []
        self.prior = Prior(prior, num_classes) if prior else None
        self.covariates = Covariates(num_classes, in_chans, **covariates) if covariates else None
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(trees, nodes))
        self.register_buffer("child", torch.arange(nodes).repeat(2, trees, 1))  # a leaf is its own child
        self.register_buffer("value", torch.zeros(trees, nodes, num_classes))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of timm's layer groups: nothing is learnt by gradients."""
        return dict(stem=r"^feature", blocks=r"^value")

    def values(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to what the trees split by: the centre and the prior's [B, K], or covariates."""
        if self.covariates is not None:
            return self.covariates.shared(self.covariates(x))
        z = x[:, :, x.shape[2] // 2, x.shape[3] // 2]
        return z if self.prior is None else torch.cat([z, self.prior(x)], 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to the share of presences, the mean over trees: float[B, K]."""
        return self.shares(self.values(x))

    def shares(self, z: Tensor) -> Tensor:
        """What the trees split by, [B, F], to the share of presences, the mean over trees: float[B, K]."""
        tree = torch.arange(self.feature.shape[0], device=z.device)
        # z.shape[0], for len(z) would fix the size of a batch in an exported program.
        node = torch.zeros(z.shape[0], len(tree), dtype=torch.int64, device=z.device)
        for _ in range(self.depth):
            right = z.gather(1, self.feature[tree, node]) > self.threshold[tree, node]
            node = self.child[right.long(), tree, node]
        total = z.new_zeros(z.shape[0], self.num_classes)
        for number in range(self.feature.shape[0]):  # one tree at a time: [B, T, K] would be large
            total = total + self.value[number, node[:, number]]
        return total / self.feature.shape[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Shares [B, K] to logits[B, K]."""
        return x if pre_logits else torch.logit(x.clamp(_SURE, 1 - _SURE))

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "forest_glc23": dict(
            num_classes=30, input_size=(33, 128, 128), pool_size=(1, 1), crop_pct=1.0,
            interpolation="bilinear", mean=(0.0,) * 33, std=(1.0,) * 33, first_conv=None, classifier=(),
            license="apache-2.0",
        )
    }
)  # fmt: skip


@register_model
def forest_glc23(pretrained: bool = False, **kwargs: Any) -> Forest:
    """A random forest on the covariates at a point."""
    if pretrained:
        kwargs = from_zoo("forest_glc23", kwargs)
    fit_cfg(kwargs, kwargs.setdefault("in_chans", 33))
    return build_model_with_cfg(Forest, "forest_glc23", pretrained, **kwargs)
