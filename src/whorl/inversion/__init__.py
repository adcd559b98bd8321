"""From tensors back to structures: what is sought, where to begin, how to search, what came of it."""

from whorl.inversion.algorithm1 import algorithm1
from whorl.inversion.atomwise import AtomwiseProblem
from whorl.inversion.population import Population
from whorl.inversion.problem import InversionProblem, whitening_weights
from whorl.inversion.result import InversionResult, InversionStatus, invalid_threshold
from whorl.inversion.search import solve
from whorl.inversion.solvers import LBFGS, Adam, LevenbergMarquardt, Solver, SolverState
from whorl.inversion.starts import random_starts

__all__ = [
    "LBFGS",
    "Adam",
    "AtomwiseProblem",
    "InversionProblem",
    "InversionResult",
    "InversionStatus",
    "LevenbergMarquardt",
    "Population",
    "Solver",
    "SolverState",
    "algorithm1",
    "invalid_threshold",
    "random_starts",
    "solve",
    "whitening_weights",
]
