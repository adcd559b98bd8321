"""Elements as channels: against slow sums, the size, the composition, and a search."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from whorl.errors import InputError
from whorl.reconstruction import InversionProblem, solve
from whorl.representations import ACSF, SOAP, make_representation
from whorl.representations.elements import DESCRIPTORS, descriptor_table
from whorl.representations.embedding import embedding_table
from whorl.structures import from_ase

ALL = [symbol for symbol in chemical_symbols[1:60] if symbol not in ("He", "Ne", "Ar")]  # 56 elements
G2, G5 = [(0.5, 1.0), (2.0, 2.5)], [(0.02, 1.0, 1.0), (0.1, 2.0, -1.0)]


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=seed)
    return atoms


def small(kind: str, species: list[str], **options):
    if kind == "soap":
        return SOAP(species=species, cutoff=4.0, n_max=3, l_max=2, **options)
    return ACSF(species=species, cutoff=4.0, g2=G2, g5=G5, **options)


EXAMPLES = [rattled(molecule("CH3CH2OH")), rattled(bulk("NaCl", "rocksalt", 4.6)), Atoms("Cu")]
SPECIES = sorted({symbol for atoms in EXAMPLES for symbol in atoms.get_chemical_symbols()})


def mixed_blocks(kind: str, structures) -> torch.Tensor:
    """Return embedded features of atoms by name, from those of each element or pair of elements."""
    blocks = small(kind, SPECIES)
    values = dict(zip(blocks.atomic_names, blocks.atomic_features(structures).T, strict=True))
    table = dict(zip(blocks.species, embedding_table(blocks.species, 3), strict=True))
    result = {}
    for name in small(kind, SPECIES, embedding=3).atomic_names:
        what, channels, rest = (*name.split("/"), "")[:3]
        of = [("1", *DESCRIPTORS).index(channel) for channel in channels.split("-")]
        if what == "element":
            numbers = structures.atomic_numbers.tolist()
            result[name] = torch.stack([table[chemical_symbols[z]][of[0]] for z in numbers])
        elif len(of) == 1:
            result[name] = sum(table[s][of[0]] * values[f"{what}/{s}/{rest}"] for s in blocks.species)
        else:
            total = 0.0
            for s, t in itertools.product(blocks.species, repeat=2):
                weight = table[s][of[0]] * table[t][of[1]]
                if kind == "acsf":  # each pair of neighbours counts once, in both orders
                    ordered = sorted((s, t), key=atomic_numbers.get)
                    half = 1.0 if s == t else 0.5
                    total = total + half * weight * values[f"{what}/{'-'.join(ordered)}/{rest}"]
                else:
                    order, n, m = rest.replace("l=", "").replace(",n=", "-").split("-")
                    if atomic_numbers[s] > atomic_numbers[t] or (s == t and n > m):
                        a, b, n, m = t, s, m, n
                    else:
                        a, b = s, t
                    total = total + weight * values[f"{what}/{a}-{b}/l={order},n={n}-{m}"]
            result[name] = total
    return torch.stack(list(result.values()), 1)


@pytest.mark.parametrize("kind", ["acsf", "soap"])
def test_features_of_channels_are_weighted_sums_of_those_of_elements(kind):
    structures = from_ase(EXAMPLES)
    features = small(kind, SPECIES, embedding=3).atomic_features(structures)
    torch.testing.assert_close(features, mixed_blocks(kind, structures), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["acsf", "soap"])
def test_atoms_are_pooled_with_the_channels_of_their_own_element(kind):
    options = {"embedding": 4, "pooling": ["mean", "std", "max"], "per_centre_species": True}
    representation = small(kind, SPECIES, **options)
    structures = from_ase(EXAMPLES[0])
    features = representation.atomic_features(structures).numpy()
    symbols = [chemical_symbols[z] for z in structures.atomic_numbers.tolist()]
    table = embedding_table(representation.species, 4).numpy()
    own = table[[representation.species.index(symbol) for symbol in symbols]]
    weighted = own[:, :, None] * features[:, None]
    expected = [weighted.mean(0), weighted.std(0), weighted.max(0)]
    np.testing.assert_allclose(representation(structures)[0].numpy(), np.ravel(expected), atol=1e-12)
    assert representation.layout.names[0].startswith("mean/1/")
    assert representation.layout.names[-1] == "max/valence_electrons/element/valence_electrons"


@pytest.mark.parametrize("kind", ["acsf", "soap"])
def test_size_does_not_depend_on_the_elements_and_other_elements_change_nothing(kind):
    few, many = (small(kind, species, embedding=4) for species in (["Na", "Cl"], ALL))
    assert len(few.layout) == len(many.layout) == len(set(many.layout.names))
    structures = from_ase(EXAMPLES)
    alone = torch.cat([many(structures[index]) for index in range(len(structures))])
    torch.testing.assert_close(many(structures), alone, rtol=1e-10, atol=1e-12)


def test_too_many_features_are_refused_before_they_take_memory(monkeypatch):
    with pytest.raises(InputError, match=r"SOAP: 56 elements make 566,160 features .*4\.5 GB.*embedding: 4"):
        SOAP(species=ALL)
    acsf = ACSF.fung2022(ALL)
    monkeypatch.setattr("whorl.memory.memory_limit", lambda: 2 * 10**9)
    structures = from_ase([Atoms("Cu"), Atoms("O")] * 500)
    words = r"175,280 features for each of 1,000 structures, .* would need 2\.8 GB .*embedding"
    with pytest.raises(InputError, match=words):
        acsf(structures)
    assert ACSF.fung2022(ALL, embedding=4)(structures).shape == (1000, 2128)


def test_table_is_one_and_descriptors_scaled_to_one():
    table = embedding_table(ALL, 5)
    assert table[:, 0].tolist() == [1.0] * 56
    assert table[:, 1:].amin(0).tolist() == [-1.0] * 4 and table[:, 1:].amax(0).tolist() == [1.0] * 4
    order = np.argsort(covalent_radii[[atomic_numbers[symbol] for symbol in ALL]], kind="stable")
    assert (np.diff(table[order, 2]) >= 0).all()
    assert embedding_table(["Pt"], 4).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_covalent_radii_are_those_of_the_table_up_to_curium():
    radii = descriptor_table(("covalent_radius",))[:, 0] * 2.60  # francium
    np.testing.assert_allclose(radii[[1, 29, 78, 96]], [0.31, 1.32, 1.36, 1.69])
    assert not radii[97:].any()


@pytest.mark.parametrize(
    ("species", "channels", "words"),
    [
        (["Ar", "Na", "Ne"], 4, "no electronegativity of Ne, Ar. .* without them"),
        (["Bk", "O"], 3, "no covalent radius of Bk. .* without it"),
        (["C", "Se"], 2, "equal for C and Se. Remedy: more channels, at most 5"),
        (["C"], 1, "got 1 channels, expected 2 to 5"),
        (["C"], 6, "got 6 channels"),
    ],
)
def test_mistakes_are_named(species, channels, words):
    with pytest.raises(InputError, match=words):
        small("acsf", species, embedding=channels)


def test_config_keeps_it_and_without_it_nothing_changes():
    for kind in ("acsf", "soap"):
        plain, embedded = small(kind, ["O", "Ti"]), small(kind, ["O", "Ti"], embedding=3)
        assert "embedding" not in plain.config() and embedded.config()["embedding"] == 3
        assert make_representation(embedded.config()).fingerprint == embedded.fingerprint
    built = ACSF.Settings(preset="crystal", embedding=4).build(["O", "Ti"])
    assert len(built.layout) == 1952 and built.config() == ACSF.crystal(["O", "Ti"], embedding=4).config()
    assert ACSF.Settings(embedding=4).build(["Pt"]).config() == ACSF.fung2022(["Pt"], embedding=4).config()
    assert SOAP.Settings(embedding=2).build(["O", "Ti"]).embedding == 2
    assert "embedding of 4 channels" in ACSF.Settings(preset="crystal", embedding=4).summary()


@pytest.mark.parametrize("kind", ["acsf", "soap"])
def test_composition_can_be_read_from_the_features(kind):
    """Of all compositions of up to six atoms of five elements, one has the mean channels of a crystal."""
    species = ["O", "Al", "S", "Ti", "Sr"]
    representation = small(kind, species, embedding=4, pooling=["mean"])
    counts = [np.array(c) for c in itertools.product(range(4), repeat=5) if 0 < sum(c) <= 6]
    table = embedding_table(representation.species, 4).numpy()
    means = np.stack([c @ table / c.sum() for c in counts])
    crystal = Atoms(
        "SrTiO3",
        scaled_positions=[[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        cell=[3.9] * 3,
        pbc=True,
    )
    features = representation(crystal)[0].numpy()
    at = [representation.layout.names.index(f"mean/element/{c}") for c in representation.channels]
    (found,) = np.nonzero(np.abs(means - features[at]).max(1) < 1e-9)
    fractions = {tuple(np.round(counts[row] / counts[row].sum(), 9)) for row in found}
    assert fractions == {tuple(np.round([0.6, 0, 0, 0.2, 0.2], 9))}


@pytest.mark.parametrize("kind", ["acsf", "soap"])
def test_a_search_gives_a_crystal_back_from_its_embedded_fingerprint(kind):
    options = {"embedding": 4, "pooling": ["mean", "std"], "per_centre_species": True}
    representation = small(kind, ["Na", "Cl", "O"], **options)
    crystal = rattled(bulk("NaCl", "rocksalt", 5.6))
    problem = InversionProblem(
        representation=representation, target=representation(crystal), template=crystal, loss="squared"
    )
    result = solve(problem, budget_evaluations=400, seed=0)
    assert float(result.loss[0]) < 1e-12


# Tables that are given.

TABLE = {symbol: [1.0, float(np.sin(z)), float(np.cos(2 * z))] for symbol, z in atomic_numbers.items() if z}


@pytest.mark.parametrize("kind", ["acsf", "soap"])
def test_a_table_takes_the_place_of_the_descriptors(kind):
    structures = from_ase(EXAMPLES)
    fixed = embedding_table(SPECIES, 3)
    same = dict(zip(SPECIES, fixed.tolist(), strict=True))
    expected = small(kind, SPECIES, embedding=3)(structures)
    torch.testing.assert_close(small(kind, SPECIES, embedding=same)(structures), expected)
    other = small(kind, SPECIES, embedding=TABLE)(structures)
    assert other.shape == expected.shape and not torch.allclose(other, expected)


def test_a_table_travels_with_the_settings_and_other_elements_of_it_change_nothing():
    made = small("soap", ["O", "Ti"], embedding=TABLE)
    assert made.config()["embedding"] == {symbol: TABLE[symbol] for symbol in ("O", "Ti")}
    again = make_representation(made.config())
    assert again.fingerprint == made.fingerprint
    assert (
        small("soap", ["O", "Ti"], embedding={"Ti": TABLE["Ti"], "O": TABLE["O"]}).fingerprint
        == made.fingerprint
    )
    changed = {**TABLE, "O": [1.0, 0.25, 0.0]}
    assert small("soap", ["O", "Ti"], embedding=changed).fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"Ti": [1.0, 0.5]}, "the table has no O, only Ti. Remedy: a table learned from structures with all"),
        ({"Ti": [1.0, 0.5], "O": [1.0]}, "got a table with 1, 2 channels, expected the same number"),
        ({}, "got a table with no channels"),
        ({"Ti": [1.0, float("nan")], "O": [1.0, 0.0]}, "got channels of Ti that are no finite numbers"),
        (
            {"Ti": [1.0, 0.5], "O": [1.0, 0.5]},
            "2 channels are equal for O and Ti. Remedy: a table that tells",
        ),
    ],
)
def test_mistakes_of_a_table_are_named(table, words):
    with pytest.raises(InputError, match=words):
        small("acsf", ["O", "Ti"], embedding=table)
