"""A training that diverges ends at once, and says where: no weights that are not finite are kept."""

from torch import nn

from glczoo.errors import GlczooError
from glczoo.recipe import Recipe
from glczoo.training.checkpoints import Progress
from glczoo.training.prepare import Prepared

__all__ = ["refuse_diverged", "require_finite"]

_REMEDY = "Lower optimizer.lr or set optimizer.clip_grad, and another name=…"


def refuse_diverged(recipe: Recipe, prepared: Prepared, progress: Progress, epoch: int) -> None:
    """End a training whose loss is not finite, and name the first value of its inputs that is not.

    Checkpoints stay as they are.

    `prepared`: what the training reads.

    Raises:
        GlczooError: a loss of this epoch is not finite.
    """
    batch = progress.diverged
    if batch is None:
        return
    order = prepared.order.batches(epoch, batch)
    index = prepared.objective.batches(order, prepared.background, epoch, batch)[0]
    missing = ~prepared.build(index).isfinite()
    wrong = missing.flatten(2).any(2).nonzero().tolist()  # (sample, band) of the batch
    what = f"the loss of batch {batch + 1} of epoch {epoch + 1} is not finite"
    if not wrong:
        where = f"optimizer.lr: {recipe.optimizer.lr:g}"
        raise GlczooError(f"{what}, all its inputs are: the model diverged", where=where, remedy=_REMEDY)
    sample, channel = wrong[0]
    band, name = prepared.inputs.source.bands[channel], prepared.training.named(int(index[sample]))
    raise GlczooError(
        f"{what}: band {band} is not finite at {name}",
        remedy=f"Mend its file, or name the value that stands for no data as {band}'s nodata in region.yaml",
    )


def require_finite(model: nn.Module, epoch: int) -> None:
    """Refuse to keep weights that are not finite.

    Raises:
        GlczooError: some are not; names the first.
    """
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise GlczooError(
                f"{name} of the model is not finite after epoch {epoch + 1}: it diverged", remedy=_REMEDY
            )
