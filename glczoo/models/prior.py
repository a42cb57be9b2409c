"""What another model predicts already, for a model that only learns where surveys differ from it.

Presence-only records are many and biased, surveys are few: a model of records comes first, by cross-entropy
(which species, where one is recorded), and stays as it is. Its log probabilities are what a model of surveys
starts from, as offsets do in a generalised linear model (Merow et al. 2016, doi:10.1111/geb.12453).
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.models.published import refuse_unsafe

__all__ = ["Correction", "Prior"]


class Prior(nn.Module):
    """A model that does not learn: x[B, C, H, W] to log probabilities[B, K], by softmax."""

    def __init__(self, spec: Sequence[Any], num_classes: int) -> None:
        """Build it with new weights; its own come with those of the model that holds it.

        Args:
            spec: architecture, its keywords, and the channels [start, stop) of x that it sees, as for
                a member of an ensemble.
            num_classes: Number of species K.

        Raises:
            GlczooError: `spec` is something else.
            DamagedError: the architecture is not registered, or its keywords would load something.
        """
        super().__init__()
        try:
            architecture, keywords, (start, stop) = spec
        except (TypeError, ValueError):
            raise GlczooError(
                f"prior must be [architecture, keywords, [start, stop]], got {spec!r}; a recipe sets "
                "model_args.prior=true, and init names the run"
            ) from None
        refuse_unsafe(architecture, keywords, "the prior")
        self.start, self.stop = int(start), int(stop)
        # As for a member of an ensemble: branches or members say how many channels there are.
        own = {} if {"branches", "members"} & keywords.keys() else {"in_chans": self.stop - self.start}
        self.model = timm.create_model(architecture, num_classes=num_classes, **own, **keywords)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Prior":
        """Stay as it is: batch norm keeps its statistics. `mode`: as PyTorch asks, and is not followed."""
        return super().train(False)

    def logits(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to the model's outputs[B, K] as they are."""
        return self.model(x[:, self.start : self.stop])

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to log probabilities[B, K]."""
        return self.logits(x).log_softmax(1)


class Correction(nn.Module):
    """The head of a model with a prior: slope × log p + what the features add, nothing at first."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        """Start from the prior as it is: slopes of 1, and weights of 0."""
        super().__init__()
        self.slope = nn.Parameter(torch.ones(num_classes))
        self.add = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, F + K], features and then log probabilities, to logits[B, K]."""
        features, log_p = x.split([self.add.in_features, self.add.out_features], dim=1)
        return self.slope * log_p + self.add(features)
