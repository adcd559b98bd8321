"""Training of models on Lightning: seeded, validated, resumable.

Training consists of rounds: some epochs, then validation. All randomness of a
round is determined by the seed and the number of the round, and checkpoints are written between rounds. A
training that was interrupted and resumed thus ends with the same weights as one that was not.

For Lightning, a round is an epoch, as its work per epoch would cost small networks more
time than their training. Schedulers that count epochs thus count rounds.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import Tensor

from whorl.errors import InputError, unknown_option
from whorl.files import stable_hash
from whorl.generators.base import TensorModel, positive
from whorl.generators.checkpoints import Checkpoints
from whorl.generators.scaling import check_finite

Progress = Callable[..., object]
"""Called with (epochs done, epochs in all, message) at most about ten times a second."""

MINIMUM_ROWS = 10

_PRECISIONS: tuple[Literal["32-true", "bf16-mixed", "16-mixed"], ...] = ("32-true", "bf16-mixed", "16-mixed")


def fit(
    model: TensorModel,
    features: Float[Tensor, "n *shape"],
    properties: Float[Tensor, "..."],
    *,
    validation: Int[Tensor, "v"],
    seed: int,
    epochs: int = 2000,
    batch_size: int = 64,
    directory: Path | str | None = None,
    device: str = "cpu",
    precision: str = "32-true",
    validate_every: int | None = None,
    keep: str = "best",
    checkpoint_seconds: float = 10.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train ``model`` from the beginning and leave it with its best weights, on the CPU, ready for use.

    Weights are drawn anew from ``seed``, scaling is learned from the training rows. Every ``validate_every``
    epochs, and after the last, the loss of the validation rows is computed, always with the same random
    numbers; the weights with the lowest are kept, or the last ones with ``keep="last"``. The global random
    state is as before when this returns.

    With a ``directory``, the state of the training is saved there every ``checkpoint_seconds``. The same
    call resumes from there after Ctrl-C or a kill, and ends with the same weights; once finished, it only
    reads them. Calls with other data or settings use other files. A damaged checkpoint is reported
    (``UserWarning``) and the one before it used.

    Args:
        model: Model to train.
        features: One row per structure, in data units, any floating-point type.
        properties: Shape (n,) or (n, p).
        validation: Indices of the rows that validate; all others train.
        seed: Random seed.
        epochs: Passes over the training rows.
        batch_size: Rows of a step; the last step of an epoch may have fewer.
        directory: Folder of checkpoints; without it, nothing is written.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` for a GPU where there is one.
        precision: Lightning's: ``"32-true"``, or for networks that are large ``"bf16-mixed"`` or
            ``"16-mixed"`` (on a GPU).
        validate_every: Epochs between validations; by default 10, or fewer where those are more than
            200 steps.
        keep: ``"best"`` by validation, or ``"last"``. Trained on few rows, a generator may make better
            samples with its last weights than with the best by a few validation rows.
        checkpoint_seconds: Seconds between checkpoints.
        progress: Called after each epoch.

    Returns:
        The training record, also kept as ``model.training_record`` and saved with the model: the settings,
        ``best_epoch`` (epochs completed by the weights kept), ``validation`` (what ``validation_step``
        measured then), and ``history`` (one mapping per validation, with ``epoch``, ``training_loss`` and
        ``loss``).

    Raises:
        InputError: Fewer than 10 training rows, no validation rows, NaN or infinite values, shapes that do
            not fit, an unknown device, a loss that is no longer finite, or no undamaged checkpoint.
        KeyboardInterrupt: On Ctrl-C.
    """
    positive("epochs", epochs)
    positive("batch_size", batch_size)
    target = _torch_device(device)
    properties = properties.reshape(len(properties), -1)
    training = _training_rows(model, features, properties, validation)
    if validate_every is None:
        validate_every = max(1, min(10, 200 // -(-len(training) // batch_size)))
    every = min(positive("validate_every", validate_every), epochs)
    if keep not in ("best", "last"):
        raise unknown_option("keep", str(keep), ["best", "last"])
    if precision not in _PRECISIONS:
        raise unknown_option("precision", str(precision), _PRECISIONS)
    settings: dict[str, Any] = {
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "validate_every": every,
    }
    if precision != _PRECISIONS[0]:
        settings["precision"] = precision

    _draw_weights(model, seed)
    model.fit_scaling(features[training], properties[training])
    model.training_record = None
    identity = {"model": model.config(), "data": _hash_data(features, properties, validation), **settings}
    identity["keep"] = keep
    checkpoints = None
    if directory is not None:
        checkpoints = Checkpoints(Path(directory), f"{model.kind}-{stable_hash(identity)[:12]}")
    watcher = _Watcher(
        seed=seed,
        epochs=epochs,
        every=every,
        checkpoints=checkpoints,
        seconds=checkpoint_seconds,
        keep=keep,
        progress=progress,
    )
    last = checkpoints.latest() if checkpoints is not None else None
    if last is not None and (last.state["callbacks"][watcher.state_key])["finished"]:
        watcher.load_state_dict(last.state["callbacks"][watcher.state_key])
    else:
        batches = _Rounds(features[training].to(target), properties[training].to(target), batch_size, watcher)
        with _quiet_lightning(), _own_randomness(target):
            trainer = lightning.Trainer(
                accelerator="gpu" if target.type == "cuda" else "cpu",
                devices=[target.index or 0] if target.type == "cuda" else 1,
                deterministic=target.type == "cuda",  # on the CPU these networks are so anyway
                precision=precision,
                max_epochs=-(-epochs // every),
                num_sanity_val_steps=0,
                callbacks=[watcher],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            batches.trainer = trainer
            trainer.fit(
                model,
                train_dataloaders=batches,
                val_dataloaders=_Rows(features, properties, validation, target),
                ckpt_path=None if last is None else str(last.path),
                weights_only=True,
            )
    model.load_state_dict(watcher.best_state)
    model.cpu().eval()
    best = watcher.history[-1] if keep == "last" else min(watcher.history, key=lambda row: row["loss"])
    model.training_record = {
        **settings,
        "training_rows": len(training),
        "validation_rows": len(validation),
        "best_epoch": best["epoch"],
        "validation": {key: best[key] for key in best if key not in ("epoch", "training_loss")},
        "history": watcher.history,
    }
    return model.training_record


class _Rounds:
    """Batches of one round, from rows that stay on the device, without loader workers."""

    trainer: lightning.Trainer

    def __init__(self, features: Tensor, properties: Tensor, batch_size: int, watcher: _Watcher) -> None:
        self.features, self.properties = features, properties
        self.batch_size, self.watcher = batch_size, watcher

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in self.watcher.epochs_of_round(self.trainer.current_epoch):
            rng = torch.Generator().manual_seed(_mix(self.watcher.seed, epoch, 1))
            order = torch.randperm(len(self.features), generator=rng).to(self.features.device)
            for rows in order.split(self.batch_size):
                yield self.features[rows], self.properties[rows]


class _Rows:
    """Validation rows, in chunks of limited memory."""

    def __init__(self, features: Tensor, properties: Tensor, rows: Tensor, device: torch.device) -> None:
        self.features = features[rows].to(device).split(8192)
        self.properties = properties[rows].to(device).split(8192)

    def __len__(self) -> int:
        return len(self.features)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.features, self.properties, strict=True)


class _Watcher(lightning.Callback):
    """Seeds each round, keeps the best weights, saves the state between rounds, reports progress."""

    def __init__(
        self,
        *,
        seed: int,
        epochs: int,
        every: int,
        checkpoints: Checkpoints | None,
        seconds: float,
        keep: str,
        progress: Progress | None,
    ) -> None:
        self.seed, self.epochs, self.every, self.seconds = seed, epochs, every, seconds
        self.checkpoints, self.keep, self.progress = checkpoints, keep, progress
        self.best_state: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.finished = False
        self._saved_at = self._told_at = time.monotonic()
        self._training_losses: list[Tensor] = []
        self._validation: list[tuple[int, dict[str, Tensor]]] = []

    def epochs_of_round(self, number: int) -> range:
        return range(number * self.every, min((number + 1) * self.every, self.epochs))

    # What Lightning stores in a checkpoint and gives back.
    def state_dict(self) -> dict[str, Any]:
        return {"best_state": self.best_state, "history": self.history, "finished": self.finished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_state = state_dict["best_state"]
        self.history = state_dict["history"]
        self.finished = state_dict["finished"]

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # The state is consistent here. Lightning resumes at the beginning of this round, provided that the
        # count of its batches is back at zero; Lightning itself would do that only after this hook.
        trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
        if trainer.current_epoch > 0 and time.monotonic() - self._saved_at >= self.seconds:
            self._save(trainer)
        torch.manual_seed(_mix(self.seed, trainer.current_epoch))
        self._training_losses = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self._training_losses.append(outputs["loss"])  # a tensor on the device: read only when asked

    def on_validation_epoch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        torch.manual_seed(_mix(self.seed))  # the same noise each time, so that losses compare
        self._validation = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        *_: Any,
    ) -> None:
        self._validation.append((len(batch[0]), outputs))

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        rows = sum(count for count, _ in self._validation)
        measured = {
            key: sum(count * float(outputs[key]) for count, outputs in self._validation) / rows
            for key in self._validation[0][1]
        }
        training_loss = float(torch.stack(self._training_losses).mean())
        epoch = self.epochs_of_round(trainer.current_epoch).stop
        if not np.isfinite([training_loss, measured["loss"]]).all():
            raise InputError(
                f"training diverged before epoch {epoch}: the loss is no longer finite. "
                "Remedy: a smaller learning_rate."
            )
        best = not self.history or measured["loss"] < min(row["loss"] for row in self.history)
        if best or self.keep == "last":
            self.best_state = {key: value.cpu().clone() for key, value in module.state_dict().items()}
        self.history.append({"epoch": epoch, "training_loss": training_loss, **measured})

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        done, now = self.epochs_of_round(trainer.current_epoch).stop, time.monotonic()
        if self.progress is not None and (now - self._told_at >= 0.1 or done == self.epochs):
            self._told_at = now
            self.progress(done, self.epochs, f"validation loss {self.history[-1]['loss']:.4g}")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.finished = True
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(trainer.save_checkpoint)
        self._saved_at = time.monotonic()


def _mix(*numbers: int) -> int:
    """Return one well-mixed 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _draw_weights(model: TensorModel, seed: int) -> None:
    with _own_randomness(torch.device("cpu")):
        torch.manual_seed(seed)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()


def _training_rows(model: TensorModel, features: Tensor, properties: Tensor, validation: Tensor) -> Tensor:
    """Check the data and return the indices of the training rows."""
    n = len(features)
    if len(properties) != n or properties.shape[1] != model.properties:
        raise InputError(
            f"training: got properties of shape {tuple(properties.shape)}, expected {(n, model.properties)} "
            f"for {n} rows of features."
        )
    if tuple(features.shape[1:]) != model.shape:
        raise InputError(
            f"training: got features of shape {tuple(features.shape[1:])} per structure, but the model was "
            f"made for {model.shape}."
        )
    if len(validation) == 0 or int(validation.min()) < 0 or int(validation.max()) >= n:
        raise InputError(
            f"training: validation needs at least one row, and indices from 0 to {n - 1}; "
            f"got {len(validation)} indices."
        )
    training = torch.ones(n, dtype=torch.bool)
    training[validation] = False
    rows = training.nonzero().squeeze(1)
    if len(rows) < MINIMUM_ROWS:
        raise InputError(
            f"training: got {len(rows)} training rows ({n} in all), expected at least {MINIMUM_ROWS}. "
            "Remedy: more labelled structures, or a smaller share for validation."
        )
    check_finite(features, "training features")
    check_finite(properties, "training properties")
    return rows


def _hash_data(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _torch_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise unknown_option("device", name, ["auto", "cpu", "cuda"])
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{name}': this machine has {torch.cuda.device_count()} GPUs that PyTorch can use. "
            "Remedy: device 'auto' or 'cpu'."
        )
    return device


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Restore the global random state and the determinism switch."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's notices, and turn its exit on Ctrl-C back into KeyboardInterrupt."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT) if in_main_thread else None
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            yield
    except SystemExit as error:
        # Lightning ignores SIGINT from the first Ctrl-C on and exits with 1.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if on_interrupt is not None:
            signal.signal(signal.SIGINT, on_interrupt)
        logger.setLevel(level)
