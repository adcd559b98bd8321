"""Conditional models over tensors, and the surrogate that judges them. Importing this brings in Lightning."""

from whorl.generators.base import ConditionalGenerator, TensorModel, condition_range, range_warning
from whorl.generators.committee import Committee, Reading
from whorl.generators.cvae import CVAE
from whorl.generators.io import load_model, make_generator, save_model
from whorl.generators.scaling import FeatureScaler
from whorl.generators.selection import Selection, select
from whorl.generators.surrogate import Surrogate
from whorl.generators.training import fit

__all__ = [
    "CVAE",
    "Committee",
    "ConditionalGenerator",
    "FeatureScaler",
    "Reading",
    "Selection",
    "Surrogate",
    "TensorModel",
    "condition_range",
    "fit",
    "load_model",
    "make_generator",
    "range_warning",
    "save_model",
    "select",
]
