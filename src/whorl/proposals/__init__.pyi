from .formulas import FormulaModel, FormulaRequest, ProposedFormula
from .substitution import ProposedStructures, Substitution, hit_probability

__all__ = [
    "FormulaModel",
    "FormulaRequest",
    "ProposedFormula",
    "ProposedStructures",
    "Substitution",
    "hit_probability",
]
