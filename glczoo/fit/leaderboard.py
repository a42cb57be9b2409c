"""What a fit has compared: candidates, their weights, and how good they are where they were not trained."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from glczoo.errors import GlczooError
from glczoo.evaluation.evaluate import markdown
from glczoo.files import whole
from glczoo.json_text import read_json
from glczoo.training.fit_records import RecordsLeaderboard

__all__ = ["FILE", "Gain", "Leaderboard", "Line", "leaderboard_text"]

FILE = "leaderboard.json"
"""Where a run of a fit keeps its leaderboard."""

_PLAIN = re.compile(r"[\w ,.:;'()+/%×-]*")  # a published one may be anybody's, and stands on cards


@dataclass(frozen=True)
class Line:
    """One candidate out of fold."""

    name: str
    weight: float  # in the ensemble
    f1: float  # mean over surveys, by the ensemble's rule
    auc: float  # mean over species
    log_loss: float  # mean over surveys and species
    seconds: float  # of all folds


@dataclass(frozen=True)
class Gain:
    """What the ensemble gains over a single candidate: the mean and 95 % by resampling blocks."""

    over: str  # name of the candidate
    log_loss: tuple[float, float, float]  # mean, low, high; above 0 is better
    f1: tuple[float, float, float]

    @property
    def certain(self) -> bool:
        """Whether the log loss is lower beyond chance."""
        return self.log_loss[1] > 0

    def text(self) -> str:
        """The differences for people."""
        log_loss = "log loss lower by {:z.4f} [{:z.4f}, {:z.4f}]".format(*self.log_loss)
        return log_loss + ", F1 higher by {:z.3f} [{:z.3f}, {:z.3f}]".format(*self.f1)


@dataclass(frozen=True)
class Leaderboard:
    """The candidates of a fit, and their ensemble."""

    lines: list[Line]  # the lowest log loss first
    together: Line
    over_best: Gain  # the single candidate with the lowest log loss
    over_simplest: Gain  # the one that asks least: what others must beat
    samples: int
    blocks: int
    folds: int
    rule: str  # that makes sets of species
    kind: Literal["surveys"] = "surveys"
    left_out: Mapping[str, str] = field(default_factory=dict)  # name → reason

    def to_json(self) -> dict[str, Any]:
        """What leaderboard.json keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Leaderboard":
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        lines = [Line(**line) for line in [*values["lines"], values["together"]]]
        left_out = values["left_out"]
        over_best, over_simplest = map(_gain, (values["over_best"], values["over_simplest"]))
        texts = [line.name for line in lines] + [over_best.over, over_simplest.over, values["rule"]]
        texts += [*left_out, *left_out.values()]
        if odd := [text for text in texts if not _PLAIN.fullmatch(text)]:
            raise GlczooError(f"{odd[0]!r} is no name")
        return cls(
            **{
                **values,
                "lines": lines[:-1],
                "together": lines[-1],
                "over_best": over_best,
                "over_simplest": over_simplest,
            }
        )

    def save(self, folder: Path) -> None:
        """Write leaderboard.json into a run's folder."""
        with whole(folder / FILE) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Leaderboard | None":
        """The leaderboard of a run that was fitted by surveys; None where it has none.

        Raises:
            GlczooError: it is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            values = read_json(path)
            if values["kind"] != "surveys":
                return None
            board = cls.from_json(values)
            board.text()  # numbers that are none are noticed here, and not on a card
            return board
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise GlczooError(f"{path} is damaged: {error}") from None

    def rows(self) -> list[dict[str, str]]:
        """The cells of its table, the ensemble last."""
        return [_cells(line) for line in [*self.lines, self.together]]

    def verdict(self) -> str:
        """Whether the ensemble beats its best candidate, and whether anything beats the simplest."""
        best, simplest = self.over_best, self.over_simplest
        alone = next((line.name for line in self.lines if line.weight == 1), None)
        if alone == simplest.over:
            return f'Nothing beats the simplest candidate, "{alone}": it has all the weight.'
        if alone:
            sentences = [f'"{alone}" has all the weight: no mean with others has a lower log loss.']
            subject = "It"
        elif best.over == simplest.over:
            sentences, subject = [], "The ensemble"
        else:
            verb = "beats" if best.certain else "does not beat, beyond chance,"
            sentences = [f'The ensemble {verb} the best single candidate, "{best.over}": {best.text()}.']
            subject = "And it" if best.certain else "It"
        if simplest.certain:
            sentences.append(f'{subject} beats the simplest, "{simplest.over}": {simplest.text()}.')
        else:
            sentences.append(
                f'Nothing beats the simplest, "{simplest.over}", beyond chance: {simplest.text()}.'
            )
        return "\n".join([*sentences, f"In brackets: 95 % by resampling {self.blocks} blocks."])

    def text(self) -> str:
        """The leaderboard for people."""
        columns = {key: key for key in self.rows()[0]}
        lines = [
            f"Out of fold: {self.samples} surveys in {self.blocks} spatial blocks, {self.folds} folds; sets "
            f"by {self.rule}",
            "",
            markdown(self.rows(), columns),
            "",
            self.verdict(),
        ]
        lines += [f"Left out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def _gain(values: Mapping[str, Any]) -> Gain:
    """One of the differences that `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    (mean, low, high), (f1, f1_low, f1_high) = values["log_loss"], values["f1"]
    return Gain(values["over"], (mean, low, high), (f1, f1_low, f1_high))


def leaderboard_text(folder: Path) -> str:
    """The leaderboard of a run as Markdown; empty where it has none.

    Raises:
        GlczooError: it is damaged.
    """
    board = Leaderboard.load(folder) or RecordsLeaderboard.load(folder)
    return board.text() if board else ""


def _cells(line: Line) -> dict[str, str]:
    return {
        "candidate": line.name,
        "weight": f"{line.weight:.2f}" if line.weight else "–",
        "F1": f"{line.f1:.3f}",
        "AUC": f"{line.auc:.3f}",
        "log loss": f"{line.log_loss:.4f}",
        "seconds": f"{line.seconds:.0f}",
    }
