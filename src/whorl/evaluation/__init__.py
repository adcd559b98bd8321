"""How near, how new, how different, how valid: evaluators of generated samples, and their metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
