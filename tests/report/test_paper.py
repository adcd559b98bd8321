import pytest

from whorl.report.paper import TABLE_1, TABLE_2, is_pt10, published, published_size


def test_numbers_are_those_printed():
    assert TABLE_1[300][2.2] == (0.05, 89.75)  # the best of n = 300
    assert TABLE_1[300][3.4] == (0.08, 64.53)  # and the worst
    assert TABLE_1[30_000][2.2] == (0.02, 99.98)
    assert TABLE_2[3000] == {1.9: (0.43, 0.0), 2.8: (0.12, 49.0), 3.7: (0.13, 50.0)}
    assert {size: sum(p for _, p in rows.values()) for size, rows in TABLE_1.items()} == pytest.approx(
        {30_000: 679.09, 3000: 625.12, 300: 562.17}
    )


@pytest.mark.parametrize(
    ("rows", "size"),
    [(300, 300), (240, 300), (460, None), (3000, 3000), (30_000, 30_000), (10, None), (0, None)],
)
def test_training_sizes_near_the_papers_are_compared(rows, size):
    assert published_size(rows) == size


def test_published_value_of_a_target():
    assert published(TABLE_2, 300, 2.8000001) == (0.18, 22.0)
    assert published(TABLE_2, 300, 2.5) is None
    assert published(TABLE_2, 1000, 2.8) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"clusters": {"element": "Pt", "atoms": 10}}, True),
        ({"clusters": {"element": "Pt", "atoms": 13}}, False),
        ({"features": {"composition": "Pt10", "property": "formation_energy"}}, True),
        ({"features": {"composition": "Pt10", "property": "gap"}}, False),
        ({"files": {"path": "perovskites.csv"}}, False),
        ({}, False),
    ],
)
def test_is_pt10(data, expected):
    assert is_pt10({"data": data}) is expected
