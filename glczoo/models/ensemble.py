"""Several models as one: the mean of their probabilities, one architecture, one file of weights.

Paper: Ung, Kojima, Wada, CLEF 2023, section 5.1 and Figure 3: "we simply combine three proposed models by
calculating the average output of them". Whether outputs are probabilities or logits is not said:
probabilities is the default here.

Shapes: x[B, C, H, W] · member m sees the channels [start, stop) of x · logits[B, K].

The mean of probabilities is returned as the logits whose sigmoid (or softmax, where every member was trained
by cross-entropy) is that mean, so that the ensemble is used like any model. Members count alike, as in the
paper, unless weights are given. Members that were fitted to presence-only records answer scores on scales of
their own: `average: ranks` is the mean of their ranks among the places of the records (see `ranks`). Members
of smaller patches see the middle of x. This file is under the licence of the project, Apache-2.0.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.models.fusresnet import checkpoint_filter_fn
from glczoo.models.pretrained import fit_cfg, from_zoo
from glczoo.models.published import refuse_unsafe
from glczoo.models.ranks import LEVELS, place_scores

__all__ = ["Ensemble", "activate", "mean_probabilities", "middle"]

# Architecture, its keywords, and the channels [start, stop) that it sees: lists, as JSON gives them back.
Member = Sequence[Any]
GLC23_MEMBERS: tuple[Member, ...] = (
    ["bioresnet50_glc23", {}, [0, 19]],
    ["fusresnet34_glc23", {}, [0, 33]],
    ["fusresnet50_glc23", {}, [0, 33]],
)


def activate(logits: Tensor, activation: str) -> Tensor:
    """Probabilities of logits[B, K], in float32; `logits` leaves them as they are.

    `rank` is a sigmoid that gives ranks of suitability (see `ranks`), which are no probabilities of presence.
    """
    if activation == "logits":
        return logits.float()
    return logits.float().softmax(1) if activation == "softmax" else logits.float().sigmoid()


def mean_probabilities(parts: Iterable[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The mean of the members' probabilities[B, K], one after the other: two are in memory at a time.

    Args:
        parts: each member's, of one shape.
        weights: of the members (see `checked_weights`); None: they count alike.
    """
    total, number = None, 0
    for part in parts:
        own = part if weights is None else part * weights[number]
        total = own if total is None else total + own
        number += 1
    if total is None:
        raise GlczooError("the mean of no model's probabilities does not exist")
    return total / number if weights is None else total


def checked_weights(weights: Sequence[float] | None, number: int) -> tuple[float, ...] | None:
    """Weights of `number` members: not negative, and one in sum.

    Raises:
        GlczooError: they are not; the message says what they are.
    """
    if weights is None:
        return None
    checked = tuple(float(weight) for weight in weights)
    fits = len(checked) == number and all(math.isfinite(weight) and weight >= 0 for weight in checked)
    if not fits or abs(sum(checked) - 1) > 1e-6:
        raise GlczooError(
            f"weights must be {number} numbers, one for each member, none below 0 and 1 in sum; got "
            f"{list(checked)}"
        )
    return checked


