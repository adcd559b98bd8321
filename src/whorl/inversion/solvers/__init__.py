"""Local optimisers over a batch of structures: one method a file, each a pair of init and step."""

from whorl.inversion.solvers.adam import Adam, AdamState
from whorl.inversion.solvers.base import Solver, SolverState
from whorl.inversion.solvers.lbfgs import LBFGS, LBFGSState
from whorl.inversion.solvers.levenberg_marquardt import LevenbergMarquardt, LevenbergMarquardtState

__all__ = [
    "LBFGS",
    "Adam",
    "AdamState",
    "LBFGSState",
    "LevenbergMarquardt",
    "LevenbergMarquardtState",
    "Solver",
    "SolverState",
]
