"""What a search may not change, and where it begins: templates, cells, frozen atoms, space groups, starts."""

from functools import partial

import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import read, write

from whorl.datasets import Dataset, FeatureSet, load_dataset, save_dataset, save_features
from whorl.errors import InputError
from whorl.evaluation.matching import rmsd
from whorl.files import read_json
from whorl.reconstruction import (
    Algorithm1,
    PopulationSearch,
    PopulationSettings,
    ReconstructorSettings,
    solve,
)
from whorl.reconstruction.base import ReconstructionContext
from whorl.reconstruction.population import reconstructor
from whorl.representations import ACSF, CrysTens
from whorl.settings import settings_from
from whorl.structures import from_ase, to_ase
from whorl.symmetry.detection import space_group_numbers
from whorl.workflow.monitor import Monitor
from whorl.workflow.stages.reconstruct import reconstruct
from whorl.workflow.templates import frozen_atoms, read_cell


class Notes(Monitor):
    """Keeps what was said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def note(self, message):
        self.said.append(message)

    def warn(self, message):
        self.said.append(message)


def features_of(atoms, acsf, path, *, ids=None):
    """Write the features of structures as generated ones."""
    structures = from_ase(atoms).to(dtype=torch.float64)
    with torch.no_grad():
        features = acsf(structures)
    ids = ids or tuple(f"s{k}" for k in range(len(structures)))
    save_features(
        FeatureSet(
            features=features,
            representation=acsf.config(),
            fingerprint=acsf.fingerprint,
            properties={"target": torch.zeros(len(structures), dtype=torch.float64)},
            ids=ids,
            pbc=structures.pbc,
        ),
        path,
    )
    return structures


def searched(tmp_path, monitor=None, kind=PopulationSearch, **settings):
    section = settings_from(ReconstructorSettings, {"kind": kind.kind, **settings}, source="test", lines={})
    out = tmp_path / "found.safetensors"
    reconstruct(
        tmp_path / "g.safetensors", settings=section, output=out, seed=1, monitor=monitor or Monitor()
    )
    return load_dataset(out), read_json(tmp_path / "found-reconstruction.json")


CRYSTAL = ACSF.crystal(["Na", "Cl"], cutoff=4.0)
PLATINUM = ACSF(species=["Pt", "O"], cutoff=5.0, g2=[(4.0, 1.0 + 0.25 * k) for k in range(14)])


def salt(a=5.64):
    return bulk("NaCl", "rocksalt", a=a, cubic=True)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Make the searches small ones."""
    size = PopulationSettings(candidates=30, first=4, opening=(4, 4), children=4, promising=2)
    monkeypatch.setattr(reconstructor, "solve", partial(solve, population=size))


@pytest.fixture
def adsorbed(tmp_path):
    """Return an oxygen molecule on a slab, written as the template with its atoms elsewhere."""
    slab = fcc111("Pt", (2, 2, 2), vacuum=6.0)
    slab.info.clear()
    top = slab.positions[:, 2].max()
    slab += Atoms("O2", [[1.0, 1.0, top + 1.6], [2.2, 1.4, top + 1.8]])
    features_of([slab], PLATINUM, tmp_path / "g.safetensors")
    template = slab.copy()
    template.positions[-2:] += [[0.3, 0.5, 0.9], [-0.4, 0.2, 1.1]]
    write(tmp_path / "t.extxyz", template)
    return slab


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": PopulationSearch, "budget_evaluations": 300},
        {"kind": Algorithm1, "starts": 2, "hops": 2, "iterations": 5, "polish": 5},
    ],
)
def test_frozen_atoms_do_not_move_a_bit(adsorbed, tmp_path, settings):
    found, _ = searched(tmp_path, template=str(tmp_path / "t.extxyz"), frozen=list(range(8)), **settings)
    there = from_ase(read(tmp_path / "t.extxyz")).to(dtype=torch.float64)
    assert torch.equal(found.structures.positions[:8], there.positions[:8])
    assert not torch.equal(found.structures.positions[8:], there.positions[8:])
    assert torch.equal(found.structures.cells, there.cells)


def test_atoms_are_frozen_by_their_tag(adsorbed, tmp_path):
    tags = adsorbed.get_tags()
    assert set(tags) == {0, 1, 2}
    found, _ = searched(
        tmp_path,
        template=str(tmp_path / "t.extxyz"),
        frozen_tag=2,
        frozen=[4, 5, 6, 7],
        budget_evaluations=60,
    )
    there = from_ase(read(tmp_path / "t.extxyz")).to(dtype=torch.float64)
    assert torch.equal(found.structures.positions[:8], there.positions[:8])


def test_frozen_atoms_need_places(tmp_path):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    with pytest.raises(InputError, match=r"positions of these atoms are unknown.*template"):
        searched(tmp_path, composition="Na4Cl4", cell=[5.64, 5.64, 5.64, 90, 90, 90], frozen=[0])


