import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from pair_gaussians import make_template

from whorl.errors import InputError
from whorl.reconstruction.starts import content_key, random_displacements, random_starts
from whorl.seeds import derive_seed


def closest(structure):
    atoms = Atoms(
        numbers=structure.atomic_numbers.numpy(),
        positions=structure.positions.numpy(),
        cell=structure.cells[0].numpy(),
        pbc=structure.pbc[0].numpy(),
    )
    distances = atoms.get_all_distances(mic=bool(structure.pbc.any()))
    return distances[np.triu_indices(len(atoms), 1)].min()


@pytest.mark.parametrize("cell", [None, 9.0])
def test_no_two_atoms_near_each_other(cell):
    starts = random_starts(make_template([10] * 20, cell=cell), seeds=range(20))
    assert min(closest(one) for one in starts) >= 0.7 * 2 * covalent_radii[78] - 1e-9


def test_a_cell_too_small_for_its_atoms_still_starts():
    starts = random_starts(make_template([12] * 5, cell=3.5), seeds=range(5))
    assert min(closest(one) for one in starts) > 0.3


def test_start_depends_on_its_seed_alone():
    template = make_template([4, 10, 7])
    together = random_starts(template, seeds=[5, 6, 7])
    for i in range(3):
        alone = random_starts(template[i], seeds=[5 + i])
        assert torch.equal(alone.positions, together[i].positions)
    assert not torch.equal(
        random_starts(template[1], seeds=[6]).positions, random_starts(template[1], seeds=[7]).positions
    )
    moved = random_displacements(template, seeds=[5, 6, 7], scale=0.5)
    alone = random_displacements(template[1], seeds=[6], scale=0.5)
    assert torch.equal(moved[4:14], alone)


def test_cluster_fills_the_ball():
    starts = random_starts(make_template([200]), seeds=[0], radius=20.0)
    radii = starts.positions.norm(dim=1)
    assert 17 < float(radii.max()) <= 20
    default = random_starts(make_template([10]), seeds=[0])
    expected = covalent_radii[78] * (10 / 0.3) ** (1 / 3)
    assert float(default.positions.norm(dim=1).max()) <= expected


def test_periodic_atoms_lie_in_the_cell():
    template = make_template([30], cell=11.0)
    cell = torch.tensor([[[8.0, 1, 0], [-3, 9, 0], [1, 2, 10]]], dtype=torch.float64)
    starts = random_starts(template.replace(cells=cell), seeds=[0])
    fractional = starts.positions @ torch.linalg.inv(cell[0])
    assert fractional.min() >= 0 and fractional.max() <= 1 and fractional.max() > 0.8


@pytest.mark.parametrize("pbc", [(True, True, False), (True, False, False)])
def test_slab_and_wire_get_a_thickness(pbc):
    template = make_template([16], cell=6.0).replace(pbc=torch.tensor([pbc]))
    starts = random_starts(template, seeds=[3])
    spread = starts.positions.amax(0) - starts.positions.amin(0)
    volume = 16 * 4 / 3 * np.pi * covalent_radii[78] ** 3 / 0.3
    free = 3 - sum(pbc)
    side = (volume / 6.0 ** sum(pbc)) ** (1 / free)
    assert spread[3 - free :].max() <= side and spread[3 - free :].min() > 0.5 * side
    # Without any cell vector along the free directions, too.
    cells = template.cells * template.pbc[0][None, :, None]
    assert torch.isfinite(random_starts(template.replace(cells=cells), seeds=[3]).positions).all()


def test_seeds_and_keys_tell_things_apart():
    template = make_template([2, 2])
    target = torch.tensor([1.0, 2.0])
    assert content_key(target, template[0]) == content_key(target, template[1])
    assert content_key(target, template[0]) != content_key(
        target + 1e-12, template[0].to(dtype=torch.float32)
    )
    assert len({derive_seed(a, b) for a in range(10) for b in range(10)}) == 100
    assert 0 <= derive_seed("x") < 2**63


def test_wrong_settings():
    template = make_template([2, 2])
    with pytest.raises(InputError, match="one each"):
        random_starts(template, seeds=[1])
    with pytest.raises(InputError, match="radius"):
        random_starts(template, seeds=[1, 2], radius=0.0)
    with pytest.raises(InputError, match="packing"):
        random_starts(template, seeds=[1, 2], packing=3.0)
