"""Numbers on the command line: what can never be right is wrong usage (exit code 2), before any work."""

import pytest

COMMANDS = {
    "clusters": ("data", "clusters", "--element", "Pt", "--atoms", 4, "--count", 5),
    "crystals": ("data", "crystals", "--count", 5),
    "sample": ("data", "sample", "absent.safetensors"),
    "invert": ("invert", "absent.safetensors"),
    "round trip": ("invert", "absent.cif", "--round-trip"),
    "generator": ("train", "generator", "absent.safetensors"),
    "surrogate": ("train", "surrogate", "absent.safetensors"),
    "generate": ("generate", "absent.safetensors", "--features", "absent.safetensors", "--target", 1),
}
BARE = {
    "crystals without a count": ("data", "crystals"),
    "generate without a target": ("generate", "absent.safetensors", "--features", "absent.safetensors"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("seed", ["-1", str(2**31), str(2**70), "1.5", "nan", "", "9" * 5000])
def test_seeds(whorl, tmp_path, command, seed):
    said = whorl(*command, "-o", tmp_path / "x.safetensors", "--seed", seed)
    assert said.code == 2
    assert "expected a whole number from 0 to 2147483647" in said.err
    assert len(said.err) < 1500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "option", "value", "expected"),
    [
        ("crystals without a count", "--count", "0", "a whole number from 1 to"),
        ("crystals without a count", "--count", "1000000000000", "a whole number from 1 to"),
        ("surrogate", "--hidden", "10000000", "hidden: got 10000000, expected 1000000 or less"),
        ("surrogate", "--epochs", "0", "epochs: got 0, expected 1 or more"),
        ("generator", "--layers", "100000", "layers: got 100000, expected 1000 or less"),
        ("generate", "--samples", "0", "samples: got 0, expected 1 or more"),
        ("generate", "--samples", "1000000000000", "samples: got 1000000000000, expected 1000000000 or less"),
        ("generate without a target", "--target", "nan", "targets[0]: got nan, expected a finite number"),
        ("generate without a target", "--target", "-inf", "targets[0]: got -inf, expected a finite number"),
        ("clusters", "--window", "nan 4", "window[0]: got nan, expected a finite number"),
        ("crystals", "--max-atoms", "-3", "a whole number from 1 to"),
        ("crystals", "--processes", "0", "a whole number from 1 to"),
        ("clusters", "--processes", "0", "a whole number from 1 to"),
        ("sample", "--size", "0", "a whole number from 1 to"),
        ("sample", "--split", "nan", "above 0 and below 1"),
        ("sample", "--split", "1", "above 0 and below 1"),
        ("round trip", "--budget-seconds", "inf", "expected more than 0, and finite"),
        ("round trip", "--budget-seconds", "0", "expected more than 0, and finite"),
        ("round trip", "--batch-size", "0", "batch_size: got 0, expected 1 or more"),
    ],
)
def test_numbers_out_of_range(whorl, tmp_path, command, option, value, expected):
    said = whorl(*{**COMMANDS, **BARE}[command], "-o", tmp_path / "x.safetensors", option, *value.split())
    assert said.code == 2
    assert option.strip("-") in said.err.replace("_", "-")
    assert expected in said.err


def test_which_structure_to_show(whorl, clusters):
    assert "expected a whole number, 0 or more" in whorl("show", clusters, "--index", "-1").err
    assert whorl("show", clusters, "--index", "-1").code == 2
    assert whorl("show", clusters, "--index", "40").code == 1
