"""Exact serialisation of ``info`` as JSON and flat tensors, without pickle.

Plain values become JSON as they are. The rest becomes ``{"$": tag, ...}``: NumPy arrays go, end to end, into
two flat tensors (one of float64, one of int64) and the JSON says where; tuples, complex numbers, non-finite
floats, dictionaries with keys that are not strings, and ASE's constraints keep their kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LONGEST_INTEGER = 14_000  # bits; Python reads no integers of more than 4,300 digits from text


class Packer:
    """Collects what was packed, and what could not be.

    Attributes:
        dropped: How often each value that cannot be stored occurred, by its name and type.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._parts: dict[str, list[np.ndarray]] = {"float64": [], "int64": []}
        self._sizes = {"float64": 0, "int64": 0}

    def pack(self, value: Any, *, name: str = "") -> Any:
        """Return ``value`` as JSON; entries that cannot be stored are left out and counted."""
        try:
            return self._pack(value, name)
        except _CannotStoreError:
            return None

    def tensors(self) -> dict[str, Tensor]:
        """Return the flat tensors that the JSON points into."""
        return {
            kind: torch.from_numpy(np.concatenate([np.zeros(0, kind), *parts]))
            for kind, parts in self._parts.items()
        }

    def _pack(self, value: Any, name: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return str(value) if isinstance(value, str) else value
        if isinstance(value, np.generic):
            value = value.item()
            return self._pack(value, name) if not isinstance(value, np.generic) else self._drop(value, name)
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _LONGEST_INTEGER else self._drop(value, name)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$": "float", "value": repr(float(value))}
        if isinstance(value, complex):
            return {"$": "complex", "value": [repr(value.real), repr(value.imag)]}
        if isinstance(value, Mapping):
            return self._pack_mapping(value, name)
        if isinstance(value, list | tuple):
            items = self._pack_items(value, name)
            return items if isinstance(value, list) else {"$": "tuple", "value": items}
        if isinstance(value, np.ndarray):
            return self._pack_array(value, name)
        if isinstance(value, Tensor):
            return {"$": "tensor", "value": self._pack_array(value.detach().cpu().numpy(), name)}
        if _is_constraint(value):
            return self._pack_constraint(value, name)
        return self._drop(value, name)

    def _pack_items(self, items: Sequence[Any], name: str) -> list[Any]:
        packed = []
        for item in items:
            try:
                packed.append(self._pack(item, name))
            except _CannotStoreError:
                if not _is_constraint(item):  # a list without one of its items would be another list
                    raise
        return packed

    def _pack_constraint(self, constraint: Any, name: str) -> dict[str, Any]:
        # Tried on its own: some cannot be rebuilt from what they say of themselves, as FixSymmetry, which
        # needs its atoms.
        trial = Packer()
        try:
            packed = {"$": "constraint", "value": trial._pack(constraint.todict(), name)}
            unpack(packed, trial.tensors())
        except Exception:  # whatever a constraint makes of its own description
            return self._drop(constraint, name)
        if trial.dropped:
            return self._drop(constraint, name)
        return {"$": "constraint", "value": self._pack(constraint.todict(), name)}

    def _pack_mapping(self, value: Mapping[Any, Any], name: str) -> dict[str, Any]:
        plain = all(isinstance(key, str) for key in value) and "$" not in value
        packed = []
        for key, item in value.items():
            try:
                packed.append(
                    (self._pack(key, name), self._pack(item, f"{name}.{key}" if name else str(key)))
                )
            except _CannotStoreError:
                continue  # counted; the other entries are kept
        return dict(packed) if plain else {"$": "mapping", "value": [list(pair) for pair in packed]}

    def _pack_array(self, array: np.ndarray, name: str) -> dict[str, Any]:
        kind, shape = array.dtype.kind, list(array.shape)
        if kind in "UO":
            return {"$": "objects", "shape": shape, "value": self._pack(array.ravel().tolist(), name)} | (
                {"dtype": array.dtype.str} if kind == "U" else {}
            )
        if kind not in "biufc":
            return self._drop(array, name)
        storage = "int64" if kind in "biu" else "float64"
        flat = np.ascontiguousarray(array).ravel()
        if kind == "c":
            flat = flat.astype(np.complex128).view(np.float64)
        part = flat.astype(storage)
        offset = self._sizes[storage]
        self._parts[storage].append(part)
        self._sizes[storage] += len(part)
        return {"$": "array", "dtype": array.dtype.str, "shape": shape, "at": [storage, offset, len(part)]}

    def _drop(self, value: Any, name: str) -> Any:
        self.dropped[f"{name} ({type(value).__name__})"] += 1
        raise _CannotStoreError


def _is_constraint(value: Any) -> bool:
    return type(value).__module__.startswith("ase.constraints")


class _CannotStoreError(Exception):
    """A value has no stored form; the caller leaves its entry out."""


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what :meth:`Packer.pack` packed, given its tensors.

    Raises:
        ValueError, TypeError, KeyError: Damage, or a constraint that cannot be rebuilt.
    """
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return _unpack(value, arrays)


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get("$")
    if tag is None:
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if tag == "array":
        storage, start, size = value["at"]
        part, dtype = arrays[storage][start : start + size], np.dtype(value["dtype"])
        if dtype.kind == "c":
            part = part.view(np.complex128)
        return part.astype(dtype).reshape(value["shape"])
    content = _unpack(value["value"], arrays)
    if tag == "objects":
        array = np.empty(len(content), dtype=value.get("dtype", object))
        for index, item in enumerate(content):  # at once, NumPy would take lists of equal length apart
            array[index] = item
        return array.reshape(value["shape"])
    if tag == "constraint":
        from ase.constraints import dict2constraint

        return dict2constraint(content)
    return _SIMPLE[tag](content)


_SIMPLE: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "tuple": tuple,
    "mapping": dict,
    "tensor": torch.from_numpy,
}
