"""Ensemble surrogate with uncertainty: a Gaussian process and small networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whorl.errors import InputError, shortened
from whorl.files import provenance as own_provenance
from whorl.generators.networks import perceptron
from whorl.generators.scaling import FeatureScaler, check_finite
from whorl.settings import Count, Depth, NonNegative, Positive, Width, settings_from
from whorl.surrogates.base import Prediction, Progress, Surrogate
from whorl.surrogates.errors import PredictionErrors, prediction_errors
from whorl.surrogates.settings import SurrogateSettings
from whorl.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

MINIMUM_ROWS = 10
GP_ROWS = 3000
"""Maximum number of rows, evenly drawn, of the Gaussian process, whose cost grows with their cube."""

COMMON_SIZE = 3.0
"""Root mean square of the features on their common scale."""

_ENTRY = "whorl_ensemble"
_FORMAT = 1


class EnsembleSurrogate(nn.Module, Surrogate):
    r"""One Gaussian process g, and M small networks f.

    .. math::
        p &= \tfrac12\, g + \tfrac1{2M} \textstyle\sum_m f_m \\
        u^2 &= \tfrac12 (g - p)^2 + \tfrac1{2M} \textstyle\sum_m (f_m - p)^2 + \sigma_g^2

    g has the kernel :math:`c\,e^{-\|R - R'\|^2 / 2\ell^2} + \nu\,\delta` on features scaled to [0, 1], its
    hyperparameters by maximum likelihood (scikit-learn), and :math:`\sigma_g` is its standard deviation
    without the noise ν. The f are ReLU networks, trained by AdamW with a cosine schedule for so few epochs
    that they do not overfit, each from different initial weights. Those of even number use
    standardised features; those of odd number use all features on one common scale about zero, where a
    feature that hardly varies hardly contributes. The errors of the two scalings are largely independent.

    It is accurate with hundreds of rows, where a single large network is not, and its uncertainty grows away
    from the training rows. Create one with :meth:`fit` or :meth:`load`.

    Attributes:
        shape: Shape of one structure's features.
        networks: The f, on the CPU.
        property_scaler: Mean and standard deviation of the property.
        record: Training record: ``rows``, ``seed``, the settings, and ``validation_mae`` if measured.
    """

    kind = "ensemble"

    class Settings(SurrogateSettings):
        """Settings of the ensemble."""

        networks: Depth = 8
        """Number M of networks."""
        layers: Depth = 4
        """Hidden layers of a network."""
        hidden: Width = 128
        """Units of a hidden layer."""
        epochs: tuple[Count, Count] = (15, 100)
        """Epochs of the networks with standardised features, and of the others."""
        batch_size: Count = 64
        """Rows of a step; fewer if an epoch would have less than four steps."""
        learning_rate: Positive = 1e-3
        """Initial step size of AdamW."""
        weight_decay: NonNegative = 1e-2
        """Weight decay of AdamW."""

    common_scale: Tensor
    rows: Tensor
    values: Tensor
    log_hyperparameters: Tensor

    def __init__(self, *, shape: Sequence[int], rows: int, networks: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        features = math.prod(self.shape)
        self.range_scaler = FeatureScaler(features, "minmax")
        self.standard_scaler = FeatureScaler(features, "standard")
        self.property_scaler = FeatureScaler(1, "standard")
        self.networks = nn.ModuleList(
            perceptron(inputs=features, outputs=1, layers=layers, hidden=hidden, activation="relu")
            for _ in range(networks)
        )
        self.register_buffer("common_scale", torch.zeros(features, dtype=torch.float64))
        # The Gaussian process is its rows and three numbers: the rest follows by linear algebra.
        self.register_buffer("rows", torch.zeros(rows, features, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(rows, dtype=torch.float64))
        self.register_buffer("log_hyperparameters", torch.zeros(3, dtype=torch.float64))
        self.record: dict[str, Any] = {}
        self._process: GaussianProcessRegressor

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n *shape"],
        properties: Float[Tensor, "n"],
        *,
        seed: int,
        validation: Int[Tensor, "v"] | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> EnsembleSurrogate:
        """Fit an ensemble to labelled rows; see the base class.

        The validation rows are held out from a first ensemble, to measure its error; the ensemble
        returned is fitted to all rows. Fitting takes too little time for checkpoints.
        """
        settings = settings_from(cls.Settings, options, source=cls.kind)
        networks = settings.networks
        body = {"networks": networks, "layers": settings.layers, "hidden": settings.hidden}
        training: dict[str, Any] = {
            "epochs": list(settings.epochs),
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
        }
        check_finite(features, "ensemble features")
        check_finite(properties[:, None], "ensemble property")
        features, properties = features.double(), properties.double()
        done, in_all = 0, (networks + 1) * (1 if validation is None else 2)

        def tell() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, in_all)

        def fitted(rows: Tensor) -> EnsembleSurrogate:
            if len(rows) < MINIMUM_ROWS:
                raise InputError(
                    f"ensemble: got {len(rows)} rows to fit to, expected at least {MINIMUM_ROWS}. Remedy: "
                    "more labelled structures."
                )
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)  # weights are drawn as the networks are made
                ensemble = cls(shape=features.shape[1:], rows=min(len(rows), GP_ROWS), **body)
            ensemble._fit(features[rows].flatten(1), properties[rows], seed=seed, tell=tell, **training)
            return ensemble

        errors = None
        every = torch.ones(len(features), dtype=torch.bool)
        if validation is not None:
            known = every.clone()
            known[validation] = False
            read = fitted(known.nonzero()[:, 0]).predict(features[validation]).mean
            errors = prediction_errors(read, properties[validation], held_out=True)
        ensemble = fitted(every.nonzero()[:, 0])
        ensemble.record = {
            "rows": len(features),
            "seed": seed,
            **body,
            **training,
            "validation_mae": None if errors is None else errors.mean_absolute_error,
            "validation_errors": None if errors is None else asdict(errors),
        }
        return ensemble

    def _fit(
        self,
        rows: Tensor,
        values: Tensor,
        *,
        epochs: Sequence[int],
        seed: int,
        tell: Callable[[], None],
        **training: Any,
    ) -> None:
        self.property_scaler.fit(values[:, None])
        self.range_scaler.fit(rows)
        self.standard_scaler.fit(rows)
        seen = torch.linspace(0, len(rows) - 1, len(self.rows), dtype=torch.float64).round().long()
        self.rows.copy_(rows[seen])
        self.values.copy_(values[seen])
        self._fit_process(hyperparameters_known=False)
        tell()
        substantial = self.standard_scaler.scale > 0
        size = rows[:, substantial].square().mean().sqrt()
        self.common_scale.copy_(torch.where(substantial, COMMON_SIZE / size, 0.0))
        inputs = self._inputs(rows)
        wanted = self.property_scaler.transform(values[:, None]).float()
        for number, network in enumerate(self.networks):
            rng = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
            _train(network, inputs[number % 2], wanted, rng=rng, epochs=epochs[number % 2], **training)
            tell()
        self.eval().requires_grad_(False)

    def _fit_process(self, *, hyperparameters_known: bool) -> None:
        """Fit the Gaussian process; with its hyperparameters known, only factorise the kernel matrix."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        kernel = ConstantKernel(1.0) * RBF(8.0) + WhiteKernel(0.05)
        optimizer: str | None = "fmin_l_bfgs_b"
        if hyperparameters_known:
            kernel, optimizer = kernel.clone_with_theta(self.log_hyperparameters.numpy()), None
        process = GaussianProcessRegressor(kernel, optimizer=optimizer, normalize_y=True)
        with warnings.catch_warnings():
            # A hyperparameter at its bound: properties without noise, or that do not vary.
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(self.range_scaler.transform(self.rows).numpy(), self.values.numpy())
        self.log_hyperparameters.copy_(torch.as_tensor(process.kernel_.theta))
        self._process = process

    def _inputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of networks of even number, and of those of odd number."""
        return self.standard_scaler.transform(rows).float(), (rows * self.common_scale).float()

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n *shape"], *, batch_size: int = 4096) -> Prediction:
        """Return the predicted property of each row, in float64.

        Raises:
            InputError: The features have another shape than its own.
        """
        self.check_features(features)
        parts = [self._read(rows) for rows in features.flatten(1).double().split(batch_size)]
        mean, uncertainty = (torch.cat(column) for column in zip(*parts, strict=True))
        return Prediction(mean=mean, uncertainty=uncertainty)

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if len(rows) == 0:
            return rows.new_zeros(0), rows.new_zeros(0)
        process_mean, deviation = self._process.predict(
            self.range_scaler.transform(rows).numpy(), return_std=True
        )
        inputs = self._inputs(rows)
        read = torch.cat([f(inputs[number % 2]) for number, f in enumerate(self.networks)], dim=1).double().T
        read = self.property_scaler.inverse(read[..., None])[..., 0]
        members = torch.cat([torch.as_tensor(process_mean)[None], read])
        share = torch.full((len(members), 1), 0.5 / len(read), dtype=torch.float64)
        share[0] = 0.5
        mean = (share * members).sum(0)
        disagreement = (share * (members - mean).square()).sum(0)
        noise = float(self._process.kernel_.k2.noise_level) * float(self._process._y_train_std) ** 2
        own = (torch.as_tensor(deviation).square() - noise).clamp(min=0)
        floor = 1e-6 * float(self.property_scaler.scale[0]) + 1e-12
        return mean, (disagreement + own + floor**2).sqrt()

    @property
    def validation_errors(self) -> PredictionErrors | None:
        """Errors on the validation rows; None if not measured, and of files of earlier versions."""
        errors = self.record.get("validation_errors")
        return None if errors is None else PredictionErrors(**errors)

    @property
    def validation_mae(self) -> float | None:
        """Mean absolute error on the validation rows, in the property's units; None if not measured."""
        return self.record.get("validation_mae")

    def save(self, path: Path | str) -> None:
        """Write the ensemble to one ``.safetensors`` file, atomically.

        Raises:
            InputError: The disk is full, or the folder cannot be written.
        """
        description = {
            "format": _FORMAT,
            "shape": list(self.shape),
            "rows": len(self.rows),
            "record": self.record,
            "provenance": own_provenance(seed=self.record.get("seed")),
        }
        write_tensors(path, self.state_dict(), description, entry=_ENTRY)

    @classmethod
    def load(cls, path: Path | str) -> EnsembleSurrogate:
        """Read an ensemble written by :meth:`save`; its predictions are identical.

        Raises:
            InputError: No such file, not an ensemble, damaged, or made by a newer whorl.
        """
        path = Path(path)
        remedy = "Give a file written by EnsembleSurrogate.save, or fit again."
        entry = (_ENTRY, "whorl_committee")  # the latter of earlier versions
        tensors, description = read_tensors(path, entry=entry, expected="an ensemble", remedy=remedy)
        if description.get("format") != _FORMAT:
            raise InputError(
                f"{path}: ensemble file of format {shortened(description.get('format'))}, this whorl reads "
                f"{_FORMAT}. Update whorl."
            )
        try:
            record = dict(description["record"])
            size = {name: record[name] for name in ("networks", "layers", "hidden")}
            if max(size["networks"], size["layers"]) > len(tensors):
                raise ValueError("fewer layers than stated")
            with torch.device("meta"):  # shapes alone: a damaged file must not take memory
                expected = cls(shape=description["shape"], rows=description["rows"], **size).state_dict()
            shapes = {name: tuple(values.shape) for name, values in expected.items()}
            if shapes != {name: tuple(values.shape) for name, values in tensors.items()}:
                raise ValueError("unexpected tensors")
            ensemble = cls(shape=description["shape"], rows=description["rows"], **size)
            ensemble.load_state_dict(tensors)
            ensemble.record = record
            ensemble._fit_process(hyperparameters_known=True)
            ensemble.validation_errors  # noqa: B018 (are they numbers?)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"{path}: damaged ({shortened(error, 200)}). {remedy}") from None
        return ensemble.eval().requires_grad_(False)


def _train(
    network: nn.Module,
    inputs: Tensor,
    wanted: Tensor,
    *,
    rng: torch.Generator,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Minimise the mean squared error with AdamW, its rate falling to zero along a cosine."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=rng).split(min(batch_size, -(-len(inputs) // 4))):
            loss = (network(inputs[rows]) - wanted[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
