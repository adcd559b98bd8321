"""Conditions of several kinds: columns, requests, which structures meet them, and a generator with them."""

import json
import re
from functools import cache

import pytest
import torch
from ase.build import bulk, molecule
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.axes import CONDITIONS
from whorl.conditions import Conditions, Elements, satisfied
from whorl.errors import InputError
from whorl.generators import GAN, fit, load_model, save_model
from whorl.structures import StructureBatch, from_ase
from whorl.symmetry.detection import CRYSTAL_SYSTEMS
from whorl.symmetry.detection import crystal_system as system_of


def perovskite(a: str, b: str, x: str):
    return crystal(
        [a, b, x], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[4, 4, 4, 90, 90, 90]
    )


def frames():
    rutile = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]
    )
    return [
        perovskite("Ba", "Ti", "O"),
        perovskite("Sr", "Zr", "O"),
        perovskite("Ca", "Ti", "N"),
        rutile,
        bulk("NaCl", "rocksalt", 5.64),
        bulk("Ti"),
    ]


LABELS = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


KINDS = tuple(CONDITIONS)
OF_VERSION_0_1 = ("elements", "composition", "crystal_system", "space_group")


@cache
def crystals() -> StructureBatch:
    return from_ase(frames())


@cache
def conditioned(*kinds: str) -> tuple[Conditions, torch.Tensor]:
    return Conditions.of_data(kinds, property="heat", labels=LABELS, structures=crystals())


def drawn(conditions, known, count=50, seed=0, **requested):
    return conditions.draw(count, known=known, rng=torch.Generator().manual_seed(seed), **requested)


def column(conditions, rows, name):
    return rows[:, conditions.names.index(name)]


def test_columns_say_what_the_crystals_are():
    conditions, known = conditioned("volume", "space_group", "composition", "elements", "crystal_system")
    assert conditions.kinds == KINDS  # in one order, whatever was written
    assert known.shape == (6, len(conditions.names)) and known.dtype == torch.float64
    assert conditions["elements"].elements == ("N", "O", "Na", "Cl", "Ca", "Ti", "Sr", "Zr", "Ba")
    assert conditions["space_group"].space_groups == (136, 194, 221, 225)
    assert known[:, 0].tolist() == LABELS.tolist() and conditions.names[0] == "heat"
    assert column(conditions, known, "element O").tolist() == [1, 1, 0, 1, 0, 0]
    assert column(conditions, known, "fraction of O").tolist() == pytest.approx([0.6, 0.6, 0, 2 / 3, 0, 0])
    assert column(conditions, known, "cubic").tolist() == [1, 1, 1, 0, 1, 0]
    assert column(conditions, known, "triclinic").tolist() == [0] * 6
    assert column(conditions, known, "space group 136").tolist() == [0, 0, 0, 1, 0, 0]
    expected = [12.8, 12.8, 12.8, 4.6**2 * 2.96 / 6, 5.64**3 / 8, bulk("Ti").get_volume() / 2]
    assert column(conditions, known, "volume per atom").tolist() == pytest.approx(expected)


def test_the_property_alone_is_the_first_column():
    conditions, known = conditioned()
    assert conditions.names == ("heat",) and known.tolist() == LABELS[:, None].tolist()
    rng = torch.Generator().manual_seed(3)
    state = rng.get_state()
    assert conditions.draw(4, target=0.5, known=known, rng=rng).tolist() == [[0.5]] * 4
    assert torch.equal(rng.get_state(), state)


def test_stated_space_groups_count():
    named = crystals().replace(info=({"spacegroup_number": 1}, {"space_group_number": 2}, {}, {}, {}, {}))
    conditions, _ = Conditions.of_data(["space_group"], property="heat", labels=LABELS, structures=named)
    assert conditions["space_group"].space_groups == (1, 2, 136, 194, 221, 225)


