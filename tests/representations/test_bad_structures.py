"""What no representation may encode: it would be encoded as something that it is not."""

import pytest
import torch
from ase.build import bulk

from whorl.errors import InputError
from whorl.reconstruction.atomwise import AtomList
from whorl.representations import ACSF, CrysTens
from whorl.representations.base import FeatureLayout, Representation
from whorl.structures import StructureBatch, from_ase

ROCK_SALT = from_ase([bulk("NaCl", "rocksalt", a=5.6), bulk("NaCl", "cesiumchloride", a=3.4)])
SYMMETRY_FUNCTIONS = ACSF(species=["Na", "Cl"], cutoff=4.0, g2=[(0.1, 0.0)], g5=[(0.1, 1.0, 1.0)])


class Spread(Representation):
    """One of a user's own, which looks at nothing."""

    kind = "spread"
    layout = FeatureLayout(names=("spread",), shape=(1,), blocks={})

    def forward(self, structures: StructureBatch) -> torch.Tensor:
        squares = structures.positions.square().sum(1, keepdim=True)
        return squares.new_zeros(len(structures), 1).index_add(0, structures.structure_index, squares)

    def config(self):
        return {"kind": self.kind}


ROUTES = {
    "symmetry functions": SYMMETRY_FUNCTIONS,
    "their Jacobian": SYMMETRY_FUNCTIONS.value_and_jacobian,
    "those of atoms": SYMMETRY_FUNCTIONS.atomic_features,
    "Jacobian of those": SYMMETRY_FUNCTIONS.atomic_value_and_jacobian,
    "list of atoms": AtomList(SYMMETRY_FUNCTIONS, n_atoms=2),
    "its own Jacobian": AtomList(SYMMETRY_FUNCTIONS, n_atoms=2).value_and_jacobian,
    "CrysTens": CrysTens(max_atoms=4),
    "one's own": Spread(),
    "its Jacobian": Spread().value_and_jacobian,
}


def changed(name, place, value):
    tensor = getattr(ROCK_SALT, name).clone()
    tensor[place] = value
    return ROCK_SALT.replace(**{name: tensor})


@pytest.mark.parametrize("encode", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(
    ("structures", "message"),
    [
        (changed("positions", (3, 1), torch.nan), r"structure 1.*atom 1 is at \(.*nan"),
        (changed("positions", (0, 0), torch.inf), r"structure 0.*atom 0 is at \(inf"),
        (changed("cells", (1, 0, 0), torch.nan), "structure 1 is not finite"),
        (changed("structure_index", 0, -1), "sorted, from 0 to 1"),
        (changed("structure_index", 3, 7), "sorted, from 0 to 1"),
        (ROCK_SALT.replace(structure_index=torch.tensor([0, 1, 0, 1])), "sorted, from 0 to 1"),
        (ROCK_SALT.replace(structure_index=torch.tensor([0, 0, 0, 0])), "structure 1 has no atoms"),
    ],
    ids=["nan", "inf", "nan cell", "negative index", "too large index", "unsorted index", "no atoms"],
)
def test_it_is_refused_by_name(encode, structures, message):
    with pytest.raises(InputError, match=message):
        encode(structures)
    encode(ROCK_SALT)


@pytest.mark.parametrize("encode", ROUTES.values(), ids=ROUTES)
def test_of_no_structures_there_are_no_rows(encode):
    none = encode(ROCK_SALT[[]])
    for tensor in none if isinstance(none, tuple) else [none]:
        assert len(tensor) == 0
