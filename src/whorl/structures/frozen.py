"""Frozen atoms of structures: those that ASE's ``FixAtoms`` holds, in the structures' ``info``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ase.constraints import FixAtoms
from jaxtyping import Bool
from torch import Tensor

from whorl.structures.batch import StructureBatch
from whorl.structures.convert import EXTRAS


def frozen_atoms_of(structures: StructureBatch) -> Bool[Tensor, "A"]:
    """Return which atoms are frozen."""
    frozen = torch.zeros(len(structures.positions), dtype=torch.bool, device=structures.device)
    for begin, n, info in zip(
        structures.first_atom.tolist(), structures.n_atoms.tolist(), structures.info, strict=False
    ):
        for constraint in _constraints(info):
            if isinstance(constraint, FixAtoms):
                own = torch.as_tensor(constraint.get_indices(), dtype=torch.int64)
                frozen[begin + own[own < n]] = True
    return frozen


def with_frozen_atoms(structures: StructureBatch, frozen: Bool[Tensor, "A"]) -> StructureBatch:
    """Return the structures with these atoms frozen, and no others; further constraints are kept."""
    infos: list[Mapping[str, Any]] = []
    own = frozen.cpu().split(structures.n_atoms.tolist())
    for info, mask in zip(structures.info or ({},) * len(structures), own, strict=True):
        kept = [one for one in _constraints(info) if not isinstance(one, FixAtoms)]
        if bool(mask.any()):
            kept.append(FixAtoms(mask=mask.numpy()))
        extras = {key: value for key, value in info.get(EXTRAS, {}).items() if key != "constraints"}
        if kept:
            extras["constraints"] = kept
        plain = {key: value for key, value in info.items() if key != EXTRAS}
        infos.append({**plain, EXTRAS: extras} if extras else plain)
    return structures.replace(info=tuple(infos))


def without_info(structures: StructureBatch) -> StructureBatch:
    """Return the structures without their ``info``, but for frozen atoms."""
    bare, frozen = structures.replace(info=()), frozen_atoms_of(structures)
    return with_frozen_atoms(bare, frozen) if bool(frozen.any()) else bare


def _constraints(info: Mapping[str, Any]) -> list[Any]:
    given = info.get(EXTRAS, {}).get("constraints", ())
    return list(given) if isinstance(given, list | tuple) else [given]
