"""The loss of a recipe with all that it needs: labels, weights of rows, what it remembers of every sample.

Labels are the samples' own; a `Teacher` adds those that it is sure of to presence-only records.

logits[B, K] · index[B]: positions of a batch's samples among those that are trained on. What a loss remembers
(`label_memory.py`) is part of the checkpoint: the objective is a module.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.losses import LOSSES, NEEDS, SUMS
from glczoo.models.ensemble import activate
from glczoo.recipe import Loss, Recipe
from glczoo.runs.run import load_model
from glczoo.training.checkpoints import EpochOrder
from glczoo.training.initial_model import find_run, split_table
from glczoo.training.label_memory import LabelEstimates, PseudoNegatives, class_weights

__all__ = ["Objective", "Teacher", "Term"]


class Teacher:
    """Pseudo-labels with an ignore band: by a model trained before, for presence-only records.

    At probability `high` or above a species is present, at `low` or below absent, and between nothing is
    learnt; the recorded species is present whatever the teacher predicts. It sees each patch as it is, not
    flipped or turned, with its own bands, patch size and statistics, and predicts every batch anew: its
    probabilities are a function of the sample, so that a resumed run is the same, and [N, K] is held nowhere.
    """

    def __init__(
        self,
        recipe: Recipe,
        region: Region,
        vocabulary: SpeciesIndex,
        training: Samples,
        device: torch.device,
    ) -> None:
        """Load the recipe's teacher.

        Raises:
            MissingError: it is not there or not finished.
            GlczooError: it predicts other species, or no chances of presence, or does not fit the region.
        """
        assert recipe.pseudo is not None
        settings = recipe.pseudo
        trained = load_model(find_run(recipe, region, settings.teacher, "pseudo.teacher"))
        if not np.array_equal(trained.species.ids, vocabulary.ids):
            raise GlczooError(
                f"pseudo.teacher: {settings.teacher} predicts {len(trained.species)} species, not the "
                f"{len(vocabulary)} of this vocabulary; name one that was trained in this region"
            )
        if trained.activation == "softmax":
            raise GlczooError(
                f"pseudo.teacher: {settings.teacher} ends in a softmax, whose probabilities are shares, not "
                "chances of presence; name a run of step 1 or 3"
            )
        if trained.answers_ranks:
            raise GlczooError(
                f"pseudo.teacher: {settings.teacher} answers ranks of suitability, not chances of presence; "
                "name a run of step 1 or 3"
            )
        source = trained.open(region)
        self._rows = training.presence_only_rows()
        source.complete(training.subset(self._rows), f"records that {settings.teacher} is to label")
        self._build = PatchBuilder(
            source, training, trained.mean, trained.std, device, decode_there=recipe.data.nvjpeg
        )
        self._model, self._activation = trained.model.to(device), trained.activation
        self._low, self._high = settings.low, settings.high
        self._half = recipe.precision == "bf16"

    @torch.no_grad()
    def __call__(self, index: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of a batch and which of them are known, float32[B, K] both.

        Args:
            index: int64[B].
            target: the recorded labels, [B, K].
        """
        rows = torch.from_numpy(np.flatnonzero(self._rows[index.numpy()]))
        known = torch.ones_like(target)
        if not len(rows):
            return target, known
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self._half):
            logits = self._model(self._build(index[rows]))
        p, rows = activate(logits, self._activation), rows.to(target.device)
        recorded = target[rows] > 0
        present = recorded | (p >= self._high)
        known[rows] = (present | (p <= self._low)).to(known)
        return target.index_copy(0, rows, present.to(target)), known


