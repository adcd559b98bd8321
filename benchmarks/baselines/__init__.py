"""The old ways of doing things, kept as baselines."""
