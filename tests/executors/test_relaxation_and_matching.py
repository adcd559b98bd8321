"""Relaxation and matching of crystals on the workers of a Dask scheduler, given by its address."""

import pytest
import torch
from ase.build import bulk

from whorl.evaluation.duplicates import distinct, first_known
from whorl.executors import ExecutorSettings, executing
from whorl.potentials import make_potential, relax_chunks
from whorl.structures import from_ase

distributed = pytest.importorskip("distributed", reason="without the extra dask")


def test_workers_of_a_scheduler_give_the_bits_of_one_process(tmp_path):
    crystals = from_ase([bulk("Cu", a=3.4 + 0.05 * k, cubic=k % 2 == 0) for k in range(5)] + [bulk("Pt")] * 2)
    potential = make_potential("emt")

    def results(folder):
        relaxed = relax_chunks(crystals, potential, folder=folder, structures_at_once=2)
        return relaxed, distinct(relaxed.structures), first_known(relaxed.structures, crystals[[6, 0]])

    relaxed, groups, known = results(None)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        executing(ExecutorSettings.model_validate(cluster.scheduler_address)),
    ):
        there, there_groups, there_known = results(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert torch.equal(there.structures.positions, relaxed.structures.positions)
    assert torch.equal(there.structures.cells, relaxed.structures.cells)
    assert torch.equal(there.energy, relaxed.energy) and there.status == relaxed.status
    assert there_groups == groups == [[0, 1, 2, 3, 4], [5, 6]]
    assert there_known.tolist() == known.tolist() == [1, 1, 1, 1, 1, 0, 0]
