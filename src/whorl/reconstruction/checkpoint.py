"""Checkpoints of a search: finished chunks on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.chunked import Part, load_part, save_part
from whorl.files import stable_hash
from whorl.reconstruction.objective import InversionProblem
from whorl.tensor_files import tensors_hash


class Checkpoint:
    """A folder of ``.safetensors`` files, one per chunk.

    The pieces of a search lie in a folder named by a hash of its problem and settings, so those of another
    search are never taken for its own, and are not lost either. Each carries that hash and a checksum.

    Attributes:
        others: Whether the folder also holds pieces of other searches.
    """

    def __init__(self, directory: Path, *, problem: InversionProblem, settings: Mapping[str, Any]) -> None:
        self.key = stable_hash({"problem": _problem_hash(problem), "settings": dict(settings)})
        self.directory = directory / f"search-{self.key}"
        self.others = any(path != self.directory for path in directory.glob("search-*"))

    def load(self, piece: str, *, device: torch.device) -> dict[str, Tensor] | None:
        """Return a piece, or ``None`` where it is absent or damaged, so that it is computed again."""
        part = load_part(self.directory / f"{piece}.safetensors", key=f"{self.key} {piece}")
        return None if part is None else {name: values.to(device) for name, values in part.tensors.items()}

    def save(self, piece: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a piece; it is there whole or not at all."""
        save_part(self.directory / f"{piece}.safetensors", Part(tensors), key=f"{self.key} {piece}")


def _problem_hash(problem: InversionProblem) -> str:
    template = problem.template.tensors
    if problem.frozen is None:
        del template["positions"]
    given = {name: getattr(problem, name) for name in ("target", "weights", "frozen")}
    tensors = {**template, **{name: values for name, values in given.items() if values is not None}}
    settings = (
        *(problem.representation.fingerprint, problem.loss, problem.free_cell),
        *(problem.min_distance, problem.space_group, problem.names),
    )
    return tensors_hash(tensors, repr(settings))
