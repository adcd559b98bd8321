"""Forces and stresses stay with their atoms, in order, frame and sign, into a data set and out of it."""

import dataclasses
import re

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from morse import Morse

from whorl.datasets import (
    Dataset,
    build_clusters,
    build_crystals,
    load_dataset,
    read_dataset,
    save_dataset,
    write_extxyz,
)
from whorl.datasets.labels import doubt_of_forces
from whorl.datasets.store import entries_of, pack_dataset, unpack_dataset
from whorl.errors import InputError
from whorl.potentials import make_potential
from whorl.structures import to_ase
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages import data as stage

STEP = 1e-4  # Å


def assert_derivatives(dataset, potential, *, energy="energy"):
    """Compare the stored labels with central differences of the energy whose value is stored."""
    structures = dataset.structures
    torch.testing.assert_close(
        potential(structures).energy.double(), dataset.properties[energy], atol=1e-6, rtol=0
    )
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(structures.positions.shape, generator=rng, dtype=torch.float64)
        up, down = (
            potential(structures.replace(positions=structures.positions + sign * STEP * direction)).energy
            for sign in (1, -1)
        )
        slope = torch.zeros(len(structures), dtype=torch.float64).index_add(
            0, structures.structure_index, -(dataset.forces * direction).sum(1)
        )
        torch.testing.assert_close((up - down) / (2 * STEP), slope, atol=2e-5, rtol=1e-4)
    if dataset.stresses is None:
        return
    strain = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    strain = strain + strain.T
    ends = []
    for sign in (1, -1):
        deformation = torch.eye(3, dtype=torch.float64) + sign * STEP * strain
        ends.append(
            potential(
                structures.replace(
                    positions=structures.positions @ deformation, cells=structures.cells @ deformation
                )
            ).energy
        )
    volume = torch.linalg.det(structures.cells).abs()
    expected = volume * (dataset.stresses * strain).sum((1, 2))
    known = expected.isfinite()
    torch.testing.assert_close(
        ((ends[0] - ends[1]) / (2 * STEP))[known], expected[known], atol=5e-5, rtol=1e-4
    )


def labelled_atoms(count=6, seed=0, *, symbols="Cu3Pt2", spread=0.12):
    """Return clusters near one another with EMT's results, atoms of two elements."""
    rng = np.random.default_rng(seed)
    base = 2.0 * np.array([[0, 0, 0], [1.25, 0, 0], [0, 1.25, 0.3], [0, 0, 1.3], [1.1, 1.2, 0.2]])
    frames = []
    for _ in range(count):
        atoms = Atoms(symbols, base + rng.normal(0, spread, base.shape))
        frames.append(with_results(atoms))
    return frames


def with_results(atoms):
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def of_atoms(frames):
    return Dataset(
        structures=frames,
        properties={
            "energy": torch.tensor([atoms.get_potential_energy() for atoms in frames], dtype=torch.float64)
        },
        ids=tuple(map(str, range(len(frames)))),
    )


def crystals(count=4):
    frames = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[seed % 4] = "Au"
        atoms.rattle(0.1, seed=seed)
        strain = np.array([[0.02, 0.05, 0], [0, -0.03, 0], [0, 0, 0.01 * seed]])
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain))
        frames.append(with_results(atoms))
    return frames


# Builders


def test_clusters_keep_the_forces_of_their_own_energies(tmp_path):
    dataset = build_clusters(
        element="Pt",
        atoms=5,
        count=30,
        potential=Morse(),
        directory=tmp_path,
        seed=1,
        processes=1,
        reference_energy=-3.5,
        starts_per_chunk=4,
    )
    assert bool(dataset.forces.isfinite().all()) and dataset.stresses is None
    assert_derivatives(dataset, Morse())


@pytest.mark.parametrize("relaxed", [False, True])
def test_crystals_keep_forces_and_stresses(tmp_path, relaxed):
    dataset = build_crystals(
        count=4,
        directory=tmp_path,
        seed=2,
        elements=["Al", "O", "N"],
        max_atoms=12,
        potential=make_potential("emt"),
        relaxed=relaxed,
        steps=3,
        processes=1,
    )
    assert bool(dataset.forces.isfinite().all()) and bool(dataset.stresses.isfinite().all())
    assert_derivatives(dataset, make_potential("emt"))


# Structures that bring results along


@pytest.mark.parametrize("frames", [labelled_atoms(), crystals()], ids=["clusters", "crystals"])
def test_results_of_calculators_become_labels(frames):
    dataset = of_atoms(frames)
    assert "forces" in repr(dataset)
    assert_derivatives(dataset, make_potential("emt"))


