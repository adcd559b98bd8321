"""Every registered representation keeps the contract, and broken ones are found out."""

from typing import Any

import pytest
import torch

from whorl.axes import REPRESENTATIONS
from whorl.representations import ACSF
from whorl.representations.base import FeatureLayout, Representation
from whorl.structures import StructureBatch
from whorl.structures.neighbors import neighbor_list
from whorl.testing import check_representation

SMALL: dict[str, list[dict[str, Any]]] = {
    "acsf": [
        {"cutoff": 5.0, "g2": [(0.5, 1.0), (1.0, 2.5)], "g3": [1.0], "g4": [(0.02, 2.0, -1.0)]},
        {"cutoff": 5.0, "g2": [(0.5, 2.0)], "g5": [(0.1, 2.0, 1.0)], "pooling": ["mean", "std"]},
        {"cutoff": 4.0, "g5": [(0.1, 1.0, -1.0)], "pooling": ["sum"], "per_centre_species": True},
        {"cutoff": 4.0, "g2": [(0.5, 1.0)], "images": "minimum"},
        {"cutoff": 4.0, "g2": [(0.5, 1.0)], "g4": [(0.02, 2.0, -1.0)], "embedding": 3},
        {"cutoff": 4.0, "g5": [(0.1, 2.0, 1.0)], "pooling": ["max", "min", "std"], "embedding": 2}
        | {"per_centre_species": True},
    ],
    "ace": [
        {"cutoff": 4.5, "n_max": 2, "l_max": 2, "degree": 6},
        {"cutoff": 4.5, "n_max": 2, "l_max": 1, "degree": 5, "per_centre_species": True, "pooling": ["max"]},
        {"cutoff": 4.5, "n_max": 1, "l_max": 2, "degree": 6, "per_centre_species": True, "embedding": 3},
        {"cutoff": 4.0, "order": 2, "n_max": 2, "l_max": 2, "images": "minimum"},
        {"cutoff": 4.0, "order": 1, "n_max": 3, "pooling": ["sum"]},
    ],
    "crystens": [
        {"max_atoms": 2},
        {"max_atoms": 2, "order": "as_is", "pairwise": "cartesian"},
        {"max_atoms": 4, "cell": "niggli", "origin": "canonical"},
    ],
    "rows": [
        {"max_atoms": 5, "shortest": 2.0, "cutoff": 8.0, "width": 0.5},
        {"max_atoms": 6, "shortest": 2.0, "cutoff": 4.0, "width": 0.3},
    ],
    "fchl19": [
        {
            "cutoff": 4.5,
            "cutoff3": 4.0,
            "n2": 3,
            "n3": 2,
            "n_fourier": 2,
            "zeta": 1.0,
            "pooling": ["max", "min"],
        },
        {"cutoff": 4.0, "cutoff3": 4.5, "n2": 2, "n3": 3, "per_centre_species": True},
        {"cutoff": 4.0, "cutoff3": 4.0, "n2": 2, "n3": 2, "embedding": 2},
    ],
    "mbtr": [
        {"k1": {"n": 11}, "k2": {"n": 9}, "k3": {"n": 5, "sigma": 0.3}, "normalization": "l2"},
        {
            "k2": {"n": 9, "weighting": "unity"},
            "k3": {"n": 4, "sigma": 0.3, "weighting": "unity"},
            "normalization": "none",
        },
        {
            "k1": {"n": 6},
            "k2": {"n": 9, "weighting": "exp"},
            "k3": {"n": 6, "sigma": 0.2},
            "normalization": "valle_oganov",
        },
    ],
    "pdf": [
        {"r_max": 5.0, "r_step": 0.1, "delta2": 1.0, "q_max": 20.0, "q_damp": 0.05, "q_broad": 0.02},
        {"r_max": 4.0, "r_step": 0.1, "q_max": None, "broadening": [], "scattering": "neutron"},
    ],
    "soap": [
        {"cutoff": 4.5, "n_max": 3, "l_max": 2, "pooling": ["max", "min"]},
        {"cutoff": 4.5, "n_max": 2, "l_max": 3, "per_centre_species": True},
        {"cutoff": 4.5, "n_max": 2, "l_max": 2, "embedding": 3},
        {"cutoff": 4.5, "n_max": 2, "l_max": 1, "per_centre_species": True, "embedding": 2},
    ],
}
"""Settings that are quick; without an entry, the defaults are checked."""


