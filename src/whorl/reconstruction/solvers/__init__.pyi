from .adam import Adam, AdamState
from .base import Solver, SolverState
from .lbfgs import LBFGS, LBFGSState
from .levenberg_marquardt import LevenbergMarquardt, LevenbergMarquardtState
from .settings import SolverSettings

__all__ = [
    "LBFGS",
    "Adam",
    "AdamState",
    "LBFGSState",
    "LevenbergMarquardt",
    "LevenbergMarquardtState",
    "Solver",
    "SolverSettings",
    "SolverState",
]
