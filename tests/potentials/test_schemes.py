"""Energy schemes that potentials state."""

import pytest

from whorl.axes import POTENTIALS
from whorl.errors import InputError
from whorl.potentials import SCHEMES, make_potential, scheme_of


@pytest.mark.parametrize("name", ["emt", "chgnet", "gfn1-xtb", "gfn2-xtb"])
def test_built_in_potentials_state_a_scheme(name):
    pytest.importorskip((POTENTIALS.get(name).requires or ("ase", ""))[0])
    assert scheme_of(make_potential(name)) in set(SCHEMES) - {"unknown"}


def test_chgnet_states_that_of_its_model():
    pytest.importorskip("chgnet")
    assert scheme_of(make_potential("chgnet")) == "mp2020"
    assert scheme_of(make_potential("chgnet", model="r2scan")) == "r2scan"


def test_an_ase_calculator_has_the_scheme_that_is_given():
    path = "ase.calculators.lj:LennardJones"
    assert scheme_of(make_potential(path)) == "unknown"
    potential = make_potential(path, scheme="pbe+u", sigma=2.0)
    assert scheme_of(potential) == "pbe+u" and potential.name == make_potential(path, sigma=2.0).name
    with pytest.raises(InputError, match="unknown energy scheme 'pbe-u'"):
        make_potential(path, scheme="pbe-u")


def test_what_states_none_is_unknown():
    assert scheme_of(object()) == "unknown"
