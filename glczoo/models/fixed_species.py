"""timm's contract for models whose outputs were fitted on these species alone."""

from typing import Any

from torch import nn

from glczoo.errors import GlczooError

__all__ = ["FixedSpecies"]


class FixedSpecies(nn.Module):
    """A model without a head that could be changed for another number of species."""

    num_classes: int
    called: str
    """What messages call it."""
    made_by: str
    """The command that fits another."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """There is nothing worth recomputing."""

    def get_classifier(self, name_only: bool = False) -> Any:
        """Return a head without weights, or no name: the output is of these species alone."""
        return "" if name_only else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Refuse another number of species.

        Raises:
            GlczooError: always, unless nothing changes.
        """
        if num_classes != self.num_classes:
            raise GlczooError(
                f"{self.called} predicts the {self.num_classes} species that it was fitted on, not "
                f"{num_classes}; fit another with `{self.made_by}`"
            )
