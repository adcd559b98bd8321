from .atomwise import AtomwiseProblem
from .auto import Auto
from .base import Reconstruction, ReconstructionContext, Reconstructor
from .closed_form import ClosedForm
from .fung2022 import Algorithm1, algorithm1
from .objective import InversionProblem, whitening_weights
from .population import PopulationSearch, PopulationSettings, solve
from .result import InversionResult, InversionStatus, invalid_threshold
from .settings import ReconstructorSettings
from .solvers import LBFGS, Adam, LevenbergMarquardt, Solver, SolverState
from .starts import random_starts

__all__ = [
    "LBFGS",
    "Adam",
    "Algorithm1",
    "AtomwiseProblem",
    "Auto",
    "ClosedForm",
    "InversionProblem",
    "InversionResult",
    "InversionStatus",
    "LevenbergMarquardt",
    "PopulationSearch",
    "PopulationSettings",
    "Reconstruction",
    "ReconstructionContext",
    "Reconstructor",
    "ReconstructorSettings",
    "Solver",
    "SolverState",
    "algorithm1",
    "invalid_threshold",
    "random_starts",
    "solve",
    "whitening_weights",
]
