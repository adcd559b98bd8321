"""Measurements: each a ratio to a baseline, or a share of what was found, in one run."""
