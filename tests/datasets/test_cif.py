"""CIF as it is in the world: symmetry by name, special positions in few digits, odd sites, blocks."""

from collections import Counter

import gemmi
import numpy as np
import pytest
from ase.data import chemical_symbols

from benchmarks.cif_settings import sweep_settings, sweep_special_positions
from whorl.datasets import read_dataset
from whorl.datasets.cif import read_cif
from whorl.errors import InputError
from whorl.structures.cells import volumes

CUBE = (5.0, 5.0, 5.0, 90, 90, 90)
HEXAGONAL = (3.2094, 3.2094, 5.2108, 90, 90, 120)
P1 = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")


def block(sites, *, cell=CUBE, more=P1, columns=COLUMNS, name="x"):
    """Return one block; ``sites`` are rows of values as text."""
    names = [f"_cell_length_{axis}" for axis in "abc"] + [
        f"_cell_angle_{a}" for a in ("alpha", "beta", "gamma")
    ]
    lines = [f"data_{name}", *(f"{n} {v}" for n, v in zip(names, cell, strict=True)), more.strip(), "loop_"]
    return "\n".join([*lines, *(f"_atom_site_{column}" for column in columns), *sites, ""])


def only(text):
    """Return the one structure of a text."""
    (entry,) = read_cif(text)
    assert entry.reason is None, entry.reason
    return entry.structure


def refusal(text):
    (entry,) = read_cif(text)
    assert entry.structure is None
    return entry.reason


def atoms(structure):
    return dict(Counter(chemical_symbols[z] for z in structure.atomic_numbers.tolist()))


def doubts(structure):
    return structure.info[0].get("cif_warnings", [])


def nearest(structure):
    """Return the least distance of two atoms in Å, periodic images included."""
    cell = structure.cells[0].numpy()
    x = structure.positions.numpy() @ np.linalg.inv(cell)
    gaps = x[:, None] - x
    distances = np.linalg.norm((gaps - np.rint(gaps)) @ cell, axis=2)
    return distances[~np.eye(len(x), dtype=bool)].min()


# Symmetry without a list of operations


RHOMBOHEDRAL = (4.507, 4.507, 4.507, 57.11, 57.11, 57.11)
OBVERSE = (4.307, 4.307, 11.273, 90, 90, 120)


@pytest.mark.parametrize("name", ["R -3 m :R", "R -3 m:R", "R -3 m R", "R-3m:R", "R -3 m", "R -3 2/m :R"])
def test_rhombohedral_axes_by_name_or_by_cell(name):
    more = f"_space_group_name_H-M_alt '{name}'\n_space_group_IT_number 166\n"
    structure = only(block(["Sb1 Sb 0.2335 0.2335 0.2335"], cell=RHOMBOHEDRAL, more=more))
    assert atoms(structure) == {"Sb": 2}
    assert doubts(structure) == []


@pytest.mark.parametrize("name", ["R -3 m :H", "R -3 m H", "R-3mH", "R -3 m", "R -3 2/m :H", "R_-3_m"])
def test_hexagonal_axes_by_name_or_by_cell(name):
    more = f"_symmetry_space_group_name_H-M '{name}'"
    structure = only(block(["Sb1 Sb 0 0 0.2335"], cell=OBVERSE, more=more))
    assert atoms(structure) == {"Sb": 6}


def test_a_setting_that_is_none_of_the_cell_is_refused():
    more = "_symmetry_space_group_name_H-M 'R -3 m :R'"
    assert "the operations of 'R -3 m :R' do not fit its cell (4.307 Å" in refusal(
        block(["Sb1 Sb 0 0 0.2335"], cell=OBVERSE, more=more)
    )


