"""Formulas of generated samples: proposed, conditioned on, and reconstructed."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from whorl.datasets import Dataset, load_dataset, load_features, save_dataset, write_extxyz
from whorl.datasets.geometries import random_clusters
from whorl.errors import InputError
from whorl.generators import CVAE, GAN
from whorl.potentials import bulk_energy, make_potential
from whorl.potentials.quantity import formation_energies
from whorl.report.subject import _clusters, _formulas
from whorl.structures import from_ase
from whorl.structures.cells import volume_per_atom
from whorl.structures.composition import formula, formula_of_all
from whorl.workflow.monitor import Monitor
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.run_folder import RunFolder
from whorl.workflow.stages import run_recipe

RECIPE = """\
name: molecules
data: {{files: {{path: {path}, property: length}}}}
representation: {{g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]], g5: [], cutoff: 6.0, embedding: 3}}
generator: {{epochs: 10, layers: 1, hidden: 8, latent: 2, conditions: [{conditions}]}}
surrogate: {{epochs: 3, layers: 1, hidden: 8}}
generate: {{targets: [2.4, 2.8], samples: 4, {formulas}}}
reconstruct: {{samples: 3, budget_evaluations: 60, reference: 0}}
evaluate: {{tolerance: 0.2}}
report: {{gallery: 1}}
"""
CATIONS, ANIONS = ["Na", "K", "Rb", "Ca", "Sr", "Ba", "Mg"], ["F", "Cl", "Br", "O", "S"]


@pytest.fixture
def data(tmp_path):
    pairs = [(a, b) for k, a in enumerate(CATIONS) for b in ANIONS if (k + ANIONS.index(b)) % 4]
    radii = [covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]] for a, b in pairs]
    molecules = [
        Atoms(a + b, positions=[[0, 0, 0], [r, 0, 0]]) for (a, b), r in zip(pairs, radii, strict=True)
    ]
    write_extxyz(
        from_ase(molecules),
        tmp_path / "data.extxyz",
        properties={"length": torch.tensor(radii, dtype=torch.float64)},
        ids=[a + b for a, b in pairs],
    )
    return tmp_path


def recipe_of(data, *, conditions="composition", formulas="formulas: {elements: [O]}"):
    return parse_recipe(RECIPE.format(path=data / "data.extxyz", conditions=conditions, formulas=formulas))


def test_each_sample_is_reconstructed_with_its_own_formula(data):
    run = RunFolder(data / "run", recipe_of(data))
    run_recipe(recipe_of(data), data / "run")
    (label,) = run.labels
    proposals, made = load_dataset(run.proposals(label)), load_dataset(run.structures(label))
    assert proposals.ids == tuple(load_features(run.generated(label)).ids)
    of_sample = {name: formula(one) for name, one in zip(proposals.ids, proposals.structures, strict=True)}
    assert len(set(of_sample.values())) > 2
    assert len(made) == 6
    for name, structure in zip(made.ids, made.structures, strict=True):
        assert formula(structure) == of_sample[name]
        assert 8 in structure.atomic_numbers


CRYSTALS = """\
name: crystals
data: {{files: {{path: {path}, property: size}}}}
representation: {{g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]], g5: [], cutoff: 5.0, embedding: 3, images: all}}
generator: {{epochs: 2, layers: 1, hidden: 8, latent: 2, conditions: [composition, volume]}}
surrogate: {{epochs: 2, layers: 1, hidden: 8}}
generate: {{targets: [2.6], samples: 3, formulas: {{new: true}} {more}}}
reconstruct: null
"""


@pytest.fixture
def salts(tmp_path):
    pairs = [(a, b) for k, a in enumerate(CATIONS) for b in ANIONS if (k + ANIONS.index(b)) % 4]
    radii = [covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]] for a, b in pairs]
    frames = [bulk(a + b, "rocksalt", a=2.2 * r) for (a, b), r in zip(pairs, radii, strict=True)]
    sizes = torch.tensor(radii, dtype=torch.float64)
    write_extxyz(from_ase(frames), tmp_path / "data.extxyz", properties={"size": sizes})
    return tmp_path / "data.extxyz"


def conditions_sampled(monkeypatch):
    """Return a list of the condition rows that a generator will be asked for."""
    asked = []
    plainly = CVAE.sample

    def sample(self, condition, **more):
        asked.append(condition)
        return plainly(self, condition, **more)

    monkeypatch.setattr(CVAE, "sample", sample)
    return asked


def test_the_volume_of_a_proposal_conditions_its_sample(salts, tmp_path, monkeypatch):
    asked = conditions_sampled(monkeypatch)
    recipe = parse_recipe(CRYSTALS.format(path=salts, more=""))
    run = RunFolder(tmp_path / "run", recipe)
    run_recipe(recipe, run.path, until="generate")
    own = volume_per_atom(load_dataset(run.proposals("all")).structures)
    torch.testing.assert_close(torch.cat(asked)[:, -1], own)
    assert len(set(own.tolist())) == 3


def test_proposals_are_scaled_to_a_volume_that_is_requested(salts, tmp_path, monkeypatch):
    asked = conditions_sampled(monkeypatch)
    recipe = parse_recipe(CRYSTALS.format(path=salts, more=", volume: 21.5"))
    run = RunFolder(tmp_path / "run", recipe)
    run_recipe(recipe, run.path, until="generate")
    expected = torch.full((3,), 21.5, dtype=torch.float64)
    torch.testing.assert_close(volume_per_atom(load_dataset(run.proposals("all")).structures), expected)
    torch.testing.assert_close(torch.cat(asked)[:, -1], expected)
    assert load_features(run.generated("all")).requested == {"volume": 21.5}


MIXED = """\
name: mixed
data: {{files: {{path: {path}, property: formation_energy}}}}
representation: {{g2: [[0.1, 0.0], [0.5, 2.5], [0.5, 3.5]], g5: [], cutoff: 6.0, pooling: [mean, std]}}
sampling: {{split: 0.9}}
generator: {{epochs: 10, layers: 1, hidden: 8, latent: 2, conditions: [composition]}}
surrogate: {{epochs: 3, layers: 1, hidden: 8}}
generate: {{targets: [2.0, 3.0], samples: 3, formulas: {{new: true}}}}
reconstruct: {{samples: 3, budget_evaluations: 60, reference: 0}}
refine: [project, {{kind: oracle, calls: 2}}]
evaluate: {{calculator: emt, tolerance: 0.2}}
report: {{gallery: 1}}
"""


def test_clusters_of_several_sizes_and_compositions_go_through_all_stages(tmp_path):
    rng = torch.Generator().manual_seed(0)
    metals = torch.tensor([29, 78, 79])
    numbers = [metals[torch.randint(3, (5 + k % 3,), generator=rng)] for k in range(60)]
    clusters, _ = random_clusters(numbers, box=12.0, seed=0)
    structures = from_ase(
        [Atoms(own.tolist(), positions.numpy()) for own, positions in zip(numbers, clusters, strict=True)]
    )
    emt = make_potential("emt")
    bulk = {element: bulk_energy(emt, element) for element in ("Cu", "Pt", "Au")}
    energies = formation_energies(emt(structures).energy, structures, bulk)
    write_extxyz(structures, tmp_path / "data.extxyz", properties={"formation_energy": energies})
    recipe = parse_recipe(MIXED.format(path=tmp_path / "data.extxyz"))
    run = RunFolder(tmp_path / "run", recipe)
    run_recipe(recipe, run.path)
    (label,) = run.labels
    made = load_dataset(run.structures(label))
    known = {formula_of_all(one) for one in structures}
    assert len(made) == 6 and not known & {formula_of_all(one) for one in made.structures}
    assert len({formula_of_all(one) for one in made.structures}) > 2
    assert (run.path / "report" / "report.html").exists() and (
        run.path / "evaluate" / "results.json"
    ).exists()


def test_a_report_says_what_clusters_were_built():
    assert _clusters({"elements": ["Cu", "Au"], "atoms": [8, 20]}) == "Cu–Au (8–20 atoms)"
    assert _clusters({"element": "Pt", "atoms": [8, 20]}) == "Pt (8–20 atoms)"
    assert _clusters({"element": "Pt", "atoms": 10}) == "Pt10"
    assert _clusters({"formula": "C2H6O"}) == "C2H6O"


def test_a_report_says_where_formulas_come_from():
    asked = {"elements": ["O"], "balanced": True, "n_atoms": [5, 10]}
    assert _formulas({"formulas": asked}) == (
        "with O, 5 to 10 atoms, charge-balanced, proposed by substitution from the training structures"
    )
    assert _formulas({"formulas": {}}) == "anything, proposed by substitution from the training structures"
    assert "those of the structures of runs/images" in _formulas({"proposals": "runs/images"})
    assert _formulas({}) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": ""}, r"generator.conditions: \[composition\]"),
        ({"formulas": "formula: NaCl, formulas: {elements: [O]}"}, "formula cannot be given as well"),
        ({"formulas": "formulas: {elements: [Zz]}"}, "unknown element 'Zz'"),
    ],
)
def test_what_contradicts_the_formulas_is_said_before_the_run(data, changes, message):
    with pytest.raises(InputError, match=message):
        run_recipe(recipe_of(data, **changes), data / "run")
    assert not (data / "run" / "encode").exists()


@pytest.fixture
def one_composition(tmp_path):
    lengths = [2.0 + 0.03 * k for k in range(40)]
    molecules = [Atoms("NaCl", positions=[[0, 0, 0], [r, 0, 0]]) for r in lengths]
    write_extxyz(
        from_ase(molecules),
        tmp_path / "data.extxyz",
        properties={"length": torch.tensor(lengths, dtype=torch.float64)},
        ids=[f"m{k}" for k in range(40)],
    )
    return tmp_path


def test_data_of_one_composition_take_the_old_way_and_it_is_said(one_composition):
    recipe = recipe_of(one_composition, formulas="formulas: {elements: [Na]}")
    messages = Monitor()
    run_recipe(recipe, one_composition / "run", monitor=messages)
    assert any("all training structures are NaCl" in text for text in messages.warnings)
    run = RunFolder(one_composition / "run", recipe)
    (label,) = run.labels
    made = load_dataset(run.structures(label))
    assert {formula(one) for one in made.structures} == {"NaCl"}


@pytest.mark.parametrize(
    "asked", ["elements: [O]", "exclude: [Cl]", "new: true", "n_elements: [3, 3]", "formula: Na2Cl"]
)
def test_what_data_of_one_composition_cannot_be_is_refused(one_composition, asked):
    recipe = recipe_of(one_composition, formulas=f"formulas: {{{asked}}}")
    with pytest.raises(InputError, match="all training structures are NaCl, and formulas"):
        run_recipe(recipe, one_composition / "run")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("model: {kind: network, steps: 20}, new: true", 3), ("formula: Na2Cl", 1), ("model: substitution", 3)],
)
def test_a_recipe_chooses_the_model_or_the_formula(salts, tmp_path, asked, expected):
    recipe = parse_recipe(
        CRYSTALS.format(path=salts, more="").replace("formulas: {new: true}", f"formulas: {{{asked}}}")
    )
    run = RunFolder(tmp_path / "run", recipe)
    messages = Monitor()
    run_recipe(recipe, run.path, until="generate", monitor=messages)
    proposals = load_dataset(run.proposals("all")).structures
    assert len(proposals) == 3 and bool(proposals.pbc.all())
    assert len({formula_of_all(one) for one in proposals}) == expected
    if "Na2Cl" in asked:
        assert {formula_of_all(one) for one in proposals} == {"Na2Cl"}


IMAGES = """\
name: images
data: {{files: {{path: {path}, property: size}}}}
representation: {{kind: crystens}}
generator: {{kind: gan, epochs: 2, channels: 4, latent: 4}}
surrogate: {{epochs: 2, layers: 1, hidden: 8}}
generate: {{targets: [2.6], samples: 4}}
evaluate: {{evaluators: [validity]}}
"""


@pytest.fixture
def images(salts, tmp_path, monkeypatch):
    """A run in which a generator of crystals as images gives those of known crystals."""
    run = RunFolder(tmp_path / "images", parse_recipe(IMAGES.format(path=salts)))

    def sample(self, condition, **more):
        return load_features(run.features).features[: len(condition)]

    monkeypatch.setattr(GAN, "sample", sample)
    run_recipe(run.recipe, run.path, until="reconstruct")
    return run


def test_decoded_crystals_of_a_run_become_formulas_volumes_and_starts_of_another(
    salts, images, tmp_path, monkeypatch
):
    decoded = load_dataset(images.structures("all")).structures
    asked = conditions_sampled(monkeypatch)
    recipe = parse_recipe(
        CRYSTALS.format(path=salts, more="")
        .replace("formulas: {new: true} ", f"proposals: {images.path}")
        .replace("reconstruct: null", "reconstruct: {free_cell: true, budget_evaluations: 2, reference: 0}"),
    )
    run = RunFolder(tmp_path / "run", recipe)
    run_recipe(recipe, run.path, until="reconstruct")
    proposals, made = (
        load_dataset(path).structures for path in (run.proposals("all"), run.structures("all"))
    )
    assert [formula(one) for one in proposals] == [formula(one) for one in decoded[:3]]
    assert [formula_of_all(one) for one in made] == [formula_of_all(one) for one in decoded[:3]]
    torch.testing.assert_close(proposals.positions, decoded[:3].positions.double())
    torch.testing.assert_close(torch.cat(asked)[:, -1], volume_per_atom(proposals))


def of_proposals(salts, path):
    text = CRYSTALS.format(path=salts, more="")
    return parse_recipe(text.replace("formulas: {new: true} ", f"proposals: {path}"))


def test_structures_that_no_sample_can_begin_with_are_skipped_with_the_reason(salts, tmp_path):
    frames = [bulk("NaF", "rocksalt", a=4.6), bulk("LiF", "rocksalt", a=4.0), bulk("KF", "rocksalt", a=0.5)]
    data = Dataset(structures=from_ase(frames), ids=("good", "lithium", "dense"))
    save_dataset(data, tmp_path / "given.safetensors")
    messages = Monitor()
    recipe = of_proposals(salts, tmp_path / "given.safetensors")
    run = RunFolder(tmp_path / "run", recipe)
    run_recipe(recipe, run.path, until="generate", monitor=messages)
    assert dict(messages.skipped)["lithium"] == "has Li, which no training structure has"
    assert "Å apart" in dict(messages.skipped)["dense"]
    assert [formula(one) for one in load_dataset(run.proposals("all")).structures] == ["NaF"]
    assert any("gives 1 structures" in text for text in messages.warnings)


def test_only_structures_of_the_target_are_taken_where_targets_are_stated(salts, tmp_path):
    frames = [bulk("NaF", "rocksalt", a=4.6), bulk("KF", "rocksalt", a=5.3)]
    targets = torch.tensor([1.0, 2.6], dtype=torch.float64)
    data = Dataset(structures=from_ase(frames), properties={"target": targets}, ids=("a", "b"))
    save_dataset(data, tmp_path / "given.safetensors")
    recipe = of_proposals(salts, tmp_path / "given.safetensors")
    run = RunFolder(tmp_path / "run", recipe)
    run_recipe(recipe, run.path, until="generate")
    assert [formula(one) for one in load_dataset(run.proposals("all")).structures] == ["KF"]


@pytest.mark.parametrize("suffix", [".safetensors", ".extxyz"])
def test_structures_of_other_targets_alone_are_taken_with_a_warning(salts, tmp_path, suffix):
    targets = torch.tensor([1.0], dtype=torch.float64)
    data = Dataset(
        structures=from_ase([bulk("NaF", "rocksalt", a=4.6)]), properties={"target": targets}, ids=("a",)
    )
    given = tmp_path / f"given{suffix}"
    if suffix == ".extxyz":
        write_extxyz(data.structures, given, ids=data.ids, properties=data.properties)
    else:
        save_dataset(data, given)
    messages = Monitor()
    recipe = of_proposals(salts, given)
    run_recipe(recipe, tmp_path / "run", until="generate", monitor=messages)
    assert any("is for this target (they are for 1)" in text for text in messages.warnings)


def test_a_run_without_structures_and_both_ways_at_once_are_refused(salts, tmp_path):
    unfinished = RunFolder(tmp_path / "images", parse_recipe(IMAGES.format(path=salts)))
    run_recipe(unfinished.recipe, unfinished.path, until="data")
    with pytest.raises(InputError, match="this run has no structures yet"):
        run_recipe(of_proposals(salts, unfinished.path), tmp_path / "run")
    with pytest.raises(InputError, match="no such file or folder"):
        run_recipe(of_proposals(salts, tmp_path / "nowhere"), tmp_path / "run")
    both = parse_recipe(CRYSTALS.format(path=salts, more=f", proposals: {salts}"))
    with pytest.raises(InputError, match=r"generate\.formulas: proposals cannot be given as well"):
        run_recipe(both, tmp_path / "run")
