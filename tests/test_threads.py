"""Results do not depend on the number of threads."""

import pytest
import torch
from ase.build import bulk, molecule

from whorl.generators import fit, make_generator
from whorl.parallel import map_rows
from whorl.reconstruction import InversionProblem, PopulationSettings, algorithm1, solve
from whorl.representations import ACSF
from whorl.structures import from_ase


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()

    def run(threads, function, *args, **options):
        torch.set_num_threads(threads)
        return function(*args, **options)

    yield run
    torch.set_num_threads(before)


CONFIGS = {
    "cvae": {"kind": "cvae", "shape": [380], "hidden": 256, "latent": 10},
    "gan": {"kind": "gan", "shape": [380]},
    "image": {"kind": "wgan_gp", "shape": [8, 8, 4], "channels": 8},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("samples", [1, 10, 300])
def test_samples_are_the_same_with_any_number_of_threads(with_threads, config, samples):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(20, *config["shape"], generator=rng, dtype=torch.float64)
    model = make_generator(config)
    fit(model, features, features.flatten(1)[:, 0], validation=torch.arange(4), seed=0, epochs=1)
    condition = torch.linspace(-1, 1, samples, dtype=torch.float64)[:, None]

    def sample():
        return model.sample(condition, rng=torch.Generator().manual_seed(1))

    alone = with_threads(1, sample)
    for threads in (2, 3):
        assert torch.equal(with_threads(threads, sample), alone)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_rows_are_mapped_in_order(with_threads, threads, rows):
    x, y = torch.randn(rows, 3), torch.randn(rows)
    result = with_threads(threads, map_rows, lambda a, b: a * b[:, None], x, y, size=1 << 12)
    assert torch.equal(result, x * y[:, None])
    assert torch.get_num_threads() == threads


PROBLEMS = {
    "molecules": ([molecule("CH4"), molecule("C2H2"), molecule("C2H6")], ACSF.fung2022(["C", "H"])),
    "crystals": ([bulk("NaCl", "rocksalt", a=5.64)] * 2, ACSF.crystal(["Na", "Cl"], cutoff=5.0)),
}


def problem_of(name: str, **options) -> InversionProblem:
    atoms, acsf = PROBLEMS[name]
    structures = from_ase(atoms)
    hidden = structures.replace(positions=torch.zeros_like(structures.positions), info=())
    with torch.no_grad():
        return InversionProblem(representation=acsf, target=acsf(structures), template=hidden, **options)


def short_search(problem: InversionProblem):
    return solve(problem, budget_evaluations=300, population=PopulationSettings(candidates=20, first=6))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_search_is_the_same_with_any_number_of_threads_and_other_targets(with_threads, name):
    problem = problem_of(name)
    one, two = (with_threads(threads, short_search, problem) for threads in (1, 2))
    assert one.status == two.status
    assert torch.equal(one.structures.positions, two.structures.positions)
    alone = short_search(problem.select([1]))
    assert torch.equal(one.structures[1].positions, alone.structures.positions)
    assert torch.equal(one.loss[[1]], alone.loss) and one.status[1] is alone.status[0]


def first_starts(problem: InversionProblem) -> torch.Tensor:
    """Return where atoms begin: one step of no length."""
    still = {"hops": 1, "iterations": 1, "polish": 0, "learning_rate": 1e-12}
    return algorithm1(problem, starts=1, **still).structures.positions


def test_random_numbers_of_a_named_target_do_not_depend_on_its_last_digit():
    for names, same in ((("a", "b", "c"), True), (None, False)):
        problem = problem_of("molecules", names=names)
        nearly = problem.replace(target=problem.target + 1e-9)
        equal = torch.allclose(first_starts(problem), first_starts(nearly), atol=1e-6)
        assert equal is same


def test_a_named_target_is_searched_the_same_way_alone():
    problem = problem_of("molecules", names=("a", "b", "c"))
    starts = first_starts(problem)[: problem.template.n_atoms[0] + problem.template.n_atoms[1]]
    assert torch.allclose(first_starts(problem.select([0, 1])), starts, atol=1e-6)
    assert problem.select(torch.tensor([False, True, True])).names == ("b", "c")
    assert problem.select(slice(1, None)).names == ("b", "c")
