import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from morse import Morse
from scipy.spatial.transform import Rotation

from whorl.datasets import Dataset, build_clusters, load_dataset, save_dataset
from whorl.datasets import clusters as clusters_module
from whorl.datasets.clusters import sorted_distances
from whorl.datasets.geometries import random_clusters
from whorl.errors import InputError
from whorl.potentials import bulk_energy, make_potential
from whorl.structures import from_ase, to_ase
from whorl.structures.composition import covalent_radii
from whorl.structures.connectivity import count_pieces
from whorl.tensor_files import read_tensors

BULK = -3.5


def build(directory, **changes):
    arguments = {
        "element": "Pt",
        "atoms": 6,
        "count": 60,
        "potential": Morse(),
        "directory": directory,
        "seed": 3,
        "window": (0.5, 3.4),
        "processes": 1,
        "reference_energy": BULK,
        "starts_per_chunk": 2,
        "steps": 120,
    }
    return build_clusters(**{**arguments, **changes})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clusters")
    return directory, build(directory)


def same(a, b):
    return (
        a.ids == b.ids
        and torch.equal(a.structures.positions, b.structures.positions)
        and torch.equal(a.properties["energy"], b.properties["energy"])
        and a.structures.info == b.structures.info
        and a.skipped == b.skipped
        and a.provenance == b.provenance
    )


def test_as_many_as_asked_for_within_the_window(built):
    _, dataset = built
    assert len(dataset) == 60 and len(set(dataset.ids)) == 60
    energy = dataset.properties["formation_energy"]
    assert float(energy.min()) >= 0.5 and float(energy.max()) <= 3.4
    assert not bool(dataset.structures.pbc.any())
    assert set(dataset.structures.atomic_numbers.tolist()) == {78}
    assert set(dataset.structures.n_atoms.tolist()) == {6}


def test_labels_are_equation_4_of_the_structures_themselves(built):
    _, dataset = built
    energy = Morse()(dataset.structures).energy
    assert torch.allclose(dataset.properties["energy"], energy, atol=1e-9)
    assert torch.allclose(dataset.properties["formation_energy"], (energy - 6 * BULK) / 6, atol=1e-9)


def test_minima_are_minima_and_intermediates_are_kept(built):
    _, dataset = built
    forces = Morse()(dataset.structures).forces.norm(dim=1).reshape(-1, 6).amax(1)
    minimum = torch.tensor([info["is_minimum"] for info in dataset.structures.info])
    assert torch.equal(forces < 0.05, minimum)
    assert 0 < int(minimum.sum()) < 60


def test_no_structure_is_there_twice(built):
    _, dataset = built
    distances = sorted_distances(dataset.structures.positions.reshape(-1, 6, 3))
    difference = (distances[:, None] - distances).square().mean(-1).sqrt()
    energy = dataset.properties["formation_energy"]
    alike = (difference < 0.05) & ((energy[:, None] - energy).abs() <= 1e-3)
    assert int(alike.sum()) == 60  # each like itself alone


def test_those_kept_of_one_relaxation_differ(built):
    _, dataset = built
    distances = sorted_distances(dataset.structures.positions.reshape(-1, 6, 3))
    energy = dataset.properties["formation_energy"]
    infos = dataset.structures.info
    assert {"start", "step", "shape", "is_minimum"} == set(infos[0])
    for row in range(1, 60):
        if infos[row]["start"] == infos[row - 1]["start"] and infos[row]["step"] > infos[row - 1]["step"]:
            if infos[row]["is_minimum"]:
                continue
            moved = float((distances[row] - distances[row - 1]).square().mean().sqrt())
            assert moved >= 0.2 or abs(float(energy[row] - energy[row - 1])) >= 0.1


def test_the_number_of_processes_does_not_matter(built, tmp_path):
    _, dataset = built
    seen = []
    again = build(tmp_path, processes=2, progress=lambda done, total: seen.append((done, total)))
    assert same(again, dataset)
    assert seen[-1] == (60, 60) and seen == sorted(seen)


