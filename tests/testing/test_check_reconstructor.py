"""Every reconstructor keeps its contract, and the check finds those that do not."""

import dataclasses

import pytest
import torch

from whorl.axes import RECONSTRUCTORS
from whorl.errors import InputError
from whorl.reconstruction import Algorithm1, Auto, ClosedForm, PopulationSearch
from whorl.testing import check_reconstructor

SHORT = Algorithm1.Settings(starts=2, hops=1, iterations=4, polish=3)
RECONSTRUCTORS_CHECKED = {
    "population": PopulationSearch(PopulationSearch.Settings(budget_evaluations=30)),
    "algorithm1": Algorithm1(SHORT),
    "closed_form": ClosedForm(),
    "auto": Auto(),
}


def test_all_are_checked():
    assert set(RECONSTRUCTORS_CHECKED) == set(RECONSTRUCTORS)


@pytest.mark.parametrize("kind", ["population", "algorithm1", "closed_form"])
def test_reconstructors_keep_the_contract(kind):
    check_reconstructor(RECONSTRUCTORS_CHECKED[kind])


def test_auto_keeps_the_contract(monkeypatch):
    monkeypatch.setattr(Auto, "choice", staticmethod(lambda representation: Algorithm1))
    monkeypatch.setattr(Algorithm1, "Settings", lambda **_: SHORT)
    check_reconstructor(Auto())


class Broken(Algorithm1):
    """Does as Algorithm 1, and then what a test makes of it."""

    class Settings(Algorithm1.Settings):
        """Its settings."""

    def __init__(self):
        super().__init__(self.Settings(**SHORT.options()))


class LosesOne(Broken):
    def reconstruct(self, features, context):
        made = super().reconstruct(features, context)
        return dataclasses.replace(
            made,
            structures=made.structures[1:],
            rows=made.rows[1:],
            loss=made.loss[1:],
            status=made.status[1:],
        )


class UsesGlobalRandomness(Broken):
    def reconstruct(self, features, context):
        torch.rand(1)
        return super().reconstruct(features, context)


class ChangesFeatures(Broken):
    def reconstruct(self, features, context):
        made = super().reconstruct(features, context)
        features *= 2
        return made


class ChangesAtoms(Broken):
    def reconstruct(self, features, context):
        made = super().reconstruct(features, context)
        numbers = made.structures.atomic_numbers + 1
        return dataclasses.replace(made, structures=made.structures.replace(atomic_numbers=numbers))


class IgnoresTheSeed(Broken):
    calls = 0

    def reconstruct(self, features, context):
        self.calls += 1
        return super().reconstruct(features, dataclasses.replace(context, seed=self.calls))


class DependsOnTheOthers(Broken):
    def reconstruct(self, features, context):
        made = super().reconstruct(features, context)
        positions = made.structures.positions + 0.01 * len(features)
        return dataclasses.replace(made, structures=made.structures.replace(positions=positions))


class StopsAtNaN(Broken):
    def reconstruct(self, features, context):
        if not bool(features.isfinite().all()):
            raise InputError("features: some are not finite.")
        return super().reconstruct(features, context)


class MovesFrozenAtoms(Broken):
    def reconstruct(self, features, context):
        return super().reconstruct(features, dataclasses.replace(context, frozen=None))


class SaysNothing(Broken):
    def reconstruct(self, features, context):
        made = super().reconstruct(features, context)
        return dataclasses.replace(made, status=("",) * len(made))


class TakesAnyShape(Broken):
    def reconstruct(self, features, context):
        width = len(context.representation.layout)
        missing = width - features.shape[1]
        return super().reconstruct(torch.nn.functional.pad(features, (0, missing)), context)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (LosesOne, "must have a structure or a reason why not"),
        (UsesGlobalRandomness, "used the global random state"),
        (ChangesFeatures, "changed the features"),
        (ChangesAtoms, "templates' atomic_numbers"),
        (IgnoresTheSeed, "the same seed"),
        (DependsOnTheOthers, "must not depend on the others of the batch"),
        (StopsAtNaN, "must not stop the others"),
        (MovesFrozenAtoms, "frozen atoms must not move"),
        (SaysNothing, "must not be empty"),
        (TakesAnyShape, "of another shape must be refused"),
    ],
)
def test_broken_reconstructors_are_found(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_reconstructor(broken())
