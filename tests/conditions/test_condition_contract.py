"""Every condition keeps the contract, and the one that the documentation writes works in a recipe."""

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write
from test_conditions import crystals
from typer.testing import CliRunner

from whorl.axes import CONDITIONS
from whorl.conditions import CrystalSystem, Elements, SpaceGroup, describe_requests, satisfied
from whorl.datasets import load_features
from whorl.errors import InputError
from whorl.structures import from_ase
from whorl.testing import check_condition
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.stages import run_recipe

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"

VALUES = {  # of each kind: values to request of the crystals, and some that mean nothing
    "elements": ([["Ti"], ["Ti", "O"]], [["Xx"]]),
    "composition": (["TiO2", "Ba2Ti2O6"], ["((", "Ti0"]),
    "crystal_system": (["cubic", "tetragonal"], ["cubical"]),
    "space_group": ([221, 136], [231]),
    "volume": ([12.8, 22.0], [0.0, -1.0, float("nan"), float("inf")]),
}


@pytest.mark.parametrize("kind", list(CONDITIONS))
def test_every_kind_keeps_the_contract(kind):
    values, wrong = VALUES[kind]
    check_condition(CONDITIONS.get(kind), crystals(), values=values, wrong=wrong)


class _NoWriting(Elements):
    def write(self, rows, value, rng):
        pass


class _OfTheBatch(Elements):
    def columns(self, structures):
        return super().columns(structures) * len(structures)


class _Forgetful(SpaceGroup):
    def config(self):
        return {"space_groups": list(self.space_groups[:-1])}


class _Optimistic(CrystalSystem):
    @classmethod
    def satisfied(cls, structures, value):
        return (
            torch.arange(len(structures)) >= 0
            if len(structures) < 2
            else super().satisfied(structures, value)
        )


class _OtherSystems(SpaceGroup):
    def coarse_columns(self, columns):
        return super().coarse_columns(columns).flip(1)


class _Far(CrystalSystem):
    def distance(self, columns, value):
        return super().distance(columns, value) + 1


class _TakesAll(CrystalSystem):
    @classmethod
    def check(cls, value):
        pass


class _GlobalRandom(Elements):
    def write(self, rows, value, rng):
        super().write(rows, value, rng)
        torch.rand(1)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (_NoWriting, "after write"),
        (_OfTheBatch, "must not depend on the others"),
        (_Forgetful, "config"),
        (_Optimistic, "must not depend on the other structures"),
        (_OtherSystems, "coarser condition"),
        (_Far, "must be 0 for what is satisfied"),
        (_TakesAll, "must refuse 'cubical'"),
        (_GlobalRandom, "global random state"),
    ],
)
def test_the_check_finds_a_condition_that_breaks_the_contract(condition, words):
    values, wrong = next(VALUES[kind] for kind in VALUES if issubclass(condition, CONDITIONS.get(kind)))
    with pytest.raises(AssertionError, match=words):
        check_condition(condition, crystals(), values=values, wrong=wrong)


def installed(monkeypatch, entries):
    found = {
        name: EntryPoint(name=name, value=value, group="whorl.conditions") for name, value in entries.items()
    }
    monkeypatch.setitem(vars(CONDITIONS), "_others", found)


