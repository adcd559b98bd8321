from collections import Counter

import pytest
import torch

from whorl.datasets.prototypes import _can_be_neutral, _library, build_crystals
from whorl.errors import InputError, MissingExtraError
from whorl.evaluation.validity import check_validity
from whorl.potentials import PotentialOutput
from whorl.structures import StructureBatch
from whorl.structures.convert import to_pymatgen
from whorl.symmetry.detection import space_group_numbers
from whorl.tensor_files import read_tensors

pytest.importorskip("smact")


class Springs:
    """Pulls atoms to where they were at first sight of the batch: a potential with a known answer."""

    name = "springs"

    def __call__(self, structures: StructureBatch) -> PotentialOutput:
        shift = structures.positions - structures.positions.round()
        squares = torch.zeros(len(structures), dtype=structures.dtype)
        squares = squares.scatter_reduce(0, structures.structure_index, shift.square().sum(1), "sum")
        heavy = [b for b in range(len(structures)) if (structures[[b]].atomic_numbers == 92).any()]
        energy = 0.5 * squares
        energy[heavy] = torch.nan
        return PotentialOutput(
            energy=energy, forces=-shift, failures=dict.fromkeys(heavy, "uranium is not for springs")
        )


def build(directory, **changes):
    arguments = {"count": 40, "directory": directory, "seed": 5, "processes": 1, "draws_per_chunk": 16}
    return build_crystals(**{**arguments, **changes})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("crystals")
    return directory, build(directory)


def same(a, b):
    return (
        a.ids == b.ids
        and torch.equal(a.structures.positions, b.structures.positions)
        and torch.equal(a.structures.cells, b.structures.cells)
        and a.structures.info == b.structures.info
    )


def test_the_library_is_all_there():
    sizes = [len(prototype.crystal) for prototype in _library()]
    assert len(sizes) == 288 and sum(size <= 52 for size in sizes) == 282


def test_crystals_are_valid_and_neutral_and_know_what_they_are(built):
    _, dataset = built
    assert len(dataset) == len(set(dataset.ids)) == 40
    validity = check_validity(dataset.structures, shortest=0.6, smallest_volume=1.0)
    assert bool(validity.structurally_valid.all()) and bool(validity.charge_neutral.all())
    groups = space_group_numbers(dataset.structures).tolist()
    labels = {prototype.label for prototype in _library()}
    for info, crystal, group in zip(
        dataset.structures.info, to_pymatgen(dataset.structures), groups, strict=True
    ):
        assert info["prototype"] in labels
        assert info["elements"] == sorted(crystal.composition.get_el_amt_dict())
        assert info["space_group_number"] == group
    assert int(dataset.structures.n_atoms.max()) <= 52
    labelled = [int(info["prototype"].split("_")[2]) for info in dataset.structures.info]
    kept = sum(label == group for label, group in zip(labelled, groups, strict=True))
    assert kept >= 30  # a few entries of the library have a symmetry other than their label's


def test_no_two_are_the_same(built):
    from pymatgen.analysis.structure_matcher import StructureMatcher

    _, dataset = built
    assert len(StructureMatcher().group_structures(to_pymatgen(dataset.structures))) == len(dataset)


def test_the_seed_decides_and_a_larger_set_begins_with_a_smaller_one(built, tmp_path):
    directory, dataset = built
    assert same(dataset, build(tmp_path))
    assert not same(dataset, build(tmp_path, seed=6))
    larger = build(directory, count=50)
    assert larger.ids[:40] == dataset.ids


def test_finished_chunks_are_kept_and_damaged_ones_made_again(built):
    directory, dataset = built
    chunks = sorted(directory.glob("prototypes-*/chunk-*.safetensors"))
    times = [chunk.stat().st_mtime_ns for chunk in chunks]
    chunks[1].write_bytes(b"half a chu")
    assert same(dataset, build(directory))
    assert [chunk.stat().st_mtime_ns == t for chunk, t in zip(chunks, times, strict=True)] == [
        True,
        False,
        *[True] * (len(chunks) - 2),
    ]
    read_tensors(chunks[1], sealed=True)


