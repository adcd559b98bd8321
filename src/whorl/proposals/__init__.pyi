from .decorations import DecorationModel
from .formula_network import FormulaNetwork
from .formulas import FormulaModel, ProposedFormula
from .settings import FormulaRequest
from .substitution import ProposedStructures, Substitution

__all__ = [
    "DecorationModel",
    "FormulaModel",
    "FormulaNetwork",
    "FormulaRequest",
    "ProposedFormula",
    "ProposedStructures",
    "Substitution",
]
