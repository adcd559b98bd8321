"""Comparison of crystals: matching by StructureMatcher, its exact screens, and other measures of likeness."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
