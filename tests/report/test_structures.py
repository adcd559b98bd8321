import dataclasses

import ase.io
import pytest
from evaluating import without_structures

from whorl.errors import InputError
from whorl.report import write_structures


def test_every_structure_says_where_it_comes_from(run, tmp_path):
    path = tmp_path / "n300.extxyz"
    write_structures(run.sizes["n300"], path, provenance={"whorl_version": "0.1.0", "seed": 7})
    frames = ase.io.read(path, ":")
    assert len(frames) == 12
    info = frames[1].info
    assert info["target"] == 1.9
    assert info["sample"] == 3
    assert info["reconstruction_status"] == "local_minimum"
    assert "potential" not in info and frames[0].info["formation_energy"] == pytest.approx(
        float(run.values["n300"]["computed"][0])
    )
    assert info["potential_failure"] == "two atoms <closer> than 0.3 Å"
    assert (info["whorl_version"], info["seed"]) == ("0.1.0", 7)
    assert frames[0].info["reconstruction_loss"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("name", "column"), [("dipole moment", "dipole_moment"), ("target", "computed_target")]
)
def test_what_was_computed_bears_the_name_of_the_property(run, tmp_path, name, column):
    run.reference = run.reference.replace(name=name)
    write_structures(run.sizes["n300"], tmp_path / "x.extxyz", provenance={})
    frame = ase.io.read(tmp_path / "x.extxyz", 0)
    assert frame.info[column] == pytest.approx(float(run.values["n300"]["computed"][0]))
    assert frame.info["target"] == 1.9


def test_without_atoms_there_is_nothing_to_write(run, tmp_path):
    alone = dataclasses.replace(run.sizes["n300"], samples=without_structures(run.samples["n300"]))
    with pytest.raises(InputError, match="no sample was turned into atoms"):
        write_structures(alone, tmp_path / "x.extxyz", provenance={})
