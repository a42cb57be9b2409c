"""glczoo: a timm model zoo that predicts which plant species grow at a place.

Importing it registers the models with timm, which has no plug-in discovery of its own.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Threads of one tensor's work wait for each other by spinning: beside another process, for one that does not
# run. After libgomp's own 300,000 rounds a small network is up to 25 times slower beside a second one, after
# 2,000 not, and as fast alone within a tenth (tests/benchmarks/shared_cores.py). Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from glczoo import models as models

if TYPE_CHECKING:
    from glczoo.prediction.points import Predictor

__all__ = ["load", "models"]

__version__ = "0.1.0"


def load(run: "str | Path | Sequence[str | Path]") -> "Predictor":
    """Load a trained model, or several as their mean, and ask it: `glczoo.load(RUN).predict(6.52, 46.91)`.

    Args:
        run: folder of a finished run or of a published model, `hf-hub:ORG/NAME[@REVISION]`, or `sample`, the
            model of an invented world that travels with glczoo; several that share a vocabulary are averaged.

    Raises:
        MissingError: there is no such run, or it is not finished.
        HubError: the model cannot be had from the Hub.
        DamagedError: what is there is not what was saved.
        GlczooError: several models know different species.
    """
    from glczoo.prediction.points import Predictor

    return Predictor.load(run)


def __dir__() -> list[str]:
    """What is public: names that this module itself imports are not."""
    return sorted([*__all__, "__version__", "__doc__", "__file__", "__name__", "__path__"])
