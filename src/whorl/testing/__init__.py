"""Contract checks for implementations of whorl's base classes.

For authors of new methods: call these from your own tests.
"""

from whorl.testing.conditions import check_condition
from whorl.testing.electronic_structure_programs import check_electronic_structure_program
from whorl.testing.evaluators import check_evaluator
from whorl.testing.executors import check_executor
from whorl.testing.generators import check_generator
from whorl.testing.potentials import check_potential
from whorl.testing.proposers import check_proposer
from whorl.testing.protocols import check_protocol
from whorl.testing.reconstructors import check_reconstructor
from whorl.testing.refiners import check_refiner
from whorl.testing.report_sections import check_report_section
from whorl.testing.representations import check_representation
from whorl.testing.solvers import check_solver
from whorl.testing.surrogates import check_surrogate

__all__ = [
    "check_condition",
    "check_electronic_structure_program",
    "check_evaluator",
    "check_executor",
    "check_generator",
    "check_potential",
    "check_proposer",
    "check_protocol",
    "check_reconstructor",
    "check_refiner",
    "check_report_section",
    "check_representation",
    "check_solver",
    "check_surrogate",
]
