"""Projection onto values: what is reached, how far it moves, and what it says of the rest."""

import math
import sys
from pathlib import Path

import pytest
import torch

from whorl.axes import REFINERS
from whorl.errors import InputError
from whorl.evaluation.samples import Reference, Samples
from whorl.refinement.base import RefinementContext
from whorl.refinement.project import Project, Requested, project
from whorl.structures import StructureBatch
from whorl.structures.connectivity import count_pieces
from whorl.surrogates import AdditiveSurrogate, Prediction
from whorl.surrogates.base import StructureSurrogate

sys.path.append(str(Path(__file__).parents[1] / "surrogates"))
from pair_potential import Pairs, clusters, crystals


class Known(StructureSurrogate):
    """A property with a formula, in the place of a fitted one: f and u of (positions, cells, owner)."""

    def __init__(self, function, uncertainty=None):
        self.function = function
        self.uncertainty = uncertainty or (lambda *of: torch.full_like(function(*of), 1e-3))

    def predict(self, features, *, gradients=False):
        positions = features.positions.detach().clone().requires_grad_(True)
        strain = torch.zeros_like(features.cells, requires_grad=True)
        owner = features.structure_index
        with torch.enable_grad():
            moved = positions + torch.einsum("ab,abc->ac", positions, strain[owner])
            of = moved, features.cells + features.cells @ strain, owner
            results = [self.function(*of), self.uncertainty(*of)]
            slopes = [
                torch.autograd.grad(
                    result.sum(), [positions, strain], retain_graph=True, materialize_grads=True
                )
                if result.requires_grad
                else (torch.zeros_like(positions), torch.zeros_like(strain))
                for result in results
            ]
        return Prediction(
            mean=results[0].detach(),
            uncertainty=results[1].detach(),
            gradient=slopes[0][0],
            strain_gradient=slopes[0][1],
            uncertainty_gradient=slopes[1][0],
            uncertainty_strain_gradient=slopes[1][1],
        )

    identity = "known"
    fit = validation_errors = save = load = None


def spread(positions, cells, owner):
    """Return half the sum of the squared distances of the atoms from the origin."""
    squares = 0.5 * positions.square().sum(1)
    return squares.new_zeros(len(cells)).index_add(0, owner, squares)


def targets(structures, value):
    return torch.full((len(structures),), value, dtype=torch.float64)


def rms(a, b):
    return float((a.positions - b.positions).square().sum(1).mean().sqrt())


@pytest.fixture(scope="module")
def surrogate():
    structures = clusters(80)
    output = Pairs()(structures)
    return AdditiveSurrogate.fit(structures, output.energy / 4, seed=0, forces=output.forces, cosines=300)


def test_the_energy_method_confirms_the_value(surrogate):
    structures = clusters(20, seed=7)
    before = Pairs()(structures).energy / 4
    wanted = before + torch.linspace(-0.15, 0.15, 20)
    result = project(structures, [Requested.value(surrogate, wanted, 0.03)])
    after = Pairs()(result.structures).energy / 4
    assert bool(result.reached.all())
    assert float((after - wanted).abs().max()) < 0.08
    assert 0 < rms(result.structures, structures) < 0.2


def test_the_way_is_the_shortest():
    structures = clusters(3)
    known = Known(spread)
    values = known.predict(structures).mean
    result = project(structures, [Requested.value(known, 0.8 * values, 1e-6)], max_step=10.0)
    # The nearest points of a sphere lie along the radii.
    torch.testing.assert_close(
        result.structures.positions, math.sqrt(0.8) * structures.positions, rtol=1e-4, atol=1e-4
    )


def test_no_atom_moves_farther_in_a_step_than_it_may():
    structures = clusters(2)
    known = Known(spread)
    request = Requested.value(known, 4 * known.predict(structures).mean, 1e-3)
    once = project(structures, [request], steps=1, max_step=0.05)
    farthest = (once.structures.positions - structures.positions).norm(dim=1).max()
    assert float(farthest) == pytest.approx(0.05)
    assert not bool(once.reached.any())


def test_what_cannot_be_reached_comes_as_near_as_it_can():
    structures = clusters(4)
    result = project(structures, [Requested.value(Known(spread), targets(structures, -5.0), 0.1)], steps=200)
    assert not bool(result.reached.any())
    assert float(result.values.abs().max()) < 1e-2  # the least value there is


