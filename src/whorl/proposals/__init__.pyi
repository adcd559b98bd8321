from .decorations import DecorationModel
from .formulas import FormulaModel, ProposedFormula
from .settings import FormulaRequest
from .substitution import ProposedStructures, Substitution

__all__ = [
    "DecorationModel",
    "FormulaModel",
    "FormulaRequest",
    "ProposedFormula",
    "ProposedStructures",
    "Substitution",
]
