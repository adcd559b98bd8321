import pytest

from whorl.errors import InputError
from whorl.generators import make_generator
from whorl.reconstruction import Algorithm1
from whorl.workflow.recipe import parse_recipe, read_recipe, save_recipe

CLUSTERS = """\
name: tiny
data:
  clusters: {element: Pt, atoms: 10, count: 40, calculator: emt}
generate: {targets: [1.9]}
"""
FEATURES = """\
name: tiny
data:
  features: {path: a.npz, property: formation_energy}
generate: {targets: [1.9]}
"""


def message(text: str, *changes: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_recipe(text, source="my.yaml", changes=changes)
    return str(caught.value)


def test_defaults_are_the_papers():
    recipe = parse_recipe(CLUSTERS)
    generator, surrogate, search = recipe.generator, recipe.surrogate, recipe.reconstruct
    assert (generator.layers, generator.hidden, generator.latent, generator.beta) == (3, 128, 25, 0.75)
    assert (generator.learning_rate, generator.epochs, generator.batch_size) == (1e-3, 2000, 64)
    assert (surrogate.layers, surrogate.hidden, surrogate.batch_size) == (5, 256, 256)
    assert (surrogate.learning_rate, surrogate.epochs) == (5e-4, 2000)
    assert search is not None
    assert (search.kind, search.wanted) == ("population", 100)
    paper = Algorithm1.Settings()
    assert (paper.starts, paper.hops, paper.iterations, paper.polish) == (10, 5, 140, 900)
    assert recipe.sampling.split == 0.8
    assert recipe.data.clusters is not None
    assert recipe.data.clusters.window == (0.0, 3.7)
    assert (recipe.generate.samples, recipe.evaluate.tolerance) == (10_000, 0.1)


def test_misspelt_key_names_its_place_line_and_the_key_meant():
    said = message(CLUSTERS + "generator:\n  bettaa: 0.5\n")
    assert "my.yaml: line 6: unknown key 'generator.bettaa'. Did you mean 'beta'?" in said


def test_misspelt_key_deep_inside_lists_the_keys_of_that_section():
    said = message(CLUSTERS.replace("count: 40", "coumt: 40"))
    assert "unknown key 'data.clusters.coumt'. Did you mean 'count'?" in said
    assert "'data.clusters.count' is missing" in said


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("generator: {epochs: many}", "generator.epochs: got 'many', expected a whole number."),
        ("generator: {epochs: 0}", "generator.epochs: got 0, expected 1 or more."),
        ("generator: {beta: -1}", "generator.beta: got -1, expected 0 or more."),
        (
            "generator: {kind: cave}",
            "generator: unknown generator 'cave'. Did you mean 'cvae'?",
        ),
        ("generator: {kind: diffusion, steps: 2000}", "generator.steps: got 2000, expected 1000 or less."),
        ("generator: 3", "generator: got 3, expected a section with keys below it."),
        ("sampling: {sizes: [300, x]}", "sampling.sizes[1]: got 'x', expected a whole number."),
        ("sampling: {sizes: most}", "sampling.sizes: got 'most', expected a list of whole numbers such as"),
        ("sampling: {sizes: [300, 300]}", "sampling.sizes: got [300, 300], expected different sizes."),
        (
            "representation: {kind: soap, embedding: {Cu: [1, .nan]}}",
            "line 5: representation.embedding.Cu[1]: got nan, expected a finite number.",
        ),
        ("sampling: {split: 1.5}", "sampling.split: got 1.5, expected a number below 1."),
        ("seed: true_", "seed: got 'true_', expected a whole number."),
        ("evaluate: {tolerance: .nan}", "evaluate.tolerance: got nan, expected a finite number."),
    ],
)
def test_wrong_values_are_told_in_the_users_words(extra, expected):
    assert expected in message(CLUSTERS + extra)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    said = message(CLUSTERS + "generator: {epochs: 0}\nsurrogate: {layer: 1}\n")
    assert "2 mistakes" in said
    assert said.index("generator.epochs") < said.index("surrogate.layer")