def test_frozen_atoms_that_are_not_there_are_refused():
    water = from_ase(Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], tags=[0, 1, 1]))
    with pytest.raises(InputError, match="got atom 3, expected 0 to 2"):
        frozen_atoms(water, [3])
    with pytest.raises(InputError, match=r"no atom has the tag 5; there are 0, 1"):
        frozen_atoms(water, [], 5)
    with pytest.raises(InputError, match="all atoms of a structure would stay"):
        frozen_atoms(water, [0], 1)
    assert frozen_atoms(water, [], 0).tolist() == [True, False, False]


@pytest.mark.parametrize("way", ["numbers", "text", "file"])
def test_a_cell_is_kept(tmp_path, way):
    original = features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    write(tmp_path / "cell.cif", bulk("Cu", "sc", a=5.64))
    cell = {
        "numbers": [5.64, 5.64, 5.64, 90, 90, 90],
        "text": "5.64, 5.64 5.64 90 90 90",
        "file": str(tmp_path / "cell.cif"),
    }[way]
    found, _ = searched(tmp_path, composition="Na4Cl4", cell=cell, budget_evaluations=500)
    torch.testing.assert_close(found.structures.cells, original.cells, rtol=0, atol=1e-6)
    assert float(rmsd(found.structures, original)[0]) < 0.05


@pytest.mark.parametrize("cell", ["4 4", "nan", "inf 4 4", [4.0, 4.0], "", []])
def test_a_cell_of_another_number_of_numbers_is_refused(cell):
    with pytest.raises(InputError, match=r"cell: got .*, expected finite numbers: a, b, c in Å"):
        settings_from(PopulationSearch.Settings, {"cell": cell}, source="test")


@pytest.mark.parametrize("cell", ["3 4 5", [3, 4, 5], (3, 4, 5, 90, 90, 90)])
def test_right_angles_of_a_cell_may_be_left_out(cell):
    settings = settings_from(PopulationSearch.Settings, {"cell": cell}, source="test")
    assert settings.cell == (3.0, 4.0, 5.0, 90.0, 90.0, 90.0)


