"""CrysTens against a plain loop: layout, normalisation, derivatives, canonical cells, bad input."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list
from ase.spacegroup import crystal

from whorl.errors import InputError
from whorl.representations import CrysTens, make_representation
from whorl.representations.elements import DESCRIPTORS, descriptor_table, element_table
from whorl.structures import StructureBatch, from_ase, to_ase
from whorl.structures.cells import fractional_coordinates

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of the package

from benchmarks.baselines import crystens_loop

QUARTZ = crystal(
    ["Si", "O"],
    [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.1191)],
    spacegroup=154,
    cellpar=[4.9, 4.9, 5.4, 90, 90, 120],
)
PEROVSKITE = crystal(
    ["Sr", "Ti", "O"],
    [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
    spacegroup=221,
    cellpar=[3.9, 3.9, 3.9, 90, 90, 90],
)


def triclinic(n: int = 5, seed: int = 0) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = [5.1, 6.3, 7.2, 81.0, 95.0, 104.0]
    return Atoms(
        rng.choice([8, 14, 26, 92], n), cell=cell, scaled_positions=rng.random((n, 3)) * 3 - 1, pbc=True
    )


def crystals() -> StructureBatch:
    return from_ase([bulk("NaCl", "rocksalt", 5.64), QUARTZ, PEROVSKITE, triclinic(), bulk("Fe")])


GROUPS = [225, 154, 221, 1, 229]


def test_the_tensor_is_that_of_a_plain_loop():
    codec = CrysTens(max_atoms=12).fit(crystals())
    tensors = codec.encode(crystals(), GROUPS)
    assert tensors.shape == (5, 24, 24, 4) == (5, *codec.layout.shape)
    frames = [bulk("NaCl", "rocksalt", 5.64), QUARTZ, PEROVSKITE, triclinic(), bulk("Fe")]
    for tensor, atoms, group in zip(tensors, frames, GROUPS, strict=True):
        expected = crystens_loop.encode(atoms, group, 12, codec.ranges)
        np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-12)


def test_fitted_ranges_fill_the_unit_interval():
    codec = CrysTens(max_atoms=12).fit(crystals())
    tensors = codec(crystals())
    assert tensors.min() >= 0.0 and tensors.max() <= 1.0 + 1e-12
    header = tensors[:, :11, 12:]
    for row in (0, 4, 5, 6, 7, 8, 9):
        assert header[:, row].max() == pytest.approx(1.0)
    assert tensors[:, 12:, 12:, 0].max() == pytest.approx(1.0)
    assert codec.ranges["atomic_number"] == 92.0


def test_config_rebuilds_it_with_the_ranges():
    codec = CrysTens(max_atoms=12, elements="periodic", order="canonical").fit(crystals())
    again = make_representation(json.loads(json.dumps(codec.config())))
    assert isinstance(again, CrysTens)
    assert again.fingerprint == codec.fingerprint != CrysTens(max_atoms=12).fingerprint
    assert torch.equal(again(crystals()), codec(crystals()))


def test_settings_that_came_later_leave_older_fingerprints_as_they_are():
    assert CrysTens().fingerprint == "3289b74a2ada5994"  # of files that exist
    later = CrysTens(max_atoms=12, descriptors=["electronegativity"], origin="canonical").fit(crystals())
    again = make_representation(json.loads(json.dumps(later.config())))
    assert isinstance(again, CrysTens) and again.fingerprint == later.fingerprint
    assert again.descriptors == ("electronegativity",) and again.origin == "canonical"
    assert torch.equal(again(crystals()), later(crystals()))


def test_layout_names_each_number_once():
    codec = CrysTens(max_atoms=3)
    assert len(codec.layout) == 15 * 15 * 4 == len(set(codec.layout.names))
    names = np.array(codec.layout.names).reshape(codec.layout.shape)
    assert names[4, 12, 0] == "1/row/a/0" and names[14, 10, 2] == "3/column/space_group/2"
    assert names[12, 13, 1] == "2/dx/0,1" and names[0, 12, 3] == "4/row/atomic_number/0"
    flat = codec.encode(crystals()[:1], [225])[0].flatten()
    assert torch.count_nonzero(flat[codec.layout.blocks["gamma"]]) == 2 * 4
    assert len(CrysTens().layout) == 64 * 64 * 4
    names = np.array((wide := CrysTens(max_atoms=3, descriptors=DESCRIPTORS).layout).names)
    assert wide.shape == (15, 15, 8) and len(set(names)) == len(names)
    names = names.reshape(wide.shape)
    assert names[0, 12, 4] == "5/row/electronegativity/0"
    assert names[12, 13, 7] == "8/dmendeleev_number/0,1"


def test_one_batch_or_each_alone_and_float32():
    codec = CrysTens(max_atoms=12, pairwise="cartesian")
    batch = crystals()
    whole = codec.encode(batch, GROUPS)
    alone = torch.cat([codec.encode(one, [group]) for one, group in zip(batch, GROUPS, strict=True)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    single = codec.encode(batch.to(dtype=torch.float32), GROUPS)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=0, atol=1e-5)
    assert codec.encode(batch[:0], []).shape == (0, 24, 24, 4)


def test_cartesian_distances_are_to_nearest_images():
    codec = CrysTens(max_atoms=12, pairwise="cartesian")
    atoms = triclinic()
    block = codec.encode(from_ase(atoms), [1])[0, 12:17, 12:17, 0] * codec.ranges["distance"]
    np.testing.assert_allclose(block.numpy(), atoms.get_all_distances(mic=True), atol=1e-9)
    assert not primitive_neighbor_list("i", atoms.pbc, atoms.cell, atoms.positions, 0.1).size


def test_descriptors_are_layers_of_their_own():
    names = ("valence_electrons", "electronegativity")
    plain, codec = CrysTens(max_atoms=12), CrysTens(max_atoms=12, descriptors=names)
    tensors = codec.encode(crystals(), GROUPS)
    assert tensors.shape == (5, 24, 24, 6) == (5, *codec.layout.shape)
    assert torch.equal(tensors[..., :4], plain.encode(crystals(), GROUPS))
    salt = tensors[0, ..., 4:]  # Na, Cl: 1 and 7 electrons of at most 16, 0.93 and 3.16 of at most 3.98
    values = torch.tensor([[1 / 16, 0.93 / 3.98], [7 / 16, 3.16 / 3.98]], dtype=torch.float64)
    torch.testing.assert_close(salt[0, 12:14], values)
    torch.testing.assert_close(salt[12:14, 0], values)
    torch.testing.assert_close(salt[12, 13], 0.5 + (values[1] - values[0]) / 2)
    torch.testing.assert_close(salt[13, 12], 0.5 + (values[0] - values[1]) / 2)
    rest = salt.clone()
    rest[0, 12:14], rest[12:14, 0], rest[12, 13], rest[13, 12] = 0.0, 0.0, 0.5, 0.5
    assert (rest[12:, 12:] == 0.5).all() and (rest[:12] == 0).all() and (rest[12:, :12] == 0).all()


def test_descriptors_of_all_elements():
    table = descriptor_table(DESCRIPTORS)
    assert table.shape == (119, 4) and table[0].tolist() == [0.0] * 4 and (table.amax(0) == 1.0).all()
    assert table.min() >= 0.0
    electrons = (16 * table[:, 2]).round().tolist()
    known = {1: 1, 6: 4, 8: 6, 18: 8, 20: 2, 26: 8, 30: 12, 31: 3, 57: 3, 58: 4, 71: 3, 92: 6}
    assert {number: electrons[number] for number in known} == known
    assert table[9, 0] == 1.0 and table[2, 0] == 0.0 and table[110, 1] == 0.0


def moved(structures, seed=0):
    """The same crystals, with another origin, and their atoms in another order."""
    rng = np.random.default_rng(seed)
    frames = []
    for atoms in to_ase(structures):
        other = atoms[rng.permutation(len(atoms))]
        other.positions += rng.random(3) @ other.cell.array
        frames.append(other)
    return from_ase(frames)


def test_one_origin_of_many():
    codec = CrysTens(max_atoms=12, order="canonical", origin="canonical")
    expected = codec.encode(crystals(), GROUPS)
    for seed in range(4):
        torch.testing.assert_close(codec.encode(moved(crystals(), seed), GROUPS), expected, rtol=0, atol=1e-6)
    standard = codec.standardized(moved(crystals()))
    places = fractional_coordinates(standard)
    for i in range(5):
        own = standard.structure_index == i
        at_origin = own & (places.abs().amax(1) < 1e-9)
        assert at_origin.sum() == 1
        kinds, counts = standard.atomic_numbers[own].unique(return_counts=True)
        assert standard.atomic_numbers[at_origin][0] == kinds[counts.argmin()]
    assert codec.standardized(crystals()[:0]).positions.shape == (0, 3)
    # Of several batches, each has its own.
    many = StructureBatch.concatenate([moved(crystals(), seed) for seed in range(60)])
    again = codec.encode(many, GROUPS * 60).reshape(60, 5, 24, 24, 4)
    torch.testing.assert_close(again, expected.expand_as(again), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("pairwise", "elements", "origin"),
    [
        ("fractional", "number", "as_is"),
        ("cartesian", "periodic", "as_is"),
        ("fractional", "periodic", "canonical"),
    ],
)
def test_derivatives_in_positions_and_cell(pairwise, elements, origin):
    codec = CrysTens(max_atoms=4, pairwise=pairwise, elements=elements, origin=origin)
    batch = from_ase(triclinic(3))

    def value(positions, cells):
        return codec.encode(batch.replace(positions=positions, cells=cells), [1])

    def columns(positions, cells):
        return value(positions, cells)[:, :, 12:15]  # of the atoms; their rows say the same

    inputs = (batch.positions.clone().requires_grad_(True), batch.cells.clone().requires_grad_(True))
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(columns, inputs)


def test_rotation_and_translation_by_lattice_vectors_change_nothing():
    codec = CrysTens(max_atoms=12)
    atoms, moved = triclinic(), triclinic()
    moved.rotate(31.0, (1, 2, 3), rotate_cell=True)
    moved.positions += [[1, -2, 3]] @ moved.cell.array
    torch.testing.assert_close(
        codec.encode(from_ase(atoms), [1]), codec.encode(from_ase(moved), [1]), rtol=0, atol=1e-10
    )


def test_left_handed_cells_keep_the_structure():
    left = triclinic()
    left.set_cell(left.cell.array[[1, 0, 2]])
    codec = CrysTens(max_atoms=12)
    back = codec.decode(codec.encode(from_ase(left), [1]), clustering=None).structures
    frame = Atoms(back.atomic_numbers.numpy(), back.positions.numpy(), cell=back.cells[0].numpy(), pbc=True)

    def chiralities(atoms):
        # signed volumes of the tetrahedra that four atoms form with their nearest images
        vectors = [atoms.get_distance(0, k, mic=True, vector=True) for k in (1, 2, 3)]
        return np.linalg.det(vectors)

    assert np.linalg.det(frame.cell.array) > 0
    assert chiralities(frame) == pytest.approx(chiralities(left), abs=1e-9)


def test_order_and_cell_make_different_descriptions_one():
    conventional = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    shuffled = conventional[[7, 0, 3, 5, 1, 2, 6, 4]]
    shuffled.positions += [[5.64, -5.64, 0.0]]
    codec = CrysTens(max_atoms=12, order="canonical")
    torch.testing.assert_close(codec(from_ase(conventional)), codec(from_ase(shuffled)), rtol=0, atol=1e-9)
    primitive = bulk("NaCl", "rocksalt", 5.64)
    for cell in ("primitive", "conventional", "niggli"):
        codec = CrysTens(max_atoms=12, order="canonical", cell=cell)
        torch.testing.assert_close(
            codec(from_ase(conventional)), codec(from_ase(primitive)), rtol=0, atol=1e-9
        )
    assert len(CrysTens(cell="conventional").standardized(from_ase(primitive)).atomic_numbers) == 8


def test_space_groups_are_taken_from_info_or_found():
    codec = CrysTens(max_atoms=12)
    plain = from_ase([QUARTZ.copy(), bulk("Fe")])
    plain = plain.replace(info=({}, {"spacegroup_number": 7}))
    groups = codec(plain)[:, 10, 12, 0] * 230
    assert groups.round().tolist() == [154, 7]


def test_the_periodic_table_in_four_numbers():
    table = element_table("periodic").to(torch.int64).tolist()
    assert table[1] == [1, 1, 1, 1] and table[2] == [2, 1, 1, 2] and table[8] == [8, 2, 2, 4]
    assert table[26] == [26, 4, 3, 6] and table[57] == [57, 6, 4, 1] and table[71] == [71, 6, 3, 1]
    assert table[92] == [92, 7, 4, 4] and table[118] == [118, 7, 2, 6]
    assert len({tuple(row[1:]) for row in table}) == 119
    assert element_table("number")[26].tolist() == [26.0] * 4


def test_what_cannot_be_encoded_is_named():
    codec = CrysTens(max_atoms=4)
    slab = bulk("Fe")
    slab.pbc = [True, True, False]
    flat = bulk("Fe")
    flat.set_cell([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    broken = bulk("Fe")
    broken.positions[0, 0] = np.nan
    batch = from_ase(
        [
            bulk("Fe"),
            QUARTZ,
            slab,
            flat,
            broken,
            Atoms(cell=[3, 3, 3], pbc=True),
            Atoms("X", cell=[3, 3, 3], pbc=True),
        ]
    )
    problems = codec.find_problems(batch)
    assert list(problems) == [1, 2, 3, 4, 5, 6]
    assert "9 atoms" in problems[1] and "periodic" in problems[2] and "volume" in problems[3]
    assert "not finite" in problems[4] and "no atoms" in problems[5] and "element" in problems[6]
    with pytest.raises(InputError, match=r"structure 1 has 9 atoms.*3 of 4"):
        codec(batch[:4])
    cubic = from_ase([bulk("NaCl", "rocksalt", 5.64, cubic=True)])
    assert CrysTens(max_atoms=4, cell="primitive").find_problems(cubic) == {}
    primitive = from_ase([bulk("NaCl", "rocksalt", 5.64)])
    assert "8 atoms" in CrysTens(max_atoms=4, cell="conventional").find_problems(primitive)[0]


def test_wrong_settings_say_what_is_right():
    for settings, message in (
        ({"pairwise": "cartesain"}, "Did you mean 'cartesian'"),
        ({"elements": "symbols"}, "Choose from: number, periodic"),
        ({"cell": "primitve"}, "Did you mean 'primitive'"),
        ({"order": "random"}, "Choose from"),
        ({"origin": "cannonical"}, "Did you mean 'canonical'"),
        ({"descriptors": ["electronegativty"]}, "Did you mean 'electronegativity'"),
        ({"descriptors": ["covalent_radius"] * 2}, "each once at most"),
        ({"max_atoms": 0}, "at least 1"),
        ({"symprec": 0.0}, "positive"),
        ({"ranges": {"lenght": 3.0}}, "unknown quantity"),
        ({"ranges": {"a": -1.0}}, "positive number"),
    ):
        with pytest.raises(InputError, match=message):
            CrysTens(**settings)
    codec = CrysTens(max_atoms=12)
    with pytest.raises(InputError, match="got 1 numbers for 5"):
        codec.encode(crystals(), [225])
    with pytest.raises(InputError, match="from 1 to 230"):
        codec.encode(crystals(), [0, 1, 1, 1, 1])
    with pytest.raises(InputError, match="at least one"):
        codec.fit(crystals()[:0])
    with pytest.raises(InputError, match="See the documentation of CrysTens"):
        make_representation({"kind": "crystens", "colour": "red"})
    with pytest.raises(InputError, match="unknown representation"):
        make_representation({"kind": "cristens"})
