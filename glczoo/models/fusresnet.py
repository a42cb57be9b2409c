"""BioResNet and FusResNet: late fusion of one ResNet per group of covariates.

`fusresnet18_glc24` sees the survey-wise inputs of GeoLifeCLEF 2024 and 2025 the same way: a branch for each
cube (an image of its two axes) and for the satellite patch, and for numbers of the place a perceptron
(`values_branch`). This zoo's own; the baselines of GeoPlant (Picek et al. 2024) have a ResNet-6 for each.

Papers:
    Ung, Kojima, Wada, *Leverage Samples with Single Positive Labels to Train CNN-based Models For
    Multi-label Plant Species Prediction*, CLEF 2023 working notes, section 4 (the architectures).
    Botella et al., *Overview of GeoLifeCLEF 2023*, CEUR Vol-3497 paper 166, arXiv 2509.25816, section 6
    (which covariates each branch sees).

What differs: the paper leaves the fusion open. Here the branches' last feature maps are concatenated, pooled
and read by one linear layer (equal to concatenating the pooled features); no hidden layer, no dropout.

Shapes: x[B, C, H, W] is one stack of normalised covariates, C = sum of the branches' channels (33 for
GeoLifeCLEF 2023: bioclim 19 | soil 9 | red, green, blue, near infrared, human footprint; 72 for 2024: Landsat
6 | monthly climate 4 | Sentinel-2 4 | values 58); logits[B, K].

The branches are timm's ResNet (Apache-2.0); licence of this file: Apache-2.0.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier, get_device_dtype
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from glczoo.errors import CheckpointError, GlczooError
from glczoo.models.pretrained import SAMPLE_ARCHITECTURE, from_zoo
from glczoo.models.values_branch import ValuesBranch
from glczoo.packaged import SAMPLE, sample

__all__ = ["FusResNet"]

Branches = Mapping[str, int] | Sequence[tuple[str, int]]

GLC23_BRANCHES = {"bioclim": 19, "soil": 9, "satellite": 5}
GLC24_BRANCHES = {"landsat": 6, "climate": 4, "sentinel": 4, "tabular": 58}


def _read_branches(branches: Branches) -> dict[str, int]:
    """Check the mapping, or the pairs, of name to number of channels."""
    pairs = list(branches.items() if isinstance(branches, Mapping) else branches)
    chans, taken = dict(pairs), nn.ModuleDict()  # whose attributes' names cannot name a branch
    names_ok = all(isinstance(n, str) and n and "." not in n and not hasattr(taken, n) for n in chans)
    counts_ok = all(isinstance(count, int) and count > 0 for count in chans.values())
    if not (chans and len(chans) == len(pairs) and names_ok and counts_ok):
        raise GlczooError(
            f"branches must map distinct names to numbers of channels, like {GLC23_BRANCHES}; got "
            f"{branches}. A name has no dot and is no attribute of torch's ModuleDict, such as 'type'."
        )
    return chans


class FusResNet(nn.Module):
    """Late fusion of ResNet branches; with one branch it is a plain ResNet."""

    branches: Any  # nn.ModuleDict of timm's ResNets
    global_pool: Any

    def __init__(
        self,
        block: Any = BasicBlock,
        layers: Sequence[int] = (3, 4, 6, 3),
        num_classes: int = 10039,
        in_chans: int | None = None,
        branches: Branches = GLC23_BRANCHES,
        values: Sequence[str] = (),
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        stem_stride: int = 4,
        **resnet_kwargs: Any,
    ) -> None:
        """Build the branches and the head with random weights.

        Args:
            block: Residual block of timm's ResNet, or one per stage.
            layers: Number of blocks per stage.
            num_classes: Number of species K; 0 for no head.
            in_chans: Number of input channels, the sum over the branches when None.
            branches: Name and number of channels of each branch, in the order of the input's channels.
            values: Branches of these names, where there are any, are perceptrons on the value in the middle.
            global_pool: 'avg', 'max', 'avgmax', 'catavgmax', or '' for none.
            drop_rate: Dropout before the head.
            stem_stride: Downsampling of the stem, for patches of few cells, whose side the network divides by
                8 * stem_stride. 4 is ImageNet's; 2 drops the pooling; 1 also gives the first convolution
                stride 1. (timm's `output_stride` of 16 or 8 dilates the last stages instead.)
            **resnet_kwargs: Further keywords of `timm.models.resnet.ResNet`, the same for every branch:
                `channels`, `drop_path_rate`, `output_stride`, `device`, `dtype` and so on.

        Raises:
            GlczooError: `in_chans` is not the sum of the branches; `branches` or `stem_stride` is not valid.
        """
        super().__init__()
        self.branch_chans = _read_branches(branches)
        self.in_chans = sum(self.branch_chans.values())
        if in_chans not in (None, self.in_chans):
            raise GlczooError(self._wrong_channels("in_chans", in_chans))
        if stem_stride not in (1, 2, 4):
            raise GlczooError(f"stem_stride must be 1, 2 or 4, got {stem_stride!r}.")
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        kwargs = dict(block=block, layers=layers, num_classes=0, global_pool="", **resnet_kwargs)
        pictures = {n: ResNet(in_chans=c, **kwargs) for n, c in self.branch_chans.items() if n not in values}
        layout = next(iter(pictures.values()), None) or ResNet(in_chans=1, **{**kwargs, "device": "meta"})
        widths = [info["num_chs"] for info in layout.feature_info]
        dd = {name: resnet_kwargs.get(name) for name in ("device", "dtype")}
        self.branches = nn.ModuleDict(
            {n: pictures.get(n) or ValuesBranch(c, widths, **dd) for n, c in self.branch_chans.items()}
        )
        for branch in pictures.values():
            if stem_stride < 4:
                branch.maxpool = nn.Identity()
            if stem_stride < 2:
                first = branch.conv1[0] if isinstance(branch.conv1, nn.Sequential) else branch.conv1
                first.stride = (1, 1)

        self.feature_info = [dict(info) for info in layout.feature_info]
        for info in self.feature_info:
            info["num_chs"] *= len(self.branches)
            info["reduction"] = info["reduction"] * stem_stride // 4
        self.feature_info[0]["reduction"] = min(2, stem_stride)  # comes before the stem's pooling
        self.num_features = sum(branch.num_features for branch in self.branches.values())
        self.reset_classifier(num_classes, global_pool)

    def _wrong_channels(self, what: str, count: int | None) -> str:
        listed = ", ".join(f"{name} {chans}" for name, chans in self.branch_chans.items())
        return f"{what} is {count}, but the branches take {self.in_chans} channels, in this order: {listed}."

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of timm's layer groups; blocks of one depth share a group over all branches."""
        stage = r"^branches\.[^.]+\.layer(\d+)"
        stem = r"^branches\.[^.]+\.(?:conv1|bn1|maxpool)"
        return dict(stem=stem, blocks=stage if coarse else stage + r"\.(\d+)")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable
        for branch in self.branches.values():
            branch.set_grad_checkpointing(enable)

    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """Return the head, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new head for `num_classes` species, 0 for none; the pooling stays as it is when None."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        dd = get_device_dtype(self)
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def _split(self, x: Tensor) -> Iterable[tuple[Any, Tensor]]:
        """Each branch with its channels of x."""
        if x.shape[1] != self.in_chans:
            raise GlczooError(self._wrong_channels("the number of channels of x", x.shape[1]))
        return zip(self.branches.values(), x.split(list(self.branch_chans.values()), dim=1), strict=True)

    def forward_intermediates(
        self, x: Tensor, *args: Any, intermediates_only: bool = False, **kwargs: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stem (0) and the four stages (1 to 4), each concatenated over the branches.

        Arguments as those of timm's ResNet: `indices` (the last n for an int, all for None), `stop_early`, ….
        Returns the last map and the list of those of `indices`, or with `intermediates_only` the list alone.
        """
        outs = [branch.forward_intermediates(part, *args, **kwargs) for branch, part in self._split(x)]
        maps = [_joined(level) for level in zip(*(levels for _, levels in outs), strict=True)]
        return maps if intermediates_only else (_joined([last for last, _ in outs]), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of `indices`, and the head with them; return the indices kept.

        `prune_norm`: as timm, of the branches; `prune_head`: whether to drop the head.
        """
        kept = [branch.prune_intermediate_layers(indices, prune_norm) for branch in self.branches.values()][0]
        self.num_features = sum(branch.num_features for branch in self.branches.values())
        if prune_head or max(kept) < 4:
            self.reset_classifier(0, "")
        return kept

    def forward_features(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to the branches' last feature maps [B, num_features, h, w]."""
        return _joined([branch.forward_features(part) for branch, part in self._split(x)])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps to logits[B, K], or to pooled features [B, head_hidden_size] with `pre_logits`."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]; raises ValueError for another number of channels than C."""
        return self.forward_head(self.forward_features(x))


def _joined(maps: Sequence[Tensor]) -> Tensor:
    """Feature maps [B, c, h, w] of the branches as one; those of values, 1 x 1, are the same everywhere."""
    height, width = max(part.shape[2] for part in maps), max(part.shape[3] for part in maps)
    alike = [p if p.shape[2:] == (height, width) else p.expand(-1, -1, height, width) for p in maps]
    return torch.cat(alike, dim=1)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Check a checkpoint before timm loads it: only a head for other classes may differ.

    timm loads without any check of names as soon as `num_classes` is not the checkpoint's.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; the message names them.
    """
    cfg: Any = model.pretrained_cfg
    heads = (cfg["classifier"],) if isinstance(cfg["classifier"], str) else cfg["classifier"]
    names = {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    exempt = names if model.num_classes != cfg["num_classes"] else set()
    own = {key: value.shape for key, value in model.state_dict().items()}
    got = {key: value.shape for key, value in state_dict.items()}
    wrong = {
        "missing": own.keys() - got.keys() - exempt,
        "unexpected": got.keys() - own.keys() - exempt,
        "of another shape": {k for k in own.keys() & got.keys() - exempt if own[k] != got[k]},
        # timm goes by the cfg alone: it would throw away a head that fits
        f"of a head that fits, but pretrained_cfg has num_classes {cfg['num_classes']}": {
            k for k in own.keys() & got.keys() & exempt if own[k] == got[k]
        },
    }
    if faults := [f"{len(k)} {what}: {', '.join(sorted(k)[:8])}" for what, k in wrong.items() if k]:
        raise CheckpointError(
            f"The checkpoint does not fit {cfg.get('architecture')}. Keys {'; '.join(faults)}. "
            "Give the branches and other keywords of the checkpoint; only num_classes may differ."
        )
    return state_dict


def _cfg(num_chans: int, **kwargs: Any) -> dict[str, Any]:
    # first_conv=None: timm would compare each stem with the total of channels, and "adapt" reloaded ones
    return dict(
        num_classes=10039, input_size=(num_chans, 128, 128), pool_size=(4, 4), crop_pct=1.0,
        interpolation="bilinear", mean=(0.0,) * num_chans, std=(1.0,) * num_chans, first_conv=None,
        classifier="fc", license="apache-2.0", paper_name="Leverage Samples with Single Positive Labels to "
        "Train CNN-based Models For Multi-label Plant Species Prediction", **kwargs,
    )  # fmt: skip


default_cfgs = generate_default_cfgs(
    {
        "bioresnet50_glc23": _cfg(19, hf_hub_id="glczoo/bioresnet50_glc23"),
        "fusresnet34_glc23": _cfg(33, hf_hub_id="glczoo/fusresnet34_glc23"),
        "fusresnet50_glc23": _cfg(33, hf_hub_id="glczoo/fusresnet50_glc23"),
        "fusresnet18_glc24": {
            **_cfg(72, hf_hub_id="glczoo/fusresnet18_glc24"),
            **dict(num_classes=11255, input_size=(72, 64, 64), pool_size=(2, 2)),
        },
        "test_bioresnet_glc23": _cfg(19),
        f"{SAMPLE_ARCHITECTURE}.{SAMPLE}": _cfg(33, file=str(sample("model") / "model.safetensors")),
    }
)


def _create_fusresnet(variant: str, pretrained: bool, keywords: dict[str, Any], **defaults: Any) -> FusResNet:
    kwargs = {**defaults, **(from_zoo(variant, keywords) if pretrained else keywords)}
    chans = _read_branches(kwargs.pop("branches"))
    num_chans = sum(chans.values())
    kwargs.setdefault("in_chans", num_chans)  # else timm passes the cfg's, whatever the branches
    kwargs.update(pretrained_filter_fn=checkpoint_filter_fn, feature_cfg=dict(feature_cls="getter"))
    model = build_model_with_cfg(FusResNet, variant, pretrained, branches=chans, **kwargs)

    # The zoo's cfg is wrong for other branches: neutral statistics, unless some were given.
    own, overlay = kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay")
    stated = {*(own if isinstance(own, dict) else ()), *(overlay or ())}
    cfg = model.pretrained_cfg
    cfg["input_size"] = (num_chans, *cfg["input_size"][1:])
    for key, neutral in (("mean", 0.0), ("std", 1.0)):
        if key not in stated and len(cfg[key]) != num_chans:
            cfg[key] = (neutral,) * num_chans
        if len(cfg[key]) != num_chans:
            raise GlczooError(f"{len(cfg[key])} values of {key} were given for {num_chans} channels.")
    return model


@register_model
def bioresnet50_glc23(pretrained: bool = False, **kwargs: Any) -> FusResNet:
    """ResNet-50 on the 19 bioclimatic variables."""
    defaults = dict(block=Bottleneck, layers=(3, 4, 6, 3), branches={"bioclim": 19})
    return _create_fusresnet("bioresnet50_glc23", pretrained, kwargs, **defaults)


@register_model
def fusresnet34_glc23(pretrained: bool = False, **kwargs: Any) -> FusResNet:
    """Three ResNet-34: bioclimatic variables, soil, satellite image with human footprint."""
    defaults = dict(block=BasicBlock, layers=(3, 4, 6, 3), branches=GLC23_BRANCHES)
    return _create_fusresnet("fusresnet34_glc23", pretrained, kwargs, **defaults)


@register_model
def fusresnet50_glc23(pretrained: bool = False, **kwargs: Any) -> FusResNet:
    """Three ResNet-50: bioclimatic variables, soil, satellite image with human footprint."""
    defaults = dict(block=Bottleneck, layers=(3, 4, 6, 3), branches=GLC23_BRANCHES)
    return _create_fusresnet("fusresnet50_glc23", pretrained, kwargs, **defaults)


@register_model
def fusresnet18_glc24(pretrained: bool = False, **kwargs: Any) -> FusResNet:
    """Three ResNet-18 and a perceptron: Landsat cube, monthly climate cube, Sentinel-2, values."""
    defaults = dict(block=BasicBlock, layers=(2, 2, 2, 2), branches=GLC24_BRANCHES, values=("tabular",))
    return _create_fusresnet("fusresnet18_glc24", pretrained, kwargs, **defaults)


_TINY: dict[str, Any] = dict(  # the layout of timm's test_resnet
    block=(BasicBlock, BasicBlock, Bottleneck, BasicBlock), layers=(1, 1, 1, 1), channels=(32, 48, 48, 96),
    stem_width=16, stem_type="deep", avg_down=True,
)  # fmt: skip


@register_model
def test_bioresnet_glc23(pretrained: bool = False, **kwargs: Any) -> FusResNet:
    """Tiny one-branch model for tests."""
    return _create_fusresnet("test_bioresnet_glc23", pretrained, kwargs, **_TINY, branches={"bioclim": 19})


@register_model
def test_fusresnet_glc23(pretrained: bool = False, **kwargs: Any) -> FusResNet:
    """Tiny three-branch model for tests; its weights are those of the packaged sample."""
    return _create_fusresnet("test_fusresnet_glc23", pretrained, kwargs, **_TINY, branches=GLC23_BRANCHES)
