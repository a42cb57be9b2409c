"""Which packages the wheel holds: those found, and folders of the top that travel inside of glczoo.

All else stands in pyproject.toml, which cannot add to the packages that setuptools finds.
"""

from setuptools import find_packages, setup

BESIDE = {"glczoo.model_cards": "model_cards", "glczoo.recipes": "recipes"}

setup(packages=[*find_packages(include=["glczoo", "glczoo.*"]), *BESIDE], package_dir=BESIDE)
