from pathlib import Path

import pytest

from whorl.errors import InputError
from whorl.workflow.engine import keys
from whorl.workflow.recipe import read_recipe
from whorl.workflow.stages import steps_of

RECIPE = """
data:
  clusters: {element: Pt, atoms: 4, count: 30, calculator: emt}
generate: {targets: [1.0]}
"""


def recipe(folder: Path, *changes: str):
    path = folder / "r.yaml"
    path.write_text(RECIPE)
    return read_recipe(path, changes=changes)


@pytest.mark.parametrize("value", ["processes", "tcp://127.0.0.1:8786", "{kind: dask, workers: 2}"])
def test_no_step_depends_on_the_executor(tmp_path, value):
    plain, other = recipe(tmp_path), recipe(tmp_path, f"executor={value}")
    assert plain.executor is None and other.executor is not None
    assert keys(steps_of(plain, tmp_path)) == keys(steps_of(other, tmp_path))
    assert plain.decisive() == other.decisive()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("proceses", r"executor: unknown executor 'proceses'\. Did you mean 'processes'\?"),
        ("{kind: serial, workers: 2}", r"unknown key 'executor.workers'"),
        ("{kind: processes, workers: 0}", r"executor.workers: got 0, expected 1 or more"),
        ("{kind: dask, scheduler: nonsense}", r"expected an address such as tcp://"),
    ],
)
def test_a_wrong_executor_is_said(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, f"executor={value}")
