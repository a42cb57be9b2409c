"""Losses for presence-absence surveys and presence-only records: pure functions of logits.

logits[B, K]: the model's output · target[B, K]: 1 where the species was observed, or class[B], int64, the one
species observed. K classes, B samples · nl(x) = -log(x), p = sigmoid(logits), z = target.
All are computed from logits in the numerically stable form and return a scalar: the mean over B and K where
nothing else is said. `eps`, where a loss has it, is what its authors' released code adds inside the logarithm
(1e-5): for comparing with their numbers, not for training.

weight[B], where a loss takes it, is how many records a row stands for, relative to the mean: for losses that
are linear in the target, the loss of the mean target of records times their number is the sum of the records'
losses. Of `bce` it may be weight[B, K], of every entry: where it is 0 nothing is learnt, whatever the target.

What a loss needs besides logits and target is an argument, and `NEEDS` names it (`further.py` holds those;
`observed.py` the others); where it is a memory of each sample, `training.label_memory` keeps it. To add a
loss, write the function beside its like under `@loss(…)` of `tables.py`, and import it here.
"""

from glczoo.losses.further import em_apl, epr, full_weighted, plc, role, sinr_full
from glczoo.losses.observed import an, an_ls, asl, bce, ce, deepmaxent, em, hill, wan
from glczoo.losses.tables import ACTIVATION, LINEAR, LOSSES, NEEDS, RANKS, SUMS

__all__ = [
    "ACTIVATION",
    "LINEAR",
    "LOSSES",
    "NEEDS",
    "RANKS",
    "SUMS",
    "an",
    "an_ls",
    "asl",
    "bce",
    "ce",
    "deepmaxent",
    "em",
    "em_apl",
    "epr",
    "full_weighted",
    "hill",
    "plc",
    "role",
    "sinr_full",
    "wan",
]
