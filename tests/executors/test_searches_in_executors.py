"""Searches for atoms by workers: the same results, one resume, and nothing lost with a worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from whorl.axes import EXECUTORS
from whorl.errors import InputError
from whorl.executors import ExecutorSettings, executing
from whorl.reconstruction import InversionProblem, InversionStatus, PopulationSettings, algorithm1, solve
from whorl.reconstruction.solvers.settings import SolverSettings
from whorl.representations import ACSF
from whorl.structures import from_ase

FORMULAS = ("CH4", "C2H2", "C2H4", "H2")
SMALL = PopulationSettings(candidates=10, first=4)


def problem(**options):
    structures = from_ase([molecule(name) for name in FORMULAS])
    acsf = ACSF.fung2022(["C", "H"])
    hidden = structures.replace(positions=torch.zeros_like(structures.positions), info=())
    with torch.no_grad():
        return InversionProblem(representation=acsf, target=acsf(structures), template=hidden, **options)


def population(**options):
    return solve(problem(), budget_evaluations=80, population=SMALL, **options)


def steepest(**options):
    return algorithm1(problem(), starts=2, hops=2, iterations=4, polish=6, batch_size=2, **options)


SEARCHES = {"population": population, "algorithm1": steepest}
PIECES = {"population": 4, "algorithm1": 6}  # targets; four batches of starts and two of polish


def same(first, second):
    assert first.status == second.status
    for name in ("loss", "evaluations", "restarts", "agreeing", "infeasibility", "start_losses"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None and other is None) or torch.equal(one, other), name
    assert torch.equal(first.structures.positions, second.structures.positions)
    for one, other in zip(first.solutions, second.solutions, strict=True):
        assert torch.equal(one.positions, other.positions) and torch.equal(one.cells, other.cells)


@pytest.fixture(scope="module")
def expected():
    return {name: search() for name, search in SEARCHES.items()}


@pytest.fixture(scope="module", params=[kind for kind in EXECUTORS if kind != "serial"])
def workers(request):
    if request.param == "dask":
        pytest.importorskip("distributed", reason="without the extra dask")
    with executing(ExecutorSettings.model_validate({"kind": request.param, "workers": 2})) as executor:
        yield executor


@pytest.mark.parametrize("name", SEARCHES)
def test_every_executor_finds_the_same(workers, expected, name):
    seen = []
    same(SEARCHES[name](progress=lambda *words: seen.append(words)), expected[name])
    done = [words[0] for words in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1]
    if name == "population":
        solved = expected[name].status.count(InversionStatus.CONVERGED)
        assert seen[-1][2] == f"{solved} solved, 0 running, {4 - solved} given up"


@pytest.mark.parametrize("name", SEARCHES)
def test_what_one_executor_began_another_finishes(workers, expected, name, tmp_path):
    pieces = []

    def stop(*_):
        pieces[:] = tmp_path.rglob("*.safetensors")
        if len(pieces) >= 2:
            raise KeyboardInterrupt

    with executing(ExecutorSettings.model_validate("serial")), pytest.raises(KeyboardInterrupt):
        SEARCHES[name](checkpoint=tmp_path, progress=stop)
    before = {path: path.stat().st_mtime_ns for path in pieces}
    same(SEARCHES[name](checkpoint=tmp_path), expected[name])
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert len(list(tmp_path.rglob("*.safetensors"))) == PIECES[name]


def test_solvers_and_starts_travel(workers):
    if workers.kind != "processes":
        pytest.skip("once is enough")
    options = {
        "solver": SolverSettings.model_validate("lbfgs"),
        "starts": [molecule("CH4"), *[None] * 3],
        "budget_evaluations": 60,
        "population": SMALL,
    }
    by_workers = solve(problem(), **options)
    with executing(ExecutorSettings.model_validate("serial")):
        same(by_workers, solve(problem(), **options))
    assert by_workers.status[0] is InversionStatus.CONVERGED


def test_time_is_shared_by_all_targets_whatever_the_executor(workers):
    result = solve(problem(), budget_seconds=1e-3, population=SMALL)
    assert len(result) == 4 and bool(result.loss.isfinite().all())


def test_refusals_are_kept_with_the_other_pieces(tmp_path):
    rock_salt = Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4, 4, 4], pbc=True)
    acsf, structures = ACSF.crystal(["Na", "Cl"], cutoff=4.0), from_ase([rock_salt])
    with torch.no_grad():
        impossible = InversionProblem(
            representation=acsf,
            target=acsf(structures),
            template=structures.replace(info=()),
            space_group=227,
        )
    for _ in range(2):
        with pytest.raises(InputError, match="space group"):
            solve(impossible, budget_evaluations=10, population=SMALL, checkpoint=tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_searches_in_executors import SEARCHES
from whorl.executors import ExecutorSettings, executing

if __name__ == "__main__":
    name, kind, folder = sys.argv[1:]
    with executing(ExecutorSettings.model_validate({{"kind": kind, "workers": 2}})):
        SEARCHES[name](checkpoint=folder, progress=lambda done, *_: done and print(done, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", SEARCHES)
def test_killed_in_the_middle_it_goes_on(expected, tmp_path, name):
    script, folder = tmp_path / "script.py", tmp_path / "pieces"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script), name, "processes", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline()  # a piece is finished
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    there = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert there
    same(SEARCHES[name](checkpoint=folder), expected[name])
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())


def test_a_dask_worker_is_killed_in_the_middle_of_a_search(expected):
    distributed = pytest.importorskip("distributed", reason="without the extra dask")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]
        killed = []

        def progress(done, total, message):
            if done == 2 and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(message)

        with executing(ExecutorSettings.model_validate(cluster.scheduler_address)):
            same(population(progress=progress), expected["population"])
    assert killed