def test_the_others_of_a_batch_do_not_matter(surrogate):
    structures = clusters(7, seed=3)
    wanted = Pairs()(structures).energy / 4 + 0.1
    together = project(structures, [Requested.value(surrogate, wanted, 0.05)])
    for row in (0, 4):
        alone = project(structures[[row]], [Requested.value(surrogate, wanted[[row]], 0.05)])
        torch.testing.assert_close(
            alone.structures.positions, together.structures[[row]].positions, rtol=1e-7, atol=1e-8
        )
    again = project(structures, [Requested.value(surrogate, wanted, 0.05)])
    assert torch.equal(again.structures.positions, together.structures.positions)


def test_structures_of_different_sizes_go_together():
    structures = StructureBatch.concatenate(
        [clusters(1, atoms=3), clusters(2, atoms=6), clusters(1, atoms=4)]
    )
    known = Known(spread)
    result = project(structures, [Requested.value(known, 0.9 * known.predict(structures).mean, 1e-3)])
    assert bool(result.reached.all())
    assert torch.equal(result.structures.structure_index, structures.structure_index)


def test_several_properties_and_ranges_are_met_together():
    structures = clusters(5)

    def height(positions, cells, owner):
        return positions.new_zeros(len(cells)).index_add(0, owner, positions[:, 2])

    size, tilt = Known(spread), Known(height)
    least = size.predict(structures).mean
    requests = [
        Requested(surrogate=size, lower=1.1 * least, upper=torch.full_like(least, math.inf), tolerance=0.01),
        Requested.value(tilt, targets(structures, 1.0), 0.01),
    ]
    result = project(structures, requests)
    assert bool(result.reached.all())
    assert bool((result.values[:, 0] >= 1.1 * least - 0.01).all())
    assert float((result.values[:, 1] - 1.0).abs().max()) < 0.01
    there = [Requested(surrogate=size, lower=0.5 * least, upper=2 * least, tolerance=0.01)]
    untouched = project(structures, there)
    assert torch.equal(untouched.structures.positions, structures.positions)


def test_a_free_cell_is_stretched_without_a_rotation_and_a_fixed_one_stays():
    structures = crystals(4)

    def volume(positions, cells, owner):
        return torch.linalg.det(cells)

    request = Requested.value(Known(volume), 1.1 * torch.linalg.det(structures.cells), 0.01)
    fixed = project(structures, [request])
    assert torch.equal(fixed.structures.cells, structures.cells)
    assert not bool(fixed.reached.any())
    free = project(structures, [request], free_cell=True)
    assert bool(free.reached.all())
    deformation = torch.linalg.solve(structures.cells, free.structures.cells)
    torch.testing.assert_close(deformation, deformation.mT, rtol=0, atol=2e-3)
    clusters_stay = project(
        clusters(2), [Requested.value(Known(spread), targets(range(2), 9.0), 0.01)], free_cell=True
    )
    assert torch.equal(clusters_stay.structures.cells, clusters(2).cells)


def test_distances_are_kept_at_the_least_one_allowed():
    positions = torch.tensor([[0, 0, 0], [0, 0, 2.4]]).double()
    pair = StructureBatch(
        positions=positions,
        cells=torch.zeros(1, 3, 3).double(),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        atomic_numbers=torch.tensor([79, 79]),
        structure_index=torch.tensor([0, 0]),
    )

    def distance(positions, cells, owner):
        return (positions[1] - positions[0]).norm()[None]

    request = [Requested.value(Known(distance), targets(pair, 0.5), 0.01)]
    free = project(pair, request, steps=100)
    assert bool(free.reached.all())
    kept = project(pair, request, steps=100, min_distance=0.7)
    assert not bool(kept.reached.any())
    assert float(kept.values) == pytest.approx(0.7 * 2 * 1.36, abs=0.05)
    assert float(kept.values) >= 0.7 * 2 * 1.36 - 1e-6


def test_caution_finds_the_surer_place_of_a_level_set():
    structures = clusters(3)

    def doubt(positions, cells, owner):
        return positions.new_zeros(len(cells)).index_add(0, owner, positions[:, 0].square()) + 0.1

    known = Known(spread, doubt)
    request = [Requested.value(known, 0.5 * known.predict(structures).mean, 0.1)]
    plain, careful = (project(structures, request, caution=caution) for caution in (0.0, 0.01))
    assert bool(careful.reached.all())
    assert bool((careful.uncertainties < plain.uncertainties).all())


