import io

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from PIL import Image

from whorl.report.spheres import element_colors, render_structure
from whorl.structures.convert import from_ase


def picture(atoms, pixels=64):
    return np.asarray(Image.open(io.BytesIO(render_structure(from_ase(atoms), pixels=pixels))).convert("RGB"))


def covered(image):
    return (image.min(-1) < 240).mean()


def test_a_structure_shows_on_white():
    image = picture(molecule("C6H6"))
    assert image.shape == (64, 64, 3)
    assert 0.05 < covered(image) < 0.8
    assert (image[0] == 255).all()


def test_the_same_structure_gives_the_same_picture():
    atoms = molecule("CH3CH2OH")
    assert render_structure(from_ase(atoms)) == render_structure(from_ase(atoms))


def test_the_viewpoint_turns_with_the_structure():
    atoms = Atoms("Pt4", [[0, 0, 0], [2.5, 0, 0], [5.2, 0.5, 0], [1.0, 2.4, 0.7]])
    turned = atoms.copy()
    turned.rotate(71, (1, 2, -1))
    turned.translate([3, -2, 1])
    difference = np.abs(picture(atoms).astype(int) - picture(turned).astype(int))
    assert (difference > 40).mean() < 0.01


def test_a_cell_is_drawn_and_atoms_are_inside_it():
    crystal = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    moved = crystal.copy()
    moved.positions += 3 * crystal.cell[0] - crystal.cell[2]
    assert (picture(crystal) == picture(moved)).mean() > 0.99
    alone = Atoms("He", cell=[9.0, 9.0, 9.0], pbc=True)
    assert covered(picture(alone)) > covered(picture(Atoms("He")))


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Pt"),
        Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]]),
        Atoms("Pt2", [[0, 0, 0], [0, 0, 0]]),
        Atoms("Pt3", [[0, 0, 0], [2.5, 0, 0], [5, 0, 0]]),
        Atoms("Pt2", [[0, 0, 0], [80, 0, 0]]),
        Atoms("Pt", cell=[0, 0, 0], pbc=False),
    ],
)
def test_awkward_structures_are_drawn(atoms):
    assert picture(atoms).min() < 250


def test_positions_that_are_not_finite_leave_the_picture_blank():
    batch = from_ase(Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]]))
    positions = batch.positions.clone()
    positions[0, 0] = float("nan")
    png = render_structure(batch.replace(positions=positions), pixels=20)
    assert (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) == 255).all()


def test_no_element_is_too_bright_to_show_on_white():
    colors = element_colors(np.arange(1, 104))
    assert (colors @ np.array([0.30, 0.59, 0.11])).max() < 0.73
    assert ((colors >= 0) & (colors <= 1)).all()


def test_nearer_atoms_hide_farther_ones():
    # Seen along the shortest principal axis; the heavy colour difference tells which one is in front.
    atoms = Atoms("OPt2", [[0, 0, 1.5], [-6, 0, 0], [6, 0, 0]])
    image = picture(atoms, pixels=96)
    red = (image[..., 0].astype(int) - image[..., 2] > 60).sum()
    assert red > 0


def test_float32_is_drawn_too():
    batch = from_ase(molecule("H2O")).to(dtype=torch.float32)
    assert len(render_structure(batch, pixels=32)) > 100


def test_elements_beyond_the_table_of_colours_are_drawn():
    assert element_colors(np.arange(119)).shape == (119, 3)
    assert covered(picture(Atoms("OgTs", [[0, 0, 0], [0, 0, 3]]))).any()


def orange(image):
    red, green, blue = (image[..., k].astype(int) for k in range(3))
    return (red - blue > 70) & (red > green + 40)


def test_arrows_point_where_atoms_go_and_are_absent_where_they_stay():
    structure = from_ase(Atoms("Pt2", [[0, 0, 0], [5, 0, 0]]))
    arrows = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]], dtype=torch.float64)

    def drawn(values):
        png = render_structure(structure, pixels=120, arrows=values)
        return orange(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))

    assert not drawn(0 * arrows).any()
    columns = np.nonzero(drawn(arrows).any(0))[0]
    assert len(columns) > 10
    assert columns.min() > 60 or columns.max() < 60  # at one atom, not at the other
    assert drawn(2 * arrows).sum() > 0 and drawn(-arrows).sum() > 0
