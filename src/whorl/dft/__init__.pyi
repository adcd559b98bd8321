from .base import DFTCode, StageResult
from .folder import Calculation, read_calculations, write_calculations, write_results
from .settings import DFTSettings

__all__ = [
    "Calculation",
    "DFTCode",
    "DFTSettings",
    "StageResult",
    "read_calculations",
    "write_calculations",
    "write_results",
]