@pytest.mark.parametrize("name", ["F 4/m -3 2/m", "F m -3 m", "Fm-3m", "F m 3 m", "Fm-3m (225)"])
def test_full_short_and_old_symbols(name):
    more = f"_symmetry_space_group_name_H-M '{name}'"
    structure = only(block(["Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5"], more=more))
    assert atoms(structure) == {"Na": 4, "Cl": 4}
    assert doubts(structure) == []


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ("_space_group_name_H-M_alt 'F d -3 m :1'", 8),
        ("_space_group_name_H-M_alt 'F d -3 m S'", 8),
        ("_space_group_name_H-M_alt 'F d -3 m :2'", 16),
        ("_space_group_name_H-M_alt 'F 41/d -3 2/m :2'", 16),
        ("_space_group_name_H-M_alt 'F d -3 m'\n_space_group_IT_coordinate_system_code 2", 16),
        ("_space_group_name_H-M_alt 'F d -3 m'\n_chemical_formula_sum C\n_cell_formula_units_Z 8", 8),
        ("_space_group_name_H-M_alt 'F d -3 m'\n_chemical_formula_sum C16\n_cell_formula_units_Z 16", 16),
        ("_space_group_name_Hall '-F 4vw 2vw 3'", 16),
        ("_symmetry_space_group_name_Hall 'F 4d 2 3 -1d'", 8),
    ],
)
def test_the_origin_by_setting_hall_symbol_or_contents(more, size):
    assert atoms(only(block(["C1 C 0 0 0"], more=more))) == {"C": size}


def test_an_origin_that_nothing_tells_is_refused():
    reason = refusal(block(["C1 C 0 0 0"], more="_space_group_name_H-M_alt 'F d -3 m'"))
    assert "the operations of 'F d -3 m' are known for 2 origins or axes" in reason


def test_a_number_alone_is_doubted():
    sites, cell = ["Mg1 Mg 0.11 0.25 0.37"], (5, 6, 7, 90, 90, 90)
    structure = only(block(sites, cell=cell, more="_space_group_IT_number 62"))
    assert atoms(structure) == {"Mg": 4}
    assert doubts(structure) == [
        "its symmetry is stated by the number 62 alone; the standard setting was taken"
    ]


@pytest.mark.parametrize("name", ["P 6q/m", "unknown", "P n m a :3"])
def test_a_group_that_is_not_known_is_refused(name):
    reason = refusal(block(["Mg1 Mg 0 0 0"], more=f"_symmetry_space_group_name_H-M '{name}'"))
    assert reason == f"its space group '{name}' is not known; list the symmetry operations"


def test_a_name_and_a_number_that_differ_are_refused():
    more = "_symmetry_space_group_name_H-M 'P n m a'\n_symmetry_Int_Tables_number 63"
    assert refusal(block(["Mg1 Mg 0 0 0"], more=more)) == (
        "its space group 'P n m a' has number 62, but it states 63"
    )


@pytest.mark.parametrize(
    ("name", "as_known"),
    [
        ("P 2(1)", "P 21"),
        ("P2(1)/c", "P 21/c"),
        ("P2(1)2(1)2(1)", "P 21 21 21"),
        ("P 6(3)", "P 63"),
        ("P2(3)", "P 2"),  # the group's number in brackets
        ("P 2 (3)", "P 2"),
        ("P 2 3 (195)", "P 2 3"),
    ],
)
def test_screw_axes_in_brackets_are_no_numbers_of_groups(name, as_known):
    group = gemmi.find_spacegroup_by_name(as_known)
    cell = (15, 16, 17, 90, 100, 90) if group.number < 15 else (15, 15, 15, 90, 90, 90)
    cell = (*cell[:5], 120) if group.number > 142 and group.number < 195 else cell
    more = f"_symmetry_space_group_name_H-M '{name}'\n"
    found = only(block(["Cu1 Cu 0.11 0.23 0.37"], cell=cell, more=more))
    expected = only(block(["Cu1 Cu 0.11 0.23 0.37"], cell=cell, more=more.replace(name, as_known)))
    assert len(found.positions) == len(group.operations())
    np.testing.assert_allclose(found.positions, expected.positions)


@pytest.mark.parametrize(
    "statement",
    [
        "_symmetry_space_group_name 'F m -3 m'",
        "_symmetry_space_group_name_H-M_alt 'F m -3 m'",
        "_space_group_name_Schoenflies 'O_h^5'",
        "_symmetry_cell_setting cubic",
        "_symmetry_IT_number 225",
        "_aflow_Space_group 225",
        "loop_\n_space_group_symop_xyz\n'x,y,z'\n'-x,-y,-z'",
    ],
)
def test_a_symmetry_that_is_stated_otherwise_is_refused_and_not_p1(statement):
    assert statement.removeprefix("loop_\n").split()[0].lower() in refusal(
        block(["Cu1 Cu 0 0 0"], more=statement)
    )


