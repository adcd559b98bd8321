"""Calculations by programs of density functional theory: input files, and results read back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
