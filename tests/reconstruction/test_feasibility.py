import torch

from whorl.reconstruction.population.feasibility import agreeing, infeasibility


def ends(*gaps):
    """Return ends of populations: distances that differ from those of the best one by so many Å."""
    distances = torch.linspace(2.5, 9.0, 45, dtype=torch.float64)
    return [(distances + gap, 0.1 + gap) for gap in gaps]


def test_it_grows_with_evaluations_in_vain_and_falls_with_atoms():
    assert infeasibility(evaluations=0, n_atoms=10, agreeing=1) == 0.5
    few, many = (infeasibility(evaluations=n, n_atoms=10, agreeing=1) for n in (1_000, 100_000))
    assert 0.5 < few < many < 1.0
    assert infeasibility(evaluations=100_000, n_atoms=40, agreeing=1) < many


def test_ends_that_are_alike_speak_for_it():
    none, one, three = (infeasibility(evaluations=5_000, n_atoms=10, agreeing=k) for k in (0, 1, 3))
    assert none == one < three < 1.0
    few, many = (infeasibility(evaluations=5_000, n_atoms=14, agreeing=k) for k in (1, 9))
    assert few == many  # real clusters of 14 atoms end alike too


def test_the_best_end_and_those_like_it_are_counted():
    assert agreeing([], n_atoms=10) == 0
    assert agreeing(ends(0.0, 0.5, 0.7), n_atoms=10) == 1
    assert agreeing(ends(0.5, 0.07, 0.0, 0.05), n_atoms=10) == 3


def test_of_many_atoms_ends_must_be_nearer():
    """The sorted distances of large disordered clusters are alike though the clusters are not."""
    assert agreeing(ends(0.0, 0.05, 0.07), n_atoms=40) == 1
    assert agreeing(ends(0.0, 0.01), n_atoms=40) == 2
