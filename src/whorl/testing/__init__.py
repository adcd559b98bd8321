"""Public contract checks: what every implementation of a whorl type must do, with words when it does not.

For authors of new representations, generators and solvers: call these from your own tests.
"""

from whorl.testing.generators import check_generator
from whorl.testing.solvers import check_solver

__all__ = ["check_generator", "check_solver"]
