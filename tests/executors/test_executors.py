import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import work
from work import CHUNKS

from whorl.axes import EXECUTORS
from whorl.chunked import iterate_chunks, map_chunks
from whorl.errors import InputError, WhorlError
from whorl.executors import ExecutorSettings, Processes, Serial, Threads, current_executor, executing
from whorl.executors.base import WorkerError

KINDS = [kind for kind in EXECUTORS if kind != "serial"]


@pytest.fixture(scope="module", params=KINDS)
def executor(request):
    if request.param == "dask":
        pytest.importorskip("distributed", reason="without the extra dask")
        import dask

        dask.config.set({"distributed.scheduler.allowed-failures": 1})  # the default of 3 takes long
    with EXECUTORS.get(request.param)(workers=2) as executor:
        yield executor


@pytest.fixture
def with_processes(executor):
    if executor.kind == "threads":
        pytest.skip("a thread cannot be killed")
    return executor


def results(function, folder, executor, chunks=CHUNKS, **options):
    parts = map_chunks(function, chunks, folder=folder, key="k", executor=executor, **options)
    return [(dict(part.tensors), part.notes) for part in parts]


def equal(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and said == also
        for (a, said), (b, also) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("function", [work.sums, work.many_operations])
def test_results_are_those_of_serial_work_and_stand_in_order(executor, tmp_path, function):
    expected = results(function, tmp_path / "serial", Serial())
    assert equal(results(function, tmp_path / "other", executor), expected)
    names = [path.name for path in sorted((tmp_path / "serial").iterdir())]
    for name in names:
        assert (tmp_path / "serial" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_serial_results_do_not_depend_on_threads(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(work.many_operations, tmp_path / "1", Serial())
        torch.set_num_threads(4)
        four = results(work.many_operations, tmp_path / "4", Serial())
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert equal(one, four)


def test_each_worker_has_one_thread(executor, tmp_path):
    before = torch.get_num_threads()
    assert all(int(t["threads"]) == 1 for t, _ in results(work.threads, tmp_path, executor))
    assert torch.get_num_threads() == before


def test_work_begun_by_one_executor_is_finished_by_another(executor, tmp_path):
    parts = iterate_chunks(work.sums, CHUNKS, folder=tmp_path, key="k", executor=executor)
    first = [next(parts) for _ in range(3)]
    parts.close()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert 3 <= len(there) < len(CHUNKS)
    parts = list(iterate_chunks(work.sums, CHUNKS, folder=tmp_path, key="k", executor=Serial()))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())
    assert all(torch.equal(a.tensors["sum"], b.tensors["sum"]) for a, b in zip(first, parts, strict=False))
    assert len(parts) == len(CHUNKS)


def test_progress_counts_every_row_once(executor, tmp_path):
    seen = []
    results(work.sums, tmp_path, executor, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(2, 21, 2)) and {total for _, total in seen} == {20}


def test_errors_of_the_function_come_back_as_they_are(executor, tmp_path):
    with pytest.raises(InputError) as caught:
        results(work.refuse, tmp_path, executor)
    assert str(caught.value) == "row 3: no atoms."
    with pytest.raises(WhorlError, match="AwkwardError: one and two"):
        results(work.fail_awkwardly, tmp_path, executor)
    assert len(results(work.sums, tmp_path, executor)) == len(CHUNKS)


def test_a_function_that_cannot_be_sent_is_refused(executor, tmp_path):
    with pytest.raises(InputError, match=r"cannot be sent to a worker.*top level of a module"):
        results(lambda chunk: work.sums(chunk), tmp_path, executor)


def test_a_worker_that_is_killed_costs_nothing_but_time(with_processes, tmp_path):
    (tmp_path / "marks").mkdir()
    function = partial(work.die_once, str(tmp_path / "marks"))
    expected = results(work.sums, tmp_path / "serial", Serial())
    assert equal(results(function, tmp_path / "other", with_processes), expected)
    assert (tmp_path / "marks" / "died").exists()


def test_a_chunk_that_kills_every_worker_is_named(with_processes, tmp_path):
    with pytest.raises(WorkerError, match=r"chunk 2: .* ended abruptly.*Finished chunks are kept"):
        results(work.die, tmp_path, with_processes)
    assert len(results(work.sums, tmp_path, with_processes)) == len(CHUNKS)


def test_nothing_is_started_where_everything_is_there(tmp_path):
    expected = results(work.sums, tmp_path, Serial())

    class Never(Serial):
        def _session(self, function):
            raise AssertionError("a session was begun")

    assert equal(results(work.sums, tmp_path, Never()), expected)


def test_endless_chunks_are_done_a_few_ahead(executor, tmp_path):
    import itertools

    endless = iterate_chunks(
        work.sums, (chunk + n for n in itertools.count() for chunk in CHUNKS), folder=tmp_path, key="k",
        executor=executor,
    )  # fmt: skip
    taken = list(itertools.islice(endless, 25))
    endless.close()
    assert len(taken) == 25 and 25 <= len(list(tmp_path.iterdir())) < 40


def test_the_executor_of_a_context_is_taken(tmp_path):
    assert current_executor() is None
    settings = ExecutorSettings.model_validate("threads")
    with executing(settings) as executor:
        assert isinstance(executor, Threads) and current_executor() is executor
        with executing(None):
            assert current_executor() is executor
    assert current_executor() is None


def test_settings_are_a_name_an_address_or_a_section():
    read = ExecutorSettings.model_validate
    assert read("processes").model_dump() == {"kind": "processes", "workers": None}
    assert read({"kind": "processes", "workers": 3}).options() == {"workers": 3}
    assert read("tcp://10.0.0.5:8786").options()["scheduler"] == "tcp://10.0.0.5:8786"
    with pytest.raises(ValueError, match=r"unknown executor 'proceses'\. Did you mean 'processes'\?"):
        read("proceses")
    with pytest.raises(InputError, match=r"workers: got 0, expected 1 or more"):
        Processes(workers=0)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from functools import partial
from pathlib import Path
import work
from whorl.chunked import map_chunks
from whorl.axes import EXECUTORS

if __name__ == "__main__":
    map_chunks(partial(work.slow_sums, 0.5), work.CHUNKS, folder=Path(sys.argv[1]), key="k",
               executor=EXECUTORS.get(sys.argv[2])(workers=2), progress=lambda *done: print(done, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("kind", KINDS)
def test_an_end_in_the_middle_leaves_parts_and_no_processes(tmp_path, kind, number):
    if kind == "dask":
        pytest.importorskip("distributed", reason="without the extra dask")
    script, folder = tmp_path / "script.py", tmp_path / "parts"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.communicate(timeout=120)
    for _ in range(150):
        if not group_lives(process.pid):
            break
        time.sleep(0.1)
    assert not group_lives(process.pid)
    there = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert 1 <= len(there) < len(CHUNKS)
    expected = results(work.sums, tmp_path / "serial", Serial())
    assert equal(results(work.sums, folder, Serial()), expected)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_loop_on_chunks_gives_the_same_files_whatever_the_executor(tmp_path):
    from ase.build import molecule

    from whorl.datasets import Dataset, save_dataset
    from whorl.evaluation import EvaluationContext, Reference, Samples
    from whorl.evaluation.evaluators.energy import EnergyEvaluator
    from whorl.files import write_json
    from whorl.representations import RepresentationSettings
    from whorl.structures import from_ase
    from whorl.workflow.monitor import Monitor
    from whorl.workflow.stages.encode import encode

    atoms = [molecule(name) for name in ("CH4", "C2H2", "C2H6", "H2O")] * 10
    structures = from_ase(atoms)
    save_dataset(
        Dataset(structures=structures, ids=tuple(map(str, range(len(atoms))))), tmp_path / "data.safetensors"
    )

    evaluator = EnergyEvaluator(EnergyEvaluator.Settings.model_validate({"calculator": "emt"}))
    zeros, every = torch.zeros(len(atoms), dtype=torch.float64), torch.arange(len(atoms))
    names = tuple(map(str, every.tolist()))
    samples = Samples(ids=names, targets=zeros, structures=structures, rows=every)
    reference = Reference(name="y", unit="", properties=zeros, features=zeros[:, None], training_rows=every)

    def outputs(kind):
        folder = tmp_path / kind
        with executing(ExecutorSettings.model_validate(kind)):
            encode(
                tmp_path / "data.safetensors",
                settings=RepresentationSettings.model_validate({}),
                output=folder / "features.safetensors",
                monitor=Monitor(),
            )
            context = EvaluationContext(tolerance=0.1, directory=folder / "parts")
            metrics = evaluator.evaluate(samples, reference, context)
            write_json(folder / "energies.json", metrics.to_dict())
        return [(folder / name).read_bytes() for name in ("features.safetensors", "energies.json")]

    expected = outputs("serial")
    assert outputs("threads") == expected
    assert outputs("processes") == expected