def test_atoms_that_turned_or_changed_places_lose_results_and_new_ones_fit():
    frames = labelled_atoms(4)
    frames[0].rotate(40, (1, 2, 3))
    frames[1] = frames[1][[4, 0, 2, 1, 3]]  # ASE drops the calculator
    frames[2].positions[0] += 0.1
    assert of_atoms_without_energy(frames).forces[:15].isnan().all()
    renewed = of_atoms([with_results(atoms.copy()) for atoms in frames])
    assert_derivatives(renewed, make_potential("emt"))


def of_atoms_without_energy(frames):
    return Dataset(structures=frames, ids=tuple(map(str, range(len(frames)))))


def test_a_turned_and_reordered_copy_has_turned_and_reordered_forces(tmp_path):
    """The way of other programs: a file whose frames are written in another frame and order."""
    frames, order = labelled_atoms(3), [3, 1, 4, 0, 2]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = []
    for atoms in frames:
        other = Atoms(atoms.numbers[order], atoms.positions[order] @ turn)
        other.calc = SinglePointCalculator(
            other, energy=atoms.get_potential_energy(), forces=atoms.get_forces()[order] @ turn
        )
        turned.append(other)
    ase.io.write(tmp_path / "turned.extxyz", turned)
    dataset = read_dataset(tmp_path / "turned.extxyz", property="energy")
    assert not dataset.doubts
    assert_derivatives(dataset, make_potential("emt"))


# In memory and in the store


def test_choosing_joining_and_storing_carry_forces_with_their_atoms(tmp_path):
    small, large = of_atoms(labelled_atoms(3)), of_atoms(labelled_atoms(2, 5, symbols="Pt2Cu2Au"))
    joined = Dataset.concatenate([small, large], provenance={"seed": 1})
    joined = dataclasses.replace(joined, ids=tuple("abcde"))
    chosen = joined.select([4, 1, 1, 0])
    assert chosen.structures.n_atoms.tolist() == [5] * 4
    assert_derivatives(chosen, make_potential("emt"))
    save_dataset(chosen.select([0, 1, 3]), tmp_path / "set.safetensors")
    loaded = load_dataset(tmp_path / "set.safetensors")
    assert torch.equal(loaded.forces, chosen.forces[[*range(10), *range(15, 20)]])
    assert_derivatives(entries_of(["a", "e"], tmp_path / "set.safetensors"), make_potential("emt"))


def test_sizes_that_differ_keep_their_own_atoms():
    atoms = [with_results(Atoms("Cu" * n, np.arange(3.0 * n).reshape(n, 3) * 0.9)) for n in (2, 3, 4)]
    dataset = of_atoms(atoms)
    for index in ([2, 0], slice(1, None), torch.tensor([True, False, True]), 1, []):
        part = dataset.select(index)
        expected = [to_ase(one)[0].get_forces() for one in part.structures]
        assert part.forces is None if not expected else np.array_equal(part.forces, np.concatenate(expected))


def test_stresses_travel_too(tmp_path):
    dataset = of_atoms(crystals()).select([2, 0])
    tensors, header = pack_dataset(dataset)
    assert torch.equal(unpack_dataset(tensors, header).stresses, dataset.stresses)
    assert_derivatives(dataset, make_potential("emt"))


def test_structures_without_forces_have_nan_and_sets_without_have_none(tmp_path):
    bare = Dataset(
        structures=[Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])], properties={"energy": torch.ones(1)}, ids=("x",)
    )
    assert bare.forces is None and bare.stresses is None
    mixed = Dataset.concatenate([bare, of_atoms(labelled_atoms(2)), bare])
    assert mixed.forces[[0, 1, -2, -1]].isnan().all() and mixed.forces[2:-2].isfinite().all()
    assert mixed.stresses is None
    assert mixed.select([0]).forces is None
    save_dataset(mixed, tmp_path / "mixed.safetensors")
    assert torch.equal(load_dataset(tmp_path / "mixed.safetensors").forces.isnan(), mixed.forces.isnan())


def test_files_from_before_forces_are_read_and_their_calculators_count():
    tensors, header = pack_dataset(of_atoms(labelled_atoms(2)))
    old = {name: values for name, values in tensors.items() if not name.startswith("label/")}
    assert_derivatives(unpack_dataset(old, header), make_potential("emt"))
    del header["provenance"], old["info/json"], old["info/float64"], old["info/int64"]
    assert unpack_dataset(old, {**header, "provenance": {}}).forces is None


def test_one_unknown_number_makes_a_structure_unknown():
    dataset = of_atoms(labelled_atoms(2))
    forces = dataset.forces.clone()
    forces[3, 1] = float("inf")
    changed = dataclasses.replace(dataset, forces=forces)
    assert changed.forces[:5].isnan().all() and torch.equal(changed.forces[5:], dataset.forces[5:])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"forces": torch.zeros(4, 3)}, r"forces of shape \(4, 3\), expected \(10, 3\).*in their order"),
        ({"stresses": torch.zeros(3, 3, 3)}, r"stresses of shape \(3, 3, 3\), expected \(2, 3, 3\)"),
        ({"structures": None}, "forces without structures"),
    ],
)
def test_labels_of_other_atoms_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(of_atoms(labelled_atoms(2)), **labels)