def test_finished_chunks_are_not_repeated_and_damaged_ones_are(built, tmp_path):
    directory, dataset = built
    chunks = sorted(directory.glob("*/chunk-*.safetensors"))
    assert len(chunks) > 1
    stamps = [path.stat().st_mtime_ns for path in chunks]

    class Useless(Morse):
        def __call__(self, structures):
            raise AssertionError("nothing is left to compute")

    assert same(build(directory, potential=Useless()), dataset)
    assert [path.stat().st_mtime_ns for path in chunks] == stamps
    chunks[0].write_bytes(b"half a fi")
    chunks[1].unlink()
    assert same(build(directory), dataset)


def test_a_larger_set_begins_with_the_smaller_one(built):
    directory, dataset = built
    larger = build(directory, count=80)
    assert larger.ids[:60] == dataset.ids
    smaller = build(directory, count=7)
    assert smaller.ids == dataset.ids[:7]


def test_other_settings_have_chunks_of_their_own(built):
    directory, dataset = built
    other = build(directory, seed=4, count=20)
    assert not set(other.structures.positions.flatten().tolist()) & set(
        dataset.structures.positions.flatten().tolist()
    )
    assert len(list(directory.iterdir())) == 2
    assert same(build(directory), dataset)


def test_failures_are_told_with_start_and_reason(tmp_path):
    dataset = build(tmp_path, potential=Morse(fail_beyond=7.0), count=40)
    assert len(dataset) == 40
    assert dataset.skipped and all(entry.reason == "too wide" for entry in dataset.skipped)
    assert dataset.skipped[0].source.startswith("start ")
    width = dataset.structures.positions.reshape(-1, 6, 3)
    assert float((width.amax(1) - width.amin(1)).max()) <= 7.0
    save_dataset(dataset, tmp_path / "set.safetensors")
    assert load_dataset(tmp_path / "set.safetensors").skipped == dataset.skipped


def test_a_window_without_structures_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"(?s)Energies found lie between .* wider window"):
        build(tmp_path, window=(-3.0, -2.0), atoms=3, starts_per_chunk=2, steps=3)
    with pytest.raises(InputError, match="failed 40 times"):
        build(tmp_path, potential=Morse(fail_beyond=0.1), atoms=3, starts_per_chunk=2, steps=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"element": "Pq"}, "unknown element 'Pq'"),
        ({"count": 0}, "count"),
        ({"window": (3.0, 1.0)}, "window"),
        ({"atoms": 0}, "atoms"),
        ({"thinning": 0.0}, "thinning"),
        ({"atoms": 40, "box": 6.0}, "do not fit"),
    ],
)
def test_settings_without_meaning(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        build(tmp_path, **changes)


def test_the_bulk_is_computed_with_the_same_potential(tmp_path):
    dataset = build_clusters(
        element="Cu",
        atoms=3,
        count=5,
        potential=make_potential("emt"),
        directory=tmp_path,
        seed=0,
        processes=1,
        starts_per_chunk=2,
        steps=40,
    )
    assert dataset.provenance["bulk_energy"] == pytest.approx(-0.007, abs=0.003)
    assert dataset.provenance["potential"] == "emt"


def test_one_atom_is_one_structure(tmp_path):
    assert len(build(tmp_path, atoms=1, count=1, window=(3.0, 4.0))) == 1


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from morse import Morse
from whorl.datasets import build_clusters

class Slow(Morse):
    def __call__(self, structures):
        import time
        time.sleep(0.005)
        return super().__call__(structures)

if __name__ == "__main__":
    build_clusters(element="Pt", atoms=6, count=5000, potential=Slow(), directory=sys.argv[1], seed=3,
                   window=(0.5, 3.4), processes=2, reference_energy=-3.5, starts_per_chunk=2, steps=120,
                   progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_end_in_the_middle_leaves_chunks_and_no_processes(built, tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()  # the first chunk is there
    process.send_signal(number)
    process.communicate(timeout=300)
    for _ in range(100):  # its workers notice within moments
        if not group_lives(process.pid):
            break
        time.sleep(0.1)
    assert not group_lives(process.pid)
    _, dataset = built
    (folder,) = (tmp_path / "data").iterdir()
    assert any(folder.glob("chunk-*.safetensors"))
    for path in folder.glob("chunk-*.safetensors"):
        read_tensors(path, sealed=True)  # whole
    resumed = build(tmp_path / "data")
    assert same(resumed, dataset)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9))
def test_sorted_distances_know_shape_alone(seed, n):
    rng = np.random.default_rng(seed)
    cluster = rng.normal(0, 3, (n, 3))
    moved = (cluster[rng.permutation(n)] @ Rotation.random(random_state=seed).as_matrix().T) + rng.normal(
        0, 5, 3
    )
    both = sorted_distances(torch.tensor(np.stack([cluster, moved, -cluster])))
    assert torch.allclose(both, both[:1].expand_as(both), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), atoms=st.integers(1, 14))
