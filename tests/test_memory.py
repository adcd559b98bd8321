import pytest

from whorl import memory
from whorl.errors import InputError
from whorl.generators import build_model, make_generator
from whorl.surrogates import NetworkSurrogate
from whorl.workflow.recipe import parse_recipe
from whorl.workflow.stages import run_recipe

RECIPE = """\
name: tiny
data:
  clusters: {element: Pt, atoms: 10, count: 40, calculator: emt}
generate: {targets: [1.9]}
"""


def test_the_limit_is_the_least_of_machine_container_and_process(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "memory.max")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    machine = memory.memory_limit()
    assert machine is not None
    assert machine > 1e8
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.memory_limit() == machine
    (tmp_path / "memory.max").write_text("2000000\n")
    assert memory.memory_limit() == 2_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_000_000, resource.RLIM_INFINITY))
    assert memory.memory_limit() == 1_000_000


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 1_500_000_000)
    memory.require_memory(1_500_000_000, "x", "y")
    with pytest.raises(InputError, match=r"a table would need 17 GB of memory, of 1\.5 GB\. Ask for less"):
        memory.require_memory(17_000_000_000, "a table", "Ask for less.")
    monkeypatch.setattr(memory, "memory_limit", lambda: None)
    memory.require_memory(10**30, "x", "y")


@pytest.mark.parametrize("options", [{"hidden": 10**7}, {"latent": 10**12}, {"hidden": 10**6, "layers": 9}])
def test_absurd_networks_are_refused_before_they_are_made(options):
    expected = r"cvae: [\d,]+ parameters would need [\d,.]+ [TP]B of memory|expected 1000000 or less"
    with pytest.raises(InputError, match=expected):
        make_generator({"kind": "cvae", "shape": [380], **options})


@pytest.mark.parametrize("kind", ["gan", "wgan_gp"])
def test_absurd_networks_of_other_kinds(kind):
    with pytest.raises(InputError, match="parameters would need"):
        make_generator({"kind": kind, "shape": [8, 8, 1], "channels": 10**6})


def test_absurd_surrogate():
    with pytest.raises(InputError, match=r"network: [0-9,]+ parameters would need"):
        build_model(NetworkSurrogate, {"shape": [380], "hidden": 10**6, "layers": 9})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("generator.hidden=1000000", "cvae: .* parameters would need"),
        ("surrogate.hidden=1000000", "network: .* parameters would need"),
        ("generate.samples=1000000000", "1,000,000,000 samples of 380 features would need"),
        ("generate.selection={pool: 1000000000}", "1,000,010,000 samples of 380 features would need"),
    ],
)
def test_a_recipe_that_cannot_fit_is_refused_before_any_work(change, expected, tmp_path):
    recipe = parse_recipe(RECIPE, changes=[change])
    with pytest.raises(InputError, match=expected):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=-1", "seed: got -1, expected 0 or more"),
        (
            "seed=1180591620717411303424",
            "expected a number below 2147483648",
        ),
        (
            "generate.samples=1000000000000",
            "expected 1000000000 or less",
        ),
        ("generate.samples=1e30", "generate.samples: got 1e\\+30, expected"),
        ("generate.samples=0", "generate.samples: got 0, expected 1 or more"),
        ("generator.epochs=0", "generator.epochs: got 0, expected 1 or more"),
        ("generator.hidden=10000000", "generator.hidden: got 10000000, expected 1000000 or less"),
        ("generator.layers=100000", "generator.layers: got 100000, expected 1000 or less"),
        ("generate.targets=[.nan]", "generate.targets\\[0\\]: got nan, expected a finite number"),
        ("generate.targets=.inf", "generate.targets: got inf, expected a finite number"),
        ("generate.targets=[]", "a list with at least 1 entry"),
    ],
)
def test_numbers_out_of_range_are_refused_while_the_recipe_is_read(change, expected):
    with pytest.raises(InputError, match=expected):
        parse_recipe(RECIPE, changes=[change])


@pytest.mark.parametrize(
    "data",
    [
        "data: {files: {path: x.extxyz, property: y}}\nrepresentation: {preset: crystal, species: SPECIES}",
        "data: {crystals: {count: 100, elements: SPECIES}}\nrepresentation: {preset: crystal}",
    ],
)
def test_a_recipe_of_too_many_elements_is_refused_before_any_work(data, tmp_path, monkeypatch):
    from ase.data import chemical_symbols

    monkeypatch.setattr("whorl.workflow.prechecks.import_extra", lambda *_, **__: None)
    species = f"[{', '.join(chemical_symbols[20:76])}]"
    recipe = parse_recipe(f"name: many\n{data.replace('SPECIES', species)}\ngenerate: {{targets: [1.0]}}\n")
    with pytest.raises(InputError, match="56 elements make 2,985,472 features"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