def test_other_data_must_have_the_same_columns():
    conditions, known = conditioned("elements", "space_group")
    again = conditions.columns(labels=LABELS[:2], structures=crystals()[:2])
    assert torch.equal(again, known[:2])
    with pytest.raises(InputError, match="structure 1 has Fe; there are columns for N, O, Na"):
        conditions.columns(labels=LABELS[:2], structures=from_ase([frames()[0], bulk("Fe")]))
    other = crystals()[:2].replace(info=({}, {"space_group_number": 7}))
    with pytest.raises(InputError, match="structure 1 is of space group 7; there are columns for 136"):
        conditions.columns(labels=LABELS[:2], structures=other)
    with pytest.raises(InputError, match="got 2 values of heat for 6 structures"):
        conditions.columns(labels=LABELS[:2], structures=crystals())


def test_molecules_have_elements_and_no_crystal_system():
    water = from_ase([molecule("H2O"), molecule("CH4")])
    conditions, known = Conditions.of_data(["composition"], property="e", labels=LABELS[:2], structures=water)
    torch.testing.assert_close(
        column(conditions, known, "fraction of H"), torch.tensor([2 / 3, 0.8]).double()
    )
    for kind in ("crystal_system", "volume"):
        with pytest.raises(InputError, match="structure 0 is not periodic"):
            Conditions.of_data([kind], property="e", labels=LABELS[:2], structures=water)


def test_round_trip_through_json():
    conditions, _ = conditioned(*KINDS)
    assert Conditions.from_dict(json.loads(json.dumps(conditions.to_dict()))) == conditions
    for damaged in (
        {},
        {"property": "a", "conditions": [{"kind": "space_group", "space_groups": ["x"]}]},
        {"property": "a", "conditions": [{"kind": "elements"}]},
        {"property": "a", "conditions": [{"kind": "crystal_system", "more": 1}]},
        {"property": "a", "conditions": ["elements"]},
        {"property": "a", "kinds": None},
        {"property": "a", "kinds": ["elements"], "elements": None},
    ):
        with pytest.raises(InputError, match="damaged"):
            Conditions.from_dict(damaged)
    with pytest.raises(InputError, match="Did you mean 'elements'"):
        Conditions.of_data(["element"], property="heat", labels=LABELS, structures=crystals())


def test_models_of_earlier_versions_keep_their_columns():
    conditions, _ = conditioned(*OF_VERSION_0_1)
    old = {
        "property": "heat",
        "kinds": list(OF_VERSION_0_1),
        "elements": ["N", "O", "Na", "Cl", "Ca", "Ti", "Sr", "Zr", "Ba"],
        "space_groups": [136, 194, 221, 225],
    }
    assert Conditions.from_dict(old) == conditions
    with pytest.raises(InputError, match="damaged"):
        Conditions.from_dict({**old, "space_groups": ["x"]})


def test_the_systems_hold_every_space_group_once():
    assert [number for of in CRYSTAL_SYSTEMS.values() for number in of] == list(range(1, 231))
    assert [system_of(n) for n in (2, 15, 62, 129, 166, 194, 227)] == list(CRYSTAL_SYSTEMS)
    with pytest.raises(InputError, match="got 231"):
        system_of(231)


def test_what_was_not_asked_comes_from_rows_that_agree():
    conditions, known = conditioned(*KINDS)
    rows = drawn(conditions, known, elements=["Ba", "Ti", "O"], target=0.3)
    assert torch.equal(rows[:, 1:], known[:1, 1:].expand(50, -1))  # there is one such crystal
    assert (rows[:, 0] == 0.3).all()
    rows = drawn(conditions, known, crystal_system="tetragonal")
    assert torch.equal(rows, known[3:4].expand(50, -1))
    rows = drawn(conditions, known, elements=["Ti"])
    assert {tuple(row) for row in rows.tolist()} == {tuple(known[i].tolist()) for i in (0, 2, 3, 5)}
    rows = drawn(conditions, known, formula="TiO2", crystal_system="cubic")
    # Of the cubic ones, BaTiO3 and its like differ by one element.
    assert torch.equal(rows, torch.cat([rows[:1, :1], rows[:1, 1:]], 1).expand(50, -1))
    assert rows[0, 0] == 0.0 and column(conditions, rows, "element Ba").sum() == 0
    torch.testing.assert_close(column(conditions, rows, "fraction of Ti"), torch.full((50,), 1 / 3).double())