@pytest.mark.parametrize(
    "statement",
    ["_symmetry_cell_setting triclinic", "_space_group_name_Schoenflies C1^1", "_symmetry_IT_number ?"]
    + [
        f"{tag} '{text}'"
        for tag in ("_symmetry_space_group_name_H-M", "_space_group_IT_number")
        for text in ("?", ".")
    ],
)
def test_what_states_no_symmetry_is_p1(statement):
    assert atoms(only(block(["Cu1 Cu 0 0 0"], more=statement))) == {"Cu": 1}


def test_names_or_numbers_that_differ_from_each_other_are_refused():
    names = "_space_group_name_H-M_alt 'P 1'\n_symmetry_space_group_name_H-M 'F m -3 m'"
    assert "'P 1' by one name and 'F m -3 m' by another" in refusal(block(["Cu1 Cu 0 0 0"], more=names))
    numbers = "_space_group_IT_number 1\n_symmetry_Int_Tables_number 225"
    assert "1 and 225" in refusal(block(["Cu1 Cu 0 0 0"], more=numbers))


def test_of_two_names_the_one_that_is_known_counts():
    names = "_space_group_name_H-M_alt 'strange'\n_space_group_name_H-M_full 'F 4/m -3 2/m'"
    assert atoms(only(block(["Cu1 Cu 0 0 0"], more=names))) == {"Cu": 4}


def test_the_number_of_a_group_with_one_setting_leaves_nothing_open():
    assert doubts(only(block(["Cu1 Cu 0 0 0"], more="_space_group_IT_number 225"))) == []


def test_operations_that_are_not_those_of_the_name_are_a_doubt():
    structure = only(block(["Na1 Na 0 0 0"], more=P1 + "_symmetry_space_group_name_H-M 'F m -3 m'"))
    assert atoms(structure) == {"Na": 1}
    assert doubts(structure) == [
        "the symmetry operations listed are those of space group 1, but it states 'F m -3 m'"
    ]


def test_operations_of_another_lattice_are_refused():
    more = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'-y,x-y,z'\n'-x+y,-x,z'\n"
    assert "the symmetry operations listed do not fit its cell" in refusal(
        block(["Na Na 0.1 0.2 0"], more=more)
    )


def test_without_any_symmetry_it_is_p1():
    structure = only(block(["Na1 Na 0.1 0.2 0.3"], more=""))
    assert atoms(structure) == {"Na": 1}
    assert doubts(structure) == []


@pytest.mark.parametrize(
    "operations",
    [
        ["'foo'"],
        ["'x,y'"],
        ["'x/0,y,z'"],
        ["'9**9**9+x,y,z'"],
        ["'x,x,z'"],
        ["'2x,y,z'"],
        ["'a,b,c'"],
        ["'x,y,z,w'"],
        ["'__import__(1),y,z'"],
        ["x, y, z", "-x, -y, -z"],
        ["'x,y,z'", "'-x,-y,z'", "'x,-y,-z'"],  # no group
        ["'x+1/5,y,z'"],
    ],
)
def test_broken_operations_are_refused(operations):
    more = "\n".join(["loop_\n_symmetry_equiv_pos_as_xyz", "'x,y,z'", *operations])
    reason = refusal(block(["Pt Pt 0.11 0.23 0.37"], more=more))
    assert "symmetry operation" in reason


def test_operations_in_all_spellings():
    names = "_symmetry_equiv_pos_site_id\n_symmetry_equiv_pos_as_xyz\n"
    more = f"loop_\n{names}1 X,Y,Z\n2 '1/2+x, .5 - y, -z + 0.500'\n"
    structure = only(block(["Na Na 0.1 0.2 0.3"], more=more))
    expected = np.array([[0.1, 0.2, 0.3], [0.6, 0.3, 0.2]]) * 5
    np.testing.assert_allclose(structure.positions.numpy(), expected, atol=1e-12)


def test_operations_of_a_supercell():
    more = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"'x+{k}/5,y,z'\n" for k in range(5))
    assert atoms(only(block(["Na Na 0.1 0.2 0.3"], more=more, cell=(25, 5, 5, 90, 90, 90)))) == {"Na": 5}


