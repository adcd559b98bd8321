from .base import Prediction, Surrogate, load_surrogate
from .ensemble import EnsembleSurrogate
from .external import ExternalSurrogate
from .network import NetworkSurrogate
from .selection import Selection, select

__all__ = [
    "EnsembleSurrogate",
    "ExternalSurrogate",
    "NetworkSurrogate",
    "Prediction",
    "Selection",
    "Surrogate",
    "load_surrogate",
    "select",
]
