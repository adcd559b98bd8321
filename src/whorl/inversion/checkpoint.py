"""Finished pieces of a search on disk, so that a killed one loses only the piece it was at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from whorl.files import atomic_path, stable_hash
from whorl.inversion.problem import InversionProblem


class Checkpoint:
    """A folder of ``.safetensors`` files, one a piece.

    The pieces of a search lie in a folder named by a hash of its problem and settings, so those of another
    search are never taken for its own, and are not lost either.

    Attributes:
        others: Whether the folder also holds pieces of other searches.
    """

    def __init__(self, directory: Path, *, problem: InversionProblem, settings: Mapping[str, Any]) -> None:
        key = stable_hash({"problem": _problem_hash(problem), "settings": dict(settings)})
        self.directory = directory / f"search-{key}"
        self.others = any(path != self.directory for path in directory.glob("search-*"))

    def load(self, piece: str, *, device: torch.device) -> dict[str, Tensor] | None:
        """Return a piece, or ``None`` where it is absent or damaged, so that it is computed again."""
        try:
            return load_file(self.directory / f"{piece}.safetensors", device=str(device))
        except (FileNotFoundError, SafetensorError):
            return None

    def save(self, piece: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a piece; it is there whole or not at all."""
        with atomic_path(self.directory / f"{piece}.safetensors") as temporary:
            # Clones, since safetensors refuses tensors that share memory, such as views of one structure.
            own = {
                name: tensor.detach().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
            save_file(own, temporary)


def _problem_hash(problem: InversionProblem) -> str:
    digest = hashlib.sha256(f"{problem.representation.fingerprint} {problem.loss}".encode())
    template = problem.template
    tensors = (
        template.cells,
        template.pbc,
        template.atomic_numbers,
        template.structure_index,
        problem.target,
    )
    given = [tensor for tensor in (problem.weights, problem.frozen) if tensor is not None]
    if problem.frozen is not None:
        given.append(template.positions)
    digest.update(f"{problem.free_cell} {problem.separation}".encode())
    for tensor in (*tensors, *given):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
