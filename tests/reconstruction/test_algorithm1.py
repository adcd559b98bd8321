import pytest
import torch
from pair_gaussians import PairGaussians, make_problem, make_template
from safetensors.torch import load_file

from whorl.errors import InputError
from whorl.reconstruction import InversionProblem, InversionStatus, algorithm1, random_starts
from whorl.representations import ACSF

SHORT = {"starts": 3, "hops": 2, "iterations": 12, "polish": 15, "learning_rate": 0.2, "seed": 1}


def same(one, other):
    torch.testing.assert_close(one.structures.positions, other.structures.positions, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(one.start_losses, other.start_losses, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cell", [None, 5.0])
def test_solves_what_has_a_solution(cell):
    problem = make_problem([3, 4], cell=cell, loss="squared")
    result = algorithm1(problem, **{**SHORT, "iterations": 50, "polish": 100})
    assert result.status == (InversionStatus.CONVERGED,) * 2
    assert len(result) == 2 and result.counts == {"converged": 2}
    torch.testing.assert_close(result.loss, problem.value(result.structures))
    assert bool((result.loss <= result.start_losses.amin(1)).all())
    assert result.structures.atomic_numbers.equal(problem.template.atomic_numbers)
    if cell is None:  # clusters are centred
        torch.testing.assert_close(
            result.structures[0].positions.mean(0), torch.zeros(3, dtype=torch.float64)
        )


def test_a_target_is_solved_alike_alone_and_in_any_batch():
    problem = make_problem([3, 5, 4])
    whole = algorithm1(problem, **SHORT)
    for batch_size in (2, 4):
        same(algorithm1(problem, batch_size=batch_size, **SHORT), whole)
    alone = algorithm1(problem.select([1]), **SHORT)
    torch.testing.assert_close(alone.loss, whole.loss[[1]], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        alone.structures.positions, whole.structures[1].positions, atol=1e-6, rtol=1e-6
    )
    other_seed = algorithm1(problem, **{**SHORT, "seed": 2})
    assert not torch.equal(other_seed.start_losses, whole.start_losses)


def test_batches_never_exceed_their_size():
    problem = make_problem([3, 3, 3, 3, 3])
    settings = {**SHORT, "iterations": 2, "polish": 2}
    for batch_size, largest in ((1, 1), (2, 2), (4, 4), (6, 5), (10, 10), (99, 15)):
        problem.representation.largest = 0
        algorithm1(problem, batch_size=batch_size, **settings)
        assert problem.representation.largest == largest


def test_statuses_of_hopeless_targets():
    problem = make_problem([3, 3])
    impossible = problem.target.clone()
    impossible[1] = 40.0
    problem = type(problem)(
        representation=problem.representation, target=impossible, template=problem.template
    )
    result = algorithm1(problem, invalid_above=1.0, **SHORT)
    assert result.status[1] is InversionStatus.INVALID
    assert "no structure has this" in result.advice[1]
    assert torch.isfinite(result.loss).all()  # flagged, not hidden
    assert algorithm1(problem, **SHORT).status[1] is InversionStatus.LOCAL_MINIMUM


def test_a_failing_structure_leaves_the_others_alone():
    class FailsForFour(PairGaussians):
        def forward(self, structures):
            four = (structures.n_atoms == 4)[:, None]
            return torch.where(four, torch.nan, super().forward(structures))

    problem = make_problem([3, 4, 5])
    sound = algorithm1(problem, **SHORT)
    broken = type(problem)(representation=FailsForFour(), target=problem.target, template=problem.template)
    result = algorithm1(broken, **SHORT)
    assert result.status[1] is InversionStatus.FAILED
    assert torch.isfinite(result.structures.positions).all()
    assert torch.isinf(result.loss[1])
    torch.testing.assert_close(result.loss[[0, 2]], sound.loss[[0, 2]], rtol=1e-6, atol=1e-9)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [20, 40, 100, 150])
def test_a_killed_search_goes_on(tmp_path, at):
    problem = make_problem([3, 4, 5])
    whole = algorithm1(problem, batch_size=2, **SHORT)
    full = problem.representation.calls

    class Dies(PairGaussians):
        kind = PairGaussians.kind  # so that it is the same representation

        def forward(self, structures):
            if self.calls == at:
                raise Killed
            return super().forward(structures)

    dying = type(problem)(representation=Dies(), target=problem.target, template=problem.template)
    with pytest.raises(Killed):
        algorithm1(dying, batch_size=2, checkpoint=tmp_path, **SHORT)
    seen = []
    problem.representation.calls = 0
    resumed = algorithm1(
        problem, batch_size=2, checkpoint=tmp_path, progress=lambda *words: seen.append(words), **SHORT
    )
    same(resumed, whole)
    assert resumed.status == whole.status
    assert seen[-1][0] == seen[-1][1]
    # A piece is one batch of starts (2 hops of 13 evaluations) or one polish: at most one is made twice.
    assert problem.representation.calls <= full - at + 26
    problem.representation.calls = 0
    same(algorithm1(problem, batch_size=2, checkpoint=tmp_path, **SHORT), whole)
    assert problem.representation.calls == 0


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path):
    problem = make_problem([3])
    algorithm1(problem, checkpoint=tmp_path, **SHORT)
    messages = []
    settings = {**SHORT, "noise": 0.31}
    fresh = algorithm1(
        problem, checkpoint=tmp_path, progress=lambda done, total, words: messages.append(words), **settings
    )
    assert "other targets or settings" in messages[0]
    same(fresh, algorithm1(problem, **settings))
    calls = problem.representation.calls
    algorithm1(problem, checkpoint=tmp_path, **SHORT)  # the first one's pieces are still there
    assert problem.representation.calls == calls


