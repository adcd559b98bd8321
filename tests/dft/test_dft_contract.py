"""Every program is put through the check of its contract, which refuses others."""

from dataclasses import replace

import pytest

from whorl.axes import DFT_CODES
from whorl.dft.espresso import Espresso
from whorl.dft.gpaw import GPAW
from whorl.dft.vasp import VASP
from whorl.testing import check_electronic_structure_program


@pytest.mark.parametrize("code", [VASP(), Espresso(), GPAW()], ids=lambda code: code.kind)
def test_contract(code):
    check_electronic_structure_program(code)
    assert DFT_CODES.get(code.kind) is type(code)


class Unstaged(VASP):
    def write(self, structure, folder):
        super().write(structure, folder)
        (folder / "relax_4" / "INCAR").unlink()
        (folder / "relax_4" / "KPOINTS").unlink()
        (folder / "relax_4" / "POTCAR.spec").unlink()
        (folder / "relax_4").rmdir()


class Silent(VASP):
    def read(self, folder):
        return replace(super().read(folder), reason="")


class NoScript(VASP):
    def scripts(self):
        return {"run.sh": "if [ true; fi"}


@pytest.mark.parametrize(
    ("code", "words"),
    [(Unstaged, "stage relax_4"), (Silent, "needs a reason"), (NoScript, "no script")],
)
def test_the_check_refuses_what_is_broken(code, words):
    with pytest.raises(AssertionError, match=words):
        check_electronic_structure_program(code())
