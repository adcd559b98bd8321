"""Every registered evaluator keeps the contract, and broken ones are found out."""

import dataclasses
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from whorl.axes import EVALUATORS
from whorl.chunked import Part
from whorl.errors import InputError
from whorl.evaluation import EvaluationContext, Evaluator, Metrics, Reference, Samples, evaluate
from whorl.evaluation.evaluators.base import EvaluatorSettings
from whorl.structures import from_ase
from whorl.surrogates import Prediction
from whorl.testing import check_evaluator

METALS = ("Cu", "Ni", "Al", "Pt", "Au", "Pd")


class Sum:
    """A surrogate: the sum of the features."""

    validation_errors = None

    def predict(self, features):
        return Prediction(mean=features.flatten(1).sum(1), uncertainty=None)


@pytest.fixture
def samples():
    features = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Samples(
        ids=tuple(f"s{i}" for i in range(8)),
        targets=torch.tensor([0.5, 1.25], dtype=torch.float64).repeat_interleave(4),
        requested={"elements": ["Cu"]},
        features=features,
        structures=from_ase([bulk(metal) for metal in (*METALS[:4], "Cu")]),
        rows=torch.tensor([0, 1, 2, 5, 6]),
        loss=torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0], dtype=torch.float64),
        status=("converged",) * 4 + ("invalid",),
        invalid_above=1.0,
        structure_features=features[[0, 1, 2, 5, 6]] + 0.01,
        consistency={"variance_lengths": torch.arange(8, dtype=torch.float64)},
        skipped={3: "no atoms"},
    )


@pytest.fixture
def reference():
    count = 12
    features = torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Reference(
        name="energy_per_atom",
        unit="eV",
        properties=torch.linspace(0, 2, count, dtype=torch.float64),
        features=features,
        structures=from_ase([bulk(metal) for metal in METALS] * 2),
        training_rows=torch.arange(0, count, 2),
    )


CONTEXT = EvaluationContext(tolerance=0.1, surrogate=Sum())
SETTINGS = {
    "surrogate": {},
    "reconstruction": {},
    "energy": {"calculator": "emt", "quantity": "energy_per_atom"},
    "diversity": {"copy_fraction": 0.2},
    "consistency": {},
    "validity": {},
    "uniqueness": {},
    "novelty": {},
    "symmetry": {},
    "distributions": {"real": 5},
    "cgcnn": {"real": 5},
    "conditions": {},
}


@pytest.mark.parametrize("name", list(EVALUATORS))
def test_every_registered_evaluator_keeps_the_contract(name, samples, reference):
    method = EVALUATORS.get(name)
    if method.requires and importlib.util.find_spec(method.requires[0]) is None:
        pytest.skip(f"needs whorl[{method.requires[1]}]")
    evaluator = method(method.Settings(**SETTINGS[name]))
    check_evaluator(evaluator, samples, reference, CONTEXT)


class Atoms(Evaluator):
    """A sound evaluator: the number of atoms of each structure, and its mean at each target."""

    kind = "atoms"

    class Settings(EvaluatorSettings):
        """Its settings."""

        scale: float = 1.0
        """By which numbers are multiplied."""

    def applies(self, samples, reference):
        return samples.structures is not None

    def evaluate(self, samples, reference, context, prepared=None):
        (part,) = context.map(count_atoms, [samples.structures], key=["atoms", self.settings.scale])
        atoms = (self.settings.scale * part.tensors["atoms"]).tolist()
        return Metrics(evaluator=self.kind, per_structure={"atoms": atoms})


def count_atoms(structures):
    finite = torch.ones(len(structures), dtype=torch.bool)
    finite[structures.structure_index[~structures.positions.isfinite().all(1)]] = False
    return Part({"atoms": torch.where(finite, structures.n_atoms, 0)})


def test_a_sound_one_passes(samples, reference):
    check_evaluator(Atoms(Atoms.Settings(scale=2.0)), samples, reference, CONTEXT)


def changes_samples(self, samples, reference, context, prepared=None):
    samples.structures.positions.add_(1)
    return Metrics(evaluator=self.kind)


def uses_the_global_random_state(self, samples, reference, context, prepared=None):
    torch.rand(1)
    return Metrics(evaluator=self.kind)


def gives_no_metrics(self, samples, reference, context, prepared=None):
    return {"overall": 1}


def gives_metrics_of_another(self, samples, reference, context, prepared=None):
    return Metrics(evaluator="validity")


def forgets_structures(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, per_structure={"x": [1]})


def forgets_samples(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, per_sample={"x": [1]})


def writes_nan(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, overall={"x": float("nan")})


def writes_tensors(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, overall={"x": torch.ones(1)})


def writes_numbers_as_keys(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, overall={"x": {1: 2}})


def names_targets_otherwise(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, per_target={"0.50": {"x": 1}})


CALLS = []


def differs_each_time(self, samples, reference, context, prepared=None):
    CALLS.append(1)
    return Metrics(evaluator=self.kind, overall={"x": len(CALLS)})