@pytest.fixture
def documented(tmp_path_factory, monkeypatch):
    """The condition in the documentation, as another package would bring it."""
    (program,) = re.findall(
        r'```python\n("""Number of atoms.*?)```', ARCHITECTURE.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    folder = tmp_path_factory.mktemp("package")
    (folder / "documented_condition.py").write_text(program, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    installed(monkeypatch, {"atom_count": "documented_condition:AtomCount"})
    yield CONDITIONS.get("atom_count")


def test_the_documented_condition_keeps_the_contract(documented):
    check_condition(documented, crystals(), values=[5, 2], wrong=[0])
    assert CONDITIONS.name_of(documented) == "atom_count"


@pytest.fixture
def molecules(tmp_path):
    frames = [molecule(name) for name in ("H2", "H2O", "CO2", "CH4", "NH3", "C2H2") for _ in range(5)]
    for i, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=i)
        atoms.info["y"] = float(i % 7)
    path = tmp_path / "molecules.extxyz"
    write(path, frames, format="extxyz")
    return path


RECIPE = """\
name: sizes
data: {{files: {{path: {path}, property: y}}}}
representation: {{cutoff: 6.0, g2: [[0.5, 1.0]]}}
generator: {{epochs: 1, layers: 1, hidden: 4, latent: 2, conditions: [atom_count, elements]}}
surrogate: {{epochs: 1, layers: 1, hidden: 4}}
generate: {{targets: [2.0], samples: 4, {request}}}
reconstruct: null
"""


def test_a_condition_of_another_package_works_in_a_recipe_and_in_commands(documented, molecules, tmp_path):
    recipe = parse_recipe(RECIPE.format(path=molecules, request="atom_count: 3, elements: [O]"))
    assert recipe.generate.requested["atom_count"] == 3
    assert parse_recipe(RECIPE.format(path=molecules, request="elements: [O]")).decisive()["generate"] == {
        "targets": [2.0], "samples": 4, "selection": None, "elements": ["O"]
    }  # what is not requested is not written  # fmt: skip
    run_recipe(recipe, tmp_path / "run", until="generate")
    (path,) = (tmp_path / "run" / "generate" / "all").glob("*.safetensors")
    generated = load_features(path)
    assert generated.requested == {"elements": ["O"], "atom_count": 3}
    assert describe_requests(generated.requested) == "with O, 3 atoms"
    met = satisfied(from_ase([molecule("H2O"), molecule("CO"), bulk("Cu")]), **generated.requested)
    assert {name: flags.tolist() for name, flags in met.items()} == {
        "elements": [True, True, False],
        "atom_count": [True, False, False],
    }
    from whorl.cli import commands

    shown = CliRunner().invoke(commands(), ["generate", "--help"], terminal_width=200).output
    assert "--atom-count" in shown
    assert "--space-group" in shown


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("atom_cont: 3", "line 6: unknown key 'generate.atom_cont'. Did you mean 'atom_count'"),
        ("space_grup: 3", "Did you mean 'space_group'"),
        ("atom_count: many", "generate.atom_count: got 'many', expected a whole number"),
        ("space_group: 231", "generate.space_group: got 231, expected 230 or less"),
        ("elements: []", "generate.elements: got [], expected a list with at least 1 entry"),
    ],
)
def test_requests_are_read_as_every_key_of_a_recipe(documented, molecules, request_, words):
    with pytest.raises(InputError, match=re.escape(words)):
        parse_recipe(RECIPE.format(path=molecules, request=request_))


def test_what_is_unknown_or_contradicts_is_refused_before_the_work_begins(documented, molecules, tmp_path):
    for change, words in (
        ("generate.atom_count=0", "atom_count: got 0, expected at least 1"),
        ("generate.formula=H2O", "formula: this generator does not know it; it is conditioned on"),
        (
            "generate.atom_count=77",
            "of the generator satisfies the request: 77 atoms",
        ),
    ):
        recipe = parse_recipe(RECIPE.format(path=molecules, request="elements: [O]"), changes=[change])
        with pytest.raises(InputError, match=words):
            run_recipe(recipe, tmp_path / "run", until="train")
    assert not list((tmp_path / "run").glob("train/*/*.safetensors"))


def test_unknown_conditions_are_named_with_the_list():
    text = RECIPE.format(path="x.extxyz", request="elements: [O]").replace("atom_count", "elemnts")
    with pytest.raises(InputError, match=r"unknown condition 'elemnts'\. Did you mean 'elements'.*space_gr"):
        parse_recipe(text)


def test_a_broken_plugin_is_named_where_it_is_chosen_and_hinders_nobody_else(
    monkeypatch, molecules, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_condition.py").write_text("raise RuntimeError('no luck')")
    monkeypatch.syspath_prepend(folder)
    installed(monkeypatch, {"broken": "broken_condition:Broken"})
    text = RECIPE.format(path=molecules, request="elements: [O]")
    parse_recipe(text.replace("atom_count, ", ""))
    with pytest.raises(InputError, match=r"condition 'broken' .*cannot be imported.*RuntimeError: no luck"):
        parse_recipe(text.replace("atom_count", "broken"))


def test_the_record_of_a_model_names_its_conditions(documented):
    from whorl.conditions import Conditions

    conditions, _ = Conditions.of_data(
        ["atom_count", "elements"], property="y", labels=torch.zeros(6), structures=crystals()
    )
    assert conditions.kinds == ("elements", "atom_count")  # built-in ones first, whatever was written
    saved = json.loads(json.dumps(conditions.to_dict()))
    assert Conditions.from_dict(saved) == conditions
    saved["conditions"][1]["kind"] = "atom_cuont"
    with pytest.raises(InputError, match=r"unknown condition 'atom_cuont'\. Did you mean 'atom_count'"):
        Conditions.from_dict(saved)