def test_missing_elements_take_the_place_of_others():
    conditions, known = conditioned("elements", "composition")
    rows = drawn(conditions, known, elements=["Zr", "N"])
    shares = rows[:, conditions.slices["composition"]]
    torch.testing.assert_close(shares.sum(1), torch.ones(50).double())
    assert ((shares > 0).sum(1) == 3).all()  # perovskites, in which one element was replaced
    assert {tuple(sorted(row)) for row in (shares * 5).round().tolist()} == {(0, 0, 0, 0, 0, 0, 1, 1, 3)}
    rows = drawn(conditions, known, elements=["Na", "Cl", "Ba"], seed=1)
    counts = rows[:, conditions.slices["elements"]].sum(1)
    # NaCl has no element to give up: Ba is added.
    assert (counts == 3).all()
    third = torch.full((50,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(column(conditions, rows, "fraction of Ba"), third)


def test_the_nearest_in_property_are_drawn():
    structures = from_ase([bulk("Fe") if i % 2 else bulk("Cu") for i in range(400)])
    labels = torch.linspace(0, 4, 400, dtype=torch.float64)
    structures = structures.replace(info=tuple({"space_group_number": 1 + i // 2} for i in range(400)))
    conditions, known = Conditions.of_data(
        ["elements", "space_group"], property="y", labels=labels, structures=structures
    )
    groups = drawn(conditions, known, target=2.0, elements=["Fe"])[:, conditions.slices["space_group"]]
    assert (groups.argmax(1) - 100).abs().max() < 40 and len(set(groups.argmax(1).tolist())) > 10
    far = drawn(conditions, known, target=100.0)[:, conditions.slices["space_group"]].argmax(1)
    assert far.min() > 150


def test_what_follows_from_other_kinds_can_be_requested():
    conditions, known = conditioned("composition")
    rows = drawn(conditions, known, elements=["Sr"])
    assert torch.equal(rows, known[1:2].expand(50, -1))
    conditions, known = conditioned("space_group")
    rows = drawn(conditions, known, crystal_system="cubic")
    groups = rows[:, conditions.slices["space_group"]].argmax(1)
    assert {conditions["space_group"].space_groups[i] for i in groups.tolist()} == {221, 225}


@pytest.mark.parametrize(
    ("kinds", "requested", "words"),
    [
        (
            (),
            {"elements": ["O"]},
            "it is conditioned on heat alone. Train one with 'elements' among its conditions",
        ),
        (("elements",), {"formula": "TiO2"}, "conditioned on elements. Train one with 'composition'"),
        (("elements",), {"crystal_system": "cubic"}, "Train one with 'crystal_system'"),
        (("crystal_system",), {"space_group": 221}, "Train one with 'space_group'"),
        (("elements",), {"elements": ["ti"]}, "unknown element 'ti'. Did you mean 'Ti'"),
        (("elements",), {"elements": ["X"]}, "unknown element 'X'. Write chemical symbols"),
        (("elements",), {"elements": ["Xe"]}, "Xe: no structure that the generator was trained on has it"),
        (("composition",), {"formula": "TiO"}, None),
        (("composition",), {"formula": "TiF4"}, "F: no structure"),
        (("composition",), {"formula": "(("}, "expected a chemical formula"),
        (("composition",), {"formula": "Ti0"}, "at least one atom of each"),
        (("composition",), {"formula": "TiO2", "elements": ["O", "Ba"]}, "got Ba, which TiO2 does not have"),
        (("crystal_system",), {"crystal_system": "cubical"}, "Did you mean 'cubic'"),
        (
            ("crystal_system",),
            {"crystal_system": "triclinic"},
            "satisfies the request: triclinic. Choose from: tetragonal, hex",
        ),
        (
            ("space_group",),
            {"space_group": 2},
            "request: space group 2. Choose from: 136, 194, 221, 225",
        ),
        (("space_group",), {"space_group": 231}, "from 1 to 230"),
        (("volume",), {"volume": 0.0}, "volume: got 0, expected Å³ per atom above 0"),
        (("volume",), {"volume": 60.0}, "far from those that the generator was trained on (10.44 to 22.43)"),
        (("composition",), {"volume": 12.0}, "Train one with 'volume'"),
        (KINDS, {"space_group": 221, "crystal_system": "trigonal"}, "221 is cubic, not trigonal"),
    ],
)
def test_what_cannot_be_asked(kinds, requested, words):
    conditions, known = conditioned(*kinds)
    if words is None:
        assert drawn(conditions, known, **requested).shape == (50, known.shape[1])
    else:
        with pytest.raises(InputError, match=re.escape(words)):
            drawn(conditions, known, **requested)


def test_wrong_rows_and_counts():
    conditions, known = conditioned("elements")
    with pytest.raises(InputError, match=r"shape \(6, 2\), expected at least one row of 10"):
        drawn(conditions, known[:, :2])
    with pytest.raises(InputError, match="at least one row"):
        drawn(conditions, known[:0])
    with pytest.raises(InputError, match="count of 0"):
        drawn(conditions, known, count=0)


ELEMENTS = st.lists(st.sampled_from(["N", "O", "Na", "Cl", "Ca", "Ti", "Sr"]), max_size=4, unique=True)


@given(
    kinds=st.sets(st.sampled_from(KINDS), min_size=1),
    target=st.none() | st.floats(-10, 10),
    elements=ELEMENTS,
    formula=st.none() | st.sampled_from(["BaTiO3", "TiO2", "NaCl", "Na2O", "Ti3O5N"]),
    system=st.none() | st.sampled_from(["cubic", "tetragonal", "hexagonal"]),
    group=st.none() | st.sampled_from([136, 194, 221, 225]),
    volume=st.none() | st.floats(8.0, 30.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80)
def test_what_is_asked_is_exact_and_the_rest_is_sound(
    kinds, target, elements, formula, system, group, volume, seed
):
    conditions, known = conditioned(*kinds)
    requested = {}
    if elements and kinds & {"elements", "composition"}:
        requested["elements"] = elements
    if formula is not None and "composition" in kinds:
        requested["formula"], _ = formula, requested.pop("elements", None)
    if system is not None and kinds & {"crystal_system", "space_group"}:
        requested["crystal_system"] = system
    if group is not None and "space_group" in kinds:
        requested["space_group"] = group
        requested.pop("crystal_system", None)
    if volume is not None and "volume" in kinds:
        requested["volume"] = volume
    rows = drawn(conditions, known, count=5, seed=seed, target=target, **requested)
    assert rows.shape == (5, len(conditions.names)) and rows.isfinite().all()
    if target is not None:
        assert (rows[:, 0] == target).all()
    for kind in kinds:
        part = rows[:, conditions.slices[kind]]
        if kind == "composition":
            assert part.min() >= 0
            torch.testing.assert_close(part.sum(1), torch.ones(5).double())
        elif kind == "volume":
            assert (part > 0).all()
            assert "volume" not in requested or (part == requested["volume"]).all()
        else:
            assert set(part.flatten().tolist()) <= {0.0, 1.0}
        if kind in ("crystal_system", "space_group"):
            assert (part.sum(1) == 1).all()
    if {"elements", "composition"} <= kinds:
        both = [rows[:, conditions.slices[kind]] > 0 for kind in ("elements", "composition")]
        assert torch.equal(*both)
    if {"crystal_system", "space_group"} <= kinds:
        for row in rows:
            number = conditions["space_group"].space_groups[
                int(row[conditions.slices["space_group"]].argmax())
            ]
            assert row[conditions.names.index(system_of(number))] == 1
    # Each row is itself a match for what was asked.
    assert conditions.matching(torch.cat([rows, known]), **requested)[:5].all()


def test_matching_rows_are_counted():
    conditions, known = conditioned(*KINDS)
    assert conditions.matching(known, elements=["Ti", "O"]).tolist() == [1, 0, 0, 1, 0, 0]
    assert conditions.matching(known, formula="Ti2O4").tolist() == [0, 0, 0, 1, 0, 0]
    assert conditions.matching(known, elements=["Ti"], crystal_system="cubic").tolist() == [1, 0, 1, 0, 0, 0]
    assert conditions.matching(known).all()


def test_in_words():
    conditions = Conditions(property="heat_all")
    asked = {"target": 0.5, "elements": ["Ba", "Ti", "O"], "crystal_system": "cubic"}
    assert conditions.describe(**asked) == "heat_all = 0.5, with Ba, Ti, O, cubic"
    assert conditions.describe(formula="TiO2", space_group=136) == "TiO2, space group 136"
    assert conditions.describe() == ""


def test_what_is_met():
    lying = crystals().replace(info=({"space_group_number": 2},) * 6)
    met = satisfied(lying, elements=["O", "Ti"], crystal_system="cubic")
    assert {name: flags.tolist() for name, flags in met.items()} == {
        "elements": [1, 0, 0, 1, 0, 0],
        "crystal_system": [1, 1, 1, 0, 1, 0],
    }
    met = satisfied(lying, formula="O6Ti3", space_group=136)
    assert met["formula"].tolist() == met["space_group"].tolist() == [0, 0, 0, 1, 0, 0]
    assert satisfied(lying) == {}
    open_one = from_ase([molecule("H2O"), bulk("Fe")])
    assert satisfied(open_one, crystal_system="cubic")["crystal_system"].tolist() == [False, True]
    assert satisfied(open_one[:0], formula="H2O")["formula"].tolist() == []
    with pytest.raises(InputError, match="Did you mean 'cubic'"):
        satisfied(lying, crystal_system="cubik")


def toy():
    """Features that tell which element there is, and in another number the property."""
    rng = torch.Generator().manual_seed(0)
    y = torch.rand(400, generator=rng, dtype=torch.float64)
    iron = torch.rand(400, generator=rng) < 0.4
    structures = from_ase([bulk("Fe") if one else bulk("Cu") for one in iron.tolist()])
    noise = 0.05 * torch.randn(400, 2, generator=rng, dtype=torch.float64)
    features = noise + torch.stack([3 * iron.double() - 1, 10 + 2 * y], 1)
    return features, y, structures


def test_a_generator_makes_what_is_requested(tmp_path):
    features, y, structures = toy()
    conditions, known = Conditions.of_data(["elements"], property="y", labels=y, structures=structures)
    model = GAN(shape=(2,), properties=3, channels=32, latent=8, learning_rate=2e-3)
    with pytest.raises(InputError, match="has not been trained"):
        conditions.note(model)
    fit(model, features, known, validation=torch.arange(80), seed=0, epochs=40, batch_size=32)
    conditions.note(model)
    save_model(model, tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    again = Conditions.of_model(model, property="y")
    assert again == conditions and again.names == ("y", "element Fe", "element Cu")
    for element, first in (("Fe", 2.0), ("Cu", -1.0)):
        asked = drawn(again, known, count=200, target=0.5, elements=[element])
        samples = model.sample(asked, rng=torch.Generator().manual_seed(1))
        assert samples[:, 0].mean() == pytest.approx(first, abs=0.3)
        assert samples[:, 1].mean() == pytest.approx(11.0, abs=0.3)


def test_models_without_a_note_know_their_property_alone():
    features, y, _ = toy()
    model = GAN(shape=(2,), channels=4, latent=2)
    fit(model, features, y, validation=torch.arange(80), seed=0, epochs=1)
    assert Conditions.of_model(model, property="y") == Conditions(property="y")
    with pytest.raises(InputError, match=r"has 1 columns, and there are names for 3 \(y, element Fe"):
        Conditions(property="y", conditions=(Elements(("Fe", "Cu")),)).note(model)
