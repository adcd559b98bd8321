"""Conditions: what a generator is conditioned on besides the property, and what can be requested of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
