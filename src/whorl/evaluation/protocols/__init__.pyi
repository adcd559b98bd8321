from .base import EvaluationProtocol, ProtocolResult
from .settings import ProtocolSettings

__all__ = ["EvaluationProtocol", "ProtocolResult", "ProtocolSettings"]
