"""Inverse design of atomic structures through their fingerprints."""

import lazy_loader

from whorl.version import __version__

_rooms, __dir__, _names = lazy_loader.attach(
    __name__,
    submodules=[
        "conditions",
        "datasets",
        "evaluation",
        "generators",
        "potentials",
        "reconstruction",
        "report",
        "representations",
        "structures",
        "surrogates",
        "testing",
        "workflow",
    ],
)
__getattr__ = _rooms
__all__ = ["__version__", *_names]
