"""A Hub Space: the page of `glczoo app` for the models that GLCZOO_MODEL names."""

import os

from glczoo.prediction.app import serve

os.environ.setdefault("GLCZOO_DATA", "data")  # rasters and tables, as the model's region.yaml names them
serve(os.environ["GLCZOO_MODEL"].split())
