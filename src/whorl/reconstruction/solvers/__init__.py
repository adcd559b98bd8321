"""Local optimisers over a batch of structures: one method a file, each a pair of init and step."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