def keeps_chunks_without_a_key(self, samples, reference, context, prepared=None):
    x = float(samples.structures.positions.nan_to_num().sum())
    if context.directory is not None:
        file = context.directory / "x"
        x = float(file.read_text()) if file.is_file() else x
        file.write_text(str(x))
    return Metrics(evaluator=self.kind, overall={"x": x})


def raises_at_nan(self, samples, reference, context, prepared=None):
    if not samples.structures.positions.isfinite().all():
        raise ValueError("not finite")
    return Metrics(evaluator=self.kind)


def needs_a_structure(self, samples, reference, context, prepared=None):
    return Metrics(evaluator=self.kind, overall={"x": int(samples.structures.n_atoms.max())})


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (changes_samples, "changed samples.structures positions"),
        (uses_the_global_random_state, "global random state"),
        (gives_no_metrics, "expected its own Metrics"),
        (gives_metrics_of_another, "expected its own Metrics"),
        (forgets_structures, "column 'x' has 1 entries, expected 5, one a structure"),
        (forgets_samples, "column 'x' has 1 entries, expected 8, one a sample"),
        (writes_nan, "plain data for JSON, without NaN"),
        (writes_tensors, "plain data for JSON"),
        (writes_numbers_as_keys, "keys of mappings must be strings"),
        (names_targets_otherwise, "per_target names 0.50, expected targets, as '0.5'"),
        (differs_each_time, "the same samples must give the same metrics"),
        (keeps_chunks_without_a_key, "chunks kept of other structures"),
        (raises_at_nan, "must become a row, not an error: ValueError: not finite"),
        (needs_a_structure, "applies to samples without a structure, and raises"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_broken_one_is_found_out(broken, words, samples, reference):
    evaluator = type("Broken", (Atoms,), {"evaluate": broken})()
    with pytest.raises(AssertionError, match=words):
        check_evaluator(evaluator, samples, reference, CONTEXT)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("applies", lambda self, samples, reference: False, "must apply to these samples"),
        ("applies", lambda self, samples, reference: True, "must not apply to features alone"),
        ("prepare", lambda self, reference, context: {"x": {1, 2}}, "what prepare returns must be plain"),
    ],
)
def test_what_a_broken_one_says_before(name, method, words, samples, reference):
    evaluator = type("Broken", (Atoms,), {name: method})()
    with pytest.raises(AssertionError, match=words):
        check_evaluator(evaluator, samples, reference, CONTEXT)


def test_settings_of_another_are_found_out(samples, reference):
    with pytest.raises(AssertionError, match="settings must be of"):
        check_evaluator(Atoms(settings={"scale": 1}), samples, reference, CONTEXT)


def test_evaluators_run_behind_those_they_read_whatever_their_order(samples, reference):
    kinds = ["distributions", "novelty", "uniqueness", "symmetry", "validity"]
    metrics = evaluate(samples, reference, kinds).metrics
    assert set(metrics) == set(kinds)
    assert list(metrics).index("novelty") > list(metrics).index("uniqueness")
    assert metrics["novelty"].overall == {"percent_novel": 0.0}
    assert metrics["uniqueness"].per_structure["group"] == [0, 1, 2, 3, 0]


def test_evaluators_that_wait_for_each_other_are_refused(samples, reference):
    first = type("First", (Atoms,), {"kind": "first", "after": ("second",)})
    second = type("Second", (Atoms,), {"kind": "second", "after": ("first",)})
    with pytest.raises(InputError, match=r"first.*is to come after the other"):
        evaluate(samples, reference, [first(), second()])


def test_what_does_not_apply_is_left_out(samples, reference):
    alone = Samples(ids=samples.ids, targets=samples.targets, features=samples.features)
    kinds = [kind for kind in EVALUATORS if kind not in ("energy", "surrogate")]
    assert set(evaluate(alone, reference, kinds).metrics) == {"diversity"}


def test_an_evaluator_that_does_not_fit_is_named(samples, reference):
    broken = type("Broken", (Atoms,), {"kind": "broken", "evaluate": forgets_structures})()
    with pytest.raises(InputError, match=r"evaluator 'broken': its column 'x' has 1 entries, expected 5"):
        evaluate(samples, reference, [broken])
    with pytest.raises(InputError, match="Did you mean 'novelty'"):
        evaluate(samples, reference, ["noveltey"])


def test_a_surrogate_that_is_not_there_is_asked_for(samples, reference):
    context = dataclasses.replace(CONTEXT, surrogate=None)
    with pytest.raises(InputError, match="needs generated features and a surrogate"):
        EVALUATORS.get("surrogate")().evaluate(samples, reference, context)


def test_the_evaluator_of_the_docs_keeps_the_contract(samples, reference, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    code = page.split("## To add an evaluator")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "evaluator_of_the_docs.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    size = importlib.import_module("evaluator_of_the_docs").Size
    check_evaluator(size(size.Settings(widest=3.0)), samples, reference, CONTEXT)
