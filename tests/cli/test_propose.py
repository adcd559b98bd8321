"""``whorl propose``: structures of new formulas."""

import csv

import pytest
import torch
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from whorl.datasets import Dataset, load_dataset, save_dataset
from whorl.structures import from_ase
from whorl.structures.cells import volumes

CATIONS, ANIONS = ["Na", "K", "Rb", "Ca", "Sr", "Ba", "Mg"], ["F", "Cl", "Br", "O", "S"]


@pytest.fixture
def data(tmp_path):
    pairs = [(a, b) for k, a in enumerate(CATIONS) for b in ANIONS if (k + ANIONS.index(b)) % 4]
    radii = [covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]] for a, b in pairs]
    salts = [bulk(a + b, "rocksalt", a=2 * r + 1) for (a, b), r in zip(pairs, radii, strict=True)]
    structures = from_ase(salts)
    save_dataset(
        Dataset(
            structures=structures,
            properties={"volume": volumes(structures.cells)},
            ids=tuple(a + b for a, b in pairs),
        ),
        tmp_path / "data.safetensors",
    )
    return tmp_path / "data.safetensors"


def test_it_writes_structures_of_formulas_as_requested(whorl, data, tmp_path):
    output = tmp_path / "new.safetensors"
    said = whorl("propose", data, "--target", 45, "--tolerance", 5, "--element", "O", "-n", 4, "-o", output)
    assert said.code == 0, said.err
    made = load_dataset(output)
    assert made.structures is not None and 1 <= len(made) <= 4
    for structure in made.structures:
        assert 8 in structure.atomic_numbers
    assert (made.properties["target"] == 45).all()
    error = (made.properties["predicted_volume"] - volumes(made.structures.cells)).abs()
    assert torch.median(error) < 10
    with output.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(made.ids)
    assert {row["parent"] for row in rows} <= set(load_dataset(data).ids)
    assert output.with_suffix(".extxyz").is_file()
    again = tmp_path / "again.safetensors"
    whorl("propose", data, "--target", 45, "--tolerance", 5, "--element", "O", "-n", 4, "-o", again)
    assert torch.equal(load_dataset(again).structures.positions, made.structures.positions)


def test_any_value_needs_no_property(whorl, data, tmp_path):
    said = whorl("propose", data, "--exclude", "O", "-n", 3, "-o", tmp_path / "new.safetensors")
    assert said.code == 0, said.err
    assert "not in the data" in said.out + said.err


def test_a_network_proposes_and_the_output_says_so(whorl, data, tmp_path):
    output = tmp_path / "new.safetensors"
    said = whorl(
        "propose", data, "--model", "network", "--steps", 30, "--element", "O", "-n", 4, "-o", output
    )
    assert said.code == 0, said.err
    assert "network of formulas, 30 steps" in said.out + said.err
    made = load_dataset(output)
    assert made.provenance["proposer"] == {"kind": "network", "steps": 30}
    assert all(8 in structure.atomic_numbers for structure in made.structures)


def test_a_formula_without_example_has_a_lattice_and_likely_groups(whorl, data, tmp_path):
    output = tmp_path / "one.safetensors"
    said = whorl("propose", data, "--formula", "Na2O", "-n", 3, "-o", output)
    assert said.code == 0, said.err
    assert "3 of 3 structures have no example in the data" in said.out + said.err
    with output.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["formula"], row["parent"]) for row in rows} == {("Na2O", "")}
    assert all(row["likely_space_groups"].startswith("Fm-3m") for row in rows)
    size = volumes(load_dataset(output).structures.cells)
    assert abs(float(rows[0]["likely_volume"]) / float(size.median()) - 1) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "netwerk"), "Did you mean 'network'"),
        (("--steps", 5), "it belongs to --model network"),
        (("--formula", "Na2Cs"), "like Cs: "),
        (("--formula", "NaF", "--element", "O"), "has no O, which is requested"),
        (("--element", "Cs"), "no structure of the data has Cs"),
        (("--element", "Zz"), "unknown element 'Zz'"),
        (("--n-atoms", "[9, 12]"), "2 atoms"),
        (("--n-atoms", "9..12"), "2 atoms"),
        (("--target", 45, "--property", "gap"), "gap"),
    ],
)
def test_what_cannot_be_met_is_refused(whorl, data, tmp_path, options, message):
    said = whorl("propose", data, *options, "-n", 3, "-o", tmp_path / "new.safetensors")
    assert said.code in (1, 2)
    assert message in " ".join(said.err.split())
    assert not (tmp_path / "new.safetensors").exists()
