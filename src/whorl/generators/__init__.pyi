from .adversarial import energy_distance
from .base import ConditionalGenerator, Density, TensorModel, condition_range, range_warning, unlikely
from .cvae import CVAE
from .diffusion import Diffusion
from .energy_based import EnergyBased
from .flow import Flow
from .flow_matching import FlowMatching
from .gan import GAN
from .io import build_model, load_model, make_generator, save_model
from .scaling import FeatureScaler
from .settings import GeneratorSettings, TrainingSettings
from .training import fit
from .wgan_gp import WGANGP

__all__ = [
    "CVAE",
    "GAN",
    "WGANGP",
    "ConditionalGenerator",
    "Density",
    "Diffusion",
    "EnergyBased",
    "FeatureScaler",
    "Flow",
    "FlowMatching",
    "GeneratorSettings",
    "TensorModel",
    "TrainingSettings",
    "build_model",
    "condition_range",
    "energy_distance",
    "fit",
    "load_model",
    "make_generator",
    "range_warning",
    "save_model",
    "unlikely",
]
