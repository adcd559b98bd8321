"""Properties as sums over atoms: formulas against slow loops, refits and finite differences."""

import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from pair_potential import Pairs, clusters, crystals

from whorl.errors import InputError
from whorl.potentials import make_potential
from whorl.structures import StructureBatch, from_ase
from whorl.surrogates import AdditiveSurrogate, additive, load_surrogate
from whorl.surrogates.environments import default_fingerprint

SMALL = {"cosines": 60}


def fitted(structures, *, forces=True, stresses=False, potential=None, seed=1, rows=None, **options):
    structures = structures if rows is None else structures[rows]
    output = (potential or Pairs())(structures)
    values = output.energy if options.get("extensive") else output.energy / structures.n_atoms
    labels = {"forces": output.forces} if forces else {}
    if stresses:
        labels["stresses"] = output.stress
    return AdditiveSurrogate.fit(structures, values, seed=seed, **labels, **{**SMALL, **options})


@pytest.fixture(scope="module")
def of_clusters():
    return fitted(clusters(40))


@pytest.fixture(scope="module")
def of_crystals():
    return fitted(crystals(40), stresses=True)


def features_of(surrogate, structure):
    """Return the pooled features of one structure: shares of the elements, then cosines; a slow loop."""
    maps, representation = surrogate.environments, surrogate.representation
    fingerprints = representation.atomic_features(structure)
    pooled = torch.zeros(len(representation.species) + len(maps.phases), dtype=torch.float64)
    for i, number in enumerate(structure.atomic_numbers.tolist()):
        e = representation.species.index({29: "Cu", 79: "Au"}[number])
        pooled[e] += 10.0 / len(fingerprints)
        z = (fingerprints[i] - maps.mean) @ maps.axes
        for d in range(len(maps.phases)):
            angle = float(z @ maps.frequencies[:, d] + maps.species[e, d] + maps.phases[d])
            pooled[len(representation.species) + d] += (
                math.sqrt(2 / len(maps.phases)) * math.cos(angle) / len(fingerprints)
            )
    return pooled


@pytest.mark.parametrize("kind", ["clusters", "crystals"])
def test_values_and_uncertainties_follow_the_formula(kind, of_clusters, of_crystals):
    surrogate = of_clusters if kind == "clusters" else of_crystals
    structures = (clusters if kind == "clusters" else crystals)(3, seed=5)
    predicted = surrogate.predict(structures)
    inverse = torch.linalg.inv(surrogate._normal + surrogate._penalty * torch.eye(len(surrogate._right)))
    weights = inverse @ surrogate._right
    for b, structure in enumerate(structures):
        pooled = features_of(surrogate, structure)
        value = surrogate.offset + surrogate.scale * float(pooled @ weights)
        spread = surrogate._noise**2 * float(pooled @ inverse @ pooled)
        spread = math.sqrt(spread + sum(float(pooled @ inverse @ row) ** 2 for row in surrogate._influences))
        assert float(predicted.mean[b]) == pytest.approx(value, rel=1e-7)
        assert float(predicted.uncertainty[b]) == pytest.approx(
            surrogate.calibration * surrogate.scale * spread, rel=1e-5
        )


def numerical_rows(surrogate, structure, step=1e-4):
    """Return derivatives of the pooled features in positions and strain by finite differences."""
    rows, n = [], len(structure.positions)
    moves = [("atom", i, x) for i in range(n) for x in range(3)]
    moves += [("strain", i, j) for i in range(3) for j in range(3)] if bool(structure.pbc.any()) else []
    for what, i, j in moves:
        pooled = []
        for sign in (step, -step):
            if what == "atom":
                shift = torch.zeros(n, 3, dtype=torch.float64)
                shift[i, j] = sign
                moved = structure.replace(positions=structure.positions + shift)
            else:
                strain = torch.zeros(3, 3, dtype=torch.float64)
                strain[i, j] += 0.5 * sign
                strain[j, i] += 0.5 * sign
                stretch = torch.eye(3, dtype=torch.float64) + strain
                moved = structure.replace(
                    positions=structure.positions @ stretch, cells=structure.cells @ stretch
                )
            pooled.append(features_of(surrogate, moved))
        rows.append((pooled[0] - pooled[1]) / (2 * step) * (n if what == "atom" else 1))
    return torch.stack(rows)


