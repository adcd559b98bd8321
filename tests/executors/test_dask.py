import os
import signal
import socket
import threading
import time
from functools import partial

import pytest
import torch
import work
from work import CHUNKS

from whorl.chunked import map_chunks
from whorl.errors import InputError
from whorl.executors import Dask, ExecutorSettings, Serial, executing
from whorl.executors.base import WorkerError

distributed = pytest.importorskip("distributed", reason="without the extra dask")


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def test_a_scheduler_that_does_not_answer_is_said_within_seconds():
    settings = ExecutorSettings.model_validate(
        {"kind": "dask", "scheduler": f"tcp://127.0.0.1:{free_port()}", "timeout": 1}
    )
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"no answer from the scheduler tcp://127\.0\.0\.1:\d+ within 1 s"):
        executing(settings).__enter__()
    assert time.monotonic() - begun < 60  # not a measurement: a hang would be minutes


@pytest.mark.parametrize("address", ["10.0.0.5:8786", "nonsense"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match=r"expected an address such as tcp://"):
        Dask(scheduler=address)


def test_a_protocol_that_dask_does_not_know_is_said():
    with pytest.raises(InputError, match="no answer from the scheduler http://127"):
        Dask(scheduler="http://127.0.0.1:1", timeout=1).__enter__()


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def test_one_of_two_workers_is_killed_in_the_middle_and_all_results_are_there(cluster, tmp_path):
    pids = [worker.pid for worker in cluster.workers.values()]
    assert len(pids) == 2
    seen = []

    def progress(done, total):
        seen.append(done)
        if len(seen) == 2:
            os.kill(pids[0], signal.SIGKILL)

    with Dask(scheduler=cluster.scheduler_address) as executor:
        function = partial(work.slow_sums, 0.2)
        parts = map_chunks(
            function, CHUNKS, folder=tmp_path / "dask", key="k", executor=executor, progress=progress
        )
    expected = map_chunks(work.sums, CHUNKS, folder=tmp_path / "serial", key="k", executor=Serial())
    assert seen[-1] == 20 and len(parts) == len(expected)
    for part, other in zip(parts, expected, strict=True):
        assert torch.equal(part.tensors["sum"], other.tensors["sum"]) and part.notes == other.notes


def test_a_cluster_without_workers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("whorl.executors.dask._LOOK_EVERY", 0.5)
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        executor = Dask(scheduler=cluster.scheduler_address, patience=1)
        with pytest.raises(WorkerError, match=r"no worker for 1 s\. Start some with 'dask worker tcp://"):
            map_chunks(work.sums, CHUNKS, folder=tmp_path, key="k", executor=executor)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("whorl-chunk")]