def test_operations_of_a_magnetic_group():
    more = (
        "loop_\n_space_group_symop_magn_operation.id\n_space_group_symop_magn_operation.xyz\n"
        "1 x,y,z,+1\n2 -x,-y,-z,+1\nloop_\n_space_group_symop_magn_centering.id\n"
        "_space_group_symop_magn_centering.xyz\n1 x,y,z,+1\n2 x+1/2,y+1/2,z+1/2,-1\n"
    )
    assert atoms(only(block(["Mn Mn 0.1 0.2 0.3"], more=more))) == {"Mn": 4}


# Special positions as written


@pytest.mark.parametrize(
    "place", ["0.33 0.67", "0.33 0.66", "0.333 0.667", "0.3333 0.6667", "0.3333(2) 0.6666(2)"]
)
def test_special_positions_in_few_digits(place):
    more = "_symmetry_space_group_name_H-M 'P 63/m m c'\n_chemical_formula_sum Mg\n_cell_formula_units_Z 2"
    structure = only(block([f"Mg1 Mg {place} 0.25"], cell=HEXAGONAL, more=more))
    fractional = structure.positions.numpy() @ np.linalg.inv(structure.cells[0].numpy())
    np.testing.assert_allclose(fractional, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], atol=1e-12)
    assert doubts(structure) == []


def test_a_site_near_its_image_but_beyond_its_digits_is_refused():
    more = "_symmetry_space_group_name_H-M 'P -1'"
    reason = refusal(block(["Mg1 Mg 0.0300 0.0000 0.0000"], more=more))
    assert "site 'Mg1' is 0.3 Å from its own image" in reason


def test_a_coarse_place_in_a_large_cell_is_decided_by_the_formula():
    cell = (60, 60, 60, 90, 90, 90)
    site = ["Mg1 Mg 0.006 0.00 0.00"]
    more = "_symmetry_space_group_name_H-M 'P -1'\n_chemical_formula_sum Mg\n_cell_formula_units_Z "
    assert atoms(only(block(site, cell=cell, more=more + "2"))) == {"Mg": 2}
    site = ["Mg1 Mg 0.01 0.00 0.00"]
    assert atoms(only(block(site, cell=cell, more=more + "2"))) == {"Mg": 2}


def test_a_coarse_site_between_two_multiplicities_is_refused_unless_the_contents_tell():
    cell = (8, 8, 5, 90, 90, 120)
    more = "_symmetry_space_group_name_H-M 'P 6/m m m'\n"
    site = ["Cu1 Cu 0.14 0.27 0"]  # (x, 2x, 0) with x = 0.137, or off this line
    assert "site 'Cu1' may be on a special position of multiplicity 6" in refusal(
        block(site, cell=cell, more=more)
    )
    more += "_chemical_formula_sum Cu\n_cell_formula_units_Z "
    assert atoms(only(block(site, cell=cell, more=more + "6"))) == {"Cu": 6}
    assert "site 'Cu1' may be on a special position" in refusal(block(site, cell=cell, more=more + "12"))
    columns = (*COLUMNS, "symmetry_multiplicity")
    more = "_symmetry_space_group_name_H-M 'P 6/m m m'\n"
    assert atoms(only(block([f"{site[0]} 6"], cell=cell, more=more, columns=columns))) == {"Cu": 6}


def test_the_multiplicity_stated_is_compared():
    columns = (*COLUMNS, "symmetry_multiplicity")
    more = "_symmetry_space_group_name_H-M 'P -1'"
    structure = only(block(["Mg Mg 0.1 0.2 0.3 2", "O O 0 0 0 2"], more=more, columns=columns))
    assert doubts(structure) == ["site 'O' has a multiplicity of 1, but the file states 2"]
    structure = only(block(["Mg Mg 0.1 0.2 0.3 1", "O O 0 0 0 2"], more=more, columns=columns))
    assert doubts(structure) == []  # the order of the site's symmetry


@pytest.mark.parametrize("part", range(4))
def test_a_sample_of_the_settings_is_right_however_it_is_stated(part):
    groups = list(gemmi.spacegroup_table())[part::40]
    for way, counts in sweep_settings(groups).items():
        assert counts == {"right": len(groups)}, way


