"""Regions, occurrences, rasters and satellite patches: from files to `x[B, C, H, W]`."""
