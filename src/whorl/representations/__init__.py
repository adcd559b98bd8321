"""Differentiable maps from structures to tensors."""

from collections.abc import Callable, Mapping
from typing import Any

from whorl.errors import InputError, unknown_option
from whorl.representations.acsf import ACSF
from whorl.representations.base import FeatureLayout, Representation
from whorl.representations.crystens import CrysTens
from whorl.representations.crystens_decoding import DecodedCrystals, Measures
from whorl.representations.cutoffs import Cutoff

__all__ = [
    "ACSF",
    "CrysTens",
    "Cutoff",
    "DecodedCrystals",
    "FeatureLayout",
    "Measures",
    "Representation",
    "make_representation",
]

_KINDS: dict[str, type[ACSF] | type[CrysTens]] = {"acsf": ACSF, "crystens": CrysTens}
_PRESETS: dict[str, Callable[..., ACSF]] = {"fung2022": ACSF.fung2022, "crystal": ACSF.crystal}


def make_representation(config: Mapping[str, Any]) -> Representation:
    """Build a representation from its ``config()``, or from a preset such as ``{"preset": "fung2022"}``.

    Raises:
        InputError: Unknown kind, preset or setting.
    """
    settings = dict(config)
    kind = settings.pop("kind", "acsf")
    if kind not in _KINDS:
        raise unknown_option("representation", str(kind), _KINDS)
    preset = settings.pop("preset", None)
    if preset is not None and preset not in _PRESETS:
        raise unknown_option("preset of acsf", str(preset), _PRESETS)
    try:
        return _KINDS[kind].from_config(settings) if preset is None else _PRESETS[preset](**settings)
    except TypeError as error:
        name = _KINDS[kind].__name__
        raise InputError(f"representation '{kind}': {error}. See the documentation of {name}.") from None