def test_only_the_elements_and_sizes_asked_for(tmp_path):
    said = []
    dataset = build(
        tmp_path,
        count=10,
        elements=["Li", "Fe", "O", "F"],
        max_atoms=12,
        progress=lambda done, total: said.append((done, total)),
    )
    assert set(dataset.structures.atomic_numbers.tolist()) <= {3, 26, 8, 9}
    assert int(dataset.structures.n_atoms.max()) <= 12
    assert said[-1] == (10, 10)


def test_each_has_a_metal_or_metalloid(built):
    from pymatgen.core import Element

    for info in built[1].structures.info:
        elements = [Element(symbol) for symbol in info["elements"]]
        assert any(one.is_metal or one.is_metalloid for one in elements), info


@pytest.mark.parametrize(
    ("elements", "counts", "neutral"),
    [
        (("Na", "Cl"), (1, 1), True),
        (("Cl", "Na"), (1, 1), True),
        (("Na", "Cl"), (1, 5), False),
        (("Ca", "Ti", "O"), (1, 1, 3), True),
        (("Cu", "Zn"), (1, 1), False),  # metals alone have no anion
        (("Si",), (8,), True),
    ],
)
def test_neutrality(elements, counts, neutral):
    assert _can_be_neutral(elements, counts) is neutral


def test_labels_and_failures(tmp_path):
    dataset = build(tmp_path, count=12, potential=Springs(), elements=["U", "Th", "O", "Ca", "S"])
    assert set(dataset.properties) == {"energy", "energy_per_atom"}
    assert 92 not in dataset.structures.atomic_numbers
    assert dataset.skipped and {entry.reason for entry in dataset.skipped} == {"uranium is not for springs"}
    expected = Springs()(dataset.structures).energy
    assert torch.allclose(dataset.properties["energy"], expected)
    assert torch.allclose(dataset.properties["energy_per_atom"], expected / dataset.structures.n_atoms)


def test_relaxed_crystals_are_where_the_potential_wants_them(tmp_path):
    dataset = build(tmp_path, count=8, potential=Springs(), relaxed=True, elements=["Na", "O", "Cl"])
    assert all(info["converged"] for info in dataset.structures.info)
    assert float(dataset.properties["energy_per_atom"].max()) < 0.5 * 0.05**2
    offset = dataset.structures.positions - dataset.structures.positions.round()
    assert float(offset.norm(dim=1).max()) < 0.05


def test_what_cannot_be_had_is_told(tmp_path):
    with pytest.raises(InputError, match=r"got \d+ different crystals from \d+ draws, expected 500"):
        build(tmp_path, count=500, elements=["Fe"], max_atoms=2, draws_per_chunk=4)
    with pytest.raises(InputError, match="unknown element 'Oo'"):
        build(tmp_path, elements=["Oo"])
    with pytest.raises(InputError, match="expected a positive number"):
        build(tmp_path, count=0)
    with pytest.raises(InputError, match="got no calculator, expected one that has forces"):
        build(tmp_path, relaxed=True)


def test_elements_alone_are_few(built):
    numbers = Counter(len(info["elements"]) for info in built[1].structures.info)
    assert numbers[1] < 8


def test_without_smact_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "smact", None)
    with pytest.raises(MissingExtraError, match=r"whorl\[crystens\]"):
        build(tmp_path)


def test_cells_are_neither_too_full_nor_too_empty(built):
    import numpy as np
    from ase.data import covalent_radii

    for crystal in to_pymatgen(built[1].structures):
        spheres = sum(4 / 3 * np.pi * covalent_radii[number] ** 3 for number in crystal.atomic_numbers)
        assert 0.2 <= spheres / crystal.volume <= 1.2