def test_confidence_is_the_normal_probability_of_a_hit():
    known = Known(spread)
    request = Requested.value(known, torch.tensor([1.0, 1.0]).double(), 0.1)
    got = request.confidence(torch.tensor([1.0, 1.05]).double(), torch.tensor([0.1, math.nan]).double())
    assert float(got[0]) == pytest.approx(math.erf(1 / math.sqrt(2)))
    assert float(got[1]) == 1.0
    at_least = Requested(
        surrogate=known,
        lower=torch.ones(1).double(),
        upper=torch.full((1,), math.inf).double(),
        tolerance=0.1,
    )
    assert float(
        at_least.confidence(torch.tensor([0.9]).double(), torch.tensor([0.2]).double())
    ) == pytest.approx(0.5, abs=1e-6)


def connected(structures):
    return structures[count_pieces(structures) == 1]


def samples_of(structures, wanted):
    n = len(structures)
    return Samples(
        ids=tuple(f"s{k}" for k in range(n)),
        targets=wanted,
        structures=structures,
        rows=torch.arange(n),
        status=("converged",) * n,
    )


def reference_of(structures):
    values = Pairs()(structures).energy / structures.n_atoms
    return Reference(
        name="energy",
        unit="eV/atom",
        properties=values,
        features=torch.zeros(len(values), 1),
        structures=structures,
        training_rows=torch.arange(len(values)),
    )


def refiner(**settings):
    return Project(Project.Settings(surrogate={"kind": "additive", "cosines": 100}, **settings))


def test_the_settings_of_the_surrogate_are_all_written_and_reach_it():
    functions = {"kind": "acsf", "cutoff": 4.0, "g2": [[4.0, 2.0]], "pooling": ["mean"]}
    settings = Project.Settings(surrogate={"kind": "additive", "cosines": 77, "representation": functions})
    written = settings.model_dump(mode="json")["surrogate"]
    assert written["cosines"] == 77 and written["representation"]["g2"] == [[4.0, 2.0]]
    assert settings.surrogate.options()["representation"]["cutoff"]["radius"] == 4.0
    assert Project.Settings.model_validate(settings.model_dump(mode="json")) == settings


def test_the_refiner_fits_to_the_training_rows_and_says_what_it_did():
    assert REFINERS.get("project") is Project
    structures = clusters(100)
    starts = clusters(6, seed=5)
    wanted = Pairs()(starts).energy / 4 + 0.05
    wanted[5] = 1e3
    context = RefinementContext(reference=reference_of(structures), tolerance=0.2, seed=3)
    refined = refiner().refine(samples_of(starts, wanted), context)
    assert refined.refinement[:5] == ("reached",) * 5
    assert refined.refinement[5].startswith("unreached: nearest value ")
    assert refined.energy_calls.tolist() == [0] * 6
    assert bool((refined.displacement[:5] < 0.2).all())
    moved = rms(refined.structures[[0]], starts[[0]])
    assert float(refined.displacement[0]) == pytest.approx(moved)
    assert refined.structures.positions.dtype == torch.float64


@pytest.mark.parametrize(("name", "used"), [("energy_per_atom", True), ("band_gap", False)])
def test_forces_are_derivatives_of_energies_alone(name, used, monkeypatch):
    structures = clusters(30)
    forces = Pairs()(structures).forces
    labelled = reference_of(structures).replace(
        name=name, forces=forces, training_rows=torch.arange(29, 4, -1)
    )
    given, fit = [], AdditiveSurrogate.fit
    monkeypatch.setattr(
        AdditiveSurrogate, "fit", lambda *of, **labels: given.append(labels["forces"]) or fit(*of, **labels)
    )
    starts = clusters(1, seed=5)
    context = RefinementContext(reference=labelled, tolerance=0.1, seed=3)
    refiner().refine(samples_of(starts, Pairs()(starts).energy / 4), context)
    assert (given[0] is not None) == used
    if used:
        assert torch.equal(given[0], forces.reshape(30, -1, 3)[5:].flip(0).reshape(-1, 3))


def test_a_hit_that_is_not_likely_is_called_uncertain():
    starts = clusters(3)
    doubtful = Known(spread, lambda positions, cells, owner: torch.full((len(cells),), 0.2).double())
    context = RefinementContext(surrogate=doubtful, tolerance=0.1)
    values = doubtful.predict(starts).mean
    refined = refiner().refine(samples_of(starts, values), context)
    assert refined.refinement == ("uncertain: 38% likely a hit",) * 3
    assert refiner(confidence=0.3).refine(samples_of(starts, values), context).refinement == ("reached",) * 3


