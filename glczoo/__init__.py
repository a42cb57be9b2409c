"""glczoo: a timm model zoo that answers which plant species grow at a place.

Importing it registers the models with timm.
"""

from glczoo.timm_plugin import register as _register

__version__ = "0.1.0"

_register()
