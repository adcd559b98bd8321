"""The promise of training: the same call, interrupted or not, ends with the same weights."""

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import lightning
import pytest
import torch

from whorl.errors import InputError
from whorl.generators import CVAE, GAN, WGANGP, Diffusion, fit, load_model, save_model
from whorl.generators.averaging import MovingAverage
from whorl.surrogates import NetworkSurrogate

SETTINGS = {"seed": 3, "epochs": 23, "batch_size": 16, "validate_every": 4, "checkpoint_seconds": 0.0}


def data(rows=50):
    rng = torch.Generator().manual_seed(5)
    features = torch.randn(rows, 6, generator=rng, dtype=torch.float64)
    return {
        "features": features,
        "properties": features[:, 0] + 2,
        "validation": torch.arange(0, rows, 5),
    }


def model():
    return CVAE(shape=(6,), hidden=16, latent=3, layers=2)


def same_weights(first, second):
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.fixture(scope="module")
def reference():
    trained = model()
    fit(trained, **data(), **SETTINGS)
    return trained


class _StopError(Exception):
    pass


class StoppingCVAE(CVAE):
    """Stops in the middle of its step number ``stop``."""

    kind = "cvae"
    stop = -1

    def training_step(self, batch, batch_idx):
        self.stop -= 1
        if self.stop == 0:
            raise _StopError
        return super().training_step(batch, batch_idx)


def stop_at(epoch, error):
    def progress(done, total, message):
        if done >= epoch:
            raise error

    return progress


@pytest.fixture
def every_round(monkeypatch):
    """Progress is told after every round, so that a test can interrupt at a chosen one."""
    import whorl.generators.training as training

    ticks = iter(range(10**9))
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(ticks)))


def test_the_same_seed_gives_the_same_weights_whatever_came_before(reference):
    torch.manual_seed(99)
    again = model()
    before = torch.get_rng_state()
    fit(again, **data(), **SETTINGS)
    assert same_weights(again, reference)
    assert torch.equal(torch.get_rng_state(), before)
    other = model()
    fit(other, **data(), **{**SETTINGS, "seed": 4})
    assert not same_weights(other, reference)


@pytest.mark.parametrize("step", [1, 2, 12, 13, 30, 49, 69])
def test_interrupted_anywhere_it_continues_to_the_same_weights(tmp_path, reference, step):
    """23 epochs of 3 steps, a checkpoint every 4 epochs."""
    stopping = StoppingCVAE(shape=(6,), hidden=16, latent=3, layers=2)
    stopping.stop = step
    with pytest.raises(_StopError):
        fit(stopping, **data(), **SETTINGS, directory=tmp_path)
    torch.manual_seed(step)  # another process would have another random state
    resumed = StoppingCVAE(shape=(6,), hidden=16, latent=3, layers=2)
    fit(resumed, **data(), **SETTINGS, directory=tmp_path)
    assert same_weights(resumed, reference)
    assert resumed.training_record == reference.training_record
    # -1 at the start, less one for each step: only the interrupted round is repeated.
    assert -resumed.stop - 1 == 69 - (step - 1) // 12 * 12


def test_interrupted_again_and_again(tmp_path, every_round, reference):
    for epoch in (4, 4, 8, 16, 20, 23):
        with pytest.raises(_StopError):
            fit(model(), **data(), **SETTINGS, directory=tmp_path, progress=stop_at(epoch, _StopError()))
    resumed = model()
    fit(resumed, **data(), **SETTINGS, directory=tmp_path)
    assert same_weights(resumed, reference)


