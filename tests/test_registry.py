"""Names of methods lead to their classes, and what is wrong with a plug-in is said in its own words."""

import inspect
import re
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import torch

import whorl.testing
from whorl import axes
from whorl.axes import GENERATORS, SOLVERS
from whorl.errors import InputError, MissingExtraError
from whorl.generators import CVAE, load_model, make_generator, save_model
from whorl.registry import Registry
from whorl.settings import Method, SectionOfKind


def generators() -> Registry:
    """Return a registry that has not looked at entry points yet."""
    return Registry(
        "generator",
        group="whorl.generators",
        base="whorl.generators.base:ConditionalGenerator",
        builtin={"cvae": "whorl.generators.cvae:CVAE", "gan": "whorl.generators.gan:GAN"},
    )


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that makes an importable module of a text."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def entry_point(tmp_path, monkeypatch):
    """Return a function that makes another package state an entry point."""

    def make(group: str, name: str, path: str, package: str = "whorl-others") -> None:
        folder = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {path}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return make


SMALL_CVAE = """
    from whorl.generators import CVAE

    class Small(CVAE):
        '''A conditional autoencoder of few units.'''

        class Settings(CVAE.Settings):
            '''Its settings.'''

            hidden: int = 4
            '''Units of a hidden layer.'''
"""


def test_names_lead_to_classes_and_back():
    assert GENERATORS.get("cvae") is CVAE
    assert GENERATORS.name_of(CVAE) == "cvae"
    assert list(generators()) == ["cvae", "gan"]
    assert "cvae" in GENERATORS and "cave" not in GENERATORS


def test_unknown_names_are_answered_with_the_nearest_and_the_list():
    with pytest.raises(InputError, match=r"unknown generator 'cave'\. Did you mean 'cvae'") as raised:
        GENERATORS.get("cave")
    for name in (*GENERATORS, "package.module:Class"):
        assert name in str(raised.value)
    with pytest.raises(InputError, match=r"unknown solver 'adma'\. Did you mean 'adam'"):
        SOLVERS.get("adma")


def test_a_class_is_found_by_its_import_path(module):
    name = module("small_by_path", SMALL_CVAE)
    found = generators().get(f"{name}:Small")
    assert issubclass(found, CVAE) and found.kind == "small_by_path:Small"
    assert generators().name_of(found) == "small_by_path:Small"


def test_a_class_is_found_by_an_entry_point(module, entry_point):
    entry_point("whorl.generators", "small", f"{module('small_by_entry', SMALL_CVAE)}:Small")
    registry = generators()
    assert list(registry) == ["cvae", "gan", "small"]
    assert registry.get("small").__name__ == "Small"


def test_no_entry_point_takes_the_name_of_a_built_in_method(module, entry_point):
    entry_point("whorl.generators", "cvae", f"{module('small_usurper', SMALL_CVAE)}:Small")
    registry = generators()
    assert registry.get("cvae") is CVAE
    assert list(registry) == ["cvae", "gan"]


def test_a_plug_in_that_fails_on_import_is_named_with_its_own_error(module, entry_point):
    path = module("broken_plugin", "raise RuntimeError('no licence for the year 2031')") + ":Method"
    entry_point("whorl.generators", "broken", path, package="whorl-broken")
    with pytest.raises(InputError) as raised:
        generators().get("broken")
    message = str(raised.value)
    assert "generator 'broken' of the package whorl-broken" in message
    assert "RuntimeError: no licence for the year 2031" in message
    assert "cvae, gan" in message
    with pytest.raises(InputError, match="no licence for the year 2031"):
        generators().get(path)


