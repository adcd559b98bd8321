"""Settings common to all evaluators."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from whorl.axes import EVALUATORS
from whorl.settings import SectionOfKind


class EvaluatorSettings(SectionOfKind):
    """Settings of an evaluator, by its name or as a section; its keys depend on its kind."""

    registry = EVALUATORS
    default = "validity"

    @model_validator(mode="wrap")
    @classmethod
    def _from_name(cls, value: Any, handler: Any) -> Any:
        return handler({"kind": value} if isinstance(value, str) else value)
