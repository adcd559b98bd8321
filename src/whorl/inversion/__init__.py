"""From tensors back to structures: what is sought, where to begin, how to search, what came of it."""

from whorl.inversion.problem import InversionProblem, whitening_weights
from whorl.inversion.result import InversionResult, InversionStatus, invalid_threshold
from whorl.inversion.search import algorithm1
from whorl.inversion.solvers import Adam, Solver, SolverState
from whorl.inversion.starts import random_starts

__all__ = [
    "Adam",
    "InversionProblem",
    "InversionResult",
    "InversionStatus",
    "Solver",
    "SolverState",
    "algorithm1",
    "invalid_threshold",
    "random_starts",
    "whitening_weights",
]
