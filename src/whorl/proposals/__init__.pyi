from .formulas import FormulaModel, ProposedFormula
from .settings import FormulaRequest
from .substitution import ProposedStructures, Substitution

__all__ = [
    "FormulaModel",
    "FormulaRequest",
    "ProposedFormula",
    "ProposedStructures",
    "Substitution",
]
