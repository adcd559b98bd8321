"""Structures by an energy method: does it compute the property, and what cannot be computed?"""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from tiny_recipe import tiny

from whorl.errors import InputError
from whorl.evaluation import EvaluationContext, Reference, Samples
from whorl.evaluation.evaluators.energy import EnergyEvaluator
from whorl.structures import from_ase
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages import run_recipe
from whorl.workflow.stages.report import report_again

TETRAHEDRON = np.array([[0, 0, 0], [2.6, 0, 0], [0, 2.6, 0], [0, 0, 2.6]])


class Dipoles(Calculator):
    """Knows a dipole along z, which is the extent of the atoms, and no energy."""

    implemented_properties = ("dipole", "charges")

    def calculate(self, atoms=None, properties=("dipole",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        extent = np.ptp(atoms.positions, axis=0).sum()
        self.results = {"dipole": np.array([0.0, 0.0, -extent]), "charges": np.zeros(len(atoms))}


def clusters(symbols="Pt4", count=40):
    rng = np.random.default_rng(0)
    return [Atoms(symbols, TETRAHEDRON + 0.15 * rng.normal(size=(4, 3))) for _ in range(count)]


def reference_of(frames, property, labels):
    """Real structures with labels; without frames their features alone."""
    count = len(frames or ()) or 1
    return Reference(
        name=property,
        unit="",
        properties=torch.zeros(count) if labels is None else torch.as_tensor(labels, dtype=torch.float64),
        features=torch.zeros(count, 1, dtype=torch.float64),
        structures=None if frames is None else from_ase(frames),
        training_rows=torch.arange(count),
    )


CONTEXT = EvaluationContext(tolerance=0.1)


def evaluator(calculator="emt", *, bulk=None, **settings):
    method = {"name": calculator, "bulk_energy": bulk or {}}
    return EnergyEvaluator(EnergyEvaluator.Settings.model_validate({"calculator": method, **settings}))


def chosen(frames, property, labels=None, **settings):
    found = evaluator(**settings).prepare(reference_of(frames, property, labels), CONTEXT)
    return found, found["warnings"]


def computed(frames, prepared=None, **settings):
    count = len(frames)
    samples = Samples(
        ids=tuple(f"s{i}" for i in range(count)),
        targets=torch.zeros(count, dtype=torch.float64),
        structures=from_ase(frames),
        rows=torch.arange(count),
    )
    metrics = evaluator(**settings).evaluate(samples, reference_of(frames, "y", None), CONTEXT, prepared)
    return metrics.per_structure, list(metrics.warnings)


def emt_energies(frames):
    found = []
    for atoms in frames:
        atoms = atoms.copy()
        atoms.calc = EMT()
        found.append(atoms.get_potential_energy())
    return np.array(found)


def test_a_class_label_is_compared_with_nothing():
    frames = clusters()
    found, (warning,) = chosen(frames, "kind", [float(i % 2) for i in range(40)])
    assert found["quantity"] is None
    assert "emt computes nothing that agrees with 'kind' on 40 real structures" in warning
    for name in ("formation_energy", "energy_per_atom", "energy"):
        assert found["compared"][name]["count"] == 40
        assert f"{name}: offset " in warning
    table, _ = computed(frames, found)
    assert "value" not in table
    assert np.isfinite(table["energy"]).all()  # still written


@pytest.mark.parametrize("property", ["y", "e_total", "energy"])
def test_total_energies_are_found_whatever_they_are_called(property):
    # Of clusters of two sizes, so that energy per atom is another quantity.
    frames = clusters() + [Atoms("Pt2", [[0, 0, 0], [0, 0, z]]) for z in np.linspace(2.2, 3.2, 20)]
    expected = emt_energies(frames)
    found, warnings = chosen(frames, property, expected)
    assert (found["quantity"], found["subtracted"], warnings) == ("energy", 0.0, [])
    table, _ = computed(frames, found)
    assert np.allclose(table["value"], expected)


def test_another_zero_of_energy_is_subtracted_only_when_asked_for():
    frames = clusters()
    labels = emt_energies(frames) / 4 - 145.4
    found, (warning,) = chosen(frames, "energy_per_atom", labels)
    assert found["quantity"] is None
    assert "energy_per_atom: offset 145.4, scatter" in warning
    assert "evaluate.subtract_offset: true" in warning
    found, (warning,) = chosen(frames, "energy_per_atom", labels, subtract_offset=True)
    assert found["quantity"] == "energy_per_atom"
    assert found["subtracted"] == pytest.approx(145.4)
    assert "less its offset of 145.4" in warning
    table, _ = computed(frames, found)
    assert np.allclose(table["value"], labels)


def test_a_stated_quantity_is_compared_with_a_warning_where_it_does_not_agree():
    frames = clusters()
    labels = emt_energies(frames) * 10
    found, (warning,) = chosen(frames, "y", labels, quantity="energy")
    assert found["quantity"] == "energy"
    assert "because evaluate.quantity says so, but does not agree" in warning and "slope 0.1" in warning
    with pytest.raises(InputError, match=r"unknown quantity 'enrgy'\. Did you mean 'energy'\?"):
        chosen(frames, "y", labels, quantity="enrgy")


@pytest.mark.parametrize("property", ["dipole", "dipole_moment", "Dipole magnitude"])
def test_any_property_of_the_calculator_by_its_name(property):
    frames = clusters("CHON")
    extents = [np.ptp(atoms.positions, axis=0).sum() for atoms in frames]
    calculator = f"{__name__}:Dipoles"
    found, warnings = chosen(frames, property, extents, calculator=calculator)
    assert (found["quantity"], warnings) == ("dipole", [])
    table, warnings = computed(frames, found, calculator=calculator)
    assert np.allclose(table["value"], extents)
    assert (table["failure"], warnings) == ([None] * 40, [])
    assert table["energy"] == [None] * 40  # it has none


def test_molecules_are_compared_by_total_energy_without_references():
    frames = clusters("CHON")
    found, warnings = chosen(frames, "energy", emt_energies(frames))
    assert (found["quantity"], found["bulk_energy"], warnings) == ("energy", {}, [])


def test_all_elements_without_reference_are_named_at_once_with_the_key_that_gives_them():
    frames = clusters("CHON")
    _, warnings = chosen(frames, "formation_energy", np.arange(40.0))
    assert any("evaluate.calculator.bulk_energy: {H: …, N: …, O: …}" in text for text in warnings)
    assert any("H, N, O: its reference state (diatom)" in text for text in warnings)
    bulk = {"H": -1.0, "N": -2.0, "O": -3.0}
    found, warnings = chosen(frames, "formation_energy", np.arange(40.0), bulk=bulk)
    assert found["compared"]["formation_energy"]["count"] == 40
    assert not any("reference" in text for text in warnings)


def test_a_missing_reference_costs_the_structures_that_have_the_element_and_no_others():
    frames = [*clusters("Pt4", 3), *clusters("Pt3O", 2)]
    table, (missing, failed) = computed(frames)
    assert "structures with O have no formation energy" in missing
    assert failed == (
        "emt failed on 2 of 5 structures, which count as misses (first: s3: no reference energy of O)."
    )
    assert [value is None for value in table["value"]] == [False] * 3 + [True] * 2
    assert np.isfinite(table["energy"]).all()
    assert table["failure"] == [None] * 3 + ["no reference energy of O"] * 2
    table, warnings = computed(frames, bulk={"O": -1.5, "Pt": -0.5})
    assert warnings == [] and np.isfinite(table["value"]).all()
    own = (np.array(table["energy"]) + 3 * 0.5 + 1.5) / 4
    assert np.allclose(table["value"][3:], own[3:])


def test_without_real_structures_the_name_decides_and_says_that_it_does():
    found, (warning,) = chosen(None, "formation_energy")
    assert found["quantity"] == "formation_energy" and "was not compared" in warning
    found, (warning,) = chosen(None, "heat")
    assert found["quantity"] is None and "no quantity of emt is called 'heat'" in warning


def test_a_run_whose_property_is_no_energy_has_no_table_of_them(tmp_path, tiny_run):
    frames = clusters()
    for i, atoms in enumerate(frames):
        atoms.info["kind"] = i % 2
    import ase.io

    ase.io.write(tmp_path / "labels.extxyz", frames, format="extxyz")
    recipe = tiny(
        f"data={{files: {{path: {tmp_path / 'labels.extxyz'}, property: kind}}}}",
        "sampling.sizes=all",
        "generate.targets=[0, 1]",
        "evaluate.calculator=emt",
    )
    monitor = Monitor()
    run_recipe(recipe, tmp_path / "run", monitor=monitor)
    assert any("computes nothing that agrees with 'kind'" in text for text in monitor.warnings)
    results = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text())
    for target in results["sizes"]["all"]["targets"]:
        assert target["potential"] is None and target["surrogate"]["count"] == 5
    energies = json.loads((tmp_path / "run" / "evaluate" / "all" / "energy.json").read_text())
    assert all(energies["per_structure"]["energy"])
    page = (tmp_path / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert "computes nothing that agrees with" in page and "Structures by the energy method" not in page
    page = report_again(tiny_run, output=tmp_path / "tiny.html").read_text(encoding="utf-8")
    assert "formation energy is compared with" in page and "Structures by the energy method" in page
