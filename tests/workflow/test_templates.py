"""Which atoms are placed, and in which cell: what was requested comes before what is similar."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal

from whorl.datasets import Dataset, FeatureSet, save_dataset
from whorl.errors import InputError
from whorl.structures import from_ase, to_ase
from whorl.structures.cells import volume_per_atom, volumes
from whorl.structures.composition import covalent_radii
from whorl.workflow.templates import make_templates


def perovskite(a, b, length):
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return crystal([a, b, "O"], sites, spacegroup=221, cellpar=[length] * 3 + [90] * 3)


CRYSTALS = [
    perovskite("Ba", "Ti", 4.0),
    perovskite("Sr", "Ti", 3.9),
    bulk("NaCl", "rocksalt", a=5.64),
    bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1),
    bulk("ZnS", "wurtzite", a=3.8),
]


def feature_set(values, **more):
    return FeatureSet(
        features=torch.tensor(values, dtype=torch.float64)[:, None],
        representation={},
        fingerprint="",
        ids=tuple(f"row {i}" for i in range(len(values))),
        **more,
    )


@pytest.fixture
def templates(tmp_path):
    """Return templates for a feature; those of the structures are 0, 1, 2 …."""

    def make(*at, structures=CRYSTALS, **asked):
        real = feature_set([float(i) for i in range(len(structures))])
        data = Dataset(structures=from_ase(structures), ids=real.ids)
        save_dataset(data, tmp_path / "data.safetensors")
        return make_templates(feature_set(at), real=real, dataset=tmp_path / "data.safetensors", **asked)

    return make


def formulas(found):
    return [atoms.get_chemical_formula("hill") for atoms in to_ase(found.structures)]


def test_without_a_request_the_most_similar_structure_decides(templates):
    found = templates(0.1, 2.2)
    assert formulas(found) == ["BaO3Ti", "ClNa"]
    assert torch.equal(found.structures.cells, from_ase([CRYSTALS[0], CRYSTALS[2]]).cells)
    assert not found.free_cell


def test_a_requested_formula_comes_in_the_cell_of_a_structure_that_has_it(templates):
    for formula in ("BaTiO3", "Ba2Ti2O6"):
        found = templates(4.0, 2.0, requested={"formula": formula})
        assert formulas(found) == ["BaO3Ti"] * 2
        assert torch.equal(found.structures.cells, from_ase([CRYSTALS[0]] * 2).cells)


def test_a_formula_that_no_structure_has_comes_in_a_scaled_cell_of_as_many_atoms(templates):
    found = templates(0.9, 4.0, requested={"formula": "BaTaO2N"}).structures
    assert [sorted(a.symbols) for a in to_ase(found)] == [["Ba", "N", "O", "O", "Ta"]] * 2
    of_atoms = [
        float(covalent_radii(torch.as_tensor(a.numbers)).pow(3).sum())
        for a in (CRYSTALS[1], to_ase(found)[0])
    ]
    expected = CRYSTALS[1].get_volume() * of_atoms[1] / of_atoms[0]
    assert volumes(found.cells).tolist() == pytest.approx([expected] * 2)


def test_so_many_units_as_the_similar_structure_has_room_for(templates):
    found = templates(2.1, 3.2, requested={"formula": "KBr"})
    assert formulas(found) == ["BrK", "Br2K2"]


def test_a_composition_is_placed_as_it_is_written(templates):
    assert formulas(templates(2.1, 3.2, composition="K2Br2")) == ["Br2K2"] * 2
    assert formulas(templates(3.2, 3.0, composition="NaCl")) == ["ClNa"] * 2


def test_a_formula_without_a_cell_is_refused_unless_the_cell_is_sought(templates):
    with pytest.raises(InputError, match=r"TiO2: no structure of .* \(there are 2, 4, 5\).*--free-cell"):
        templates(0.0, requested={"formula": "TiO2"})
    found = templates(0.0, requested={"formula": "TiO2"}, free_cell=True)
    assert formulas(found) == ["O2Ti"] and found.free_cell
    assert bool(found.structures.pbc.all())
    assert volumes(found.structures.cells).tolist() == pytest.approx([60.0])


def test_requested_elements_are_those_of_a_structure_that_has_them(templates):
    assert formulas(templates(2.0, 4.0, requested={"elements": ["O", "Sr"]})) == ["O3SrTi"] * 2
    with pytest.raises(InputError, match="no structure has Na, O together"):
        templates(2.0, requested={"elements": ["Na", "O"]})


def test_the_cell_is_of_the_requested_symmetry_where_there_is_one(templates):
    requested = {"formula": "KBr", "crystal_system": "hexagonal"}
    found = templates(3.0, requested=requested)
    assert formulas(found) == ["Br2K2"]
    lengths = found.structures.cells[0].norm(dim=1)
    assert float(lengths[0]) == pytest.approx(float(lengths[1]))
    assert float(lengths[2] / lengths[0]) == pytest.approx(CRYSTALS[4].cell.lengths()[2] / 3.8)


def test_cells_and_positions_are_scaled_to_the_requested_volume(templates):
    found = templates(0.2, 4.1, requested={"volume": 15.0})
    torch.testing.assert_close(volume_per_atom(found.structures), torch.full((2,), 15.0).double())
    assert found.placed  # bonds are scaled with the cell
    wurtzite = from_ase(CRYSTALS[4])
    expected = wurtzite.positions * float(15.0 / volume_per_atom(wurtzite)) ** (1 / 3)
    torch.testing.assert_close(found.structures[1].positions, expected)
    assert volumes(templates(0.2, requested={"volume": 15.0, "formula": "CaZrO3"}).structures.cells)[0] == (
        pytest.approx(75.0)
    )
    unknown = make_templates(feature_set([0.0]), requested={"volume": 15.0}, composition="NaCl")
    assert not unknown.structures.pbc.any() and unknown.structures.cells.abs().sum() == 0


def test_the_nearest_of_the_requested_volume_is_taken(templates):
    # Rock salt of 22.4 Å³ per atom, in spite of BaTiO3's features.
    assert formulas(templates(0.0, requested={"volume": 22.0})) == ["ClNa"]


def test_molecules_have_the_composition_and_no_cell(templates):
    known = [molecule("H2O"), molecule("CH4")]
    for asked in ({"requested": {"formula": "C2H4"}}, {"composition": "C2H4"}):
        found = templates(0.0, structures=known, **asked)
        assert formulas(found) == ["C2H4"]
        assert not bool(found.structures.pbc.any()) and not bool(found.structures.cells.any())


PERIODIC = torch.tensor([[True] * 3, [False] * 3, [True, True, False]])


def test_crystals_without_a_cell_at_hand_are_sought_with_it():
    for asked in ({"composition": "BaTaO2N"}, {"requested": {"formula": "BaTaO2N"}}):
        found = make_templates(feature_set([0.0, 1.0], pbc=PERIODIC[[0, 0]]), **asked)
        assert found.free_cell and bool(found.structures.pbc.all())
        assert volumes(found.structures.cells).tolist() == pytest.approx([100.0, 100.0])
        assert found.of_real(torch.tensor([0])) is None


def test_what_has_no_cell_or_is_not_said_to_have_one_is_a_molecule():
    for pbc in (None, PERIODIC[[1]]):
        found = make_templates(feature_set([0.0], pbc=pbc), composition="Pt10")
        assert not found.free_cell and not bool(found.structures.cells.any())
        assert len(found.of_real(torch.tensor([0, 4]))) == 2


@pytest.mark.parametrize("rows", [[0, 1], [2, 2]])
def test_slabs_and_mixtures_need_the_data_set(rows):
    with pytest.raises(InputError, match="--dataset"):
        make_templates(feature_set([0.0, 1.0], pbc=PERIODIC[rows]), composition="Pt4")


def test_a_cell_that_cannot_be_is_not_sought(templates):
    with pytest.raises(InputError, match="without a cell, so there is none to optimise"):
        make_templates(feature_set([0.0], pbc=PERIODIC[[1]]), composition="Pt10", free_cell=True)
    with pytest.raises(InputError, match="not periodic in all three directions"):
        templates(0.0, 1.0, structures=[CRYSTALS[0], Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]])], free_cell=True)


def test_which_atoms_must_be_known():
    with pytest.raises(InputError, match="--composition"):
        make_templates(feature_set([0.0], pbc=PERIODIC[[0]]), requested={"elements": ["O"]})
