"""Evaluators of samples, one file each."""
