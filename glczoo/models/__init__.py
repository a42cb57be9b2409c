"""The zoo's architectures; importing this package registers them with timm."""

from glczoo.models.corrected import Corrected
from glczoo.models.ensemble import Ensemble
from glczoo.models.forest import Forest
from glczoo.models.fusresnet import FusResNet
from glczoo.models.loglinear import LogLinear
from glczoo.models.pointwise import Pointwise
from glczoo.models.quadratic import Quadratic
from glczoo.models.stem import adapt_stem, init_from_imagenet

__all__ = [
    "Corrected",
    "Ensemble",
    "Forest",
    "FusResNet",
    "LogLinear",
    "Pointwise",
    "Quadratic",
    "adapt_stem",
    "init_from_imagenet",
]
