"""Protocols keep their contract, and their numbers are those of slow loops over the definitions."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from crystal_sets import crystal_set, crystals

from whorl.axes import PROTOCOLS
from whorl.evaluation.protocols.cdvae import composition_distances
from whorl.evaluation.structure_set import RelaxationSettings
from whorl.potentials.relaxation import relaxed
from whorl.structures import from_ase, to_ase, to_pymatgen
from whorl.testing import check_protocol

NAMES = ("mattergen", "lemat", "cdvae", "fung2022", "crystens2024")


def evaluated(name, of):
    """Return the values of the metrics, and the columns."""
    result = PROTOCOLS.get(name)().evaluate(of)
    return {metric: estimate.value for metric, estimate in result.metrics.items()}, result.columns


@pytest.mark.parametrize("name", NAMES)
def test_protocols_keep_their_contract(name):
    method = PROTOCOLS.get(name)
    few = {"relaxation": RelaxationSettings(steps=5)}
    settings = method.Settings(**few if name == "crystens2024" else {})
    check_protocol(method(settings), crystal_set(targets=torch.zeros(6, dtype=torch.float64), **few))


def test_all_protocols_are_tested():
    assert set(NAMES) == set(PROTOCOLS)


def slow_unique(structures, fit):
    kept = []
    flags = []
    for structure in structures:
        flags.append(not any(fit(structure, other) for other in kept))
        if flags[-1]:
            kept.append(structure)
    return flags


def matcher(**options):
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(**{"ltol": 0.2, "stol": 0.3, "angle_tol": 5, **options})


def test_mattergen_is_what_its_definition_says():
    of = crystal_set(submitted=8)
    value, columns = evaluated("mattergen", of)
    final, reference = to_pymatgen(of.final), to_pymatgen(of.reference)
    unique = slow_unique(final, matcher().fit)
    novel = [not any(matcher().fit(structure, known) for known in reference) for structure in final]
    distances = [one.energy_above_hull for one in of.hull_distances("final")]
    stable = [value is not None and value <= 0.1 for value in distances]
    sun = [a and b and c for a, b, c in zip(stable, unique, novel, strict=True)]
    assert 0 < sum(stable) < 6 and 0 < sum(unique) < 6 and 0 < sum(novel) < 6
    assert value["stable"] == sum(stable) / 8
    assert value["unique"] == sum(unique) / 6
    assert value["novel"] == sum(novel) / 6
    assert value["sun"] == sum(sun) / 8
    known = [value for value in distances if value is not None]
    assert value["energy_above_hull"] == pytest.approx(sum(known) / len(known))
    assert columns["sun"] == sun


def test_mattergen_measures_displacements_as_its_matcher_does():
    of = crystal_set()
    _, columns = evaluated("mattergen", of)
    wide = matcher(ltol=0.5, stol=0.5, angle_tol=10, scale=False, attempt_supercell=True)
    for given, final, found in zip(
        to_pymatgen(of.structures), to_pymatgen(of.final), columns["rmsd"], strict=True
    ):
        match = wide.get_rms_dist(final, given)
        mean = np.mean([given.lattice.parameters, final.lattice.parameters], axis=0)
        from pymatgen.core import Lattice

        size = (Lattice.from_parameters(*mean).volume / len(given)) ** (1 / 3)
        assert found == pytest.approx((0.5 if match is None else match[0]) * size, abs=0.02)


def test_lemat_takes_energies_as_generated_and_metastable_ones_apart():
    of = crystal_set(submitted=8)
    value, columns = evaluated("lemat", of)
    given, reference = to_pymatgen(of.structures), to_pymatgen(of.reference)
    fit = matcher(ltol=0.1).fit
    novel = [not any(fit(known, structure) for known in reference) for structure in given]
    kept = slow_unique(given, lambda candidate, known: fit(known, candidate))
    distances = [
        math.inf if one.energy_above_hull is None else one.energy_above_hull
        for one in of.hull_distances("generated")
    ]
    assert distances != [one.energy_above_hull for one in of.hull_distances("final")]
    valid = columns["valid"]
    stable = [ok and distance <= 0 for ok, distance in zip(valid, distances, strict=True)]
    metastable = [ok and 0 < distance <= 0.1 for ok, distance in zip(valid, distances, strict=True)]
    assert value["stable"] == sum(stable) / 8
    assert value["metastable"] == sum(metastable) / 8 > 0
    metasun = [a and b and c for a, b, c in zip(metastable, kept, novel, strict=True)]
    assert value["metasun"] == sum(metasun) / 8 > 0
    assert value["metasun_of_valid"] == sum(metasun) / sum(valid)


def test_lemat_says_that_its_limit_is_finer_than_a_potential_on_a_hull_of_others():
    of = crystal_set()
    said = PROTOCOLS.get("lemat")().evaluate(of).departures
    assert any("0 eV/atom is below the accuracy of emt" in text for text in said)
    of.hull = dataclasses.replace(of.hull, potential=of.potential.name)
    assert not any("error" in text for text in PROTOCOLS.get("lemat")().evaluate(of).departures)


def test_lemat_finds_atoms_that_are_too_near_as_a_loop_over_pairs_does():
    near = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    near.positions[1] += (near.positions[0] - near.positions[1]) * 0.45
    made = [near, bulk("NaCl", "rocksalt", a=3.2), bulk("NaCl", "rocksalt", a=5.6), bulk("Cs", "bcc", a=3.0)]
    _, columns = evaluated("lemat", crystal_set(made, potential=None, relaxation=None, hull=None))
    expected = []
    for structure in to_pymatgen(from_ase(made)):
        distances = structure.distance_matrix
        expected.append(
            all(
                distances[i, j]
                >= (0.7 + structure[i].specie.atomic_radius + structure[j].specie.atomic_radius) / 2
                for i, j in itertools.combinations(range(len(structure)), 2)
            )
        )
    assert expected == [False, False, True, True]
    assert columns["valid"] == expected


def test_cdvae_distributions_are_those_of_scipy_over_loops():
    from scipy.stats import wasserstein_distance

    of = crystal_set(potential=None, relaxation=None, hull=None)
    value, _ = evaluated("cdvae", of)
    made, real = to_pymatgen(of.structures), to_pymatgen(of.reference)
    densities = [[structure.density for structure in some] for some in (made, real)]
    assert value["density_distance"] == pytest.approx(wasserstein_distance(*densities), rel=1e-4)
    counts = [[len(structure.composition) for structure in some] for some in (made, real)]
    assert value["elements_distance"] == pytest.approx(wasserstein_distance(*counts))
    assert value["valid_structure"] == value["valid"] == 1.0


def test_cdvae_covers_what_is_there_and_nothing_else():
    alike = [bulk("Cu", "fcc", a=3.6), bulk("Ag", "fcc", a=4.09)]
    reference = from_ase([*alike, bulk("NaCl", "rocksalt", a=5.6)])
    value, columns = evaluated(
        "cdvae", crystal_set([*alike, bulk("Cs", "bcc", a=6.1)], reference=reference, potential=None)
    )
    assert value["coverage_recall"] == pytest.approx(2 / 3)
    assert value["coverage_precision"] == pytest.approx(2 / 3)
    assert columns["covers"] == [True, True, False]


def test_distances_of_compositions_are_earth_movers():
    from pymatgen.core import Element
    from scipy.stats import wasserstein_distance

    made = [bulk("NaCl", "rocksalt", a=5.6), bulk("CsCl", "cesiumchloride", a=4.1), bulk("Cu")]
    batch = from_ase(made)
    found = composition_distances(batch, batch)
    for i, j in itertools.product(range(3), repeat=2):
        places = [[Element(symbol).mendeleev_no for symbol in made[k].get_chemical_symbols()] for k in (i, j)]
        assert float(found[i, j]) == pytest.approx(wasserstein_distance(*places))


def test_fung2022_compares_formation_energies_as_generated_with_targets():
    from whorl.potentials import make_potential
    from whorl.potentials.reference import bulk_energy

    potential = make_potential("emt")
    targets = torch.tensor([0.0, 0.2, 0.0, math.nan, 0.5, 0.0], dtype=torch.float64)
    of = crystal_set(targets=targets, submitted=7)
    value, _ = evaluated("fung2022", of)
    references = {name: bulk_energy(potential, name) for name in ("Cu", "Au", "Pt")}
    errors = []
    for atoms, target in zip(crystals(), targets.tolist(), strict=True):
        energy = float(potential(atoms).energy[0])
        bulk_part = sum(references[symbol] for symbol in atoms.get_chemical_symbols())
        errors.append(abs((energy - bulk_part) / len(atoms) - target))
    known = [error for error in errors if math.isfinite(error)]
    assert value["mean_absolute_error"] == pytest.approx(sum(known) / len(known))
    assert value["within"] == sum(error <= 0.1 for error in known) / 7


def test_crystens2024_relaxes_primitive_cells_four_times_each_from_the_last():
    from whorl.symmetry import standardized

    of = crystal_set()
    protocol = PROTOCOLS.get("crystens2024")()
    value, columns = evaluated("crystens2024", of)
    structures = standardized(of.structures, cell="primitive")
    options = protocol.settings.relaxation.model_dump()
    pressures = []
    for number in range(4):
        found = relaxed(structures, of.potential, **options)
        if number == 0:
            first = found.initial_energy / structures.n_atoms
        pressures.append(10 * found.pressure)
        structures = found.structures
    assert columns["E0"] == pytest.approx(first.tolist())
    assert columns["E4"] == pytest.approx((found.energy / structures.n_atoms).tolist())
    for number, pressure in enumerate(pressures, start=1):
        assert columns[f"P{number}"] == pytest.approx(pressure.tolist(), abs=1e-6)
    assert value["P4"] == pytest.approx(float(pressures[3].abs().mean()), abs=1e-6)
    assert value["lowered"] == 1.0
    assert len(to_ase(structures)[0]) == 1  # of a conventional cell of four atoms


def test_relaxations_and_matches_are_computed_once_for_all_protocols():
    calls = []
    of = crystal_set()
    potential = of.potential

    class Counting:
        name, scheme = potential.name, "emt"

        def __call__(self, structures):
            calls.append(len(structures))
            return potential(structures)

    of.potential = Counting()
    shared = ("mattergen", "lemat", "cdvae")
    for name in shared:
        PROTOCOLS.get(name)().evaluate(of)
    made = len(calls)
    for name in shared:
        PROTOCOLS.get(name)().evaluate(of)
    assert made == len(calls)


def test_a_structure_that_makes_the_potential_raise_costs_no_other():
    of = crystal_set(relaxation=None)
    potential = of.potential

    class Fragile:
        name, scheme = "fragile", "emt"

        def __call__(self, structures):
            if bool((structures.atomic_numbers == 78).any()):
                raise ZeroDivisionError("platinum")
            return potential(structures)

    alone = of.computed
    of = crystal_set(relaxation=None, potential=Fragile())
    assert of.status == ("evaluated",) * 3 + ("failed",) + ("evaluated",) * 2
    assert of.reasons == {3: "ZeroDivisionError: platinum"}
    others = torch.tensor([0, 1, 2, 4, 5])
    assert torch.equal(of.computed.energy[others], alone.energy[others])