def test_unknown_element():
    assert "data.clusters.element: unknown element 'Pq'" in message(CLUSTERS.replace("Pt", "Pq"))


@pytest.mark.parametrize(
    ("composition", "species", "sizes", "window"),
    [
        ("formula: Au6Cu7", ["Au", "Cu"], (13, 13), (0.0, 3.7)),
        ("element: Pt, atoms: 10", ["Pt"], (10, 10), (0.0, 3.7)),
        ("element: Pt, atoms: 8-20", ["Pt"], (8, 20), (0.0, 3.7)),
        ("elements: [Cu, Au], atoms: [8, 20]", ["Cu", "Au"], (8, 20), (0.0, 3.7)),
        ("elements: 'C, H', atoms: 8-8", ["C", "H"], (8, 8), (-3.7, 3.7)),
        ("formula: C2H6O", ["C", "H", "O"], (9, 9), (-3.7, 3.7)),
    ],
)
def test_clusters_of_one_element_of_alloys_and_of_sizes(composition, species, sizes, window):
    clusters = parse_recipe(CLUSTERS.replace("element: Pt, atoms: 10", composition)).data.clusters
    assert (clusters.species, clusters.sizes, clusters.window) == (species, sizes, window)


def test_settings_of_clusters_are_written_as_before_there_were_ranges():
    written = parse_recipe(CLUSTERS).data.clusters.model_dump(mode="json")
    assert list(written) == [
        "formula",
        "element",
        "atoms",
        "count",
        "calculator",
        "window",
        "directory",
        "processes",
    ]


@pytest.mark.parametrize(
    ("composition", "expected"),
    [
        ("formula: Au6Qu7", "data.clusters.formula: unknown element 'Qu'"),
        ("formula: gold", "data.clusters.formula: "),
        (
            "formula: Pt10, element: Pt",
            "data.clusters: expected either formula, such as Au6Cu7, or element or",
        ),
        ("element: Pt", "data.clusters: expected either formula"),
        ("elements: [Cu, Au]", "data.clusters: expected either formula"),
        (
            "elements: [Cu, Ptt], atoms: 8-20",
            "data.clusters.elements: unknown element 'Ptt'. Did you mean 'Pt'",
        ),
        ("elements: [Cu, Cu], atoms: 8-20", "got Cu, Cu, expected different ones"),
        (
            "elements: [Cu, Au], atoms: 20-8",
            "data.clusters.atoms: got 20-8, expected the least number first: 8-20",
        ),
        ("elements: [Cu, Au], atoms: few", "expected a number of atoms such as 10, or a range such as 8-20"),
        ("elements: [Cu, Au], atoms: 0-8", "expected a number of atoms such as 10, or a range such as 8-20"),
        ("atoms: 10", "data.clusters: expected either formula"),
    ],
)
def test_clusters_without_one_composition(composition, expected):
    assert expected in message(CLUSTERS.replace("element: Pt, atoms: 10", composition))


def test_window_upside_down():
    said = message(CLUSTERS, "data.clusters.window=[3, 1]")
    assert "data.clusters.window: got [3.0, 1.0], expected [lower, upper]" in said


def test_exactly_one_source_of_data():
    both = "data: {features: {path: a, property: b}, files: {path: a, property: b}}\ngenerate: {targets: 1}"
    assert "data: got files and features, expected exactly one of" in message(both)
    assert "data: got none" in message("data: {}\ngenerate: {targets: 1}\nname: x")


def test_missing_sections_say_what_to_give():
    said = message("name: x")
    assert "'data' is missing. Give one of data.clusters" in said
    assert "'generate' is missing. Give at least generate.targets" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "got an empty file"),
        ("- 1", "got a list"),
        ("a: [", "not valid YAML"),
        ("seed: 1\nseed: 2", "line 2: the key 'seed' is given twice (first in line 1)"),
    ],
)
def test_broken_files(text, expected):
    assert expected in message(text)