@pytest.mark.parametrize(
    ("name", "settings"), [(name, case) for name in REPRESENTATIONS for case in SMALL.get(name, [{}])]
)
def test_every_registered_representation_keeps_the_contract(name, settings):
    method = REPRESENTATIONS.get(name)
    check_representation(lambda: method.Settings(**settings).build(["Na", "Cl"]), species=["Na", "Cl"])


def test_one_element_and_the_defaults_of_the_paper():
    check_representation(
        lambda: ACSF(species=["Pt"], cutoff=6.0, g2=[(0.5, 1.0)], g5=[(0.1, 4.0, 1.0)]), species=["Pt"]
    )


class Distances(Representation):
    """A small sound representation: for some widths, the sum of gaussians of all distances below 5 Å."""

    kind = "distances"
    species = ("Na", "Cl")
    invariances = Representation.invariances | {"lattice_basis"}

    def __init__(self, *, widths: tuple[float, ...] = (2.0, 3.0, 4.0)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        names = tuple(f"width={width:g}" for width in self.widths)
        self.layout = FeatureLayout(names=names, shape=(len(names),), blocks={"sum": slice(0, len(names))})

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "widths": list(self.widths)}

    def weights(self, structures: StructureBatch) -> torch.Tensor:
        return structures.atomic_numbers.to(structures.dtype)

    def forward(self, structures: StructureBatch) -> torch.Tensor:
        from whorl.errors import InputError

        if not bool(torch.isin(structures.atomic_numbers, torch.tensor([11, 17])).all()):
            raise InputError("an element that was not declared")
        pairs = neighbor_list(structures, cutoff=5.0)
        squares = pairs.vectors(structures).square().sum(1)
        smooth = (1 - squares / 25.0).clamp(min=0) ** 3
        values = torch.exp(-squares[:, None] / squares.new_tensor(self.widths) ** 2) * smooth[:, None]
        weights = self.weights(structures)
        values = values * (weights[pairs.first] * weights[pairs.second])[:, None]
        index = structures.structure_index[pairs.first]
        of_pairs = values.new_zeros(len(structures), len(self.widths)).index_add(0, index, values)
        return of_pairs + self.of_atoms(structures, weights)

    def of_atoms(self, structures: StructureBatch, weights: torch.Tensor) -> torch.Tensor:
        zeros = weights.new_zeros(len(structures))
        return zeros.index_add(0, structures.structure_index, weights)[:, None]


def test_a_sound_representation_of_a_third_party_passes():
    check_representation(Distances, species=["Na", "Cl"])


class OrderMatters(Distances):
    def weights(self, structures):
        return 1.0 + 0.1 * structures.position_in_structure.to(structures.dtype)


class DirectionMatters(Distances):
    def forward(self, structures):
        longer = structures.positions.new_tensor([1.0, 1.0, 1.1])
        stretched = structures.replace(
            positions=structures.positions * longer, cells=structures.cells * longer
        )
        return super().forward(stretched)


class OriginMatters(Distances):
    def of_atoms(self, structures, weights):
        centre = structures.positions.new_zeros(len(structures), 3)
        return centre.index_add(0, structures.structure_index, structures.positions).norm(dim=1)[:, None]


class ForgetsImages(Distances):
    def forward(self, structures):
        return super().forward(structures.replace(pbc=torch.zeros_like(structures.pbc)))


class ClaimsSupercells(Distances):
    invariances = Distances.invariances | {"supercell"}


class SeesTheBatch(Distances):
    def forward(self, structures):
        value = super().forward(structures)
        return value / (1.0 + value.mean(0))


class SeesTheOrderOfTheBatch(Distances):
    def forward(self, structures):
        value = super().forward(structures)
        return value + 1e-3 * torch.arange(len(value), dtype=value.dtype)[:, None]


class ChangesItsInput(Distances):
    def forward(self, structures):
        value = super().forward(structures)
        with torch.no_grad():
            structures.cells[~structures.pbc.any(1)] += 1.0
        return value


class AlwaysDouble(Distances):
    def forward(self, structures):
        return super().forward(structures.to(dtype=torch.float64))