def test_parts_that_do_not_fit_together_are_refused():
    dataset = of_atoms(labelled_atoms(2))
    with pytest.raises(InputError, match="same properties"):
        Dataset.concatenate([dataset, dataclasses.replace(dataset, properties={})])
    with pytest.raises(InputError, match="all with structures"):
        Dataset.concatenate([Dataset(structures=None, ids=())])


# Files


@pytest.mark.parametrize("frames", [labelled_atoms(), crystals()], ids=["clusters", "crystals"])
@pytest.mark.parametrize("name", ["set.extxyz", "set.db", "set.json"])
def test_ase_files_bring_forces_and_stresses(tmp_path, frames, name):
    if name.endswith("extxyz"):
        ase.io.write(tmp_path / name, frames)
    else:
        with ase.db.connect(tmp_path / name) as database:
            for atoms in frames:
                database.write(atoms)
    dataset = read_dataset(tmp_path / name, property="energy")
    assert not dataset.doubts and (dataset.stresses is not None) == bool(frames[0].pbc.any())
    assert_derivatives(dataset, make_potential("emt"))


@pytest.mark.parametrize("frames", [labelled_atoms(), crystals()], ids=["clusters", "crystals"])
def test_what_is_written_is_read_again(tmp_path, frames):
    dataset = of_atoms(frames)
    plain = dataclasses.replace(dataset, structures=dataset.structures.replace(info=()))  # no calculators
    for number, one in enumerate((dataset, plain)):
        path = tmp_path / f"{number}.extxyz"
        labels = {"forces": one.forces, "stresses": one.stresses}
        write_extxyz(one.structures, path, properties=one.properties, ids=one.ids, **labels)
        again = read_dataset(path, property="energy")
        torch.testing.assert_close(again.forces, one.forces, atol=1e-7, rtol=0)
        if one.stresses is not None:
            torch.testing.assert_close(again.stresses, one.stresses, atol=1e-7, rtol=0)
        np.testing.assert_allclose(ase.io.read(path, 1).get_forces(), frames[1].get_forces(), atol=1e-7)
    with pytest.raises(InputError, match="write_extxyz: got 2 of stress"):
        write_extxyz(dataset.structures, path, stresses=torch.zeros(2, 3, 3))


def test_only_frames_with_forces_are_written_with_them(tmp_path):
    forces = of_atoms(labelled_atoms(2)).forces.clone()
    forces[:5] = torch.nan
    structures = of_atoms_without_energy([atoms.copy() for atoms in labelled_atoms(2)]).structures
    write_extxyz(structures, tmp_path / "half.extxyz", forces=forces)
    first, second = ase.io.read(tmp_path / "half.extxyz", ":")
    assert first.calc is None and second.get_forces().shape == (5, 3)
    dataset = read_dataset(tmp_path / "half.extxyz", property=None)
    assert dataset.forces[:5].isnan().all() and dataset.forces[5:].isfinite().all() and not dataset.doubts


def frame(comment, columns, rows):
    return f"{len(rows)}\n{comment} Properties=species:S:1:pos:R:3:{columns}\n" + "\n".join(rows) + "\n"


PAIR = ["Cu 0 0 0 0 0 {0}", "Cu 0 0 2.3 0 0 -{0}"]


@pytest.mark.parametrize(
    ("property", "text", "expected"),
    [
        ("energy", frame("energy=1", "force:R:3", PAIR), 0.5),
        ("energy", frame("energy=1", "forces:R:3", PAIR), 0.5),
        ("REF_energy", frame("REF_energy=1", "REF_forces:R:3", PAIR), 0.5),
        ("formation_energy", frame("formation_energy=1", "forces:R:3", PAIR), 0.5),
        (
            "dft_energy",
            frame(
                "dft_energy=1",
                "forces:R:3:dft_forces:R:3",
                [f"{row} 0 0 {s}7" for row, s in zip(PAIR, "+-", strict=True)],
            ),
            7,
        ),
    ],
)
def test_names_under_which_forces_are_looked_for(tmp_path, property, text, expected):
    (tmp_path / "a.xyz").write_text(text.format(0.5))
    dataset = read_dataset(tmp_path / "a.xyz", property=property)
    assert dataset.forces.tolist() == [[0, 0, expected], [0, 0, -expected]] and not dataset.doubts


def test_a_virial_is_minus_the_stress_times_the_volume(tmp_path):
    (atoms,) = crystals(1)
    stress, volume = atoms.get_stress(voigt=False), atoms.get_volume()
    atoms.calc = None
    atoms.info = {"energy": 1.0, "virial": -stress * volume}
    ase.io.write(tmp_path / "a.extxyz", atoms)
    dataset = read_dataset(tmp_path / "a.extxyz", property="energy")
    np.testing.assert_allclose(dataset.stresses[0], stress, atol=1e-8)


