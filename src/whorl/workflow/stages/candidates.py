"""Stage ``candidates``: ranked structures as a table and files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from whorl.evaluation.candidates import rank_candidates
from whorl.files import provenance
from whorl.workflow.candidates import write_candidates
from whorl.workflow.engine import Step
from whorl.workflow.monitor import Monitor
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages.evaluate import evaluated_of


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the one step, where structures are reconstructed."""
    if run.recipe.reconstruct is not None:
        yield Step(name="candidates", settings=None, run=partial(_write, run), needs=("evaluate",))


def _write(run: RunFolder, monitor: Monitor) -> None:
    evaluated = evaluated_of(run)
    write_candidates(
        rank_candidates(evaluated),
        evaluated,
        run.candidates.parent,
        provenance=provenance(seed=run.recipe.seed, settings=run.recipe.decisive()),
    )
