"""Inverse design of atomic structures through their fingerprints."""

from whorl.version import __version__

__all__ = ["__version__"]