def middle(x: Tensor, size: int | None) -> Tensor:
    """The middle of x[B, C, H, W] as a patch of `size` cells at the same point would hold it; None: x.

    Raises:
        GlczooError: x is smaller, or of other parity, so that its middle is no patch of the same point.
    """
    if size is None or size == x.shape[2] == x.shape[3]:
        return x
    top, left = x.shape[2] - size, x.shape[3] - size
    if min(top, left) < 0 or top % 2 or left % 2:
        raise GlczooError(
            f"x has {x.shape[2]} x {x.shape[3]} cells: their middle is no patch of {size} cells at the point"
        )
    return x[:, :, top // 2 : top // 2 + size, left // 2 : left // 2 + size]


def _heads(number: int) -> tuple[str, ...]:
    return tuple(f"members.{i}.fc" for i in range(number))


class Ensemble(nn.Module):
    """Mean of the members' probabilities, as logits.

    Args:
        members: (architecture, keywords, [start, stop]) of each; any architecture that timm knows.
        num_classes: Number of species K; 0 for no heads.
        in_chans: Number of input channels; the largest `stop` when None.
        average: 'probabilities', 'logits' or 'ranks': of ranks, whose quantiles come with the weights.
        activations: 'sigmoid' or 'softmax' for all members, or one for each. Where members differ the mean is
            returned as logits of a sigmoid.
        drop_rate: Dropout before each member's head.
        weights: Of the members in the mean, non-negative and one in sum; None: they count alike.
        patch_sizes: Side of the middle of x that each member sees; None: all of x.

    Raises:
        GlczooError: a member's channels are not within the input, or an argument is none of those named.
        DamagedError: a member is no registered architecture, or its keywords would load something: members
            may stand in a config.json that somebody else wrote.
    """

    reference: Tensor

    def __init__(
        self,
        members: Sequence[Member] = GLC23_MEMBERS,
        num_classes: int = 10039,
        in_chans: int | None = None,
        average: str = "probabilities",
        activations: str | Sequence[str] = "sigmoid",
        drop_rate: float = 0.0,
        weights: Sequence[float] | None = None,
        patch_sizes: Sequence[int] | None = None,
    ) -> None:
        """Make every member, with new weights."""
        super().__init__()
        ranges = [(int(start), int(stop)) for _, _, (start, stop) in members]
        self.in_chans = max((stop for _, stop in ranges), default=0) if in_chans is None else in_chans
        wrong = [r for r in ranges if not 0 <= r[0] < r[1] <= self.in_chans]
        if not members or wrong:
            raise GlczooError(f"members' channels {wrong} are not within the input's {self.in_chans}")
        if average not in ("probabilities", "logits", "ranks"):
            raise GlczooError(f"average must be 'probabilities', 'logits' or 'ranks', got {average!r}")
        kinds = [activations] * len(members) if isinstance(activations, str) else list(activations)
        if len(kinds) != len(members) or set(kinds) - {"sigmoid", "softmax", "rank"}:
            raise GlczooError(
                f"activations must be 'sigmoid', 'softmax' or 'rank' for {len(members)} members, got {kinds}"
            )
        for name, keywords, _ in members:
            refuse_unsafe(name, keywords, "a member of the ensemble")
        self.ranges, self.average, self.activations = ranges, average, kinds
        self.weights = checked_weights(weights, len(members))
        self.patch_sizes = [None] * len(members) if patch_sizes is None else [int(s) for s in patch_sizes]
        if len(self.patch_sizes) != len(members) or any(
            size is not None and size < 1 for size in self.patch_sizes
        ):
            raise GlczooError(f"patch_sizes must be a side in cells for each of {len(members)} members")
        self.num_classes = num_classes
        if average == "ranks":  # of every member, [M, 199, K]
            self.register_buffer("reference", torch.zeros(len(members), len(LEVELS), num_classes))
        # A member's own default of other channel counts must not stand in the way: it sees what it is given.
        self.members = nn.ModuleList(
            timm.create_model(
                name, num_classes=num_classes, drop_rate=drop_rate,
                **({} if "branches" in keywords else {"in_chans": stop - start}), **keywords,
            )
            for (name, keywords, _), (start, stop) in zip(members, ranges, strict=True)
        )  # fmt: skip
        self.num_features = sum(member.num_features for member in self._each())
        self.head_hidden_size = sum(member.head_hidden_size for member in self._each())
        self.feature_info: list[dict[str, Any]] = []

    def _each(self) -> Iterable[Any]:
        return self.members

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, in every member."""
        for member in self._each():
            member.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of timm's layer groups; blocks of one depth share a group over all members."""
        stage = r"^members\.\d+(?:\.branches\.[^.]+)?\.layer(\d+)"
        return dict(
            stem=r"^members\.\d+(?:\.branches\.[^.]+)?\.(?:conv1|bn1)",
            blocks=stage if coarse else stage + r"\.(\d+)",
        )

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> Any:
        """Return the members' heads, or their names."""
        if name_only:
            return _heads(len(self.members))
        return nn.ModuleList([member.get_classifier() for member in self._each()])

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace every member's head by a new one."""
        self.num_classes = num_classes
        for member in self._each():
            member.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """x[B, C, H, W] to every member's last feature maps.

        Raises:
            GlczooError: x has another number of channels, or no middle of a member's size.
        """
        if x.shape[1] != self.in_chans:
            raise GlczooError(f"x has {x.shape[1]} channels, the ensemble takes {self.in_chans}")
        return [
            member.forward_features(middle(x[:, start:stop], size))
            for member, (start, stop), size in zip(self._each(), self.ranges, self.patch_sizes, strict=True)
        ]

    def forward_head(self, x: list[Tensor], pre_logits: bool = False) -> Tensor:
        """Feature maps to logits[B, K], or to the members' pooled features, concatenated."""
        outs = [member.forward_head(part, pre_logits) for member, part in zip(self._each(), x, strict=True)]
        if pre_logits or self.num_classes == 0:
            return torch.cat(outs, dim=1)
        return self._mean(outs)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to logits[B, K]."""
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_members(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x[B, C, H, W] to the ensemble's logits[B, K] and to every member's probabilities[B, K]."""
        features = self.forward_features(x)
        outs = [member.forward_head(part) for member, part in zip(self._each(), features, strict=True)]
        if self.average == "ranks":
            return self._mean(outs), list(map(place_scores, outs, self.reference))
        each = [activate(out, kind) for out, kind in zip(outs, self.activations, strict=True)]
        return self._mean(outs), each

    def _mean(self, logits: list[Tensor]) -> Tensor:
        """The mean, computed from logarithms: probabilities near 0 and 1 keep their digits."""
        if self.average == "logits":
            return mean_probabilities(logits, self.weights)
        if self.average == "ranks":
            placed = map(place_scores, logits, self.reference)
            return torch.logit(mean_probabilities(placed, self.weights))
        together = all(kind == "softmax" for kind in self.activations)
        yes = [
            F.log_softmax(out, dim=1) if kind == "softmax" else F.logsigmoid(out)
            for out, kind in zip(logits, self.activations, strict=True)
        ]
        log_mean = self._log_mean(yes)
        if together:
            return log_mean
        no = [
            torch.log(-torch.expm1(log_p.clamp(max=-1e-7))) if kind == "softmax" else F.logsigmoid(-out)
            for log_p, out, kind in zip(yes, logits, self.activations, strict=True)
        ]
        return log_mean - self._log_mean(no)

    def _log_mean(self, logs: list[Tensor]) -> Tensor:
        """The logarithm of the mean of what `logs` are the logarithms of."""
        if self.weights is None:
            return torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))
        weighted = [log + math.log(weight) for log, weight in zip(logs, self.weights, strict=True) if weight]
        return torch.logsumexp(torch.stack(weighted), dim=0)