def test_a_damaged_piece_is_made_again(tmp_path):
    problem = make_problem([3])
    whole = algorithm1(problem, checkpoint=tmp_path, **SHORT)
    pieces = sorted(tmp_path.rglob("*.safetensors"))
    assert "loss" in load_file(next(p for p in pieces if "starts" not in p.name))
    for piece in pieces:
        piece.write_bytes(piece.read_bytes()[:20])
    same(algorithm1(problem, checkpoint=tmp_path, **SHORT), whole)


def test_progress_counts_up_to_the_total():
    problem = make_problem([3, 3, 3])
    seen = []
    algorithm1(problem, batch_size=4, progress=lambda *words: seen.append(words), **SHORT)
    done = [words[0] for words in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][1] == 3 * (3 * 2 * 12 + 15)
    assert "of 3" in seen[0][2]


def test_nothing_to_do():
    problem = make_problem([3, 3]).select(slice(0, 0))
    result = algorithm1(problem, **SHORT)
    assert len(result) == 0 and result.start_losses.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"starts": 0}, "starts"),
        ({"polish": -1}, "polish"),
        ({"noise": -0.1}, "noise"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"radius": -1.0}, "radius"),
    ],
)
def test_wrong_settings(change, words):
    with pytest.raises(InputError, match=words):
        algorithm1(make_problem([3]), **{**SHORT, **change})


def test_reconstructs_a_cluster_from_symmetry_functions():
    acsf = ACSF.fung2022(["Pt"])
    hidden = random_starts(make_template([4]), seeds=[3])
    problem = InversionProblem(representation=acsf, target=acsf(hidden).detach(), template=hidden)
    result = algorithm1(problem, starts=4, hops=1, iterations=60, polish=120, seed=0)
    assert result.status == (InversionStatus.CONVERGED,)
    found, sought = (torch.pdist(s.positions).sort().values for s in (result.structures, hidden))
    torch.testing.assert_close(found, sought, atol=0.05, rtol=0)


def test_frozen_atoms_do_not_move():
    problem = make_problem([4, 3])
    frozen = torch.tensor([True, False, False, True, False, True, False])
    there = torch.arange(21, dtype=torch.float64).reshape(7, 3)
    problem = problem.replace(frozen=frozen, template=problem.template.replace(positions=there))
    found = algorithm1(problem, starts=2, hops=2, iterations=3, polish=3)
    assert torch.equal(found.structures.positions[frozen], there[frozen])
    assert not bool((found.structures.positions[~frozen] == there[~frozen]).any())