def test_energies_forces_and_stresses_enter_the_normal_equations_as_written():
    structures = crystals(10)
    surrogate = fitted(structures, stresses=True, cosines=12)
    output = Pairs()(structures)
    values = output.energy / structures.n_atoms
    rows, targets = [], []
    low, middle, high = values.quantile(torch.tensor([0.1, 0.5, 0.9]).double())
    spread, each = (high - low) / 2.5632, 1 / surrogate.settings.force_error
    force = output.forces.norm(dim=1).median()
    volumes = torch.linalg.det(structures.cells)
    for b, structure in enumerate(structures):
        mine = structures.structure_index == b
        forces, strain = output.forces[mine], volumes[b] * output.stress[b] / int(mine.sum())
        virials = (volumes[:, None, None] * output.stress / structures.n_atoms[:, None, None]).flatten(1)
        sizes = torch.cat(
            [
                (values[b] - middle).abs()[None] / spread,
                (forces.norm(dim=1) / force).repeat_interleave(3),
                (strain.norm() / virials.norm(dim=1).median()).expand(9),
            ]
        )
        weights = 1 / torch.sqrt(1 + (sizes / 3) ** 2)
        row = torch.cat(
            [features_of(surrogate, structure)[None], each * numerical_rows(surrogate, structure)]
        )
        target = torch.cat([-forces.flatten(), strain.flatten()]) * each
        target = torch.cat([(values[b] - middle)[None], target]) / spread
        rows.append(weights[:, None] * row)
        targets.append(weights * target)
    a, y = torch.cat(rows), torch.cat(targets)
    torch.testing.assert_close(surrogate._normal, a.T @ a, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(surrogate._right, a.T @ y, rtol=1e-5, atol=1e-5)
    assert surrogate._rows == len(y)


@pytest.mark.parametrize("kind", ["clusters", "crystals"])
@pytest.mark.parametrize("extensive", [False, True])
def test_gradients_are_those_of_finite_differences(kind, extensive):
    make = clusters if kind == "clusters" else crystals
    surrogate = fitted(make(30), extensive=extensive)
    structures, step = make(3, seed=8), 1e-5
    predicted = surrogate.predict(structures, gradients=True)
    plain = surrogate.predict(structures)
    torch.testing.assert_close(predicted.mean, plain.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(predicted.uncertainty, plain.uncertainty, rtol=1e-6, atol=1e-9)

    def slopes(change):
        ends = [surrogate.predict(change(sign * step)) for sign in (1, -1)]
        return [
            (getattr(ends[0], name) - getattr(ends[1], name)) / (2 * step) for name in ("mean", "uncertainty")
        ]

    for atom, axis in ((0, 0), (3, 1), (5, 2)):

        def shifted(by, atom=atom, axis=axis):
            positions = structures.positions.clone()
            positions[atom, axis] += by
            return structures.replace(positions=positions)

        mean, doubt = slopes(shifted)
        owner = structures.structure_index[atom]
        assert float(predicted.gradient[atom, axis]) == pytest.approx(float(mean[owner]), rel=1e-4, abs=1e-6)
        assert float(predicted.uncertainty_gradient[atom, axis]) == pytest.approx(
            float(doubt[owner]), rel=1e-3, abs=1e-6
        )
    for i, j in ((0, 0), (1, 2), (2, 0)):

        def stretched(by, i=i, j=j):
            stretch = torch.eye(3, dtype=torch.float64)
            stretch[i, j] += by
            return structures.replace(
                positions=structures.positions @ stretch, cells=structures.cells @ stretch
            )

        mean, doubt = slopes(stretched)
        torch.testing.assert_close(predicted.strain_gradient[:, i, j], mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            predicted.uncertainty_strain_gradient[:, i, j], doubt, rtol=1e-3, atol=1e-6
        )


def test_nothing_depends_on_orientation_place_or_order_of_atoms(of_clusters):
    structures = clusters(1, seed=4)
    before = of_clusters.predict(structures)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    moved = structures.replace(
        positions=(structures.positions @ rotation + 3.0).flip(0),
        atomic_numbers=structures.atomic_numbers.flip(0),
    )
    after = of_clusters.predict(moved)
    torch.testing.assert_close(after.mean, before.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.uncertainty, before.uncertainty, rtol=1e-6, atol=1e-9)


def test_a_supercell_has_the_same_mean_and_twice_the_sum():
    structures = crystals(30)
    cell = crystals(1, seed=3)
    double = StructureBatch(
        positions=torch.cat([cell.positions, cell.positions + cell.cells[0, 0]]),
        cells=cell.cells * torch.tensor([2.0, 1.0, 1.0]).double()[None, :, None],
        pbc=cell.pbc,
        atomic_numbers=cell.atomic_numbers.repeat(2),
        structure_index=torch.zeros(4, dtype=torch.int64),
    )
    for extensive, times in ((False, 1), (True, 2)):
        surrogate = fitted(structures, extensive=extensive)
        once, twice = surrogate.predict(cell), surrogate.predict(double)
        torch.testing.assert_close(twice.mean, times * once.mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(twice.uncertainty, times * once.uncertainty, rtol=1e-5, atol=1e-8)


def test_forces_make_it_better_and_left_out_errors_tell_how_good_it_is():
    structures, others = clusters(60, seed=2), clusters(200, seed=3)
    actual = Pairs()(others).energy / 4
    errors = {}
    for forces in (False, True):
        surrogate = fitted(structures, forces=forces, cosines=300)
        predicted = surrogate.predict(others)
        errors[forces] = (predicted.mean - actual).abs()
        stated = surrogate.validation_mae
        assert float(errors[forces].mean()) / 2 < stated < 2 * float(errors[forces].mean())
        covered = (errors[forces] <= 1.645 * predicted.uncertainty).double().mean()
        assert 0.8 < covered <= 1
    assert errors[True].mean() < 0.7 * errors[False].mean()


@pytest.mark.parametrize("forces", [False, True])
def test_leaving_out_is_equal_to_fitting_without(forces):
    structures, somewhere = clusters(12), clusters(1, seed=8)
    surrogate = fitted(structures, forces=forces)
    output = Pairs()(structures)
    actual = output.energy / 4
    errors, scores, squares = [], [], 0.0
    here = surrogate._pooled(somewhere)[0]
    for left_out in range(12):
        rest = torch.tensor([row for row in range(12) if row != left_out])
        labels = {"forces": output.forces.reshape(12, 4, 3)[rest].flatten(0, 1)} if forces else {}
        other = refitted(surrogate, structures[rest], actual[rest], **labels)
        pooled = other._pooled(structures[[left_out]])
        errors.append(
            float((actual[left_out] - surrogate.offset) / surrogate.scale - (pooled @ other._weights)[0])
        )
        # The jackknife's changes are those of the fit to all, seen by the fit without.
        other._noise, other._influences = surrogate._noise, surrogate._influences[rest]
        other._changes = torch.linalg.solve_triangular(other._factor, other._influences.T, upper=False).T
        scores.append(abs(errors[-1]) / float(other._spread(pooled)[0][0]))
        squares += float(here @ (surrogate._weights - other._weights)) ** 2
    torch.testing.assert_close(surrogate._scores, torch.tensor(scores).double(), rtol=1e-4, atol=1e-6)
    mean = surrogate.scale * torch.tensor(errors).abs().mean()
    assert surrogate.validation_mae == pytest.approx(float(mean), rel=1e-4)
    inverse = torch.cholesky_inverse(surrogate._factor)
    posterior = surrogate._noise**2 * float(here @ inverse @ here)
    assert float(surrogate._spread(here[None])[0][0]) == pytest.approx(
        math.sqrt(posterior + squares), rel=1e-4
    )


def refitted(surrogate, structures, values, **labels):
    """Return a surrogate with the same random features and penalty, fitted to these labels alone."""
    empty = surrogate._copy()
    empty._normal, empty._right = torch.zeros_like(empty._normal), torch.zeros_like(empty._right)
    empty._squares, empty._rows, empty._structures = 0.0, 0, 0
    empty._scores, empty._influences = empty._scores[:0], empty._influences[:0]
    empty._solve()
    return empty.update(structures, values, **labels)


def test_an_update_is_equal_to_a_fit_with_all_labels(of_clusters):
    first, more = clusters(40), clusters(8, seed=9)
    old, new = Pairs()(first), Pairs()(more)
    updated = of_clusters.update(more, new.energy / 4, forces=new.forces)
    together = refitted(
        of_clusters,
        StructureBatch.concatenate([first, more]),
        torch.cat([old.energy, new.energy]) / 4,
        forces=torch.cat([old.forces, new.forces]),
    )
    others = clusters(5, seed=11)
    torch.testing.assert_close(
        updated.predict(others).mean, together.predict(others).mean, rtol=1e-7, atol=1e-9
    )
    # The influence of the first structures is that which they had before.
    spreads = [surrogate._spread(surrogate._pooled(others))[0] for surrogate in (updated, together)]
    torch.testing.assert_close(*spreads, rtol=0.3, atol=0)
    before = of_clusters.predict(more)
    standard = (before.mean - new.energy / 4).abs() / before.uncertainty * of_clusters.calibration
    torch.testing.assert_close(updated._scores[-8:], standard, rtol=1e-6, atol=1e-8)
    assert len(of_clusters._scores) == 40, "the surrogate itself is left as it was"
    pooled = updated._pooled(more)
    assert updated._spread(pooled)[0].mean() < of_clusters._spread(pooled)[0].mean()


def test_the_difference_from_a_baseline_is_learned_and_its_gradient_counted():
    structures, others = clusters(40), clusters(4, seed=6)
    output = Pairs()(structures)
    surrogate = AdditiveSurrogate.fit(
        structures, output.energy / 4, seed=0, forces=output.forces, baseline=Pairs(scale=0.9), **SMALL
    )
    plain = fitted(structures, seed=0)
    actual = Pairs()(others)
    predicted = surrogate.predict(others, gradients=True)
    error = (predicted.mean - actual.energy / 4).abs().mean()
    assert error < 0.3 * (plain.predict(others).mean - actual.energy / 4).abs().mean()
    difference = (predicted.gradient + actual.forces / 4).abs().mean()
    assert (
        difference < 0.3 * (plain.predict(others, gradients=True).gradient + actual.forces / 4).abs().mean()
    )


def test_a_saved_baseline_has_to_be_given_again(tmp_path):
    structures = clusters(20)
    surrogate = AdditiveSurrogate.fit(
        structures, Pairs()(structures).energy / 4, seed=0, baseline=Pairs(scale=0.9), **SMALL
    )
    surrogate.save(tmp_path / "s.safetensors")
    with pytest.raises(InputError, match="difference from pairs, which is missing"):
        load_surrogate(tmp_path / "s.safetensors").predict(structures)
    loaded = AdditiveSurrogate.load(tmp_path / "s.safetensors", baseline=Pairs(scale=0.9))
    assert torch.equal(loaded.predict(structures).mean, surrogate.predict(structures).mean)
    fitted(structures).save(tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="baseline none, got pairs"):
        AdditiveSurrogate.load(tmp_path / "p.safetensors", baseline=Pairs())


def test_what_was_saved_predicts_and_updates_the_same(of_crystals, tmp_path):
    of_crystals.save(tmp_path / "s.safetensors")
    loaded = load_surrogate(tmp_path / "s.safetensors")
    structures = crystals(6, seed=2)
    for name in ("mean", "uncertainty", "gradient", "strain_gradient"):
        one, other = (getattr(s.predict(structures, gradients=True), name) for s in (of_crystals, loaded))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    values = Pairs()(structures).energy / structures.n_atoms
    torch.testing.assert_close(
        loaded.update(structures, values).predict(structures).mean,
        of_crystals.update(structures, values).predict(structures).mean,
    )


def test_one_absurd_label_does_not_spoil_the_others(monkeypatch):
    structures, others = clusters(60, seed=2), clusters(50, seed=3)
    output = Pairs()(structures)
    values, actual = output.energy / 4, Pairs()(others).energy / 4
    values[7] += 100.0

    def error():
        fit = AdditiveSurrogate.fit(structures, values, seed=1, forces=output.forces, cosines=300)
        return (fit.predict(others).mean - actual).abs().mean()

    robust = error()
    monkeypatch.setattr("whorl.surrogates.additive._weights", torch.ones_like)
    assert robust < 0.2 * error()


def test_some_structures_may_have_no_forces():
    structures = clusters(20)
    output = Pairs()(structures)
    forces = output.forces.clone()
    forces[structures.structure_index >= 10] = math.nan
    surrogate = AdditiveSurrogate.fit(structures, output.energy / 4, seed=0, forces=forces, **SMALL)
    assert surrogate._rows == 20 + 10 * 12


def test_a_property_without_forces_is_fitted_too():
    structures = crystals(60)
    gap = (structures.atomic_numbers == 29).double()
    share = torch.zeros(60).double().index_add_(0, structures.structure_index, gap) / structures.n_atoms
    surrogate = AdditiveSurrogate.fit(structures, 2.0 * share + 1.0, seed=0, **SMALL)
    assert surrogate.validation_mae < 0.02


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda labels: labels["forces"].__setitem__((5, 1), math.nan),
            "some forces of structure 1 are not finite",
        ),
        (lambda labels: labels["forces"].__setitem__(slice(4, 8), math.inf), "some forces of structure 1"),
        (lambda labels: labels["properties"].__setitem__(3, math.nan), "label of structure 3 is nan"),
        (lambda labels: labels.update(forces=labels["forces"][:-1]), r"forces of shape \(47, 3\)"),
        (lambda labels: labels.update(properties=labels["properties"][:-1]), "11 labels for 12 structures"),
        (
            lambda labels: labels.update(features=torch.zeros(12, 5)),
            r"features of shape \(12, 5\), expected struct",
        ),
        (lambda labels: labels.update(length=-1.0), "length: got -1"),
        (
            lambda labels: labels.update(representation={"kind": "crystens"}),
            "crystens is no representation of atoms",
        ),
    ],
)
def test_bad_labels_are_named(change, message):
    structures = clusters(12)
    output = Pairs()(structures)
    labels = {"features": structures, "properties": output.energy / 4, "forces": output.forces}
    change(labels)
    with pytest.raises(InputError, match=message):
        AdditiveSurrogate.fit(seed=0, **{**SMALL, **labels})


