"""Stages ``invert`` and ``decode``: structures from generated features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from whorl.workflow.atoms import invert
from whorl.workflow.crystals import decode
from whorl.workflow.engine import Step
from whorl.workflow.run_folder import RunFolder


def steps(run: RunFolder) -> Iterator[Step]:
    """Yield the steps of each training size."""
    recipe = run.recipe
    given = recipe.data.features
    for label in run.labels:
        if (decoding := recipe.decode) is not None:
            yield Step(
                name=f"decode/{label}",
                settings=decoding.model_dump(mode="json"),
                run=partial(
                    decode,
                    run.generated(label),
                    settings=decoding,
                    output=run.decoded(label),
                    seed=recipe.seed,
                ),
                needs=(f"generate/{label}",),
            )
        if (settings := recipe.invert) is not None:
            structures = run.inverted(label)
            yield Step(
                name=f"invert/{label}",
                settings={"seed": recipe.seed, **settings.model_dump(mode="json")},
                run=partial(
                    invert,
                    run.generated(label),
                    settings=settings,
                    output=structures,
                    seed=recipe.seed,
                    features=run.features,
                    rows=run.rows(label),
                    dataset=run.structures_of_features,
                    composition=given.composition if given else None,
                ),
                needs=("encode", f"sampling/{label}", f"generate/{label}", *(() if given else ("data",))),
                scratch=(f"{structures.stem}-search",),
                # 1 judged by what Algorithm 1 left of real structures; 2 found less; 3 placed what was not
                # requested; random numbers of 4 followed from the last digit of a target
                version=5,
            )