def test_random_clusters_keep_their_distance_and_fit(seed, atoms):
    rng = torch.Generator().manual_seed(seed)
    numbers = [torch.tensor([29, 79, 6])[torch.randint(3, (atoms,), generator=rng)] for _ in range(8)]
    clusters, names = random_clusters(numbers, box=17.0, seed=seed)
    assert len(clusters) == len(names) == 8
    for own, positions in zip(numbers, clusters, strict=True):
        assert positions.shape == (atoms, 3) and float(positions.abs().max()) <= 8.5
        radii = covalent_radii(own)
        apart = torch.cdist(positions, positions) / (radii[:, None] + radii)
        assert bool((apart + torch.eye(atoms) >= 0.75 - 1e-9).all())
    again, _ = random_clusters(numbers, box=17.0, seed=seed)
    assert all(map(torch.equal, clusters, again))


def test_random_clusters_have_many_shapes():
    clusters, names = random_clusters([torch.full((10,), 78)] * 160, box=17.0, seed=0)
    positions = torch.stack(clusters)
    assert {"ball", "flat", "rod", "chain", "tree", "gas", "fragments"} == set(names)
    width = (positions.amax(1) - positions.amin(1)).amax(1)
    assert float(width.min()) < 6.5 and float(width.max()) > 13.0


# Alloys


def alloy(directory, **changes):
    arguments = {
        "formula": "Cu4Au3",
        "count": 40,
        "potential": make_potential("emt"),
        "directory": directory,
        "seed": 0,
        "processes": 1,
        "starts_per_chunk": 4,
        "steps": 80,
    }
    return build_clusters(**{**arguments, **changes})


def test_an_alloy_has_its_composition_and_the_mean_bulk_of_its_atoms(tmp_path):
    emt = make_potential("emt")
    dataset = alloy(tmp_path)
    assert len(dataset) == 40
    assert dataset.structures.atomic_numbers.tolist() == [*[79] * 3, *[29] * 4] * 40
    bulk = 3 / 7 * bulk_energy(emt, "Au") + 4 / 7 * bulk_energy(emt, "Cu")
    energy = emt(dataset.structures).energy
    torch.testing.assert_close(dataset.properties["formation_energy"], energy / 7 - bulk, atol=1e-9, rtol=0)
    assert dataset.forces.isfinite().all()
    # Elements are mixed and apart in different starts: no place is that of one element.
    nearest = torch.cdist(*[dataset.structures.positions.reshape(40, 7, 3)] * 2)
    nearest.diagonal(dim1=1, dim2=2).fill_(9)
    other = (nearest.argmin(2)[:, :3] >= 3).double().mean(1)
    assert float(other.min()) < 0.4 < 0.6 < float(other.max())


def test_the_order_of_a_formula_and_two_forms_of_it_do_not_matter(tmp_path):
    one, other = alloy(tmp_path / "a", count=10), alloy(tmp_path / "b", count=10, formula="Au3Cu4")
    assert same(one, other)
    assert same(
        build(tmp_path / "c", count=5),
        build(tmp_path / "d", count=5, element=None, atoms=None, formula="Pt6"),
    )


