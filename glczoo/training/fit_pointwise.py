"""Fit `pointwise_glc23` on presence-only records at their places.

Shapes: means[P, F] over windows around P places · target[B, K], records of each species at a batch's places.
"""

import torch
from torch import Tensor, nn

from glczoo.data.occurrences import Samples
from glczoo.models.pointwise import Pointwise
from glczoo.training.fit_corrected import fit_parts

__all__ = ["fit_pointwise"]


def fit_pointwise(
    model: Pointwise,
    means: Tensor,
    places: Samples,
    *,
    epochs: int,
    batch_size: int = 250,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
) -> None:
    """Fit every copy in place, each from a seed of its own.

    `softmax: species` is cross-entropy: which species is recorded, where one is. `softmax: sites` is that of
    `losses.deepmaxent`: where a species is recorded, among the places of the batch; a place counts once for
    each of its species, and levels become the log mean exp over all places.

    Dropout is the model's; the learning rate rises to three times `lr` and falls to nothing.

    Args:
        model: to fit.
        means: what it sees at the places.
        places: records, merged where they share a place.
        epochs: passes over the places.
        batch_size: places at a time.
        lr: of AdamW.
        weight_decay: of AdamW.
        seed: of the first copy.
    """
    sites = model.softmax == "sites"
    with torch.no_grad():
        model.shift.copy_(means.mean(0))
        model.scale.copy_(means.std(0, correction=0) + 1e-6)
        z = model.standardised(means)
    for copy in range(model.copies):
        trunk, head = model.get_submodule(f"trunks.{copy}"), model.get_submodule(f"fc.{copy}")

        def loss(index: Tensor, trunk: nn.Module = trunk, head: nn.Module = head) -> Tensor:
            target = places.targets(index, model.num_classes)
            target = target.clamp(max=1) if sites else target
            log_p = head(trunk(z[index])).log_softmax(0 if sites else 1)
            return -(target * log_p).sum() / target.sum()

        parts = [trunk, head]
        fit_parts(
            parts, loss, len(means), epochs, batch_size, lr, 3 * lr, weight_decay, seed + copy, fresh=parts
        )
        if sites:
            with torch.no_grad():
                logits = torch.cat([head(trunk(part)) for part in z.split(4096)])
                model.level[copy] = logits.logsumexp(0) - torch.tensor(len(logits)).log()
