"""Species placed one after another."""

import torch
from ase.spacegroup import crystal

from whorl.reconstruction import InversionProblem
from whorl.reconstruction.population.search import _Method, _Search, _Target
from whorl.reconstruction.population.stepwise import _part, stepwise_starts
from whorl.reconstruction.population.target_search import Jobs, PopulationSettings
from whorl.representations import ACSF
from whorl.structures import from_ase
from whorl.workflow.round_trip import forget


def spinel():
    return from_ase(
        crystal(
            ["Mg", "Al", "O"],
            [(1 / 8, 1 / 8, 1 / 8), (1 / 2, 1 / 2, 1 / 2), (0.2624, 0.2624, 0.2624)],
            spacegroup=227,
            setting=2,
            cellpar=[8.08, 8.08, 8.08, 90, 90, 90],
            primitive_cell=True,
        )
    )


def search_for(structure, *, apart=True):
    species = ["Mg", "Al", "O"]
    acsf = ACSF.from_config({**ACSF.crystal(species).config(), "per_centre_species": apart})
    problem = InversionProblem(
        representation=acsf, target=acsf(structure), template=forget(structure), min_distance=0.55
    )
    search = _Search(_Method(PopulationSettings(), None, 0, 64, 1e-3, None, None), _Target("", problem, []))
    positions, cells, groups = search._candidates(few=True)
    features = search.features_of(Jobs(search.target, list(positions), list(cells), groups))
    return search, positions[:8], features[:8]


def test_a_crystal_is_built_up():
    search, positions, features = search_for(spinel())
    assert search.target.places_stepwise
    starts = stepwise_starts(search, positions, features)
    assert starts is not None
    assert float(starts.loss.min()) < 1e-6
    assert search.target.evaluations > 0


def test_a_part_counts_the_features_of_its_own_species_alone():
    search, positions, features = search_for(spinel())
    numbers = search.target.atoms.numbers
    part = _part(search, (numbers != 8).numpy(), positions, features)
    names = search.problem.representation.layout.names
    counted = {name for name, weight in zip(names, part.weights[0].tolist(), strict=True) if weight}
    assert counted
    assert not any("O" in name for name in counted)
    assert any("Mg" in name and "Al" in name for name in counted)


def test_without_species_told_apart_there_are_no_stepwise_starts():
    search, positions, features = search_for(spinel(), apart=False)
    assert stepwise_starts(search, positions, features) is None


def test_alike_atoms_are_told_by_the_target():
    search, _, _ = search_for(spinel())
    assert search.target.atoms.alike == {8: True, 12: True, 13: True}
    moved = spinel()
    positions = moved.positions.clone()
    positions[moved.atomic_numbers == 8] += 0.1 * torch.randn(
        8, 3, generator=torch.Generator().manual_seed(0)
    )
    search, _, _ = search_for(moved.replace(positions=positions))
    assert search.target.atoms.alike[8] is False