@pytest.mark.parametrize("digits", [2, 3, 4])
@pytest.mark.parametrize("cut", [False, True])
def test_a_sample_of_the_special_positions_is_right_or_refused(digits, cut):
    groups = [group for group in gemmi.spacegroup_table() if group.number in (62, 136, 166, 187, 194, 198)]
    told = sweep_special_positions(groups, digits=digits, cut=cut, contents=True)
    assert set(told) == {"right"}
    untold = sweep_special_positions(groups, digits=digits, cut=cut, contents=False)
    assert set(untold) <= {"right", "refused"}
    assert untold["right"] > 0.9 * untold.total()


# The contents as stated


@pytest.mark.parametrize(
    ("stated", "doubt"),
    [
        ("_chemical_formula_sum 'Cu H2'", "its formula is Cu H2, but its sites make Cu1"),
        ("_chemical_formula_sum Cu\n_cell_formula_units_Z 4", "Z = 4 makes 4 atoms, but its sites make 1"),
        ("_cell_volume 130.0", "volume of 125 Å³, but it states 130"),
        ("_exptl_crystal_density_diffrn 8.9", "its density is 0.844 g/cm³, but it states 8.9"),
    ],
)
def test_contents_that_differ_are_a_doubt(stated, doubt):
    (said,) = doubts(only(block(["Cu1 Cu 0 0 0"], more=P1 + stated)))
    assert doubt in said


@pytest.mark.parametrize(
    "stated",
    [
        "_chemical_formula_sum Cu\n_cell_formula_units_Z 1\n_cell_volume 125.0(3)",
        "_exptl_crystal_density_diffrn 0.84",
        "_chemical_formula_sum 'D2 O'",
        "_chemical_formula_sum ?\n_cell_formula_units_Z .\n_cell_volume ?",
    ],
)
def test_contents_that_agree_are_none(stated):
    sites = ["Cu1 Cu 0 0 0"] if "D2" not in stated else ["D1 D 0.1 0 0", "D2 D 0 0.1 0", "O1 O 0 0 0"]
    assert doubts(only(block(sites, more=P1 + stated))) == []


@pytest.mark.parametrize(
    ("formula", "doubted"),
    [
        ("Cu (O H)2", "is Cu (O H)2, but"),
        ("(Cu O)", None),
        ("(Cu (O)1)2", None),
        ("CU O", None),
        ("CU1 O2", "is CU1 O2, but"),
        ("Cu O x", "not understood"),
        ("(Cu O", "not understood"),
        ("()", "not understood"),
    ],
)
def test_formulas_as_they_are_written(formula, doubted):
    sites = ["Cu1 Cu 0 0 0", "O1 O 0.5 0.5 0.5"]
    said = doubts(only(block(sites, more=f"{P1}_chemical_formula_sum '{formula}'")))
    assert said == [] if doubted is None else doubted in said[0]


def test_a_formula_of_the_whole_cell_beside_z_is_no_doubt():
    stated = "_symmetry_space_group_name_H-M 'F m -3 m'\n_chemical_formula_sum Ag4\n_cell_formula_units_Z 4"
    assert doubts(only(block(["Ag1 Ag 0 0 0"], more=stated))) == []


# Sites


@pytest.mark.parametrize(
    "symbol", ["OH", "OH2", "NH4", "H2O", "Wat", "X", "Vac", "Va", "?", "Na,K", "M", "CN", "Q1"]
)
def test_a_site_that_is_no_element_is_named(symbol):
    reason = refusal(block(["Cu1 Cu 0.5 0.5 0.5", f"site1 {symbol} 0 0 0"]))
    assert "site 'site1'" in reason and "is no chemical element" in reason


@pytest.mark.parametrize("label", ["Vac1", "VAC", "vacancy1"])
@pytest.mark.parametrize("columns", [COLUMNS, ("label", "fract_x", "fract_y", "fract_z")])
def test_a_vacancy_is_no_vanadium(label, columns):
    symbol = "V " if "type_symbol" in columns else ""
    assert f"site '{label}' is a vacancy" in refusal(block([f"{label} {symbol}0 0 0"], columns=columns))


@pytest.mark.parametrize(
    ("symbol", "element"),
    [
        *(
            ("Fe3+", "Fe"),
            ("Fe+3", "Fe"),
            ("O2-", "O"),
            ("O-2", "O"),
            ("Na+", "Na"),
            ("Cl-", "Cl"),
            ("Fe1", "Fe"),
        ),
        *(("FE", "Fe"), ("cl", "Cl"), ("D", "H"), ("Co", "Co"), ("Fe2.5+", "Fe")),
    ],
)
def test_type_symbols(symbol, element):
    structure = only(block([f"site1 {symbol} 0 0 0"]))
    assert atoms(structure) == {element: 1}
    assert doubts(structure) == []


