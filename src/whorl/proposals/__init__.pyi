from .formulas import FormulaModel, ProposedFormula
from .settings import FormulaRequest
from .substitution import ProposedStructures, Substitution, hit_probability

__all__ = [
    "FormulaModel",
    "FormulaRequest",
    "ProposedFormula",
    "ProposedStructures",
    "Substitution",
    "hit_probability",
]