class Term(nn.Module):
    """One loss with its settings, and what it remembers of every training sample."""

    def __init__(
        self,
        loss: Loss,
        recipe: Recipe,
        region: Region,
        vocabulary: SpeciesIndex,
        training: Samples,
        device: torch.device,
        processes: int = 1,
    ) -> None:
        """Prepare what the loss needs.

        Raises:
            GlczooError: its memory does not fit, or it cannot be trained like this.
        """
        super().__init__()
        self.name, settings = loss.name, loss.settings
        self.needs = NEEDS.get(self.name, {})
        self._warmup, self._epochs = settings.pop("warmup", 5), recipe.epochs
        self._share = settings.pop("share", 0.9)
        if "k" in self.needs and "k" not in settings:
            sizes = split_table(recipe, region, "pa", vocabulary).train.sizes()
            settings["k"] = float(sizes.mean()) if len(sizes) else 1.0
        self._settings = settings
        offsets, species = (torch.from_numpy(np.array(x)) for x in (training.offsets, training.species))
        self.estimates = self.pseudo = self._weights = None
        if "estimates" in self.needs:
            if processes > 1:
                raise GlczooError(
                    f"the loss {self.name} learns an estimate of every label, which {processes} processes "
                    "cannot share yet; train with one, or with another loss"
                )
            self.estimates = LabelEstimates(offsets, species, len(vocabulary), recipe.seed)
        if "pseudo" in self.needs:
            if self._warmup >= recipe.epochs:
                raise GlczooError(
                    f"the loss {self.name} adds pseudo-labels after {self._warmup} epochs of warm-up, the "
                    f"recipe has {recipe.epochs}; set loss.warmup or epochs"
                )
            self.pseudo = PseudoNegatives(offsets, species, len(vocabulary))
        self.to(device)
        if "class_weights" in self.needs:
            counts = torch.from_numpy(np.bincount(training.species, minlength=len(vocabulary)))
            self._weights = class_weights(counts, len(training)).to(device)

    def forward(self, logits: Tensor, target: Tensor, index: Tensor, **needs: Tensor) -> Tensor:
        """The loss of samples `index`, a scalar; `needs`: of what it needs, what depends on the batch."""
        for name, memory in (("estimates", self.estimates), ("pseudo", self.pseudo)):
            if memory is not None:
                needs[name] = memory(index)
        if self._weights is not None:
            needs["class_weights"] = self._weights
        return LOSSES[self.name](logits, target, **self._settings, **needs)

    def end_epoch(self, epoch: int, probabilities: Callable[[], Tensor]) -> None:
        """Learn from the probabilities of all training samples, float32[N, K], where the loss does so."""
        if self.pseudo is not None and self._warmup <= epoch + 1 < self._epochs:
            self.pseudo.extend(probabilities(), self._share / (self._epochs - self._warmup))


