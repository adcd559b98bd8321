"""The walk by the energy method: hits, calls counted, labels kept, what cannot be reached said."""

import dataclasses

import pytest
import torch
from ase import Atoms
from ase.cluster import Icosahedron

from whorl.errors import InputError
from whorl.evaluation.samples import Samples
from whorl.potentials import PotentialOutput, bulk_energy, make_potential
from whorl.potentials.quantity import Quantity
from whorl.refinement import Oracle, RefinementContext
from whorl.structures import from_ase
from whorl.surrogates.base import Prediction, StructureSurrogate

EMT = make_potential("emt")
BULK = {"Pt": bulk_energy(EMT, "Pt")}
FORMATION = Quantity(name="formation_energy", bulk_energy=BULK)


def clusters(*targets: float, per_target: int = 5) -> Samples:
    atoms = [Icosahedron("Pt", 2) for _ in range(len(targets) * per_target)]
    for seed, one in enumerate(atoms):
        one.rattle(0.25, seed=seed)
    count = len(atoms)
    return Samples(
        ids=tuple(f"s{i}" for i in range(count)),
        targets=torch.tensor(targets, dtype=torch.float64).repeat_interleave(per_target),
        structures=from_ase(atoms),
        rows=torch.arange(count),
    )


def context(**changes) -> RefinementContext:
    return dataclasses.replace(RefinementContext(potential=EMT, quantity=FORMATION, tolerance=0.1), **changes)


def values(samples: Samples, quantity: Quantity = FORMATION) -> torch.Tensor:
    return quantity.values(EMT(samples.structures), samples.structures)


def test_structures_have_the_value_requested_after_a_few_calls():
    samples = clusters(1.7, 2.0, 2.6)
    before = values(samples) - samples.targets
    made = Oracle().refine(samples, context())
    after = values(made) - made.targets
    assert int((before.abs() <= 0.1).sum()) < 5
    assert bool((after.abs() <= 0.05).all()) and set(made.refinement) == {"reached"}
    assert float(made.energy_calls.double().mean()) < 5 and int(made.energy_calls.max()) <= 8
    assert float(made.displacement.max()) < 0.5


@pytest.mark.parametrize("name", ["energy", "energy_per_atom", "formation_energy"])
def test_every_energy_is_followed_in_its_own_units(name):
    quantity = Quantity(name=name, bulk_energy=BULK, subtracted=0.3)
    samples = clusters(0.0)
    targets = values(samples, quantity) + (1.3 if name == "energy" else 0.1)
    tolerance = 0.2 if name == "energy" else 0.02
    made = Oracle().refine(samples.replace(targets=targets), context(quantity=quantity, tolerance=tolerance))
    assert bool(((values(made, quantity) - targets).abs() <= tolerance / 2).all())


def test_what_is_within_the_margin_is_checked_and_left():
    samples = clusters(0.0)
    made = Oracle().refine(samples.replace(targets=values(samples) + 0.04), context())
    assert made.energy_calls.tolist() == [1] * 5 and made.displacement.tolist() == [0.0] * 5
    assert set(made.refinement) == {"reached"}


def test_one_call_only_checks():
    samples = clusters(2.6)
    made = Oracle(Oracle.Settings(calls=1)).refine(samples, context())
    assert made.energy_calls.tolist() == [1] * 5
    assert torch.equal(made.structures.positions, samples.structures.positions)
    assert all(status.startswith("not reached: nearest ") for status in made.refinement)


def test_all_that_was_computed_is_kept_as_labels():
    samples = clusters(1.7, 2.6)
    made = Oracle().refine(samples, context())
    labels = made.computed
    assert labels is not None and len(labels.rows) == int(made.energy_calls.sum())
    assert torch.equal(torch.bincount(labels.rows), made.energy_calls)
    output = EMT(labels.structures)
    assert torch.allclose(labels.energies, output.energy) and torch.allclose(labels.forces, output.forces)
    assert torch.allclose(labels.values, FORMATION.values(output, labels.structures))
    for b in range(len(made.rows)):  # what came back is the nearest of them
        own = (labels.values - made.targets[b])[labels.rows == b].abs()
        assert float((values(made)[b] - made.targets[b]).abs()) == pytest.approx(float(own.min()), abs=1e-9)


def test_a_value_out_of_reach_is_said_and_the_nearest_comes_back():
    samples = clusters(-50.0)
    before = values(samples)
    made = Oracle().refine(samples, context())
    assert all(status.startswith("not reached: nearest ") for status in made.refinement)
    assert bool((values(made) <= before).all())


def test_atoms_keep_their_distance():
    samples = clusters(30.0)
    radii = 2 * 1.36
    made = Oracle(Oracle.Settings(min_distance=0.8, calls=20)).refine(samples, context())
    before, after = (
        min(float(torch.pdist(one.positions).min()) for one in batch.structures) / radii
        for batch in (samples, made)
    )
    assert after >= min(before, 0.8) - 1e-6


class NoForces:
    """EMT without its forces."""

    name = "emt without forces"

    def __call__(self, structures) -> PotentialOutput:
        output = EMT(structures)
        return dataclasses.replace(output, forces=torch.full_like(output.forces, torch.nan))


class Wrong(StructureSurrogate):
    """A surrogate of structures whose gradient is too large by a factor, and turned a little."""

    validation_errors = None
    identity = "wrong"

    def predict(self, features, *, gradients=False):
        output = EMT(features)
        gradient = 3.0 * FORMATION.gradient(output, features)
        noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return Prediction(
            mean=output.energy, gradient=gradient + 0.2 * gradient.square().mean().sqrt() * noise
        )

    @classmethod
    def fit(cls, features, properties, **options): ...

    def save(self, path): ...

    @classmethod
    def load(cls, path): ...


def test_without_forces_the_walk_follows_a_surrogate_and_corrects_its_length():
    samples = clusters(1.7, 2.6)
    made = Oracle().refine(samples, context(potential=NoForces(), surrogate=Wrong()))
    after = values(made) - made.targets
    assert bool((after.abs() <= 0.1).all()), after
    assert bool(made.computed.forces.isnan().all())


def test_without_forces_and_surrogate_the_reason_is_said():
    made = Oracle().refine(clusters(3.5), context(potential=NoForces()))
    assert all("gives no forces" in status and status.startswith("failed") for status in made.refinement)
    assert made.energy_calls.tolist() == [1] * 5


def test_an_element_without_a_reference_is_a_failure_of_its_own():
    samples = Samples(
        ids=("a", "b"),
        targets=torch.tensor([3.0, 3.0], dtype=torch.float64),
        structures=from_ase([Atoms(n, [[0, 0, 0], [0, 0, 2.5]]) for n in ("Pt2", "Cu2")]),
        rows=torch.arange(2),
    )
    made = Oracle().refine(samples, context())
    assert made.refinement[1].startswith("failed: ") and not made.refinement[0].startswith("failed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"potential": None}, "needs an energy method"),
        ({"quantity": None}, "nothing that is compared with the property"),
        ({"tolerance": None}, "needs a tolerance"),
    ],
)
def test_what_is_lacking_is_said(changes, words):
    with pytest.raises(InputError, match=words):
        Oracle().refine(clusters(2.0), context(**changes))


def test_a_target_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="--target"):
        Oracle().refine(clusters(float("nan")), context())
