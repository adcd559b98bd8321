r"""A property as a sum over atoms, fitted to energies, forces and stresses; with gradients and uncertainty.

For a structure x of N atoms with the environments' features :math:`\varphi(i)`
(:mod:`whorl.surrogates.environments`) and the share :math:`c_e` of each element e

.. math:: f(x) = y_0 + y_\mathrm{base}(x) + s \Bigl( \sum_e \beta_e c_e
          + \frac{1}{N} \sum_i w^\top \varphi(i) \Bigr)

where :math:`y_0` is the median of the labels, s their standard deviation (of the middle 80 %), and
:math:`y_\mathrm{base}` the energy of a cheaper method, where one is given (Δ-learning). An extensive property
is N times this. β and w solve
:math:`(A^\top A + \lambda) w = A^\top y` with one row of A for each label, one for each component of the
forces, :math:`-F = \partial E / \partial x`, and one for each of the stress,
:math:`V \sigma = \partial E / \partial \varepsilon`; λ maximises the evidence. A row counts by
:math:`(1 + m^2/9)^{-1/2}`, where m is the distance of the label from :math:`y_0` in units of s, or the size
of the force (or stress) in that of the median one: large ones need not be met to the same digit.

The uncertainty adds to the variance of the posterior that of the jackknife, the squares of the changes in the
prediction when one of the training structures is left out with all its rows,

.. math:: u(x)^2 = q^2 s^2 \Bigl( \tau^2\, \bar\varphi^\top S \bar\varphi
          + \sum_j \bigl(\bar\varphi^\top S A_j^\top (1 - H_j)^{-1} r_j\bigr)^2 \Bigr), \qquad
          S = (A^\top A + \lambda)^{-1}, \quad H_j = A_j S A_j^\top

with the residuals r, their root mean square τ, and a factor q that makes the uncertainty fit the errors of
structures that were left out, :math:`(1 - H_i)^{-1} r_i`, which need no refit. The first term alone takes the
components of the forces for independent, and is far too small where structures were moved to a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whorl.errors import InputError, shortened
from whorl.representations.base import make_representation
from whorl.representations.pooled import AtomicRepresentation
from whorl.representations.settings import RepresentationSettings
from whorl.seeds import derive_seed
from whorl.settings import Count, Positive, settings_from
from whorl.structures.batch import StructureBatch
from whorl.structures.cells import volumes
from whorl.structures.checks import find_problems
from whorl.structures.convert import Structures, as_batch
from whorl.surrogates.base import QUANTILE, Prediction, Progress, StructureSurrogate
from whorl.surrogates.environments import CosineFeatures, default_fingerprint
from whorl.surrogates.errors import PredictionErrors, prediction_errors
from whorl.surrogates.settings import SurrogateSettings
from whorl.tensor_files import read_tensors, tensors_hash, write_tensors

MINIMUM_STRUCTURES = 10
# Of the errors of structures left out. Those that were moved to a value are farther from the training
# structures, and of their errors 90 % are then covered.
COVERED = 0.95
_LARGE = 3.0  # times a typical label: beyond, rows count less
_QUANTILES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
_ENTRY, _FORMAT = "whorl_additive", 1
_PENALTIES = (-10.0, 1.0)  # powers of ten, of the typical diagonal of AᵀA
_COMPOSITION = 10.0  # amplitude of the elements' columns: hardly penalised
_ATOMS_AT_ONCE = 1000
_STRUCTURES_AT_ONCE = 2000  # whose neighbours are listed
_NUMBERS_AT_ONCE = 8_000_000  # of the fingerprints' Jacobian
_KEPT_ROWS = 50_000_000  # numbers of A that are kept from the first pass to the second
_LEFT_OUT = 1000  # structures by which the uncertainty is found


@dataclass(frozen=True)
class _Labels:
    """Labels of structures less the baseline's, per atom where the property is extensive.

    Attributes:
        values: The property.
        forces: −∂E/∂x; NaN rows where there are none.
        strains: ∂E/∂ε per atom; NaN where there are none.
    """

    values: Float[Tensor, "B"]
    forces: Float[Tensor, "A 3"]
    strains: Float[Tensor, "B 3 3"]


class AdditiveSurrogate(StructureSurrogate):
    """A property of atoms as a sum over their environments; see the module for the formulas.

    Made by :meth:`fit`. It takes structures where other surrogates take features.

    Attributes:
        representation: Fingerprints of the atoms.
        environments: Their random features.
        baseline: Energy method whose difference from the labels is learned; None for none.
    """

    kind = "additive"

    class Settings(SurrogateSettings):
        """Settings of the sum over atoms."""

        representation: RepresentationSettings | None = None
        """Fingerprint of the atoms, before pooling; by default symmetry functions suited to the elements."""
        cosines: Count = 1200
        """Random cosine features of an environment."""
        length: Positive = 2.0
        """Correlation length of environments, in units of their root mean square distance."""
        force_error: Positive = 30.0
        """Error of a component of the forces (eV/Å) that weighs as much as one of 1 eV/atom in the property;
        of a stress times volume per atom (eV/atom) likewise."""
        extensive: bool = False
        """The property is a sum over the atoms, as a total energy is, instead of their mean."""

    settings: Settings

    def __init__(
        self,
        *,
        settings: Settings,
        representation: AtomicRepresentation,
        environments: CosineFeatures,
        offset: float,
        scale: float,
        baseline: Any = None,
        baseline_name: str | None = None,
    ) -> None:
        self.settings, self.representation, self.environments = settings, representation, environments
        self.offset, self.scale = offset, scale
        self.baseline, self.baseline_name = baseline, baseline_name
        size = len(representation.species) + len(environments.phases)
        self._normal = torch.zeros(size, size, dtype=torch.float64)  # AᵀA
        self._right = torch.zeros(size, dtype=torch.float64)  # Aᵀy
        self._squares, self._rows, self._structures = 0.0, 0, 0
        self._penalty, self._typical_force, self._typical_strain = 1.0, 1.0, 1.0
        self._scores = torch.zeros(0, dtype=torch.float64)
        self._influences = self._right.new_zeros(0, size)  # rows: what each structure adds to Aᵀy
        self._errors: PredictionErrors | None = None

    # Fitting.

    @classmethod
    def fit(
        cls,
        features: Structures,
        properties: Float[Tensor, "n"],
        *,
        seed: int,
        validation: Int[Tensor, "v"] | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
        forces: Float[Tensor, "A 3"] | None = None,
        stresses: Float[Tensor, "n 3 3"] | None = None,
        baseline: Any = None,
        **options: Any,
    ) -> AdditiveSurrogate:
        """Return a surrogate fitted to labelled structures.

        Its errors are those of leaving out each structure (of ``validation``) with all its labels.

        Args:
            features: The structures.
            properties: One value a structure; with forces an energy in eV (per atom unless ``extensive``; a
                constant or one for each element may be missing, as in formation energies).
            seed: Of the random features.
            validation: Rows by which its error is stated; by default all.
            directory: Not used: a fit takes seconds.
            progress: Called as it goes on.
            forces: In eV/Å; NaN for structures without.
            stresses: In eV/Å³, ASE's sign; NaN for structures without.
            baseline: An energy method, cheaper than that of the labels.
            options: Hyperparameters other than the defaults of ``Settings``.

        Raises:
            InputError: Too few structures, labels that are not finite, or hyperparameters that make no sense.
        """
        settings = settings_from(cls.Settings, options, source=cls.kind)
        structures = _structures(features)
        values = _checked_values(properties, structures)
        if len(structures) < MINIMUM_STRUCTURES:
            raise InputError(
                f"additive surrogate: got {len(structures)} structures to fit to, expected at least "
                f"{MINIMUM_STRUCTURES}. Remedy: more labelled structures."
            )
        representation = _representation(settings, structures)
        fingerprints, _ = _fingerprints(representation, structures)
        environments = CosineFeatures.fit(
            fingerprints,
            count=settings.cosines,
            length=settings.length,
            n_species=len(representation.species),
            seed=derive_seed(seed, "environments"),
        )
        surrogate = cls(
            settings=settings,
            representation=representation,
            environments=environments,
            offset=0.0,
            scale=1.0,
            baseline=baseline,
            baseline_name=None if baseline is None else str(getattr(baseline, "name", baseline)),
        )
        labels = surrogate._labels(structures, values, forces, stresses)
        low, surrogate.offset, high = labels.values.quantile(_QUANTILES).tolist()
        surrogate.scale = (high - low) / (2 * 1.2816) or float(labels.values.std()) or 1.0
        surrogate._typical_force = _typical(labels.forces.norm(dim=1))
        surrogate._typical_strain = _typical(labels.strains.flatten(1).norm(dim=1))
        blocks = _Blocks(surrogate, structures, *surrogate._standardised(labels), progress)
        surrogate._add(blocks)
        surrogate._penalty = surrogate._best_penalty()
        surrogate._solve()
        rows, errors = surrogate._leave_out(blocks)
        stated = torch.isin(rows, torch.as_tensor(validation)) if validation is not None else rows >= 0
        if bool(stated.any()):
            actual = values[rows[stated]]
            factor = structures.n_atoms[rows[stated]] if settings.extensive else 1.0
            predicted = actual - errors[stated] * surrogate.scale * factor
            surrogate._errors = prediction_errors(predicted, actual, held_out=True)
        return surrogate

    def update(
        self,
        structures: Structures,
        properties: Float[Tensor, "n"],
        *,
        forces: Float[Tensor, "A 3"] | None = None,
        stresses: Float[Tensor, "n 3 3"] | None = None,
    ) -> AdditiveSurrogate:
        """Return this surrogate with further labels, as if it had been fitted with them from the start.

        Random features and the penalty λ stay as they are. The errors that it made on the new structures
        before go into the calibration of the uncertainty.

        Raises:
            InputError: Labels that are not finite, or elements that it was not fitted to.
        """
        structures = _structures(structures)
        values = _checked_values(properties, structures)
        new = self._copy()
        labels, weights = self._standardised(self._labels(structures, values, forces, stresses))
        pooled = self._pooled(structures)
        scores = (labels.values - pooled @ self._weights).abs() / self._spread(pooled)[0]
        blocks = _Blocks(self, structures, labels, weights, None)
        new._add(blocks)
        new._solve()
        new._leave_out(blocks)
        new._influences = torch.cat([self._influences, new._influences])
        new._scores = torch.cat([self._scores, scores])
        new._solve()
        return new

    def _copy(self) -> AdditiveSurrogate:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def _labels(self, structures: StructureBatch, values: Tensor, forces: Any, stresses: Any) -> _Labels:
        """Return labels per atom, with what the baseline says taken off; in eV and Å."""
        counts = structures.n_atoms.double()
        forces = _checked(forces, structures.positions, structures.structure_index, "forces")
        stresses = _checked(stresses, structures.cells, torch.arange(len(structures)), "stresses")
        strains = stresses * (volumes(structures.cells.double()) / counts)[:, None, None]
        base, base_forces, base_strains = self._base(structures)
        values = values / counts if self.settings.extensive else values
        return _Labels(values - base, forces - base_forces, strains - base_strains)

    def _standardised(self, labels: _Labels) -> tuple[_Labels, _Labels]:
        """Return labels in standard units, and the weight of each."""
        unit = 1.0 / (self.scale * self.settings.force_error)
        values = (labels.values - self.offset) / self.scale
        forces = labels.forces.norm(dim=1, keepdim=True).expand(-1, 3) / self._typical_force
        strains = labels.strains.flatten(1).norm(dim=1)[:, None, None].expand(-1, 3, 3) / self._typical_strain
        return (
            _Labels(values, labels.forces * unit, labels.strains * unit),
            _Labels(_weights(values), _weights(forces), _weights(strains)),
        )

    def _base(self, structures: StructureBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the baseline's energy per atom, forces, and derivative in a strain per atom."""
        zero = structures.cells.new_zeros(len(structures), dtype=torch.float64)
        if self.baseline_name is None:
            return zero, zero.new_zeros(len(structures.positions), 3), zero.new_zeros(len(structures), 3, 3)
        if self.baseline is None:
            raise InputError(
                f"additive surrogate: was fitted to the difference from {self.baseline_name}, which is "
                "missing. Give it to load as baseline."
            )
        output = self.baseline(structures)
        if output.failures:
            row, reason = next(iter(output.failures.items()))
            raise InputError(f"the baseline {self.baseline_name} fails for structure {row}: {reason}")
        counts = structures.n_atoms.double()
        strains = zero.new_zeros(len(structures), 3, 3)
        if output.stress is not None:
            strains = output.stress.double() * (volumes(structures.cells.double()) / counts)[:, None, None]
        return output.energy.double() / counts, output.forces.double(), strains

    def _add(self, blocks: _Blocks) -> None:
        self._normal, self._right = self._normal.clone(), self._right.clone()
        for _, rows, targets in blocks:
            self._normal.addmm_(rows.T, rows)
            self._right.addmv_(rows.T, targets)
            self._squares += float(targets @ targets)
            self._rows += len(targets)
            self._structures += 1

    def _best_penalty(self) -> float:
        """Return the λ of the largest evidence, with the noise that is best for each."""
        from scipy.optimize import minimize_scalar

        size, eye = len(self._right), torch.eye(len(self._right), dtype=torch.float64)
        typical = float(self._normal.diagonal().mean())

        def surprise(power: float) -> float:
            """Return −2 log of the evidence, up to a constant."""
            penalty = typical * 10.0**power
            factor, failed = torch.linalg.cholesky_ex(self._normal + penalty * eye)
            if int(failed):
                return math.inf
            half = torch.linalg.solve_triangular(factor, self._right[:, None], upper=False)
            left = max(self._squares - float(half.square().sum()), 1e-12 * self._squares + 1e-300)
            determinant = 2.0 * float(factor.diagonal().log().sum()) - size * math.log(penalty)
            return self._rows * math.log(left / self._rows) + determinant

        found = minimize_scalar(surprise, bounds=_PENALTIES, method="bounded", options={"xatol": 0.1})
        return typical * 10.0 ** float(found.x)

    def _solve(self) -> None:
        eye = torch.eye(len(self._right), dtype=torch.float64)
        self._factor = torch.linalg.cholesky(self._normal + self._penalty * eye)
        self._weights = torch.cholesky_solve(self._right[:, None], self._factor)[:, 0]
        left = self._squares - float(self._right @ self._weights)
        self._noise = math.sqrt(max(left, 1e-12 * self._squares + 1e-24) / max(self._rows, 1))
        self._changes = torch.linalg.solve_triangular(self._factor, self._influences.T, upper=False).T

    def _leave_out(self, blocks: _Blocks) -> tuple[Tensor, Tensor]:
        """Find what structures tell by being left out, and return them and their errors, standardised."""
        count = min(len(blocks), _LEFT_OUT)
        chosen = torch.linspace(0, len(blocks) - 1, count, dtype=torch.float64).round().long()
        wanted = set(chosen.tolist())
        errors, variances, influences, views = [], [], [], []
        for index, rows, targets in blocks:
            if index not in wanted:
                continue
            half = torch.linalg.solve_triangular(self._factor, rows.T, upper=False)
            hat = half.T @ half
            without = torch.linalg.inv(torch.eye(len(hat), dtype=hat.dtype) - hat)
            left = without @ (targets - rows @ self._weights)
            weight = blocks.weights.values[index]
            errors.append(left[0] / weight)
            views.append(half @ without[0] / weight)  # of the property, by what is fitted without it
            variances.append(views[-1] @ half[:, 0] / weight)
            influences.append(half @ left)
        influence, view = torch.stack(influences), torch.stack(views)
        changes = (view @ influence.T).fill_diagonal_(0.0) * math.sqrt(len(blocks) / count)
        squares = self._noise**2 * torch.stack(variances) + changes.square().sum(1)
        found = torch.stack(errors)
        self._scores = found.abs() / squares.clamp(min=1e-24).sqrt()
        self._influences = influence @ self._factor.T * math.sqrt(len(blocks) / count)
        self._solve()
        return chosen, found

    # Prediction.

    def predict(self, features: Structures, *, gradients: bool = False) -> Prediction:
        """Return the property of each structure and its uncertainty.

        Args:
            features: The structures.
            gradients: Also return the derivatives of both in the atoms' positions and in a strain.

        Raises:
            InputError: Features instead of structures, or elements that it was not fitted to.
        """
        structures = _structures(features)
        largest = max(structures.n_atoms.tolist(), default=1)
        parts = [
            self._predict(chunk, gradients)
            for chunk in structures.chunks(max(1, _ATOMS_AT_ONCE // max(largest, 1)))
        ] or [self._predict(structures, gradients)]
        columns = zip(*parts, strict=True)
        names = ("mean", "uncertainty", *_GRADIENTS) if gradients else ("mean", "uncertainty")
        return Prediction(**{name: torch.cat(column) for name, column in zip(names, columns, strict=True)})

    @property
    def identity(self) -> str:
        """Hash of all that predictions depend on."""
        return tensors_hash(
            {
                **self.environments.tensors,
                "normal": self._normal,
                "right": self._right,
                "scores": self._scores,
                "influences": self._influences,
            },
            f"{self.representation.fingerprint} {self.offset} {self.scale} {self._noise} {self._penalty} "
            f"{self.settings.extensive} {self.baseline_name}",
        )

    def find_problems(self, structures: Structures) -> dict[int, str]:
        """Return the index of each structure that it cannot predict, and why."""
        structures = as_batch(structures)
        problems = find_problems(structures, species=self.representation.species)
        return {**self.representation.find_problems(structures), **problems}

    @property
    def calibration(self) -> float:
        """The factor q of the uncertainty."""
        count = len(self._scores)
        rank = min(math.ceil((count + 1) * COVERED), count)
        return float(self._scores.sort().values[rank - 1]) / QUANTILE if count else 1.0

    def _spread(self, pooled: Float[Tensor, "B P"]) -> tuple[Float[Tensor, "B"], Float[Tensor, "B P"]]:
        """Return the uncertainty, not yet calibrated, standardised; and its derivative in what was pooled."""
        half = torch.linalg.solve_triangular(self._factor, pooled.T, upper=False)
        changes = self._changes @ half
        spread = (self._noise**2 * half.square().sum(0) + changes.square().sum(0)).clamp(min=1e-24).sqrt()
        slopes = (self._noise**2 * half + self._changes.T @ changes) / spread
        return spread, torch.linalg.solve_triangular(self._factor.T, slopes, upper=True).T

    def _pooled(self, structures: StructureBatch) -> Float[Tensor, "B P"]:
        if not len(structures):
            return torch.zeros(0, len(self._right), dtype=torch.float64)
        fingerprints, species = _fingerprints(self.representation, structures)
        values = self.environments.values(self.environments.angles(fingerprints, species))
        return self._mean(structures, species, values)

    def _mean(self, structures: StructureBatch, species: Tensor, values: Tensor) -> Float[Tensor, "B P"]:
        elements = torch.nn.functional.one_hot(species, len(self.representation.species)).double()
        columns = torch.cat([_COMPOSITION * elements, values], 1)
        total = columns.new_zeros(len(structures), columns.shape[1])
        total.index_add_(0, structures.structure_index, columns)
        return total / structures.n_atoms[:, None]

    @torch.no_grad()
    def _predict(self, structures: StructureBatch, gradients: bool) -> tuple[Tensor, ...]:
        counts = structures.n_atoms.double()
        times = counts if self.settings.extensive else torch.ones_like(counts)
        base, base_forces, base_strains = self._base(structures)
        if not gradients:
            pooled = self._pooled(structures)
            mean = self.offset + base + self.scale * (pooled @ self._weights)
            return times * mean, times * self.calibration * self.scale * self._spread(pooled)[0]
        structures = structures.to(dtype=torch.float64)
        positions = structures.positions.detach().requires_grad_(True)
        strains = torch.zeros_like(structures.cells, requires_grad=True)
        with torch.enable_grad():
            stretched = torch.einsum("ab,abc->ac", positions, strains[structures.structure_index])
            moved = structures.replace(
                positions=positions + stretched, cells=structures.cells + structures.cells @ strains
            )
            fingerprints = self.representation.atomic_features(moved)
        species = self.representation.species_index(structures)
        angles = self.environments.angles(fingerprints.detach(), species)
        pooled = self._mean(structures, species, self.environments.values(angles))
        mean = self.offset + base + self.scale * (pooled @ self._weights)
        spread, along = self._spread(pooled)
        first = len(self.representation.species)
        index = structures.structure_index
        results = [times * mean, times * self.calibration * self.scale * spread]
        share = (times / counts)[index, None]
        for weights, factor in ((self._weights[None, first:], 1.0), (along[index, first:], self.calibration)):
            slopes = self.scale * factor * share * self.environments.slopes(angles, weights)
            results += torch.autograd.grad(
                fingerprints, [positions, strains], slopes, retain_graph=True, materialize_grads=True
            )
        results[2] = results[2] - base_forces * share
        results[3] = results[3] + base_strains * times[:, None, None]
        return tuple(results)

    @property
    def validation_errors(self) -> PredictionErrors | None:
        """Errors on structures left out with all their labels."""
        return self._errors

    # Files.

    def save(self, path: Path | str) -> None:
        """Write the surrogate to one ``.safetensors`` file, atomically."""
        header = {
            "format": _FORMAT,
            "settings": self.settings.options(),
            "representation": self.representation.config(),
            **{name: getattr(self, f"_{name}") for name in _NUMBERS},
            "offset": self.offset,
            "scale": self.scale,
            "baseline": self.baseline_name,
            "validation_errors": self._errors and asdict(self._errors),
        }
        tensors = {
            **self.environments.tensors,
            "normal": self._normal,
            "right": self._right,
            "scores": self._scores,
            "influences": self._influences,
        }
        write_tensors(path, tensors, header, entry=_ENTRY)

    @classmethod
    def load(cls, path: Path | str, *, baseline: Any = None) -> AdditiveSurrogate:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            baseline: The energy method from which it learned the difference, where there was one.

        Raises:
            InputError: No such file, another kind of file, a damaged one, or another baseline.
        """
        tensors, header = read_tensors(path, entry=_ENTRY, expected="an additive surrogate")
        if header.get("format") != _FORMAT:
            raise InputError(
                f"{path}: additive surrogate of format {shortened(header.get('format'))}, this whorl reads "
                f"{_FORMAT}. Update whorl."
            )
        named = None if baseline is None else str(getattr(baseline, "name", baseline))
        if named is not None and named != header.get("baseline"):
            raise InputError(
                f"{path}: was fitted with the baseline {header.get('baseline') or 'none'}, got {named}."
            )
        try:
            representation = make_representation(header["representation"])
            if not isinstance(representation, AtomicRepresentation):
                raise ValueError("its representation is not one of atoms")
            normal, right, scores, influences = (
                tensors.pop(name) for name in ("normal", "right", "scores", "influences")
            )
            surrogate = cls(
                settings=cls.Settings(**header["settings"]),
                representation=representation,
                environments=CosineFeatures(**tensors),
                offset=float(header["offset"]),
                scale=float(header["scale"]),
                baseline=baseline,
                baseline_name=header["baseline"],
            )
            if normal.shape != surrogate._normal.shape or right.shape != surrogate._right.shape:
                raise ValueError("its tensors do not fit together")
            surrogate._normal, surrogate._right = normal, right
            surrogate._scores, surrogate._influences = scores, influences
            for name in _NUMBERS:
                setattr(surrogate, f"_{name}", header[name])
            errors = header["validation_errors"]
            surrogate._errors = PredictionErrors(**errors) if errors else None
            surrogate._solve()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: damaged ({shortened(error, 200)}).") from None
        return surrogate


_GRADIENTS = ("gradient", "strain_gradient", "uncertainty_gradient", "uncertainty_strain_gradient")
_NUMBERS = ("squares", "rows", "structures", "penalty", "typical_force", "typical_strain")


class _Blocks:
    """The rows of A and of y, structure by structure; computed again for each pass where they are many."""

    def __init__(
        self,
        surrogate: AdditiveSurrogate,
        structures: StructureBatch,
        labels: _Labels,
        weights: _Labels,
        progress: Progress | None,
    ) -> None:
        self.surrogate, self.structures, self.progress = surrogate, structures, progress
        self.labels, self.weights = labels, weights
        rows = (
            len(structures)
            + int(labels.forces.isfinite().sum())
            + 6 * int(labels.strains.isfinite().flatten(1).all(1).sum())
        )
        self._keeps = rows * len(surrogate._right) <= _KEPT_ROWS
        self._kept: list[tuple[int, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self.structures)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        if self._kept:
            yield from self._kept
            return
        for block in self._computed():
            if self._keeps:
                self._kept.append(block)
            yield block

    def _computed(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        width = len(self.surrogate.representation.atomic_names)
        largest = int(self.structures.n_atoms.max())
        at_once = max(1, _NUMBERS_AT_ONCE // (3 * largest * (largest + 3) * width))
        for start in range(0, len(self.structures), at_once):
            chunk = self.structures[start : start + at_once]
            yield from self._of_chunk(start, chunk)
            if self.progress is not None:
                self.progress(min(start + at_once, len(self)), len(self))

    @torch.no_grad()
    def _of_chunk(self, start: int, chunk: StructureBatch) -> Iterator[tuple[int, Tensor, Tensor]]:
        surrogate, labels, weights = self.surrogate, self.labels, self.weights
        maps, representation = surrogate.environments, surrogate.representation
        of_chunk = slice(start, start + len(chunk))
        with_strain = bool(labels.strains[of_chunk].isfinite().any())
        atoms = self.structures.atoms_of(torch.arange(len(self))[of_chunk])
        if not with_strain and not bool(labels.forces[atoms].isfinite().any()):
            for index, row in enumerate(surrogate._pooled(chunk), start):
                weight = weights.values[index]
                yield index, weight * row[None], weight * labels.values[index, None]
            return
        values, jacobian = representation.atomic_value_and_jacobian(chunk, strain=with_strain)
        padded = values.shape[1]
        for b, structure in enumerate(chunk):
            n, index = len(structure.positions), start + b
            species, own = representation.species_index(structure), self.structures.structure_index == index
            angles = maps.angles(values[b, :n], species)
            rows = [surrogate._mean(structure, species, maps.values(angles))]
            targets, of_rows = [labels.values[index, None]], [weights.values[index, None]]
            moving = []  # rows of the Jacobian: atoms, then strains
            if bool(labels.forces[own].isfinite().all()):
                moving.append(jacobian[b, :n, :, :n])
                targets.append(-labels.forces[own].flatten())
                of_rows.append(weights.forces[own].flatten())
            if bool(labels.strains[index].isfinite().all()):
                of_strain = jacobian[b, :n, :, padded:]
                moving.append(0.5 * (of_strain + of_strain.transpose(2, 3)) / n)
                targets.append(labels.strains[index].flatten())
                of_rows.append(weights.strains[index].flatten())
            if moving:
                slopes = maps.summed_jacobian(angles, torch.cat(moving, 2).flatten(2))
                elements = slopes.new_zeros(len(slopes), len(representation.species))
                rows.append(torch.cat([elements, slopes / surrogate.settings.force_error], 1))
            factors = torch.cat(of_rows)
            yield index, factors[:, None] * torch.cat(rows), factors * torch.cat(targets)


def _typical(magnitudes: Tensor) -> float:
    """Return the median of what is there; 1 of nothing."""
    there = magnitudes[magnitudes.isfinite()]
    return (float(there.median()) if len(there) else 0.0) or 1.0


def _weights(magnitudes: Tensor) -> Tensor:
    """Return weights that fall for labels beyond typical ones: these may be off by a share of themselves."""
    return (1.0 + (magnitudes / _LARGE).square()).rsqrt()


def _structures(given: Any) -> StructureBatch:
    """Return structures as a batch, in float64.

    Raises:
        InputError: Features instead.
    """
    if isinstance(given, Tensor):
        raise InputError(
            f"additive surrogate: got features of shape {tuple(given.shape)}, expected structures: it "
            "predicts from atoms. For features use one of the kinds network or ensemble."
        )
    return as_batch(given).to(dtype=torch.float64)


def _checked_values(values: Tensor, structures: StructureBatch) -> Tensor:
    values = torch.as_tensor(values).double().reshape(-1)
    if len(values) != len(structures):
        raise InputError(
            f"additive surrogate: got {len(values)} labels for {len(structures)} structures, expected one "
            "each."
        )
    bad = ~values.isfinite()
    if bool(bad.any()):
        raise InputError(
            f"additive surrogate: the label of structure {int(bad.nonzero()[0])} is "
            f"{float(values[bad][0])}, expected a finite number. Remedy: leave the structure out."
        )
    return values


def _checked(given: Any, like: Tensor, structure: Tensor, what: str) -> Tensor:
    """Return derivatives in float64, NaN where a structure has none of them.

    Raises:
        InputError: Of another shape, or some of a structure's are missing.
    """
    if given is None:
        return torch.full(like.shape, math.nan, dtype=torch.float64)
    values = torch.as_tensor(given).double()
    if values.shape != like.shape:
        raise InputError(
            f"additive surrogate: got {what} of shape {tuple(values.shape)}, expected {tuple(like.shape)}."
        )
    missing = ~values.isfinite().flatten(1)
    count = int(structure.max()) + 1 if len(structure) else 0
    lacking = torch.zeros(count, dtype=torch.int64).index_add_(0, structure, missing.sum(1))
    size = torch.zeros_like(lacking).index_add_(0, structure, torch.full_like(structure, missing.shape[1]))
    partly = ((lacking > 0) & (lacking < size)) | _infinite(values, structure, count)
    if bool(partly.any()):
        raise InputError(
            f"additive surrogate: some {what} of structure {int(partly.nonzero()[0])} are not finite. "
            f"Remedy: compute them again, or give NaN for all {what} of the structure, which is then fitted "
            "without them."
        )
    return values


def _infinite(values: Tensor, structure: Tensor, count: int) -> Tensor:
    infinite = values.isinf().flatten(1).any(1).long()
    return torch.zeros(count, dtype=torch.int64).index_add_(0, structure, infinite) > 0


def _representation(settings: AdditiveSurrogate.Settings, structures: StructureBatch) -> AtomicRepresentation:
    from ase.data import chemical_symbols

    species = [chemical_symbols[number] for number in structures.atomic_numbers.unique().tolist()]
    if settings.representation is None:
        crystals = structures[structures.pbc.all(1)]
        space = float(volumes(crystals.cells).sum())
        return default_fingerprint(species, len(crystals.positions) / space if space else 0.0)
    representation = settings.representation.build(species, structures=structures)
    if not isinstance(representation, AtomicRepresentation):
        raise InputError(
            f"additive surrogate: {settings.representation.kind} is no representation of atoms. Use one that "
            "is, such as acsf or soap."
        )
    return representation


@torch.no_grad()
def _fingerprints(
    representation: AtomicRepresentation, structures: StructureBatch
) -> tuple[Float[Tensor, "A f"], Int[Tensor, "A"]]:
    species = representation.species_index(structures)
    features = representation.atomic_features
    parts = [features(some) for some in structures.chunks(_STRUCTURES_AT_ONCE)] or [features(structures)]
    return torch.cat(parts).double(), species
