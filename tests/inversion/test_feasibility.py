import torch

from whorl.inversion.feasibility import infeasibility


def ends(*gaps):
    """Return ends of populations: distances that differ from those of the best one by so many Å."""
    distances = torch.linspace(2.5, 9.0, 45, dtype=torch.float64)
    return [(distances + gap, 0.1 + gap) for gap in gaps]


def test_it_grows_with_evaluations_in_vain_and_falls_with_atoms():
    assert infeasibility(ends(0.0), evaluations=0, n_atoms=10) == 0.5
    few, many = (infeasibility(ends(0.0), evaluations=n, n_atoms=10) for n in (1_000, 100_000))
    assert 0.5 < few < many < 1.0
    assert infeasibility(ends(0.0), evaluations=100_000, n_atoms=40) < many


def test_ends_that_are_alike_speak_for_it():
    apart = infeasibility(ends(0.0, 0.5, 0.7), evaluations=5_000, n_atoms=10)
    alike = infeasibility(ends(0.0, 0.05, 0.07), evaluations=5_000, n_atoms=10)
    assert alike > apart == infeasibility(ends(0.0), evaluations=5_000, n_atoms=10)


def test_of_many_atoms_ends_must_be_nearer():
    """The sorted distances of large disordered clusters are alike though the clusters are not."""
    alike = ends(0.0, 0.05, 0.07)
    assert infeasibility(alike, evaluations=5_000, n_atoms=40) == infeasibility(
        alike[:1], evaluations=5_000, n_atoms=40
    )
    assert infeasibility(ends(0.0, 0.01), evaluations=5_000, n_atoms=40) > 0.6