def test_too_few_structures_and_unknown_elements_are_refused(of_clusters):
    few = clusters(5)
    with pytest.raises(InputError, match="got 5 structures to fit to, expected at least 10"):
        fitted(few)
    silver = few.replace(atomic_numbers=torch.full_like(few.atomic_numbers, 47))
    with pytest.raises(InputError, match="contains Ag"):
        of_clusters.predict(silver)
    with pytest.raises(InputError, match="contains Ag"):
        of_clusters.update(silver, torch.zeros(5))


def test_strained_alloys_need_the_small_principal_axes_too():
    rng = np.random.default_rng(0)
    alloys = []
    for _ in range(60):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = rng.choice(["Au", "Cu"], 4)
        strain = np.eye(3) + rng.normal(scale=0.03, size=(3, 3))
        atoms.set_cell(atoms.cell @ (0.5 * (strain + strain.T)) * rng.uniform(1.0, 1.12), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        alloys.append(atoms)
    structures = from_ase(alloys)
    labels = make_potential("emt")(structures)
    values = labels.energy / structures.n_atoms
    first = torch.arange(40)
    surrogate = AdditiveSurrogate.fit(
        structures[:40],
        values[:40],
        forces=labels.forces[structures.atoms_of(first)],
        stresses=labels.stress[:40],
        cosines=300,
        seed=0,
    )
    error = (surrogate.predict(structures[40:]).mean - values[40:]).abs().mean()
    assert error < 0.06 * values.std()


def test_the_default_fingerprint_reaches_as_far_as_some_neighbours_in_dense_crystals(
    of_clusters, of_crystals
):
    free = default_fingerprint(["Cu", "Au"]).cutoff.radius
    dense = default_fingerprint(["Cu", "Au"], density=0.085).cutoff.radius
    assert dense < free and 4 / 3 * math.pi * dense**3 * 0.085 == pytest.approx(45)
    assert default_fingerprint(["Cu", "Au"], density=1e-3).cutoff.radius == free
    assert default_fingerprint(["Cu", "Au"], density=10.0).cutoff.radius == 4.5
    assert of_crystals.representation.cutoff.radius < of_clusters.representation.cutoff.radius


def test_many_elements_are_embedded_in_the_default_fingerprint_where_they_can_be():
    many = default_fingerprint(["Ca", "Ti", "Sr", "Ba", "O", "F", "N", "Zr"])
    assert many.config()["embedding"] == 5 and len(many.config()["g5"]) > 0
    helium = ["Ca", "Ti", "Sr", "Ba", "O", "F", "N", "He"]  # which has no electronegativity
    for few in (["Ca", "Ti", "O"], helium):
        assert default_fingerprint(few).config().get("embedding") is None


def test_fingerprints_of_many_structures_are_made_a_few_at_a_time(monkeypatch):
    structures = from_ase([bulk("Cu", a=3.4 + 0.1 * k) * (1, 1, 1 + k % 2) for k in range(7)])
    representation = default_fingerprint(["Cu"])
    whole, species = additive._fingerprints(representation, structures)
    monkeypatch.setattr(additive, "_STRUCTURES_AT_ONCE", 3)
    parts, _ = additive._fingerprints(representation, structures)
    assert torch.allclose(parts, whole, rtol=1e-12) and len(parts) == len(species) == 10
    assert additive._fingerprints(representation, structures[:0])[0].shape == (0, whole.shape[1])
