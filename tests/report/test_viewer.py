import base64
import gzip
import json

import pytest
import torch
from evaluating import without_structures

from whorl.evaluation.candidates import rank_candidates
from whorl.report import viewer
from whorl.report.viewer import embed_viewer


def embed(run):
    return embed_viewer(run.context())


def unpacked(text):
    return gzip.decompress(base64.b64decode(text)).decode()


def test_structures_and_properties_are_there_in_one_order(run):
    found = embed(run)
    data = json.loads(unpacked(found.data))
    assert found.count == len(data["structures"]) == 300 + 2 * 12
    assert found.left_out == 100
    assert {len(p["values"]) for p in data["properties"].values()} == {found.count}
    assert data["properties"]["formation energy"]["units"] == "eV/atom"
    assert set(data["properties"]["kind"]["values"]) == {"real", "generated, n300", "generated, n40"}
    assert data["structures"][0]["size"] == 10
    assert data["properties"]["status"]["values"][data["settings"]["pinned"][0]] != "real"


def test_numbers_that_are_none_become_null(run):
    values = json.loads(unpacked(embed(run).data))["properties"]["formation energy"]["values"]
    assert values.count(None) == 2  # the two failures


def test_generated_positions_are_those_found(run):
    run.reference = run.reference.replace(structures=None)
    data = json.loads(unpacked(embed(run).data))
    row = data["properties"]["file"]["values"].index("0001-Pt10.xyz")
    best = rank_candidates(run.sizes)[0]
    of = run.samples[best.generator].structures[best.index]
    assert data["structures"][row]["x"] == pytest.approx(of.positions[:, 0].tolist(), abs=1e-4)
    assert data["settings"]["pinned"] == [row]


def test_the_program_is_chemiscope_with_its_licences(run):
    found = embed(run)
    assert "Chemiscope" in unpacked(found.program)
    assert "</script" not in found.program + found.data + found.licences
    assert "MIT" in unpacked(found.licences)


def test_many_large_structures_are_thinned(run, monkeypatch):
    monkeypatch.setattr(viewer, "_MOST_ATOMS", 800)
    found = embed(run)
    atoms = sum(s["size"] for s in json.loads(unpacked(found.data))["structures"])
    assert atoms <= 1000
    assert found.left_out > 300


def test_no_structures_no_viewer(run):
    run.samples = {label: without_structures(samples) for label, samples in run.samples.items()}
    for values in run.values.values():
        del values["computed"]
    run.reference = run.reference.replace(structures=None)
    assert embed(run) is None


def test_chemiscope_without_the_program_leaves_the_viewer_out(run, monkeypatch):
    monkeypatch.setattr(viewer, "_program", lambda: None)
    assert embed(run) is None


def test_periodic_structures_keep_their_cell(run):
    of = run.reference.structures
    boxed = of.replace(
        cells=torch.eye(3, dtype=torch.float64).repeat(len(of), 1, 1) * 17,
        pbc=torch.ones(len(of), 3, dtype=torch.bool),
    )
    run.reference = run.reference.replace(structures=boxed)
    data = json.loads(unpacked(embed(run).data))
    assert data["structures"][0]["cell"] == [17, 0, 0, 0, 17, 0, 0, 0, 17]
    assert data["settings"]["structure"][0]["unitCell"] is True