def test_large_letters_are_no_cobalt_where_the_formula_has_none():
    formula = "_chemical_formula_sum 'C O Ni'"
    assert "type 'CO' is no chemical element" in refusal(
        block(["a CO 0 0 0", "b Ni 0 0 0.5"], more=P1 + formula)
    )
    assert "type 'CO' is no chemical element" in refusal(block(["a CO 0 0 0", "b Ni 0 0 0.5"]))


@pytest.mark.parametrize(
    ("label", "formula", "element"),
    [
        *(("Fe1A", "?", "Fe"), ("Ca2+", "?", "Ca"), ("O2-", "?", "O"), ("O", "?", "O"), ("C12", "?", "C")),
        *(("CA1", "'Ca O'", "Ca"), ("CA1", "'C Ca'", None), ("OH1", "'Ca H2 O2'", None), ("OW1", "?", None)),
        *(("T1", "'Si O2'", None), ("Ho1", "'C6 H6 O'", None), ("Du1", "?", None), ("1", "?", None)),
    ],
)
def test_labels_without_type_symbols(label, formula, element):
    columns = ("label", "fract_x", "fract_y", "fract_z")
    text = block([f"{label} 0 0 0"], columns=columns, more=P1 + f"_chemical_formula_sum {formula}")
    if element is None:
        assert f"site '{label}'" in refusal(text)
    else:
        assert atoms(only(text)) == {element: 1}


def test_a_group_by_its_label_is_doubted_where_no_hydrogen_is_known():
    assert doubts(only(block(["OH1 O 0 0 0"]))) == ["site 'OH1' was read as O, and there is no hydrogen"]
    assert doubts(only(block(["OH1 O 0 0 0", "H1 H 0.2 0 0"]))) == []


def test_a_modulated_structure_is_refused():
    reason = refusal(block(["Cu Cu 0 0 0"], more="_cell_modulation_dimension 1"))
    assert reason == "it is a modulated structure, which three coordinates do not describe"


@pytest.mark.parametrize("symbol", ["HO", "CO", "NO", "CN"])
def test_large_letters_that_may_be_a_group_of_atoms_are_refused_or_doubted(symbol):
    (entry,) = read_cif(block([f"X1 {symbol} 0 0 0"]))
    assert entry.structure is None or f"'{symbol}'" in doubts(entry.structure)[0]
    assert doubts(only(block(["X1 FE 0 0 0"]))) == []


def test_alternatives_are_disorder_though_they_are_fully_occupied():
    sites = ["Cu1 Cu 0 0 0 A 1", "Au1 Au 0.1 0 0 A 2"]
    columns = (*COLUMNS, "disorder_assembly", "disorder_group")
    assert "'Cu1' and site 'Au1' are alternatives" in refusal(block(sites, columns=columns))
    for one_alternative in (" A 1", " . ."):
        rows = [row[:-4] + one_alternative for row in sites]
        assert len(only(block(rows, columns=columns)).positions) == 2


def test_tritium_is_doubted():
    structure = only(block(["T1 T 0 0 0"]))
    assert atoms(structure) == {"H": 1}
    assert doubts(structure) == ["site 'T1' is 'T', which was read as tritium, an isotope of hydrogen"]


@pytest.mark.parametrize("occupancy", [".", "?", "1", "1.000", "1.00(2)"])
def test_a_full_occupancy(occupancy):
    columns = (*COLUMNS, "occupancy")
    structure = only(block(["Cu1 Cu 0 0 0 1", f"O1 O 0.5 0.5 0.5 {occupancy}"], columns=columns))
    assert atoms(structure) == {"Cu": 1, "O": 1}


@pytest.mark.parametrize("occupancy", ["0.5", "-1", "0", "2", "0.98", "abc"])
def test_another_occupancy_is_refused(occupancy):
    reason = refusal(block([f"O1 O 0.5 0.5 0.5 {occupancy}"], columns=(*COLUMNS, "occupancy")))
    assert "site 'O1' has" in reason and "occupancy" in reason