class Objective(nn.Module):
    """The loss of logits of training samples.

    Where PO and PA are trained on together by two losses, or weighed in a loss that takes no weight of a row,
    each table's rows of a batch have a loss of their own: a mean counts by the table's share of the batch, a
    sum (`hill`) as it is, and both times the table's weight.
    """

    def __init__(
        self,
        recipe: Recipe,
        region: Region,
        vocabulary: SpeciesIndex,
        training: Samples,
        device: torch.device,
        processes: int = 1,
    ) -> None:
        """Prepare what the losses need.

        Raises:
            MissingError: the recipe's teacher is not there or not finished.
            GlczooError: a loss's memory does not fit, or it cannot be trained like this; before anything
                starts.
        """
        super().__init__()
        shared = recipe, region, vocabulary, training, device, processes
        self.term = Term(recipe.loss, *shared)
        self.po_term = Term(recipe.po_loss, *shared) if recipe.po_loss else None
        self._apart = recipe.weights_apart or recipe.po_loss is not None
        self._table_weights = recipe.data.weights or {}
        self._needs = self.term.needs | (self.po_term.needs if self.po_term else {})
        self._training, self._num_classes, self._device = training, len(vocabulary), device
        self._po, self._seed = training.presence_only_rows(), recipe.seed
        self._places = recipe.data.places
        self._records_per_place = len(training.species) / max(len(training), 1)
        # No module of this one: a teacher is read again, and no part of the checkpoint.
        self.teach = Teacher(recipe, region, vocabulary, training, device) if recipe.pseudo else None

    def batches(
        self, batches: Sequence[Tensor], order: EpochOrder, epoch: int, first: int = 0
    ) -> Sequence[Tensor]:
        """The batches of an epoch as the loss wants them: background places follow in the same batch.

        They are other training places, drawn anew every epoch: the target-group background (Phillips et al.
        2009), which shares the bias of the records and has a patch everywhere. For a strong view the same
        samples follow once more.

        `order`: of the epoch's samples; `first`: batch to go on from.
        """
        if "strong" in self._needs:
            return [torch.cat([batch, batch]) for batch in batches]
        if "background" not in self._needs:
            return batches
        return [torch.cat(pair) for pair in zip(batches, order.batches(epoch, first), strict=True)]

    def view(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """The patches of a batch as the loss wants to see them, x[B, C, S, S], changed in place.

        The strong view, the second half, is the same patch with a square of half its side set to the mean of
        every band, around a cell drawn for each sample and epoch (Cutout, DeVries and Taylor 2017): of the
        authors' strong augmentations the one that suits any bands.
        """
        if "strong" not in self._needs:
            return x
        number, size = len(x) // 2, x.shape[-1]
        random = np.random.default_rng([self._seed, epoch, int(index[0])])  # a sample comes once in an epoch
        centre = random.integers(0, size, (2, number, 1))
        row, col = (np.arange(size) - centre + size // 4) // max(1, size // 2) == 0
        cut = torch.from_numpy(row[:, :, None] & col[:, None]).to(x.device)
        x[number:].masked_fill_(cut[:, None], 0.0)
        return x

    def forward(self, logits: Tensor, index: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        needs: dict[str, Tensor] = {}
        if twice := self._needs.keys() & {"background", "strong"}:
            number = len(index) // 2
            needs[twice.pop()] = logits[number:]
            logits, index = logits[:number], index[:number]
        target = self._training.targets(index, self._num_classes, self._device)
        if self._apart:
            return self._by_table(logits, target, index, needs)
        if self._training.weight is not None:
            needs["weight"] = torch.from_numpy(self._training.weight[index.numpy()]).to(self._device)
        if self.teach is not None:
            target, known = self.teach(index, target)
            needs["weight"] = known * needs["weight"][:, None] if "weight" in needs else known
        if self._places:
            records = target.sum(1, keepdim=True)
            target, needs["weight"] = target / records, records[:, 0] / self._records_per_place
        return self.term(logits, target, index, **needs)

    def _by_table(self, logits: Tensor, target: Tensor, index: Tensor, needs: dict[str, Tensor]) -> Tensor:
        """The losses of a batch's PA and PO rows, each times its weight."""
        po, total = self._po[index.numpy()], logits.new_zeros(())
        sides: tuple[tuple[Literal["po", "pa"], np.ndarray, Term], ...] = (
            ("pa", ~po, self.term),
            ("po", po, self.po_term or self.term),
        )
        for table, rows, term in sides:
            if not rows.any():
                continue
            part = torch.from_numpy(np.flatnonzero(rows))
            here = part.to(logits.device)
            mine = {
                name: value[here] if name == "strong" else value
                for name, value in needs.items()
                if name in term.needs
            }
            share = 1.0 if term.name in SUMS else len(part) / len(index)
            weight = self._table_weights.get(table, 1.0)
            total = total + weight * share * term(logits[here], target[here], index[part], **mine)
        return total

    def end_epoch(self, epoch: int, probabilities: Callable[[], Tensor]) -> None:
        """Learn from the probabilities of all training samples, float32[N, K], where a loss does so."""
        for term in (self.term, self.po_term):
            if term is not None:
                term.end_epoch(epoch, probabilities)