# Bad input


@pytest.mark.parametrize(
    ("columns", "rows", "doubt"),
    [
        ("forces:R:3", ["Cu 0 0 0 0 0 nan", "Cu 0 0 2.3 0 0 -1"], "not all of them are finite"),
        ("forces:R:2", ["Cu 0 0 0 0 1", "Cu 0 0 2.3 0 -1"], "expected three numbers for each"),
        ("forces:S:3", ["Cu 0 0 0 a b c", "Cu 0 0 2.3 d e f"], ""),
    ],
)
def test_forces_that_are_none_are_left_out_counted_and_said(tmp_path, columns, rows, doubt):
    good = frame("energy=1", "forces:R:3", [row.format(0.5) for row in PAIR])
    (tmp_path / "a.xyz").write_text(
        frame("energy=1", columns, rows) + good + frame("energy=2", columns, rows)
    )
    dataset = read_dataset(tmp_path / "a.xyz", property="energy")
    assert len(dataset) == 3
    assert dataset.forces.isnan().all(1).tolist() == [True, True, False, False, True, True]
    if doubt:
        assert [name for name, _ in dataset.doubts] == ["a.xyz@0", "a.xyz@2"]
        (text,) = dataset.provenance["warnings"]
        assert doubt in text and dataset.provenance["warnings"][text] == 2


def test_forces_of_a_free_cluster_that_do_not_add_up_are_doubted(tmp_path):
    rows = ["Cu 0 0 0 0 0 1", "Cu 0 0 2.3 0 0 1"]
    text = frame("energy=1", "forces:R:3", rows)
    (tmp_path / "a.xyz").write_text(
        text + text.replace("energy", 'pbc="T T T" Lattice="5 0 0 0 5 0 0 0 5" energy')
    )
    dataset = read_dataset(tmp_path / "a.xyz", property="energy")
    assert [(name, "add up to 2 eV/Å" in doubt) for name, doubt in dataset.doubts] == [("a.xyz@0", True)]
    atoms = labelled_atoms(1)[0]
    atoms.set_constraint(FixAtoms([0]))  # forces on fixed atoms are zero in ASE
    forces = atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=forces)
    ase.io.write(tmp_path / "fixed.extxyz", atoms)
    assert not read_dataset(tmp_path / "fixed.extxyz", property="energy").doubts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f, None),
        (lambda f: f / 51.4221, r"changes by 5\d.*Hartree/Bohr"),
        (lambda f: f * 23.0605, "kcal/mol"),
        (lambda f: f * 1000, "meV/Å"),
        (lambda f: -f, "sign"),
        (
            lambda f: f.reshape(-1, 5, 3)[:, [4, 2, 3, 1, 0]].reshape(-1, 3),
            "does not follow them.*in this order",
        ),
    ],
)
@pytest.mark.parametrize("per_atom", [False, True])
def test_forces_are_compared_with_the_energies_of_near_structures(change, said, per_atom):
    dataset = of_atoms(labelled_atoms(40, spread=0.06))
    structures = dataset.structures.replace(info=())
    values = dataset.properties["energy"] / (5 if per_atom else 1)
    name = "energy_per_atom" if per_atom else "energy"
    doubt = doubt_of_forces(structures, change(dataset.forces), name, values)
    assert doubt is None if said is None else re.search(said, doubt)


def test_what_cannot_be_compared_is_not_doubted():
    dataset = of_atoms(labelled_atoms(40, spread=0.06))
    structures, wrong = dataset.structures.replace(info=()), dataset.forces * 51
    values = dataset.properties["energy"]
    assert doubt_of_forces(structures, wrong, "band_gap", values) is None
    assert doubt_of_forces(structures[:2], wrong[:10], "energy", values[:2]) is None
    assert doubt_of_forces(structures, torch.full_like(wrong, torch.nan), "energy", values) is None
    apart = torch.linspace(1, 9, 40, dtype=torch.float64).repeat_interleave(5)
    far = structures.replace(positions=structures.positions * apart[:, None])
    assert doubt_of_forces(far, wrong, "energy", values) is None


def test_reading_warns_of_wrong_units(tmp_path):
    frames = labelled_atoms(20, spread=0.06)
    for atoms in frames:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] / 51.4221
    ase.io.write(tmp_path / "a.extxyz", frames)
    monitor = Monitor()
    output = tmp_path / "a.safetensors"
    stage.files(tmp_path / "a.extxyz", property="energy", format=None, output=output, monitor=monitor)
    (warning,) = monitor.warnings
    assert "Hartree/Bohr" in warning and "eV/Å" in warning
