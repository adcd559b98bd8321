"""Benchmarks of refiners."""
