"""Describing, checking and making a region."""
