"""Conditional models over tensors, and the surrogate that judges them. Importing this brings in Lightning."""

from whorl.generators.adversarial import energy_distance
from whorl.generators.base import ConditionalGenerator, TensorModel, condition_range, range_warning
from whorl.generators.committee import Committee, Reading
from whorl.generators.cvae import CVAE
from whorl.generators.diffusion import Diffusion
from whorl.generators.gan import GAN
from whorl.generators.io import load_model, make_generator, make_surrogate, save_model
from whorl.generators.scaling import FeatureScaler
from whorl.generators.selection import Selection, select
from whorl.generators.surrogate import Surrogate
from whorl.generators.training import fit
from whorl.generators.wgan_gp import WGANGP

__all__ = [
    "CVAE",
    "GAN",
    "WGANGP",
    "Committee",
    "ConditionalGenerator",
    "Diffusion",
    "FeatureScaler",
    "Reading",
    "Selection",
    "Surrogate",
    "TensorModel",
    "condition_range",
    "energy_distance",
    "fit",
    "load_model",
    "make_generator",
    "make_surrogate",
    "range_warning",
    "save_model",
    "select",
]
