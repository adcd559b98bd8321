from .additive import AdditiveSurrogate
from .base import Prediction, Surrogate, load_surrogate
from .element_channels import learned_embedding
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
    "learned_embedding",
    "load_surrogate",
    "prediction_errors",
    "select",
]
