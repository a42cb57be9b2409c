"""Which candidates a fit compares: those that its settings and the region's data allow."""

from pathlib import Path

from glczoo.fit.candidate import Candidate
from glczoo.fit.cnn import CnnCandidate
from glczoo.fit.inputs import SurveyInputs
from glczoo.fit.settings import CandidateName
from glczoo.fit.tabular import CorrectedCandidate, ForestCandidate

__all__ = ["candidates_of"]

_MOST_PRODUCTS = 60  # bands: of more, products would be more columns than surveys can weigh


def candidates_of(inputs: SurveyInputs, out: Path, jobs: int = 1) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates that settings and data allow, the quick ones first; and why others are left out.

    Args:
        inputs: of the fit.
        out: folder of the fit, where CNNs train.
        jobs: threads that grow trees.
    """
    records = inputs.has_records
    what = "records, corrected" if records else "environment"
    names: dict[CandidateName, str] = {
        "points": "forest at the points",
        "slopes": "records, own slopes",
        "linear": f"{what}, linear",
        "network": f"{what}, network",
        "quadratic": f"{what}, quadratic",
        "forest": "forest with windows and records" if records else "forest with windows",
    }
    wanted = inputs.settings.candidates or [*names, "cnn"]
    chosen: list[Candidate] = []
    left_out = dict(inputs.notes)
    for slug, name in names.items():
        if slug == "slopes" and not records:
            continue
        if slug == "quadratic" and inputs.environment > _MOST_PRODUCTS:
            left_out[name] = f"{inputs.environment} bands, more than {_MOST_PRODUCTS}: too many products"
        elif slug in ("points", "forest") and slug in wanted:
            chosen.append(ForestCandidate(inputs, name, slug, jobs))
        elif slug in wanted:
            chosen.append(CorrectedCandidate(inputs, name, slug))
    for size in inputs.settings.cnn.patch_sizes if "cnn" in wanted else []:
        cnn = CnnCandidate(inputs, size, out)
        if reason := cnn.unfit:
            left_out[cnn.name] = reason
        else:
            chosen.append(cnn)
    return chosen, left_out
