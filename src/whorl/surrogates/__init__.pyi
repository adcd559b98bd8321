from .additive import AdditiveSurrogate
from .base import Prediction, Surrogate, load_surrogate
from .ensemble import EnsembleSurrogate
from .errors import PredictionErrors, prediction_errors
from .external import ExternalSurrogate
from .network import NetworkSurrogate
from .selection import Selection, select

__all__ = [
    "AdditiveSurrogate",
    "EnsembleSurrogate",
    "ExternalSurrogate",
    "NetworkSurrogate",
    "Prediction",
    "PredictionErrors",
    "Selection",
    "Surrogate",
    "load_surrogate",
    "prediction_errors",
    "select",
]
