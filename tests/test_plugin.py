"""A package of others (``tests/plugin``) adds methods by its entry points, and recipes use them."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from whorl import axes
from whorl.errors import InputError
from whorl.generators import load_model, make_generator
from whorl.registry import Registry
from whorl.representations.base import make_representation
from whorl.testing import check_generator
from whorl.workflow import run_recipe
from whorl.workflow.recipe import parse_recipe

PLUGIN = Path(__file__).parent / "plugin"

RECIPE = """\
name: toy
seed: 1
data:
  clusters: {element: Pt, atoms: 4, count: 30, calculator: emt, window: [0.0, 5.0], processes: 1}
representation: {kind: pair_histogram, bins: 8}
sampling: {sizes: [24]}
generator: {kind: KIND, epochs: 20}
surrogate: {epochs: 20, layers: 1, hidden: 8}
generate: {targets: [2.0], samples: 3}
reconstruct: {kind: population, samples: 1, budget_evaluations: 60, reference: 2, reference_evaluations: 100}
report: {gallery: 1}
"""


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, monkeypatch):
    """Make the package visible as ``pip install tests/plugin`` would."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    folder = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (folder / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in entries.items())
            for group, entries in project["entry-points"].items()
        )
    )
    for path in (PLUGIN, site):
        monkeypatch.syspath_prepend(path)
    registries = [value for value in vars(axes).values() if isinstance(value, Registry)]

    def forget() -> None:
        for registry in registries:
            registry.__dict__.pop("_others", None)

    forget()
    yield
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "whorl_toy"]:
        del sys.modules[name]


def test_its_methods_are_listed_beside_the_built_in_ones():
    assert list(axes.GENERATORS)[-1] == "gaussian" and "cvae" in axes.GENERATORS
    assert list(axes.REPRESENTATIONS)[-1] == "pair_histogram"
    with pytest.raises(InputError, match=r"Did you mean 'gaussian'"):
        axes.GENERATORS.get("gausian")


def test_its_generator_keeps_the_contract():
    check_generator(lambda: make_generator({"kind": "gaussian", "shape": [4]}))


def test_its_settings_are_those_of_a_recipe():
    recipe = parse_recipe(RECIPE.replace("KIND", "gaussian"))
    assert recipe.generator.widest == 3.0 and recipe.representation.bins == 8
    assert [of.widest for of in recipe.evaluators if of.kind == "compactness"] == [3.0]
    evaluate = "evaluate: {evaluators: [compactness, {kind: energy, quantity: energy}]}\n"
    compactness, energy = parse_recipe(RECIPE.replace("KIND", "gaussian") + evaluate).evaluators
    assert compactness.widest == 3.0
    assert (energy.calculator.name, energy.quantity) == ("emt", "energy")
    for given, words in (
        ("[compactnes]", "unknown evaluator 'compactnes'. Did you mean 'compactness'"),
        ("[{kind: compactness, wide: 1}]", "Did you mean 'widest'"),
        ("[compactness, compactness]", "expected each evaluator once"),
        ("[]", "a list with at least 1 entry"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            parse_recipe(RECIPE.replace("KIND", "gaussian") + f"evaluate: {{evaluators: {given}}}\n")
    with pytest.raises(InputError, match=r"unknown key 'generator\.wides'\. Did you mean 'widest'"):
        parse_recipe(RECIPE.replace("kind: KIND", "kind: gaussian, wides: 2"))
    with pytest.raises(InputError, match=r"line 7: generator\.widest: got -1, expected a number above 0"):
        parse_recipe(RECIPE.replace("kind: KIND", "kind: gaussian, widest: -1"))


@pytest.mark.parametrize("kind", ["gaussian", "'whorl_toy.generator:ConditionalGaussian'"])
def test_a_recipe_runs_with_its_representation_its_generator_and_its_evaluator(kind, tmp_path):
    chosen = [] if kind == "gaussian" else ["evaluate.evaluators=[{kind: compactness, widest: 100.0}]"]
    recipe = parse_recipe(RECIPE.replace("KIND", kind), changes=chosen)
    run_recipe(recipe, tmp_path)
    names = {path.stem for path in (tmp_path / "evaluate" / "n24").glob("*.json")}
    assert names == {"compactness"} if chosen else {"compactness", "surrogate", "energy"} < names
    size = json.loads((tmp_path / "evaluate" / "results.json").read_text())["sizes"]["n24"]
    assert size["metrics"]["compactness"]["compact"] == 1
    assert "compactness_radius" in (tmp_path / "evaluate" / "samples.csv").read_text()
    (path,) = tmp_path.rglob("generator*.safetensors")
    model = load_model(path)
    assert model.kind == "gaussian" and model.shape == (8,)
    samples = model.sample(torch.full((5, 1), 2.0), rng=torch.Generator().manual_seed(0))
    assert samples.shape == (5, 8)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert '<section id="toys">' in page and "<p>1 toys.</p>" in page
    metrics = page.split('<section id="metrics">')[1].split("</section>")[0]
    assert re.findall(r"<t[hd][^>]*>([^<]+)</t[hd]>", metrics) == [
        "compactness",
        "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}24",
        "compact",
        "all",
        "1",
    ]
    assert page.index('id="explore"') < page.index('id="toys"') < page.index('id="provenance"')
    assert (tmp_path / "candidates" / "candidates.csv").is_file()


def test_its_representation_is_rebuilt_from_its_config():
    representation = axes.REPRESENTATIONS.get("pair_histogram")(bins=5)
    again = make_representation(representation.config())
    assert again.fingerprint == representation.fingerprint and again.layout.shape == (5,)