class IsRandom(Distances):
    def forward(self, structures):
        return super().forward(structures) + torch.rand(())


class HasNoDerivative(Distances):
    def value_and_jacobian(self, structures, *, strain=False):
        value, jacobian = super().value_and_jacobian(structures, strain=strain)
        return value, jacobian * 1.001


class IgnoresTheCell(Distances):
    def value_and_jacobian(self, structures, *, strain=False):
        value, jacobian = super().value_and_jacobian(structures, strain=strain)
        if strain:
            jacobian[:, :, -3:] *= 0.99
        return value, jacobian


class CutsTheGraph(Distances):
    def forward(self, structures):
        detached = super().forward(structures.replace(positions=structures.positions.detach()))
        return detached + 0.0 * structures.positions.sum()


class ForgetsASetting(Distances):
    def config(self):
        return {"kind": self.kind}


class HasAnotherKind(Distances):
    def config(self):
        return {**super().config(), "kind": "acsf"}


class NamesTwice(Distances):
    def __init__(self, **options):
        super().__init__(**options)
        names = ("same",) * len(self.widths)
        self.layout = FeatureLayout(names=names, shape=self.layout.shape, blocks={})


class NamesTooFew(Distances):
    def __init__(self, **options):
        super().__init__(**options)
        self.layout = FeatureLayout(names=("one",), shape=self.layout.shape, blocks={})


class AnotherShape(Distances):
    def forward(self, structures):
        return super().forward(structures)[:, :-1]


class TakesAnything(Distances):
    def __call__(self, structures):
        return self.forward(structures)


class TakesOtherElements(Distances):
    def forward(self, structures):
        numbers = structures.atomic_numbers
        known = torch.where(torch.isin(numbers, torch.tensor([11, 17])), numbers, 11)
        return super().forward(structures.replace(atomic_numbers=known))


class NamesProblemsInVain(Distances):
    def find_problems(self, structures):
        few = torch.nonzero(structures.n_atoms == 1).flatten().tolist()
        return {**super().find_problems(structures), **dict.fromkeys(few, "is one atom")}


class IsConstant(Distances):
    def forward(self, structures):
        return 0.0 * super().forward(structures)


class HasWrongCoordinates(Distances):
    def value_and_jacobian_along(self, structures, orbits):
        value, along = super().value_and_jacobian_along(structures, orbits)
        return value, 2.0 * along


class IsInfinite(Distances):
    def forward(self, structures):
        return super().forward(structures) / (structures.n_atoms > 1).to(structures.dtype)[:, None]


def fixed(**options) -> Distances:
    """Return one of the class whose config does not say which widths it has."""
    return ForgetsASetting(widths=(1.0, 2.0, 3.5))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (OrderMatters, "the order of the atoms"),
        (DirectionMatters, "a rotation"),
        (OriginMatters, "a translation|shifts of atoms"),
        (ForgetsImages, "shifts of atoms by lattice vectors|choice of the lattice"),
        (ClaimsSupercells, "the number of cells"),
        (SeesTheBatch, "batch and single"),
        (SeesTheOrderOfTheBatch, "batch and single"),
        (ChangesItsInput, "were changed"),
        (AlwaysDouble, "float32"),
        (IsRandom, "the same structures must give the same values|rebuilt"),
        (HasNoDerivative, "Jacobian and autograd"),
        (IgnoresTheCell, "Jacobian and autograd"),
        (CutsTheGraph, "differ from numerical"),
        (fixed, "rebuilt from config"),
        (HasAnotherKind, "carry the kind"),
        (NamesTwice, "unique"),
        (NamesTooFew, "1 names for 3 features"),
        (AnotherShape, "expected .7, 3."),
        (TakesAnything, "must raise InputError"),
        (TakesOtherElements, "an element that was not declared must raise"),
        (NamesProblemsInVain, "is one atom.* must raise InputError"),
        (IsConstant, "different structures"),
        (HasWrongCoordinates, "value_and_jacobian_along"),
        (IsInfinite, "finite"),
    ],
)
def test_a_broken_representation_is_found_out(broken, words):
    with pytest.raises(AssertionError, match=words):
        check_representation(broken, species=["Na", "Cl"])
