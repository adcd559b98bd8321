"""What is said before features are computed, and what is refused."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from whorl import memory
from whorl.datasets import Dataset, load_features, save_dataset
from whorl.datasets.describe import summary
from whorl.errors import InputError
from whorl.structures import from_ase
from whorl.workflow.monitor import Monitor
from whorl.workflow.settings import RepresentationSettings
from whorl.workflow.stages.encode import _pieces, encode


class Heard(Monitor):
    def __init__(self):
        super().__init__()
        self.notes, self.steps = [], []

    def note(self, message):
        self.notes.append(message)

    def progress(self, what):
        return lambda done, total, message="": self.steps.append((what, done, total))


def stored(folder, structures):
    data = Dataset(
        structures=from_ase(structures),
        properties={"heat": torch.linspace(-0.32, 4.68, len(structures), dtype=torch.float64)},
        ids=tuple(f"s{i}" for i in range(len(structures))),
    )
    save_dataset(data, folder / "d.safetensors")
    return data


def encoded(folder, **settings):
    heard = Heard()
    output = folder / "f.safetensors"
    encode(
        folder / "d.safetensors",
        settings=RepresentationSettings.of_kind(settings).model_validate(settings),
        output=output,
        monitor=heard,
    )
    return load_features(output), heard


CRYSTALS = [bulk("NaCl", "rocksalt", a=5.6), bulk("Cu", "fcc", a=3.6, cubic=True), bulk("Fe")]


def test_room_for_atoms_is_that_of_the_largest_crystal(tmp_path):
    stored(tmp_path, CRYSTALS)
    made, heard = encoded(tmp_path, kind="crystens")
    assert made.features.shape == (3, 16, 16, 4)
    assert made.representation["max_atoms"] == 4
    assert heard.notes[0] == "CrysTens with max_atoms = 4, that of the largest structure"
    given, heard = encoded(tmp_path, kind="crystens", max_atoms=6)
    assert given.features.shape == (3, 18, 18, 4) and not any("max_atoms" in note for note in heard.notes)


def test_room_counts_the_atoms_of_the_cell_that_is_encoded(tmp_path):
    stored(tmp_path, [bulk("NaCl", "rocksalt", a=5.6), Atoms("H9", [[i, 0.0, 0.0] for i in range(9)])])
    made, heard = encoded(tmp_path, kind="crystens", cell="conventional")
    assert made.representation["max_atoms"] == 8
    assert len(heard.skipped) == 1  # the molecule, whose nine atoms do not count


def test_number_and_memory_are_said_before_and_the_outcome_after(tmp_path):
    stored(tmp_path, [Atoms("Pt2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * i]]) for i in range(4)])
    _, heard = encoded(tmp_path)
    assert heard.notes == [
        "380 features for each of 4 structures: 12 kB",
        "4 rows of 380 features, heat -0.32 … 4.68",
    ]
    assert heard.steps[0] == ("encoding", 0, 4) and heard.steps[-1] == ("encoding", 4, 4)


def test_features_beyond_the_memory_are_refused_before_they_are_computed(tmp_path, monkeypatch):
    stored(tmp_path, [Atoms("PtAu", [[0, 0, 0], [0, 0, 2.5]])] * 10)
    monkeypatch.setattr(memory, "memory_limit", lambda: 100_000)
    with pytest.raises(
        InputError, match=r"860 features .*10 structures.*2 elements.*137 kB.*100 kB.*embedding"
    ):
        encoded(tmp_path)
    assert not (tmp_path / "f.safetensors").exists()


def test_long_work_is_cut_into_pieces_by_its_cost_in_order():
    seconds = torch.tensor([4.0, 4.0, 4.0, 30.0, 1.0, 1.0])
    assert _pieces(seconds) == [[0, 1], [2], [3], [4, 5]]
    assert [len(piece) for piece in _pieces(torch.zeros(2500))] == [1000, 1000, 500]


def test_a_data_set_in_one_line(tmp_path):
    assert (
        summary(stored(tmp_path, CRYSTALS))
        == "3 structures, 4 elements, 1 to 4 atoms each, heat -0.32 … 4.68"
    )
    one = stored(tmp_path, [bulk("Cu")])
    assert summary(one) == "1 structure, 1 element, 1 atom each, heat -0.32 … -0.32"


CLUSTERS = [Atoms(f"Pt{n}", [[2.6 * i, 0.3 * i * i, 0] for i in range(n)]) for n in (3, 4, 5)]


@pytest.mark.parametrize(
    ("settings", "doubted"),
    [
        ({"kind": "acsf", "preset": "crystal"}, False),
        ({"kind": "acsf", "preset": "fung2022"}, False),
        ({"kind": "soap", "pooling": ["mean", "std"]}, False),
        ({"kind": "soap", "pooling": ["sum"]}, True),
        ({"kind": "mbtr", "normalization": "n_atoms"}, False),
        ({"kind": "mbtr", "normalization": "none"}, True),
        ({"kind": "rows"}, False),  # gives the number of atoms back
    ],
)
def test_features_that_grow_with_the_cluster_are_doubted_where_sizes_differ(tmp_path, settings, doubted):
    stored(tmp_path, CLUSTERS)
    _, heard = encoded(tmp_path, **settings)
    assert bool(heard.warnings) == doubted
    assert all("have 3 to 5 atoms" in text and "mean and std" in text for text in heard.warnings)
    stored(tmp_path, CLUSTERS[:1] * 2)
    assert not encoded(tmp_path, **settings)[1].warnings
