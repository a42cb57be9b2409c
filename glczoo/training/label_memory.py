"""What some losses remember of every survey or species from batch to batch: state that a run must keep.

Samples' labels come as CSR: survey i holds classes species[offsets[i]:offsets[i + 1]] · index[B]: positions
of a batch's surveys. Both memories are modules, so that their `state_dict` makes a resumed run the same, and
both hold one number for every survey and species: they refuse to start where that does not fit.
"""

import torch
from torch import Tensor, nn

from glczoo.errors import GlczooError

__all__ = ["LabelEstimates", "PseudoNegatives", "class_weights"]

LIMIT = 16 << 30
"""Bytes that such a memory may take, unless told otherwise."""


class LabelEstimates(nn.Module):
    """ROLE's ŷ (Cole et al. 2021): a learnable logit of every label, for `losses.role(…, estimates=…)`.

    Starts from U(-q, q), q = logit 0.6, and logit 0.995 where the species was observed.
    """

    def __init__(self, offsets: Tensor, species: Tensor, num_classes: int, seed: int = 0, limit: int = LIMIT):
        """Draw the first estimates.

        Args:
            offsets: int64[N + 1].
            species: int64[nnz], classes.
            num_classes: K.
            seed: of the draw.
            limit: bytes for estimates, gradients and Adam's two averages together.

        Raises:
            GlczooError: they need more than `limit`.
        """
        super().__init__()
        num = len(offsets) - 1
        _require_room("role", num, num_classes, 4, limit)
        bound = torch.tensor(0.6).logit().item()
        generator = torch.Generator().manual_seed(seed)
        logits = torch.empty(num, num_classes).uniform_(-bound, bound, generator=generator)
        logits[_rows(offsets), species] = torch.tensor(0.995).logit()
        self.logits = nn.Parameter(logits)

    def forward(self, index: Tensor) -> Tensor:
        """Logits of the estimates of a batch, [B, K]."""
        return self.logits[index]


class PseudoNegatives(nn.Module):
    """Asymmetric pseudo-labels (Zhou et al. 2022), for `losses.em_apl(…, pseudo=…)`.

    After every epoch beyond the warm-up, `extend` makes the lowest scored unknown labels of every species
    pseudo-negatives, with the model's own probability as their soft label; they keep it from then on.
    """

    soft: Tensor

    def __init__(self, offsets: Tensor, species: Tensor, num_classes: int, limit: int = LIMIT):
        """Start without pseudo-labels.

        Args:
            offsets: int64[N + 1].
            species: int64[nnz], classes.
            num_classes: K.
            limit: bytes for the labels and for the probabilities that extend them.

        Raises:
            GlczooError: they need more than `limit`.
        """
        super().__init__()
        num = len(offsets) - 1
        _require_room("em_apl", num, num_classes, 2, limit)
        soft = torch.full([num, num_classes], -1.0)  # unknown
        soft[_rows(offsets), species] = -2.0  # observed
        self.register_buffer("soft", soft)

    def forward(self, index: Tensor) -> Tensor:
        """Soft labels of the pseudo-negatives of a batch, negative where there is none, [B, K]."""
        return self.soft[index]

    @torch.no_grad()
    def extend(self, probabilities: Tensor, share: float) -> None:
        """Make pseudo-negatives of a share of every species' labels that were unknown at the start.

        Args:
            probabilities: the model's, of all surveys in their order, [N, K].
            share: for each call; the authors' 0.9 / (epochs - warm-up epochs).
        """
        for soft, p in zip(self.soft.unbind(1), probabilities.to(self.soft).unbind(1), strict=True):
            number = int(share * int((soft > -2).sum()))
            unknown = (soft == -1).nonzero()[:, 0]
            lowest = unknown[p[unknown].argsort(stable=True)[:number]]
            soft[lowest] = p[lowest]


def class_weights(counts: Tensor, total: int) -> Tensor:
    """w[K] = all records / records of the species (Zbinden et al. 2024); a species without counts as one.

    `total`: of all records.
    """
    return total / counts.clamp_min(1).float()


def _rows(offsets: Tensor) -> Tensor:
    """Survey of every label, int64[nnz]."""
    return torch.repeat_interleave(offsets.diff())


def _require_room(loss: str, num: int, num_classes: int, tables: int, limit: int) -> None:
    needed = 4 * tables * num * num_classes
    if needed > limit:
        raise GlczooError(
            f"the loss {loss} remembers every label of every survey: {num} surveys × {num_classes} species "
            f"take {needed / 1e9:.1f} GB, the limit is {limit / 1e9:.1f} GB; use another loss or less data"
        )