@pytest.mark.parametrize(
    ("kind", "own", "other"),
    [("gan", "latent", "beta"), ("wgan_gp", "penalty", "steps"), ("diffusion", "guidance", "latent")],
)
def test_each_kind_of_generator_has_keys_of_its_own(kind, own, other, tmp_path):
    recipe = parse_recipe(CLUSTERS, changes=[f"generator={{kind: {kind}, {own}: 2}}"])
    settings = recipe.generator
    assert settings.kind == kind
    assert settings.options()[own] == 2
    model = make_generator({**settings.options(), "kind": kind, "shape": (8, 8, 1)})
    defaults = settings.method(shape=(8, 8, 1), **{own: 2})
    assert model.config() == defaults.config()
    training = {"epochs": settings.epochs, "batch_size": settings.batch_size}
    assert settings.fitting() == {**training, "keep": "best", "device": "auto", "precision": "32-true"}
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert f"unknown key 'generator.{other}'" in message(CLUSTERS, f"generator={{kind: {kind}, {other}: 1}}")
    assert f"Did you mean '{own}'" in message(CLUSTERS, f"generator={{kind: {kind}, {own}s: 2}}")


def test_many_mistakes_are_counted_and_ten_are_named():
    said = message(CLUSTERS + "".join(f"k{i}: 1\n" for i in range(5000)))
    assert "my.yaml: 5000 mistakes" in said
    assert said.count("unknown key") == 10
    assert said.endswith("and 4990 more")


@pytest.mark.parametrize("value", ["9" * 4000, "'" + "x" * 5000 + "'", "[" + "1, " * 3000 + "1]"])
def test_a_wrong_value_is_not_quoted_whole(value):
    said = message(CLUSTERS + f"seed: {value}\n")
    assert "line 5: seed: got" in said
    assert len(said) < 300
    assert len(message(CLUSTERS, f"seed={value}")) < 300
    assert len(message(CLUSTERS + f"{'k' * 900}: {value[:100]}")) < 500


def test_formulas_and_elements_that_older_yaml_took_for_no():
    requested = parse_recipe(
        CLUSTERS.replace("[1.9]", "[1.9], formula: NO, elements: [No, Y, N]")
    ).generate.requested
    assert (requested["formula"], requested["elements"]) == ("NO", ["No", "Y", "N"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=2020-13-45", "seed: got '2020-13-45', expected a whole number"),
        ("seed=0x_", "seed: got '0x_', expected a whole number"),
        ("seed=!!int x", "--set seed=!!int x, line 1: not valid YAML (got 'x', expected a whole number)"),
        ("seed=&a [*a]", "contains itself"),
        ("seed=[1", "--set seed=[1, line 1: not valid YAML"),
        ("a." * 900 + "a=1", "900 sections within each other"),
    ],
)
def test_odd_values_in_changes(change, expected):
    assert expected in message(CLUSTERS, change)


def test_changes_from_the_command_line():
    recipe = parse_recipe(
        CLUSTERS, changes=["generator.epochs=7", "generate.targets=[2, 3]", "sampling.sizes=20"]
    )
    assert recipe.generator.epochs == 7
    assert recipe.generate.targets == [2.0, 3.0]
    assert recipe.sizes == {"n20": 20}
    assert "unknown key 'generator.epoch'. Did you mean 'epochs'?" in message(CLUSTERS, "generator.epoch=7")
    assert "got no '='" in message(CLUSTERS, "generator.epochs")
    assert "'seed' is a value" in message("seed: 1\n" + CLUSTERS, "seed.x=1")


def test_features_alone_are_generated_but_not_inverted():
    assert parse_recipe(FEATURES).reconstruct is None
    assert "Give data.features.composition" in message(FEATURES + "reconstruct: {kind: algorithm1}")
    assert parse_recipe(FEATURES, changes=["data.features.composition=Pt10"]).reconstruct is not None


