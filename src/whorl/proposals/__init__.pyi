from .base import Candidates, ProposedStructures, Proposer
from .cells import CellModel
from .decorations import DecorationModel
from .formula_network import FormulaNetwork
from .formulas import FormulaModel, ProposedFormula
from .network import NetworkProposer
from .settings import FormulaRequest, ProposalSettings, ProposerSettings
from .substitution import Substitution

__all__ = [
    "Candidates",
    "CellModel",
    "DecorationModel",
    "FormulaModel",
    "FormulaNetwork",
    "FormulaRequest",
    "NetworkProposer",
    "ProposalSettings",
    "ProposedFormula",
    "ProposedStructures",
    "Proposer",
    "ProposerSettings",
    "Substitution",
]