@pytest.mark.parametrize("place", [". 0 0", "0 ? 0", "0 0 abc", "1e9 0 0", "nan 0 0", "inf 0 0"])
def test_a_site_without_a_place_is_named(place):
    assert "site 'O1'" in refusal(block(["Cu1 Cu 0.5 0.5 0.5", f"O1 O {place}"]))


def test_dummies_and_attached_hydrogens_are_named():
    reason = refusal(block(["H1 H 0 0 0 dum"], columns=(*COLUMNS, "calc_flag")))
    assert reason == "site 'H1' is a dummy site (_atom_site_calc_flag dum), no atom"
    reason = refusal(block(["O1 O 0 0 0 2"], columns=(*COLUMNS, "attached_hydrogens")))
    assert "site 'O1' has 2 attached hydrogens" in reason


def test_sites_in_angstrom():
    columns = ("label", "type_symbol", "Cartn_x", "Cartn_y", "Cartn_z")
    structure = only(block(["Cu1 Cu 1.0 2.0 3.0"], columns=columns))
    np.testing.assert_allclose(structure.positions.numpy(), [[1, 2, 3]])
    assert "a was taken along x" in doubts(structure)[0]


def test_names_with_dots():
    text = block(["Cu1 Cu 0.1 0.2 0.3"], more="_space_group.name_H-M_alt 'P -1'")
    text = text.replace("_atom_site_", "_atom_site.").replace("_cell_", "_cell.")
    assert atoms(only(text)) == {"Cu": 2}


def test_labels_and_oxidation_states_travel_to_pymatgen():
    from whorl.structures import to_pymatgen

    structure = only(block(["Fe1A Fe3+ 0.1 0.2 0.3"], more="_space_group_name_H-M_alt 'P -1'"))
    (crystal,) = to_pymatgen(structure)
    assert crystal.labels == ["Fe1A", "Fe1A"]
    assert {str(specie) for specie in crystal.species} == {"Fe3+"}


def test_sites_at_one_place_are_named_as_in_other_formats(tmp_path):
    (tmp_path / "x.cif").write_text(block(["Cu1 Cu 0 0 0", "O1 O 0.5 0.5 0.5", "Cu2 Cu 1 0 0"]))
    (entry,) = read_dataset(tmp_path / "x.cif", property=None).skipped
    assert entry.reason.startswith("atoms 0 (Cu) and 2 (Cu)")
    assert "at one place" in entry.reason


# Cells


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("_cell_length_b 5.0", "_cell_length_b ?", "has no _cell_length_b"),
        ("_cell_length_b 5.0", "_cell_length_b five", "expected a number"),
        ("_cell_length_b 5.0", "_cell_length_b -5.0", "has no volume"),
        ("_cell_length_b 5.0", "_cell_length_b 5e-320", "has no volume"),
        ("_cell_angle_beta 90", "_cell_angle_beta 180", "has no volume"),
    ],
)
def test_a_cell_that_is_none_is_refused(tag, value, said):
    assert said in refusal(block(["Cu Cu 0 0 0"]).replace(tag, value))


def test_an_angle_that_is_not_stated_is_doubted():
    structure = only(block(["Cu Cu 0 0 0"]).replace("_cell_angle_beta 90\n", ""))
    assert float(volumes(structure.cells)[0]) == pytest.approx(125.0)
    assert doubts(structure) == ["it has no _cell_angle_beta, so that 90° was taken"]


# Blocks


def names(text):
    return [(entry.block, entry.structure and atoms(entry.structure)) for entry in read_cif(text)]


CU, AG = block(["Cu Cu 0 0 0"], name="one"), block(["Ag Ag 0 0 0"], name="one")


def test_blocks_of_one_name_are_both_read():
    assert names(CU + AG) == [("one", {"Cu": 1}), ("one", {"Ag": 1})]


@pytest.mark.parametrize(
    "broken",
    [
        block(["Au Au 0 0 0 0.5"], columns=(*COLUMNS, "occupancy"), name="bad"),
        "data_bad\nloop_\n_atom_site_label\n_b\n1 2 3\n",
        "data_bad\n_atom_site_fract_x 0\n_text 'unclosed\n",
        "data_bad\n_atom_site_fract_x 0\n_atom_site_fract_x 1\n",
        "data_bad\n_a\n;\nno end of this text\n",
    ],
)
def test_a_broken_block_does_not_hide_the_others(broken):
    entries = read_cif(CU + broken + AG)
    assert [entry.block for entry in entries] == ["one", "bad", "one"]
    assert [entry.reason is None for entry in entries] == [True, False, True]