def test_atoms_that_broke_off_are_no_hit():
    starts = connected(clusters(9))[:3]
    known = Known(spread)
    far = samples_of(starts, 100 * known.predict(starts).mean)
    context = RefinementContext(surrogate=known, tolerance=0.1)
    assert refiner(steps=300).refine(far, context).refinement == ("fragments",) * 3
    # Pieces before as after are left in peace, unless all training structures are whole.
    apart = starts.replace(positions=3 * starts.positions)
    same = samples_of(apart, known.predict(apart).mean)
    assert refiner().refine(same, context).refinement == ("reached",) * 3
    whole = RefinementContext(surrogate=known, tolerance=0.1, reference=reference_of(connected(clusters(20))))
    assert bool((count_pieces(whole.reference.structures) == 1).all())
    assert refiner().refine(same, whole).refinement == ("fragments",) * 3


def test_fragments_are_joined_before_they_are_moved_where_structures_must_be_whole(surrogate):
    starts = connected(clusters(6))[:2]
    apart = starts.replace(positions=3 * starts.positions)
    assert bool((count_pieces(apart) > 1).all())
    samples = samples_of(apart, surrogate.predict(starts).mean)
    refined = refiner(whole=True).refine(samples, RefinementContext(surrogate=surrogate, tolerance=0.1))
    assert refined.refinement[0] == "reached" and bool((count_pieces(refined.structures) == 1).any())
    for k, status in enumerate(refined.refinement):
        # What does not get there comes back as it was, with its fragments.
        whole = int(count_pieces(refined.structures[[k]])) == 1
        assert whole == (status.split(":")[0] in ("reached", "uncertain"))


def test_what_cannot_be_predicted_comes_back_as_it_was(surrogate):
    starts = clusters(4)
    positions, numbers = starts.positions.clone(), starts.atomic_numbers.clone()
    positions[0], numbers[4] = math.nan, 47
    wanted = Pairs()(starts).energy / 4
    wanted[2] = math.nan
    samples = samples_of(starts.replace(positions=positions, atomic_numbers=numbers), wanted)
    refined = refiner().refine(samples, RefinementContext(surrogate=surrogate, tolerance=0.1))
    assert "not finite" in refined.refinement[0] and "Ag" in refined.refinement[1]
    assert refined.refinement[2:] == ("failed: no value is asked for", "reached")
    assert torch.equal(refined.structures.positions[1:12], positions[1:12])


def test_where_nothing_can_be_predicted_all_comes_back_as_it_was(surrogate):
    starts = clusters(3)
    refined = refiner().refine(
        samples_of(starts, targets(starts, math.nan)), RefinementContext(surrogate=surrogate, tolerance=0.1)
    )
    assert refined.refinement == ("failed: no value is asked for",) * 3
    assert torch.equal(refined.structures.positions, starts.positions)


def test_hits_are_not_called_likely_by_a_surrogate_without_uncertainty():
    starts, unknown = clusters(3), Known(spread, lambda *of: torch.full_like(spread(*of), math.nan))
    samples = samples_of(starts, spread(starts.positions, starts.cells, starts.structure_index) + 0.1)
    context = RefinementContext(surrogate=unknown, tolerance=0.1)
    with pytest.raises(InputError, match=r"gives no uncertainty.*confidence: 0"):
        refiner().refine(samples, context)
    assert refiner(confidence=0.0).refine(samples, context).refinement == ("reached",) * 3


def test_it_refuses_what_it_cannot_do():
    samples = samples_of(clusters(2), targets(range(2), 1.0))
    with pytest.raises(InputError, match="got no tolerance"):
        refiner().refine(samples, RefinementContext(surrogate=Known(spread)))
    with pytest.raises(InputError, match="neither a surrogate of structures nor labelled structures"):
        refiner().refine(samples, RefinementContext(tolerance=0.1))
    with pytest.raises(InputError, match="expected one of structures"):
        Project(Project.Settings(surrogate={"kind": "network"})).refine(
            samples, RefinementContext(tolerance=0.1)
        )
    with pytest.raises(InputError, match="got no property"):
        project(clusters(2), [])
    nothing = Samples(ids=("a",), targets=torch.ones(1))
    context = RefinementContext(tolerance=0.1, surrogate=Known(spread))
    assert refiner().refine(nothing, context).refinement == ()
