"""Runs: their folders, histories and ensembles."""