def test_a_missing_package_of_a_plug_in_keeps_its_own_words(module):
    text = "from whorl.errors import import_extra\nimport_extra('no_such_package', extra='others')"
    with pytest.raises(MissingExtraError, match="no_such_package"):
        generators().get(module("lacks_package", text) + ":Method")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module_at_all:Method", "ModuleNotFoundError"),
        ("whorl.generators.cvae:CVEA", "AttributeError.*CVEA"),
        ("whorl.generators.cvae:", "cannot be imported"),
        (":CVAE", "cannot be imported"),
        ("whorl.surrogates.network:NetworkSurrogate", "the class NetworkSurrogate, expected a subclass of"),
        ("whorl.generators.io:load_model", "a function, expected a subclass of .*ConditionalGenerator"),
        ("whorl.generators.base:ConditionalGenerator", "lacks sample, which every generator has"),
    ],
)
def test_what_keeps_no_contract_is_refused_with_the_reason(path, words):
    with pytest.raises(InputError, match=words):
        generators().get(path)


def test_a_name_from_a_data_file_imports_nothing(module):
    path = module("runs_code", "raise AssertionError('a data file had this run')") + ":Method"
    with pytest.raises(InputError, match="Import runs_code first"):
        generators().get(path, imports=False)
    assert "runs_code" not in sys.modules
    assert generators().get("whorl.generators.cvae:CVAE", imports=False) is CVAE


def _trained(generator):
    rng = torch.Generator().manual_seed(0)
    features, y = torch.rand(12, 3, generator=rng).double(), torch.rand(12, 1, generator=rng).double()
    generator.fit_scaling(features, y)
    return generator.eval()


def test_a_generator_of_another_package_is_saved_and_loaded_by_its_path(module, tmp_path):
    name = module("small_saved", SMALL_CVAE)
    generator = _trained(make_generator({"kind": f"{name}:Small", "shape": [3]}))
    save_model(generator, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert type(loaded) is type(generator) and loaded.config()["hidden"] == 4
    condition = torch.ones(5, 1)
    samples = [m.sample(condition, rng=torch.Generator().manual_seed(1)) for m in (generator, loaded)]
    assert torch.equal(*samples)


def test_a_saved_generator_whose_module_is_not_imported_says_which_to_import(module, tmp_path):
    name = module("small_unknown", SMALL_CVAE)
    save_model(_trained(make_generator({"kind": f"{name}:Small", "shape": [3]})), tmp_path / "m.safetensors")
    del sys.modules[name]
    with pytest.raises(InputError, match="Import small_unknown first"):
        load_model(tmp_path / "m.safetensors")


# --- Every registry ---------------------------------------------------------------------------------------

REGISTRIES = {name: value for name, value in vars(axes).items() if isinstance(value, Registry)}
METHODS = [(name, method) for name, registry in REGISTRIES.items() for method in registry]
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_every_method_states_what_it_is_and_its_settings(axis, name):
    method = REGISTRIES[axis].get(name)
    assert (method.__doc__ or "").strip(), f"{name} has no docstring"
    assert issubclass(method, Method) and method.kind == name
    assert REGISTRIES[axis].name_of(method) == name
    assert method.Settings.method is method
    assert inspect.getdoc(method.Settings), f"{name}: its Settings have no docstring"
    for field, about in method.Settings.model_fields.items():
        assert about.description, f"{name}: the setting {field} is not described"
    required = any(about.is_required() for about in method.Settings.model_fields.values())
    assert not issubclass(method.Settings, SectionOfKind) or required or method.Settings().summary()


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_every_package_that_a_method_requires_comes_with_its_extra(axis, name):
    requires = REGISTRIES[axis].get(name).requires
    if requires is not None:
        package, extra = requires
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert package in [re.split(r"[<>=!~]", requirement)[0] for requirement in extras.get(extra, [])]


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_every_method_is_in_the_docs(axis, name):
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    words = (f"`{name}`", f"kind: {name}", f"`{REGISTRIES[axis].get(name).__name__}`")
    assert any(word in page for page in pages for word in words), f"docs/*.md do not name `{name}`"


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_every_method_is_put_through_the_check_of_its_contract(axis, name):
    registry = REGISTRIES[axis]
    check = f"check_{registry.axis.replace(' ', '_')}"
    assert hasattr(whorl.testing, check)
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    words = (f'"{name}"', f"{registry.get(name).__name__}(", f"{registry.get(name).__name__}.")
    assert any(f"{check}(" in text and word in text for text in tests for word in words), (
        f"no test puts {name} through whorl.testing.{check}"
    )