def test_judging_energy_method_is_the_labelling_one_unless_told():
    recipe = parse_recipe(CLUSTERS)
    assert recipe.calculator is not None
    assert recipe.calculator.name == "emt"
    other = parse_recipe(CLUSTERS, changes=["evaluate.calculator={name: chgnet, options: {batch_size: 8}}"])
    assert other.calculator is not None
    assert (other.calculator.name, other.calculator.options) == ("chgnet", {"batch_size": 8})
    assert parse_recipe(FEATURES).calculator is None


def test_saved_recipe_reads_back_the_same(tmp_path):
    recipe = parse_recipe(CLUSTERS + "reconstruct: null\n")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert "beta: 0.75" in (tmp_path / "recipe.yaml").read_text()


def test_name_follows_the_file_and_absent_files_suggest_another(tmp_path):
    path = tmp_path / "pt10_demo.yaml"
    path.write_text(CLUSTERS.replace("name: tiny\n", "generator:\n"), encoding="utf-8")
    assert read_recipe(path).name == "pt10_demo"
    with pytest.raises(InputError, match=r"no such recipe.*pt10_demo\.yaml"):
        read_recipe(tmp_path / "pt10_dmo.yaml")


def test_settings_of_another_reconstructor_are_not_lost_in_silence():
    said = message(CLUSTERS + "reconstruct: {starts: 2, noise: 0.2}\n")
    assert "a number of starts belongs to kind algorithm1" in said
    assert "unknown key 'reconstruct.noise'" in said
    recipe = parse_recipe(CLUSTERS + "reconstruct: {kind: algorithm1, starts: 2}\n")
    assert isinstance(recipe.reconstruct, Algorithm1.Settings) and recipe.reconstruct.starts == 2
    said = message(CLUSTERS + "reconstruct: {kind: algorithm1, budget_evaluations: 10}\n")
    assert "unknown key 'reconstruct.budget_evaluations'" in said
    assert "acsf has no closed-form inverse" in message(CLUSTERS + "reconstruct: {kind: closed_form}\n")


@pytest.mark.parametrize(
    ("old", "kind", "own"),
    [
        ("invert: {samples: 7, budget_evaluations: 9}", "population", ("budget_evaluations", 9)),
        ("invert: {solver: algorithm1, samples: 7, starts: 2}", "algorithm1", ("starts", 2)),
        (
            "invert: {solver: whorl, samples: 7, starts: 10, free_cell: true}",
            "population",
            ("free_cell", True),
        ),
    ],
)
def test_invert_of_earlier_versions_becomes_reconstruct(old, kind, own):
    with pytest.warns(FutureWarning, match=rf"invert: .* Write reconstruct: {{kind: {kind}"):
        recipe = parse_recipe(CLUSTERS + old + "\ndecode: null\n")
    assert recipe.reconstruct is not None
    assert (recipe.reconstruct.kind, recipe.reconstruct.samples) == (kind, 7)
    assert getattr(recipe.reconstruct, own[0]) == own[1]


def test_decode_of_earlier_versions_becomes_reconstruct():
    data = "data: {crystals: {count: 40}}\n"
    crystals = f"name: tiny\n{data}generate: {{targets: [1.9]}}\nrepresentation: {{kind: crystens}}\n"
    with pytest.warns(FutureWarning, match="decode: a key of earlier versions"):
        recipe = parse_recipe(crystals + "decode: {clustering: paper}\ninvert: null\n")
    assert recipe.reconstruct is not None
    assert (recipe.reconstruct.kind, recipe.reconstruct.clustering) == ("closed_form", "paper")
    with pytest.warns(FutureWarning, match="decode: null"):
        assert parse_recipe(crystals + "decode: null\n").reconstruct is None


def test_keys_of_earlier_versions_are_read_with_a_warning_that_shows_the_new_form():
    with pytest.warns(FutureWarning, match=r"Write surrogate: \{kind: external, path: w.safetensors\}"):
        recipe = parse_recipe(CLUSTERS, changes=["surrogate.judge=w.safetensors"])
    assert recipe.surrogate.kind == "external" and recipe.surrogate.path == "w.safetensors"
