"""Local optimisers over a batch of structures: one method a file, each a pair of init and step."""

from whorl.inversion.solvers.adam import Adam, AdamState
from whorl.inversion.solvers.base import Solver, SolverState

__all__ = ["Adam", "AdamState", "Solver", "SolverState"]