def test_blocks_without_atoms_are_passed_over():
    assert names("data_global\n_journal_year 1999\n" + CU + "data_end\n") == [("one", {"Cu": 1})]
    empty = "loop_\n_atom_site_label\n_atom_site_fract_x\n? ?\n"
    assert names("data_template\n" + empty + CU) == [("one", {"Cu": 1})]
    with pytest.raises(InputError, match="no block of it states atom sites"):
        read_cif("data_global\n_journal_year 1999\n")


def test_single_values_need_no_loop():
    single = "\n".join(f"_atom_site_{c} {v}" for c, v in zip(COLUMNS, ("Cu1", "Cu", 0, 0, 0), strict=True))
    text = block([]).split("loop_\n_symmetry")[0] + "_symmetry_equiv_pos_as_xyz 'x, y, z'\n" + single + "\n"
    assert atoms(only(text)) == {"Cu": 1}


def test_words_of_the_syntax_in_a_text_field():
    field = "_refine_special_details\n;\ndata_reduction was done by hand.\nloop_ and other words\n;\n"
    assert names(block(["Cu Cu 0 0 0"], more=field + P1)) == [("x", {"Cu": 1})]


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), str.upper])
def test_other_spellings_of_the_same_file(change):
    text = change(block(["Cu1 Cu 0.1 0.2 0.3"], more="_symmetry_space_group_name_H-M 'P -1'"))
    assert atoms(only(text)) == {"Cu": 2}


@pytest.mark.parametrize("text", ["", "\n", "# a comment\n"])
def test_a_file_without_anything_holds_no_structure(text):
    with pytest.raises(InputError, match="holds no structure"):
        read_cif(text)


def test_text_that_is_no_cif():
    (entry,) = read_cif("nonsense")
    assert entry.reason.startswith("no valid CIF: line 1")


def test_a_bad_block_of_a_file_is_named_and_the_rest_is_read(tmp_path):
    bad = block(["Au1 Au 0 0 0 0.5"], columns=(*COLUMNS, "occupancy"), name="two")
    (tmp_path / "x.cif").write_text(CU + bad + AG)
    dataset = read_dataset(tmp_path / "x.cif", property=None)
    assert dataset.ids == ("x.cif@0", "x.cif@2")
    (entry,) = dataset.skipped
    assert entry.source == f"{tmp_path / 'x.cif'}@1 (data_two)"
    assert "site 'Au1' has an occupancy of 0.5" in entry.reason


def test_many_operations_and_many_sites():
    random = np.random.default_rng(0)
    cell = (30, 30, 30, 90, 90, 90)
    tenths = [f"'x+{i}/10,y+{j}/10,z+{k}/10'" for i in range(10) for j in range(10) for k in range(10)]
    sites = [f"Cu Cu {x:.5f} {y:.5f} {z:.5f}" for x, y, z in random.random((20_000, 3))]
    more = "\n".join(["loop_\n_symmetry_equiv_pos_as_xyz", *tenths])
    assert atoms(only(block(sites[:50], cell=cell, more=more))) == {"Cu": 50_000}
    assert atoms(only(block(sites, cell=cell))) == {"Cu": 20_000}


@pytest.mark.parametrize("text", ["", " \n", "# only a comment\n", "\ufeff"])
def test_a_text_without_any_block_says_so(tmp_path, text):
    (tmp_path / "a.cif").write_text(text, encoding="utf-8")
    (entry,) = read_dataset(tmp_path / "a.cif", property=None).skipped
    assert "it holds no structure" in entry.reason


def test_a_loop_of_endless_names_is_not_quoted_whole(tmp_path):
    names = "".join(f"_{letter * 2000}\n" for letter in "abcdefghij")
    (tmp_path / "a.cif").write_text(f"data_x\nloop_\n{names}1 2 3\n", encoding="utf-8")
    (entry,) = read_dataset(tmp_path / "a.cif", property=None).skipped
    assert "a loop_ of 10 columns" in entry.reason
    assert "too many or too few values" in entry.reason
    assert len(entry.reason) < 500
