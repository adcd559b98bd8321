import numpy as np
import pytest

from whorl.symmetry.detection import space_group_settings
from whorl.symmetry.groups import Group
from whorl.symmetry.space_groups import settings_of
from whorl.symmetry.wyckoff import find_sites, random_filling

# Multiplicity and freedom of each Wyckoff position, from the International Tables for Crystallography A.
TABLES = {
    2: [(1, 0)] * 8 + [(2, 3)],
    14: [(2, 0)] * 4 + [(4, 3)],
    62: [(4, 0)] * 2 + [(4, 2), (8, 3)],
    139: [(2, 0)] * 2
    + [(4, 0)] * 2
    + [(4, 1), (8, 0)]
    + [(8, 1)] * 4
    + [(16, 1)]
    + [(16, 2)] * 3
    + [(32, 3)],
    166: [(3, 0)] * 2 + [(6, 1)] + [(9, 0)] * 2 + [(18, 1)] * 2 + [(18, 2), (36, 3)],
    220: [(12, 0)] * 2 + [(16, 1), (24, 1), (48, 3)],
    225: [(4, 0)] * 2 + [(8, 0), (24, 0), (24, 1), (32, 1)] + [(48, 1)] * 3 + [(96, 2)] * 2 + [(192, 3)],
    227: [(8, 0)] * 2 + [(16, 0)] * 2 + [(32, 1), (48, 1), (96, 1), (96, 2), (192, 3)],
}


def groups():
    first = {}
    for number, rotations, translations in space_group_settings():
        first.setdefault(number, Group(rotations, np.rint(24 * translations).astype(np.int64) % 24))
    return first


GROUPS = groups()


@pytest.mark.parametrize("number", TABLES)
def test_sites_are_those_of_the_tables(number):
    sites = GROUPS[number].sites
    assert sorted((site.multiplicity, len(site.basis)) for site in sites) == sorted(TABLES[number])


def test_all_space_groups_together_have_1731_kinds_of_sites():
    assert sum(len(group.sites) for group in GROUPS.values()) == 1731


def test_points_drawn_have_as_many_images_as_their_site_says():
    rng = np.random.default_rng(0)
    for number in range(1, 231, 7):
        group = GROUPS[number]
        for site in group.sites:
            assert len(group.orbit(site.draw(rng))) == site.multiplicity


def test_sites_of_one_kind_are_found_once():
    """No image of a site's points may lie upon another site of the same freedom."""
    rng = np.random.default_rng(1)
    for number in (12, 47, 123, 194, 225):
        group = GROUPS[number]
        sites = [site for site in group.sites if len(site.basis) < 3]
        for one in sites:
            orbit = group.orbit(one.draw(rng))
            for other in sites:
                if other is not one and len(other.basis) == len(one.basis):
                    steps = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T
                    gaps = (orbit[:, None] + steps - other.origin).reshape(-1, 3)
                    if len(other.basis):
                        along = other.basis.T @ np.linalg.pinv(other.basis.T)
                        gaps = gaps - gaps @ along.T
                    assert np.abs(gaps).max(1).min() > 1e-6


def test_fillings_hold_all_atoms_and_take_points_once():
    rng = np.random.default_rng(2)
    sites = GROUPS[225].sites
    for _ in range(50):
        filling = random_filling(np.array([8, 4, 28]), sites, rng)
        assert filling is not None
        assert [sum(site.multiplicity for site in some) for some in filling] == [8, 4, 28]
        points = [id(site) for some in filling for site in some if site.is_point]
        assert len(points) == len(set(points))


def test_what_fits_no_orbits_is_none():
    assert random_filling(np.array([3]), GROUPS[225].sites, np.random.default_rng(0)) is None
    # Two species would need the only site of one atom each.
    assert random_filling(np.array([4, 4, 4]), GROUPS[225].sites, np.random.default_rng(0)) is None


def test_settings_of_one_lattice_have_the_same_kinds_of_sites():
    kinds = {
        tuple((site.multiplicity, len(site.basis)) for site in find_sites(one.rotations, one.translations))
        for one in settings_of(62, np.diag([4.0, 5.0, 6.0]))
    }
    assert kinds == {((4, 0), (4, 0), (4, 2), (8, 3))}


def test_species_known_to_be_one_orbit_or_several_are():
    rng = np.random.default_rng(3)
    sites = settings_of(14, np.diag([4.0, 5.0, 6.0]))[0].sites
    for _ in range(30):
        filling = random_filling(np.array([4, 4, 8]), sites, rng, alike=[True, False, None])
        assert filling is not None
        assert [site.multiplicity for site in filling[0]] == [4]
        assert [site.multiplicity for site in filling[1]] == [2, 2]
    assert random_filling(np.array([8]), sites, rng, alike=[True]) is None
    assert random_filling(np.array([2]), sites, rng, alike=[False]) is None


def test_atoms_mostly_have_freedom():
    rng = np.random.default_rng(4)
    sites = settings_of(14, np.diag([4.0, 5.0, 6.0]))[0].sites  # four of two atoms, one of four

    def general(**options):
        fillings = [random_filling(np.array([4]), sites, rng, **options) for _ in range(200)]
        return sum(len(some[0]) == 1 for some in fillings) / 200

    assert general() > 0.9  # 1.2 against 6 × 0.07²
    assert general(often=(0.4,) * 4) < 0.5  # 0.4 against 6 × 0.4²
