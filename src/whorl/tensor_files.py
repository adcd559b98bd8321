"""Tensor files: safetensors with a header and a checksum.

A file holds named tensors, and in its header one JSON object with the SHA-256 of all of it. It is whole or
absent, can be read without whorl, and runs no code when it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whorl.errors import InputError, shortened
from whorl.files import atomic_path

_CHECKSUM = "sha256"
_REMEDY = "Where whorl wrote it, run the command that made it again."


def tensors_hash(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of named tensors (types, shapes and every byte) and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {values.dtype} {tuple(values.shape)}\n".encode())
        if values.numel():  # an empty tensor may have strides that cannot be viewed
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, entry: str = "whorl"
) -> None:
    """Write tensors and a JSON-able header to one ``.safetensors`` file, atomically.

    Args:
        path: Where to.
        tensors: Of any shape and type; they may share memory.
        header: What else there is to know.
        entry: Name of the header in the file's metadata.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    own: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, values in tensors.items():
        values = values.detach().cpu().contiguous()
        memory = values.untyped_storage()
        # safetensors refuses tensors that share memory; large ones are not copied without need.
        if memory.data_ptr() in written or memory.nbytes() != values.nbytes:
            values = values.clone()
        own[name] = values
        written.add(values.untyped_storage().data_ptr())
    text = json.dumps(header, default=str)
    sealed = json.dumps({**json.loads(text), _CHECKSUM: tensors_hash(own, text)})
    with atomic_path(path) as temporary:
        # One entry, since safetensors writes several in no fixed order and equal contents shall make equal
        # files.
        save_file(own, temporary, metadata={entry: sealed})


def read_tensors(
    path: Path | str,
    *,
    entry: str | tuple[str, ...] = "whorl",
    expected: str = "a file that whorl wrote",
    remedy: str = _REMEDY,
    sealed: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote; on the CPU.

    Args:
        path: The file.
        entry: Name of the header in the file's metadata; several for names of earlier
            versions.
        expected: What the file should be, for messages.
        remedy: What to do where it is not.
        sealed: Refuse a file without a checksum; otherwise one of an older whorl is taken as it is.

    Returns:
        The tensors by name, and the header.

    Raises:
        InputError: The file is absent, damaged, changed since it was written, or of another program.
    """
    tensors, metadata = read_safetensors(path, expected=expected, remedy=remedy)
    entries = (entry,) if isinstance(entry, str) else entry
    text = next((metadata[name] for name in entries if name in metadata), None)
    if text is None:
        ours = any(name.startswith("whorl") for name in metadata)
        holds = "other results of whorl" if ours else "what whorl did not write"
        raise InputError(f"{path}: holds {holds}, expected {expected}. {remedy}")
    try:
        header = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        reason = shortened(error, 200)
        raise InputError(f"{path}: damaged, its header is no JSON object ({reason}). {remedy}") from None
    checksum = header.pop(_CHECKSUM, None)
    if (sealed or checksum is not None) and checksum != tensors_hash(tensors, json.dumps(header)):
        raise InputError(f"{path}: damaged, or changed since it was written: its checksum differs. {remedy}")
    return tensors, header


def read_safetensors(
    path: Path | str, *, expected: str = "a file of tensors", remedy: str = _REMEDY
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of any ``.safetensors`` file; on the CPU.

    Raises:
        InputError: The file is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file (looked for it from {Path.cwd()}).")
    if not path.is_file():
        raise InputError(f"{path}: is a folder, expected {expected}.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        reason = shortened(error, 200)
        raise InputError(f"{path}: damaged, or not a safetensors file ({reason}). {remedy}") from None
