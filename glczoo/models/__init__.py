"""The zoo's architectures; importing this package registers them with timm."""

from glczoo.models.fusresnet import FusResNet
from glczoo.models.stem import adapt_stem, init_from_imagenet

__all__ = ["FusResNet", "adapt_stem", "init_from_imagenet"]
