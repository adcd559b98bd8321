"""Convex hulls of formation energies, with the origin and the energy scheme of every number."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
