"""Checkpoints of a search: finished chunks on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from whorl.chunked import Part, iterate_chunks
from whorl.executors.base import Executor
from whorl.files import stable_hash
from whorl.reconstruction.objective import InversionProblem
from whorl.tensor_files import tensors_hash
from whorl.version import __version__


class Checkpoint:
    """A folder of ``.safetensors`` files, one per chunk, or none.

    The chunks of a search lie in a folder named by a hash of its problem and settings, so those of another
    search are never taken for its own, and are not lost either. Each carries that hash and a checksum.

    Attributes:
        others: Whether the folder also holds chunks of other searches.
    """

    def __init__(
        self, directory: Path | str | None, *, problem: InversionProblem, settings: Mapping[str, Any]
    ) -> None:
        self._device = problem.target.device
        self.key = self.folder = None
        self.others = False
        if directory is not None:
            self.key = stable_hash({"problem": _problem_hash(problem), "settings": dict(settings)})
            self.folder = Path(directory) / f"search-{self.key}"
            self.others = any(path != self.folder for path in Path(directory).glob("search-*"))

    def chunks(
        self,
        function: Callable[[Any], Part],
        items: Iterable[Any],
        *,
        name: str,
        executor: Executor | None = None,
        finished: Callable[[int, Part], None] | None = None,
    ) -> list[Part]:
        """Return the result of each chunk; those on disk are read.

        See :func:`whorl.chunked.iterate_chunks`; file names begin with ``name``.
        """
        parts = iterate_chunks(
            function,
            items,
            folder=self.folder,
            key=[__version__, self.key, name],
            name=name + "-{:06d}.safetensors",
            executor=executor,
            finished=finished,
        )
        return [
            Part({name: values.to(self._device) for name, values in part.tensors.items()}, part.notes)
            for part in parts
        ]


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