def test_bulk_energies_are_given_by_element_and_computed_where_they_are_not(tmp_path):
    given = alloy(tmp_path, count=5, reference_energy={"Au": 1.0, "Cu": 3.0}, window=(-9.0, 9.0))
    assert given.provenance["bulk_energy"] == pytest.approx(15 / 7)
    part = alloy(tmp_path, count=5, reference_energy={"Au": 1.0}, window=(-9.0, 9.0))
    assert part.provenance["bulk_energy"] == pytest.approx(
        3 / 7 + 4 / 7 * bulk_energy(make_potential("emt"), "Cu")
    )
    with pytest.raises(InputError, match=r"got 1\.0 for Au3Cu4, expected a number for each of Au, Cu"):
        alloy(tmp_path, reference_energy=1.0)


def test_isomers_of_equal_shape_with_exchanged_elements_differ():
    numbers = torch.tensor([29, 79, 79])
    chain = torch.tensor([[[0.0, 0, 0], [2.0, 0, 0], [4.5, 0, 0]]])
    swapped = chain[:, [1, 0, 2]]
    assert torch.equal(sorted_distances(chain), sorted_distances(swapped))
    assert not torch.equal(sorted_distances(chain, numbers), sorted_distances(swapped, numbers))
    assert torch.equal(sorted_distances(chain, numbers), sorted_distances(chain[:, [0, 2, 1]], numbers))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formula": "Au6Qu7"}, "unknown element 'Qu'"),
        ({"formula": "6 gold"}, "expected a chemical formula"),
        ({"formula": "Pt3", "element": "Pt"}, "either a formula"),
        ({"formula": None}, "either a formula"),
        ({"formula": None, "element": "Pt"}, "either a formula"),
    ],
)
def test_compositions_without_meaning(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        alloy(tmp_path, **changes)


# Sizes and compositions


def mixed(directory, **changes):
    arguments = {
        "elements": ["Cu", "Au", "Pt"],
        "formula": None,
        "atoms": (3, 6),
        "starts_per_chunk": 6,
        "steps": 15,
        "count": 60,
    }
    return alloy(directory, **{**arguments, **changes})


@pytest.fixture(scope="module")
def of_sizes(tmp_path_factory):
    return mixed(tmp_path_factory.mktemp("sizes"))


def test_starts_have_compositions_of_their_own_and_labels_by_element(of_sizes):
    emt = make_potential("emt")
    bulk = {element: bulk_energy(emt, element) for element in ("Au", "Cu", "Pt")}
    assert of_sizes.provenance["bulk_energy"] == pytest.approx(bulk)
    energies = emt(of_sizes.structures).energy
    formulas = set()
    for row, structure in enumerate(to_ase(of_sizes.structures)):
        mean = sum(bulk[symbol] for symbol in structure.symbols) / len(structure)
        label = float(of_sizes.properties["formation_energy"][row])
        assert label == pytest.approx(float(energies[row]) / len(structure) - mean, abs=1e-9)
        assert 3 <= len(structure) <= 6
        formulas.add(
            (of_sizes.structures.info[row]["start"], str(structure.symbols.formula.convert("metal")))
        )
    starts = {start for start, _ in formulas}
    assert len(formulas) == len(starts)  # all of a start are of one composition
    assert len({formula for _, formula in formulas}) > len(starts) / 2


def test_a_larger_set_of_sizes_begins_with_the_smaller_one_whoever_computes_it(of_sizes, tmp_path):
    assert same(mixed(tmp_path, processes=2), of_sizes)
    assert mixed(tmp_path, count=20).ids == of_sizes.ids[:20]


def test_all_compositions_of_a_size_are_equally_likely(of_sizes):
    plan = clusters_module._plan(
        elements=("Au", "Cu", "Pt"),
        sizes=(3, 4),
        potential="",
        seed=0,
        starts=5000,
        steps=1,
        force_tolerance=1.0,
        thinning=1.0,
        energy_thinning=1.0,
        box=17.0,
    )
    drawn = [tuple(sorted(own.tolist())) for own in plan.numbers(1)]
    for size, kinds in ((3, 10), (4, 15)):
        counts = Counter(own for own in drawn if len(own) == size)
        assert len(counts) == kinds and abs(sum(counts.values()) - 2500) < 150
        expected = sum(counts.values()) / kinds
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < 40  # chi squared


def test_one_composition_of_a_range_is_the_formula(tmp_path):
    one = build(tmp_path / "a", element=None, elements=["Pt"], atoms=(6, 6), count=5)
    assert same(one, build(tmp_path / "b", count=5))


def test_the_same_atoms_of_other_elements_are_other_structures():
    batch = from_ase(
        [
            Atoms("Cu2Au", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]]),
            Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0]]),
        ]
    )
    collection = clusters_module._Collection(
        window=(-9.0, 9.0), tolerance=0.05, bulk={"Cu": 0.0, "Au": 0.0}, connected=False, wanted=9
    )
    chunk = Dataset(
        structures=batch, properties={"energy": torch.ones(2, dtype=torch.float64)}, ids=("a", "b")
    )
    collection.add(chunk)
    collection.add(chunk)
    assert len(collection) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atoms": (20, 8)}, "got 20 to 8, expected the least number first"),
        ({"atoms": (0, 8)}, "got 0, expected a positive number"),
        ({"elements": ["Cu", "Ptt"]}, r"unknown element 'Ptt'\. Did you mean 'Pt'"),
        ({"elements": []}, "expected different ones"),
        ({"elements": ["Cu", "Fe"]}, r"emt does not know Fe; it knows Al, Ni, Cu, Pd, Ag, Pt, Au\."),
        ({"atoms": None}, "either a formula"),
        (
            {
                "elements": ["C", "H"],
                "potential": Morse(),
                "reference_energy": {"C": 0.0, "H": 0.0},
                "atoms": (9, 9),
                "starts_per_chunk": 1,
            },
            "chunks had nothing new|Ask for",
        ),
        (
            {
                "elements": ["F", "H"],
                "potential": Morse(),
                "reference_energy": {"F": 0.0, "H": 0.0},
                "atoms": (5, 5),
            },
            "valences allow no molecule of 5 to 5",
        ),
    ],
)
def test_ranges_without_meaning(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        mixed(tmp_path, **changes)


# Molecules


def test_molecules_begin_as_trees_of_bonds_within_valences():
    numbers = [torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1])] * 12
    positions, names = random_clusters(numbers, box=17.0, seed=4, molecules=True)
    trees = [p for p, name in zip(positions, names, strict=True) if name == "molecule"]
    assert len(trees) == 8
    radii = covalent_radii(numbers[0])
    for tree in trees:
        apart = torch.cdist(tree, tree) / (radii[:, None] + radii) + 9 * torch.eye(9)
        bonded = apart <= 1.3
        assert bool((bonded.sum(1) <= torch.tensor([4, 4, 2, 1, 1, 1, 1, 1, 1])).all())
        assert int(bonded.sum()) == 2 * 8
        assert int(count_pieces(from_ase(Atoms(numbers[0].tolist(), tree.numpy())))) == 1


def test_drawn_molecules_have_no_unpaired_electrons():
    plan = clusters_module._plan(
        elements=("C", "H", "O"),
        sizes=(4, 9),
        potential="",
        seed=0,
        starts=200,
        steps=1,
        force_tolerance=1.0,
        thinning=1.0,
        energy_thinning=1.0,
        box=17.0,
    )
    valence = {1: 1, 6: 4, 8: 2}
    for own in plan.numbers(3):
        bonds = sum(valence[z] for z in own.tolist())
        assert bonds % 2 == 0 and bonds >= 2 * (len(own) - 1)


def test_molecules_are_whole_unless_all_are_asked_for(tmp_path):
    wanted = {
        "formula": "CH4",
        "potential": Morse(),
        "reference_energy": {"C": 0.0, "H": 0.0},
        "window": (-50.0, 50.0),
        "starts_per_chunk": 6,
        "steps": 4,
        "count": 30,
    }
    whole, every = alloy(tmp_path, **wanted), alloy(tmp_path, **wanted, connected=False)
    assert set(count_pieces(whole.structures).tolist()) == {1}
    assert max(count_pieces(every.structures).tolist()) > 1
