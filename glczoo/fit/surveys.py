"""A fit by presence-absence surveys: out-of-fold probabilities, weights, the ensemble on all of them.

    OUT/fit.json                       what determines the fit; another one's folder is refused
    OUT/densities, records.safetensors what the records say, where there are any
    OUT/out_of_fold/SLUG.npz           probabilities[N, K] of a candidate, and its seconds
    OUT/members/SLUG                   runs on all surveys, of candidates with weight
    OUT/leaderboard.json               and then the ensemble as any run

What is there already is kept: an interrupted fit goes on, and ends with the same result.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from glczoo.data.region import Region
from glczoo.decoding import Decoding, Rule, tune
from glczoo.errors import ExistsError, GlczooError
from glczoo.files import whole, whole_files
from glczoo.fit.candidate import Candidate, Verdict
from glczoo.fit.candidates import candidates_of
from glczoo.fit.inputs import SurveyInputs, prepare
from glczoo.fit.leaderboard import Gain, Leaderboard, Line
from glczoo.fit.settings import Fit
from glczoo.fit.stacking import log_loss_each, worth_it
from glczoo.memory import announce
from glczoo.metrics import bootstrap, macro_auc, sample_f1
from glczoo.recipe import read_run_recipe, write_run_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import is_finished

__all__ = ["Budget", "fit_surveys", "out_of_fold"]

_FEW = 100  # surveys
_FINAL = 4 / 3  # a fit on all surveys takes about as much longer than one on three quarters of them


class Budget:
    """How much of `minutes` is spent, by this process and by those that were interrupted."""

    def __init__(self, minutes: float | None, spent: float = 0.0) -> None:
        """`spent`: seconds so far; None: no bound."""
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.spent = spent

    def lacks(self, seconds: float) -> bool:
        """Whether so many more seconds are too many."""
        return self.spent + seconds > self.seconds


def fit_surveys(
    region: Region,
    name: str,
    out: Path,
    settings: Fit,
    minutes: float | None,
    jobs: int,
    log: Callable[[str], None],
) -> Leaderboard:
    """Fit a region with surveys, with or without records.

    Args:
        region: the region.
        name: its region.yaml or folder, for recipes.
        out: folder of the result.
        settings: of the fit.
        minutes: after which no candidate is begun that would not be done; None: all are.
        jobs: threads.
        log: prints how far it is.

    Returns:
        The leaderboard, which is kept in `out` too.

    Raises:
        MissingError: data are missing.
        GlczooError: a table cannot be read, there are fewer blocks than folds, or no candidate.
    """
    inputs = prepare(settings, region, name, out)
    log(
        f"{len(inputs.surveys)} surveys of {len(inputs.vocabulary)} species in {inputs.block.max() + 1} "
        f"blocks{', with records' if inputs.has_records else ''}: {inputs.seconds:.0f} s"
    )
    if len(inputs.surveys) < _FEW:
        log(f"{len(inputs.surveys)} surveys are few: differences between candidates may be chance")
    candidates, left_out = candidates_of(inputs, out, jobs)
    if not candidates:
        raise GlczooError(f"none of the candidates {settings.candidates} can be fitted in {region.name}")
    tables = 4.0 * (len(candidates) + 2) * len(inputs.surveys) * len(inputs.vocabulary)
    announce(f"fit of {len(candidates)} candidates", {"probabilities of all of them": tables})
    budget = Budget(minutes, inputs.seconds)
    compared: list[Candidate] = []
    probabilities: list[np.ndarray] = []
    seconds: list[float] = []
    for candidate in candidates:
        reserved = sum(seconds) / settings.folds * _FINAL
        result = out_of_fold(
            candidate, inputs.fold, len(inputs.vocabulary), out, budget, reserved, not compared
        )
        if isinstance(result, str):
            left_out[candidate.name] = result
            log(f"{candidate.name}: left out, {result}")
            continue
        compared.append(candidate)
        probabilities.append(result[0])
        seconds.append(result[1])
        loss = log_loss_each(result[0], inputs.target.numpy()).mean()
        log(f"{candidate.name}: log loss {loss:.4f} out of fold, {result[1]:.0f} s")
    costly = [number for number, candidate in enumerate(compared) if candidate.costly]
    weights, gains = worth_it(
        np.stack(probabilities), inputs.target.numpy(), inputs.block, costly, settings.least_weight
    )
    for number, (gain, low, high) in gains.items():
        if not weights[number]:
            left_out[compared[number].name] = (
                f"the ensemble's log loss is lower with it by {gain:.5f}, from {low:.5f} to {high:.5f}: not "
                "beyond chance"
            )
    together = np.einsum("m,mnk->nk", weights, np.stack(probabilities)).astype(np.float32)
    decoding, tuned = _decoding(together, inputs)
    board = _leaderboard(inputs, compared, probabilities, seconds, weights, together, decoding, left_out)
    members = [(candidate, weight) for candidate, weight in zip(compared, weights, strict=True) if weight]
    runs = []
    for candidate, _ in members:
        folder = out / "members" / candidate.slug
        start = time.monotonic()
        if not is_finished(folder):
            candidate.final(folder, Verdict(decoding, tuned, seconds[compared.index(candidate)]))
        log(f"{candidate.name}: on all surveys, {time.monotonic() - start:.0f} s")
        runs.append(folder)
    board.save(out)
    _join(runs, [weight for _, weight in members], out)
    shutil.rmtree(out / "cnn", ignore_errors=True)  # folders in which CNNs trained, empty by now
    return board


def out_of_fold(
    candidate: Candidate,
    fold: np.ndarray,
    classes: int,
    out: Path,
    budget: Budget,
    reserved: float,
    needed: bool,
) -> tuple[np.ndarray, float] | str:
    """A candidate's probabilities[N, K] out of fold and its seconds, or why it is left out.

    Args:
        candidate: to fit once for each fold; what is kept of an earlier process is not fitted again.
        fold: of every sample, int64[N].
        classes: number of species K.
        out: folder of the fit.
        budget: which it counts towards.
        reserved: seconds for the members on all samples.
        needed: it is not left out.
    """
    folder = out / "out_of_fold"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{candidate.slug}.npz"
    probabilities = np.zeros((len(fold), classes), np.float32)
    done, taken = 0, 0.0
    if path.exists():
        with np.load(path) as kept:
            probabilities, taken, done = kept["probabilities"], float(kept["seconds"]), int(kept["folds"])
    budget.spent += taken
    number = int(fold.max()) + 1
    for k in range(done, number):
        bounded = not needed and budget.seconds < float("inf")
        each = 0.0
        if bounded:
            each = taken / k if k else candidate.expected_seconds()
        more = each * (number - k + _FINAL)
        if bounded and budget.lacks(reserved + more):
            left = f"about {more / 60:.1f} minutes more" if more else "no time is left to begin it"
            return f"{left}, beyond --minutes {budget.seconds / 60:g}"
        start = time.monotonic()
        probabilities[fold == k] = candidate.out_of_fold(k)
        seconds = time.monotonic() - start
        budget.spent += seconds
        taken += seconds
        with whole(path) as partial:
            np.savez(partial, probabilities=probabilities, seconds=taken, folds=k + 1)
    return probabilities, taken


def _decoding(together: np.ndarray, inputs: SurveyInputs) -> tuple[Decoding, dict[str, float]]:
    """The rule of expected F1 that is best out of fold, and the best number of every other rule."""
    probabilities = torch.from_numpy(together)
    rules = [Decoding(Rule.EXPECTED_F1_EXACT), Decoding(Rule.EXPECTED_F1)]
    f1 = [float(sample_f1(rule(probabilities), inputs.target).mean()) for rule in rules]
    return rules[int(np.argmax(f1))], tune(probabilities, inputs.target)


def _leaderboard(
    inputs: SurveyInputs,
    compared: Sequence[Candidate],
    probabilities: Sequence[np.ndarray],
    seconds: Sequence[float],
    weights: np.ndarray,
    together: np.ndarray,
    decoding: Decoding,
    left_out: dict[str, str],
) -> Leaderboard:
    target, block = inputs.target, torch.from_numpy(inputs.block)

    def f1_each(p: np.ndarray) -> torch.Tensor:
        return sample_f1(decoding(torch.from_numpy(p)), target).double()

    def loss_each(p: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(log_loss_each(p, target.numpy()))

    def line(name: str, weight: float, p: np.ndarray, took: float) -> Line:
        auc, _ = macro_auc(torch.from_numpy(p), target)
        return Line(name, weight, float(f1_each(p).mean()), auc, float(loss_each(p).mean()), took)

    def interval(differences: torch.Tensor) -> tuple[float, float, float]:
        low, high = bootstrap(differences, block)
        return float(differences.mean()), low, high

    lines = [
        line(candidate.name, float(weight), p, took)
        for candidate, weight, p, took in zip(compared, weights, probabilities, seconds, strict=True)
    ]

    def gain(number: int) -> Gain:
        p = probabilities[number]
        return Gain(
            lines[number].name,
            interval(loss_each(p) - loss_each(together)),
            interval(f1_each(together) - f1_each(p)),
        )

    return Leaderboard(
        lines=sorted(lines, key=lambda each: each.log_loss),
        together=line("ensemble", 1.0, together, inputs.seconds + sum(seconds)),
        over_best=gain(min(range(len(lines)), key=lambda number: lines[number].log_loss)),
        over_simplest=gain(0),
        samples=len(target),
        blocks=int(inputs.block.max()) + 1,
        folds=int(inputs.fold.max()) + 1,
        rule=str(decoding),
        left_out=left_out,
    )


def _join(runs: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """One run of all members, in a folder that holds other files; a single one is the result itself."""
    write_run_recipe(out, *read_run_recipe(runs[0]))
    with whole_files(out, last="model.safetensors") as partial:
        if len(runs) > 1:
            combine(runs, partial, weights=weights)
        else:
            shutil.copytree(runs[0], partial, dirs_exist_ok=True)
        (partial / "recipe.yaml").unlink()  # names the region from another folder


def claim(out: Path, determines: dict[str, object]) -> None:
    """Make a folder of a fit, or check that it is one of the same fit.

    Raises:
        ExistsError: it is of another one, or holds something else.
    """
    path = out / "fit.json"
    text = json.dumps(determines, indent=1, sort_keys=True) + "\n"
    if path.exists():
        if path.read_text("utf-8") == text:
            return
        if [each.name for each in out.iterdir()] != [path.name]:  # of a fit that has begun
            raise ExistsError(
                f"{out} holds a fit of other settings or of another region, see fit.json there; name "
                "another folder, or delete it first"
            )
    if is_finished(out):
        raise ExistsError(f"{out} holds a model; name another folder or delete it first")
    out.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(text, "utf-8")
