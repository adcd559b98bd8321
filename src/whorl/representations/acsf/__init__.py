"""Atom-centred symmetry functions."""

from whorl.representations.acsf.acsf import ACSF

__all__ = ["ACSF"]
