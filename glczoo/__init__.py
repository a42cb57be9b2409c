"""glczoo: a timm model zoo that answers which plant species grow at a place.

Importing it registers the models with timm, which has no plug-in discovery of its own.
"""

from glczoo import models as models

__version__ = "0.1.0"