def test_a_cell_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="angles in degrees that a cell can have"):
        read_cell((4.0, 4.0, 4.0, 20.0, 20.0, 90.0))
    with pytest.raises(InputError, match="expected positive lengths in Å"):
        read_cell((4.0, -4.0, 4.0, 90.0, 90.0, 90.0))
    write(tmp_path / "a.xyz", Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]]))
    with pytest.raises(InputError, match="not periodic in all three"):
        read_cell(str(tmp_path / "a.xyz"))
    features_of([Atoms("Pt2", [[0, 0, 0], [0, 0, 2.5]])], PLATINUM, tmp_path / "g.safetensors")
    with pytest.raises(InputError, match="not periodic in all directions"):
        searched(tmp_path, composition="Pt2", cell=[4, 4, 4, 90, 90, 90])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"free_cell": True, "cell": [4, 4, 4, 90, 90, 90]}, "got free_cell and cell"),
        ({"free_cell": True, "frozen": [0]}, "got free_cell and frozen atoms"),
        ({"space_group": 225, "frozen": [0]}, "got space_group and frozen atoms"),
        ({"space_group": "Fm-4m"}, "expected a number from 1 to 230 or a symbol"),
        ({"template": "a.cif", "composition": "NaCl"}, "template gives the composition too"),
        ({"frozen": [-1]}, "0 or more"),
        ({"kind": "algorithm1", "space_group": 225}, "unknown key 'space_group'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        settings_from(ReconstructorSettings, {"kind": "population", **settings}, source="test", lines={})


def test_a_space_group_is_kept_and_checked(tmp_path):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    said = Notes()
    found, record = searched(
        tmp_path, said, composition="Na4Cl4", free_cell=True, space_group="Pm-3m", budget_evaluations=150
    )
    # Rock salt itself has more symmetry than was asked for, which is said.
    group = space_group_numbers(found.structures).tolist()[0]
    assert group in (221, 225)
    assert record["met"]["space_group"] == float(group == 221)
    assert any("have the space group requested (221)" in words for words in said.said)


def test_atoms_that_cannot_have_a_space_group_are_refused(tmp_path):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    with pytest.raises(InputError, match="do not fill orbits of space group 230"):
        searched(tmp_path, composition="Na4Cl4", free_cell=True, space_group=230)


def test_starts_of_a_file_belong_to_the_samples_of_their_ids(tmp_path):
    originals = features_of([salt(), salt(6.2)], CRYSTAL, tmp_path / "g.safetensors", ids=("a", "b"))
    rattled = [salt(6.2), salt()]
    for atoms in rattled:
        atoms.rattle(0.05, seed=1)
    save_dataset(
        Dataset(structures=from_ase(rattled), ids=("b", "a"), properties={}), tmp_path / "s.safetensors"
    )
    found, _ = searched(tmp_path, starts=str(tmp_path / "s.safetensors"), budget_evaluations=100)
    assert found.ids == ("a", "b")
    torch.testing.assert_close(found.structures.cells, originals.cells)
    assert bool((rmsd(found.structures, originals) < 0.01).all())


def test_starts_of_another_composition_are_refused_by_name(tmp_path):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors", ids=("a",))
    save_dataset(
        Dataset(structures=from_ase([bulk("NaCl", "rocksalt", a=5.64)]), ids=("a",), properties={}),
        tmp_path / "s.safetensors",
    )
    with pytest.raises(InputError, match=r"another composition than Na4Cl4 \(first: a has NaCl\)"):
        searched(tmp_path, starts=str(tmp_path / "s.safetensors"), composition="Na4Cl4", free_cell=True)


def test_decoded_crystals_are_where_the_search_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("whorl.reconstruction.population.search._POLISH", 2)
    crystal = bulk("CsCl", "cesiumchloride", a=4.1)
    codec = CrysTens(max_atoms=2).fit(from_ase([crystal, bulk("CsCl", "cesiumchloride", a=4.6)]))
    original = features_of([crystal], codec, tmp_path / "g.safetensors")
    said = Notes()
    found, _ = searched(tmp_path, said, starts="decoded", free_cell=True, budget_evaluations=5)
    assert to_ase(found.structures)[0].get_chemical_formula() == "ClCs"
    assert float(rmsd(found.structures, original)[0]) < 0.05
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    with pytest.raises(InputError, match=r"acsf has no closed-form inverse\. Give a file"):
        searched(tmp_path, starts="decoded", free_cell=True)


def test_the_most_similar_structure_of_the_data_is_where_the_search_begins(tmp_path):
    def search(**settings):
        section = settings_from(
            ReconstructorSettings,
            {
                "kind": "population",
                "starts": "similar",
                "free_cell": True,
                "budget_evaluations": 20,
                **settings,
            },
            source="test",
            lines={},
        )
        reconstruct(
            tmp_path / "g.safetensors",
            settings=section,
            output=tmp_path / "found.safetensors",
            features=tmp_path / "real.safetensors",
            dataset=tmp_path / "data.safetensors",
            monitor=Monitor(),
        )
        return load_dataset(tmp_path / "found.safetensors").structures

    known = [bulk("NaCl", "rocksalt", a=5.5), salt(6.2)]
    features_of(known, CRYSTAL, tmp_path / "real.safetensors", ids=("a", "b"))
    save_dataset(
        Dataset(structures=from_ase(known), ids=("a", "b"), properties={}), tmp_path / "data.safetensors"
    )
    originals = features_of(
        [salt(6.3), bulk("NaCl", "rocksalt", a=5.52)], CRYSTAL, tmp_path / "g.safetensors"
    )
    found = search()
    assert found.n_atoms.tolist() == originals.n_atoms.tolist() == [8, 2]
    assert bool((rmsd(found, originals) < 0.01).all())
    with pytest.raises(InputError, match="no structure of the data has the composition or cell requested"):
        search(composition="Na2Cl2")


def test_a_formula_that_does_not_fit_into_the_cell_is_refused_before_the_search(tmp_path, monkeypatch):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    monkeypatch.setattr(reconstructor, "solve", None)
    with pytest.raises(
        InputError, match=r"Na20Cl20 does not fit into a cell of 64 Å³.* 7\.4 times its volume"
    ):
        searched(tmp_path, composition="Na20Cl20", cell=[4.0, 4.0, 4.0, 90, 90, 90])


def test_of_several_compositions_only_those_that_fit_are_searched(tmp_path):
    both = features_of([salt(), salt()], CRYSTAL, tmp_path / "g.safetensors")
    given = [salt(), salt(2.5)]  # starts give composition and cell
    for name, atoms in zip(("s0", "s1"), given, strict=True):
        atoms.info["id"] = name
    context = ReconstructionContext(
        representation=CRYSTAL, templates=from_ase(given).to(dtype=torch.float64).replace(info=())
    )
    method = PopulationSearch(PopulationSearch.Settings(budget_evaluations=20))
    made = method.reconstruct(CRYSTAL(both), context)
    assert made.rows.tolist() == [0] and list(made.skipped) == [1]
    assert "does not fit into a cell of 16 Å³" in made.skipped[1]


def test_a_cell_denser_than_any_measured_crystal_is_doubted_with_numbers(tmp_path):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    notes = Notes()
    searched(tmp_path, notes, composition="Na4Cl4", cell=[3.8, 3.8, 3.8, 90, 90, 90], budget_evaluations=20)
    assert any("1.7 times the volume (at most 1.5) for Na4Cl4 in 55 Å³" in said for said in notes.said), (
        notes.said
    )


def test_elements_that_the_features_do_not_have_are_refused_with_the_most_similar(tmp_path):
    features_of([salt()], CRYSTAL, tmp_path / "g.safetensors")
    with pytest.raises(InputError, match=r"contains K, .* made for Na, Cl. The most similar of these is Na"):
        searched(tmp_path, composition="K4Cl4", cell=[5.64, 5.64, 5.64, 90, 90, 90])