default_cfgs = generate_default_cfgs(
    {
        "ensemble_glc23": dict(
            hf_hub_id="glczoo/ensemble_glc23", num_classes=10039, input_size=(33, 128, 128), pool_size=(4, 4),
            crop_pct=1.0, interpolation="bilinear", mean=(0.0,) * 33, std=(1.0,) * 33, first_conv=None,
            classifier=_heads(3), license="apache-2.0",
        )
    }
)  # fmt: skip


@register_model
def ensemble_glc23(pretrained: bool = False, **kwargs: Any) -> Ensemble:
    """The mean of BioResNet50, FusResNet34 and FusResNet50, or of any `members`.

    Raises:
        GlczooError: `features_only` is asked for, or the members do not fit the input.
    """
    if kwargs.pop("features_only", False):
        raise GlczooError(
            "an ensemble has no feature maps of its own: take features_only of a member instead"
        )
    if pretrained:
        kwargs = from_zoo("ensemble_glc23", kwargs)
    members = kwargs.setdefault("members", GLC23_MEMBERS)
    chans = kwargs.setdefault("in_chans", max(stop for _, _, (_, stop) in members))
    fit_cfg(kwargs, chans, classifier=_heads(len(members)))
    return build_model_with_cfg(
        Ensemble, "ensemble_glc23", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