OTHERS = {
    "gan": lambda: GAN(shape=(6,), channels=8, depth=1, latent=3),
    "wgan_gp": lambda: WGANGP(shape=(6,), channels=8, depth=1, latent=3),
    "diffusion": lambda: Diffusion(shape=(6,), channels=8, depth=1),
    "images": lambda: GAN(shape=(4, 4, 1), channels=2, latent=3),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_two_optimisers_and_averages_survive_an_interruption_too(make, tmp_path, every_round):
    given = data()
    if make().shape != (6,):
        given["features"] = given["features"].repeat(1, 3)[:, :16].reshape(50, 4, 4, 1)
    reference = make()
    fit(reference, **given, **SETTINGS)
    for epoch in (8, 20):
        with pytest.raises(_StopError):
            fit(make(), **given, **SETTINGS, directory=tmp_path, progress=stop_at(epoch, _StopError()))
    resumed = make()
    fit(resumed, **given, **SETTINGS, directory=tmp_path)
    assert same_weights(resumed, reference)
    assert resumed.training_record == reference.training_record


def test_the_moving_average_against_a_loop():
    module, average = model(), MovingAverage(0.8)
    trainer = object.__new__(lightning.Trainer)
    weights = module.decoder[0].weight
    expected = None
    for step in range(60):
        with torch.no_grad():
            weights.fill_(step**0.5)
        average.on_train_batch_end(trainer, module)
        decay = min(0.8, step / (step + 10))
        expected = step**0.5 if expected is None else decay * expected + (1 - decay) * step**0.5
    average.on_validation_start(trainer, module)
    assert float(weights[0, 0].detach()) == pytest.approx(expected, rel=1e-5)
    average.on_validation_end(trainer, module)
    assert float(weights[0, 0].detach()) == pytest.approx(59**0.5)


def test_weights_that_are_kept_are_averages():
    plain, averaged = (GAN(shape=(6,), channels=8, average=average) for average in (0.0, 0.9))
    for one in (plain, averaged):
        fit(one, **data(), **SETTINGS, keep="last")
    assert not same_weights(plain, averaged)
    assert [row["training_loss"] for row in plain.training_record["history"]] == [
        row["training_loss"] for row in averaged.training_record["history"]
    ]


def test_mixed_precision_is_lightnings():
    trained = model()
    record = fit(trained, **data(), **SETTINGS, precision="bf16-mixed")
    assert record["precision"] == "bf16-mixed" and next(trained.parameters()).dtype == torch.float32
    with pytest.raises(InputError, match="Did you mean '16-mixed'"):
        fit(model(), **data(), **SETTINGS, precision="16-mix")


def test_ctrl_c_is_ctrl_c_and_leaves_the_handler(tmp_path, every_round, reference, capfd):
    handler = signal.getsignal(signal.SIGINT)

    def press(done, total, message):
        if done == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(model(), **data(), **SETTINGS, directory=tmp_path, progress=press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert capfd.readouterr() == ("", "")
    resumed = model()
    fit(resumed, **data(), **SETTINGS, directory=tmp_path)
    assert same_weights(resumed, reference)


def test_kill_9_is_survived(tmp_path, reference):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_training import SETTINGS, data, model
            from whorl.generators import fit
            def die(done, total, message):
                if done >= 12:
                    os.kill(os.getpid(), 9)
                time.sleep(0.1)  # progress is told ten times a second at most
            fit(model(), **data(), **SETTINGS, directory={str(tmp_path / "run")!r}, progress=die)
            """
        )
    )
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert finished.stdout == finished.stderr == ""  # Lightning's notices stay inside
    resumed = model()
    fit(resumed, **data(), **SETTINGS, directory=tmp_path / "run")
    assert same_weights(resumed, reference)


def test_a_finished_training_is_only_read(tmp_path, reference):
    for _ in range(2):
        seen: list[tuple] = []
        again = model()
        fit(again, **data(), **SETTINGS, directory=tmp_path, progress=lambda *words, s=seen: s.append(words))
        assert same_weights(again, reference)
        assert again.training_record == reference.training_record
    assert seen == []


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(tmp_path, every_round, reference):
    with pytest.raises(_StopError):
        fit(model(), **data(), **SETTINGS, directory=tmp_path, progress=stop_at(15, _StopError()))
    (last,) = [path for path in tmp_path.glob("*.ckpt") if "previous" not in path.name]
    content = bytearray(last.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(byte ^ 0xFF for byte in content[middle : middle + 100])
    last.write_bytes(content)
    resumed = model()
    with pytest.warns(UserWarning, match=r"is damaged; training resumes from .*previous.ckpt"):
        fit(resumed, **data(), **SETTINGS, directory=tmp_path)
    assert same_weights(resumed, reference)


def test_an_edited_checkpoint_is_damaged(tmp_path):
    fit(model(), **data(), **SETTINGS, directory=tmp_path)
    for path in tmp_path.glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        state["epoch"] = 10**6
        torch.save(state, path)
    with pytest.raises(InputError, match="damaged"):
        fit(model(), **data(), **SETTINGS, directory=tmp_path)


def test_nothing_but_damaged_checkpoints_is_an_error_with_a_remedy(tmp_path):
    fit(model(), **data(), **SETTINGS, directory=tmp_path)
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="Delete them to train from the beginning"):
        fit(model(), **data(), **SETTINGS, directory=tmp_path)


def test_a_checkpoint_runs_no_code(tmp_path):
    fit(model(), **data(), **SETTINGS, directory=tmp_path)
    for path in tmp_path.glob("*.ckpt"):
        torch.save({"callbacks": {}, "state_dict": {}, "loops": {}, "epoch": Path}, path)
    with pytest.raises(InputError, match="damaged"):
        fit(model(), **data(), **SETTINGS, directory=tmp_path)


def test_other_settings_and_other_data_do_not_meet(tmp_path, reference):
    other = data()
    other["properties"] = other["properties"] + 1
    fit(model(), **other, **SETTINGS, directory=tmp_path)
    fit(model(), **data(), **{**SETTINGS, "batch_size": 8}, directory=tmp_path)
    fit(NetworkSurrogate(shape=(6,), hidden=8, layers=1), **data(), **SETTINGS, directory=tmp_path)
    mine = model()
    fit(mine, **data(), **SETTINGS, directory=tmp_path)
    assert same_weights(mine, reference)


def test_only_checkpoints_are_written_and_nothing_is_said(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        fit(model(), **data(), **SETTINGS)
    assert list(tmp_path.iterdir()) == []
    fit(model(), **data(), **SETTINGS, directory=tmp_path / "train")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".ckpt"}
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_full_disk_is_said_and_the_checkpoint_before_kept(tmp_path, monkeypatch, every_round, reference):
    with pytest.raises(_StopError):
        fit(model(), **data(), **SETTINGS, directory=tmp_path, progress=stop_at(8, _StopError()))
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, "save_checkpoint", full)
        with pytest.raises(InputError, match="disk is full"):
            fit(model(), **data(), **SETTINGS, directory=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    resumed = model()
    fit(resumed, **data(), **SETTINGS, directory=tmp_path)
    assert same_weights(resumed, reference)


def test_the_best_weights_are_kept_and_recorded(reference):
    record = reference.training_record
    losses = {row["epoch"]: row["loss"] for row in record["history"]}
    assert list(losses) == [4, 8, 12, 16, 20, 23]
    assert record["validation"]["loss"] == min(losses.values()) == losses[record["best_epoch"]]
    assert (record["training_rows"], record["validation_rows"]) == (40, 10)
    assert not reference.training and next(reference.parameters()).device.type == "cpu"


def test_weights_with_the_best_loss_win_over_the_last():
    """With a learning rate that is far too high the loss is erratic, and the best is not the last."""
    wild = NetworkSurrogate(shape=(6,), hidden=16, layers=2, learning_rate=0.1)
    given = data()
    record = fit(wild, **given, **{**SETTINGS, "epochs": 60})
    assert record["best_epoch"] != record["history"][-1]["epoch"]
    with torch.no_grad():
        validation = given["validation"]
        batch = given["features"][validation], given["properties"][validation, None]
        loss = float(wild.validation_step(batch, 0)["loss"])
    assert loss == pytest.approx(record["validation"]["loss"], rel=1e-5)


def test_the_last_weights_are_kept_where_asked_for(tmp_path, reference):
    last = model()
    record = fit(last, **data(), **SETTINGS, keep="last", directory=tmp_path)
    assert record["best_epoch"] == 23 and record["history"] == reference.training_record["history"]
    again = model()
    fit(again, **data(), **SETTINGS, keep="last", directory=tmp_path)
    assert same_weights(again, last)
    with pytest.raises(InputError, match="Did you mean 'last'"):
        fit(model(), **data(), **SETTINGS, keep="lats")


def test_progress_counts_up_to_the_end():
    seen = []
    fit(model(), **data(), **SETTINGS, progress=lambda *words: seen.append(words))
    assert seen[-1][:2] == (23, 23) and "validation loss" in seen[-1][2]
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})


def test_few_epochs_are_validated_too():
    assert fit(model(), **data(), seed=0, epochs=1)["best_epoch"] == 1


def test_too_few_rows():
    few = data(12)
    with pytest.raises(InputError, match=r"got 9 training rows .* at least 10"):
        fit(model(), **few, **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": torch.tensor([], dtype=torch.long)}, "at least one row"),
        ({"validation": torch.tensor([50])}, "indices from 0 to 49"),
        ({"properties": torch.zeros(50, 2)}, "properties of shape"),
        ({"properties": torch.zeros(49)}, "properties of shape"),
        ({"features": torch.zeros(50, 7)}, r"the model was made for \(6,\)"),
        ({"device": "gpu7"}, "unknown device"),
        ({"device": "cuda:99"}, "GPUs that PyTorch can use"),
        ({"epochs": 0}, "epochs: got 0"),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        fit(model(), **{**data(), **SETTINGS, **changes})


@pytest.mark.parametrize("what", ["features", "properties"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(what, value):
    bad = data()
    bad[what] = bad[what].clone()
    bad[what][7] = value
    with pytest.raises(InputError, match=f"training {what}: NaN or infinite values in 1 of 50 rows.*row 7"):
        fit(model(), **bad, **SETTINGS)


def test_a_loss_that_explodes_stops_training():
    with pytest.raises(InputError, match="smaller learning_rate"):
        fit(NetworkSurrogate(shape=(6,), hidden=16, learning_rate=1e30), **data(), **SETTINGS)


def test_constant_features_and_a_constant_property_train(recwarn):
    given = data()
    given["features"][:, 2] = 4.0
    given["properties"] = torch.full((50,), 2.5)
    trained = model()
    fit(trained, **given, **SETTINGS)
    samples = trained.sample(torch.full((3, 1), 2.5), rng=torch.Generator())
    assert torch.isfinite(samples).all() and (samples[:, 2] == 4).all()


def test_the_data_is_left_alone():
    given = data()
    kept = {key: value.clone() for key, value in given.items()}
    fit(model(), **given, **SETTINGS)
    assert all(torch.equal(given[key], kept[key]) for key in kept)


def test_float32_data_trains_and_warnings_of_others_are_not_swallowed(tmp_path):
    given = {**data(), "features": data()["features"].float()}
    trained = model()
    fit(trained, **given, **SETTINGS)
    save_model(trained, tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors").training_record == trained.training_record
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
