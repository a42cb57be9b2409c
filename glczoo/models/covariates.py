"""What models of points read: means over windows, shares of the records nearby, what records' models predict.

Shapes: x[B, C, H, W] normalised · values[B, V], V = windows × environment bands, then densities, then
predictions of the records' models · own[B, K, J]: of every species its J own values · shared[B, F].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.models.prior import Prior

__all__ = ["Covariates", "window_means"]


def window_means(x: Tensor, windows: Sequence[int]) -> Tensor:
    """x[B, C, H, W] to its means over centred windows, [B, windows × C]; a larger window is the patch."""
    row, col = x.shape[2] // 2, x.shape[3] // 2
    parts = []
    for side in windows:
        top, left = row - side // 2, col - side // 2
        parts.append(x[:, :, max(top, 0) : top + side, max(left, 0) : left + side].mean((2, 3)))
    return torch.cat(parts, 1)


class Covariates(nn.Module):
    """Values of a patch for models that are fitted on tables."""

    density_mean: Tensor
    density_std: Tensor
    centre: Tensor
    basis: Tensor

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        windows: Sequence[int] = (1,),
        densities: int = 0,
        records: Sequence[Sequence[Any]] = (),
        reduced: int = 0,
    ) -> None:
        """Build it; the weights of the records' models come with those of the model that holds it.

        Args:
            num_classes: Number of species K.
            in_chans: Number of channels C of x.
            windows: Sides, in cells, of the centred windows over which environment bands are averaged.
            densities: So many layers of K bands each stand last in x and are read at the point: shares of the
                records nearby, a band for each species, which count without their normalisation.
            records: Models of presence-only records, each as a member of an ensemble: architecture, keywords,
                the channels [start, stop) that it sees. Their outputs count as they are.
            reduced: Principal components that stand for the standardised densities and predictions of all
                species in `shared`; 0: they stand there themselves.

        Raises:
            GlczooError: a window is no positive odd number, or x has no channel beside the densities.
        """
        super().__init__()
        if not windows or any(side < 1 or side % 2 == 0 for side in windows):
            raise GlczooError(f"windows must be positive odd numbers of cells, got {list(windows)}")
        self.environment = in_chans - densities * num_classes
        if self.environment < 1:
            raise GlczooError(
                f"{densities} layers of densities of {num_classes} species leave none of {in_chans} channels"
            )
        self.num_classes, self.windows = num_classes, tuple(windows)
        self.records = nn.ModuleList(Prior(spec, num_classes) for spec in records)
        self.layers = densities + len(self.records)  # own values of every species
        self.averaged = self.environment * len(self.windows)
        self.number = self.averaged + self.layers * num_classes
        if densities:
            self.register_buffer("density_mean", torch.zeros(densities * num_classes))
            self.register_buffer("density_std", torch.ones(densities * num_classes))
        self.reduced = reduced
        if reduced:
            self.register_buffer("centre", torch.zeros(self.layers * num_classes))
            self.register_buffer("basis", torch.zeros(self.layers * num_classes, reduced))
        self.num_shared = self.averaged + (reduced or self.layers * num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x[B, C, H, W] to values[B, V]."""
        row, col = x.shape[2] // 2, x.shape[3] // 2
        predictions: list[Tensor] = [prior.logits(x) for prior in self._records()]
        return torch.cat(
            [
                window_means(x[:, : self.environment], self.windows),
                self._densities(x[:, self.environment :, row, col]),
                *predictions,
            ],
            1,
        )

    def _densities(self, x: Tensor) -> Tensor:
        """Densities as they were before each was normalised: what is rare and what is not differ."""
        return x * self.density_std + self.density_mean if x.shape[1] else x

    def own(self, values: Tensor) -> Tensor:
        """values[B, V] to those of each species alone, [B, K, J]."""
        return values[:, self.averaged :].unflatten(1, (self.layers, self.num_classes)).transpose(1, 2)

    def shared(self, values: Tensor) -> Tensor:
        """values[B, V] to those that every species may depend on, [B, F]."""
        if not self.reduced:
            return values
        averaged, species = values.split([self.averaged, self.number - self.averaged], dim=1)
        return torch.cat([averaged, (species - self.centre) @ self.basis], 1)

    @torch.no_grad()
    def fit_components(self, values: Tensor) -> None:
        """Fit the principal components of the standardised species' values in values[N, V].

        They keep their variances: shrinking weights of all of them is shrinking those of the values.
        """
        if not self.reduced:
            return
        species = values[:, self.averaged :].double()
        centre, scale = species.mean(0), species.std(0, correction=0) + 1e-6
        directions = torch.linalg.svd((species - centre) / scale, full_matrices=False).Vh[: self.reduced]
        self.centre.copy_(centre)
        self.basis.zero_()
        self.basis[:, : len(directions)] = directions.T / scale[:, None]

    def _records(self) -> Any:
        return self.records
