r"""Optimizers of many independent structures at once: FIRE and L-BFGS.

The coordinates of all structures are rows of a tensor (R, 3), and each row belongs to one structure. ``init``
makes a state; ``step`` returns how far to move, and the next state. States of structures that end are left
out with :meth:`State.select`, those of structures that come in are added with :meth:`State.concatenate`. No
structure's steps depend on the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class State:
    """What an optimizer remembers.

    Attributes:
        of_rows: Tensors whose first dimension is that of the rows.
        of_structures: Tensors whose first dimension is that of the structures.
    """

    of_rows: Mapping[str, Tensor]
    of_structures: Mapping[str, Tensor]

    def select(self, structures: Bool[Tensor, "b"], rows: Bool[Tensor, "R"]) -> State:
        """Return the state of some structures, of which these are the rows."""
        return State(
            {name: values[rows] for name, values in self.of_rows.items()},
            {name: values[structures] for name, values in self.of_structures.items()},
        )

    @classmethod
    def concatenate(cls, states: Sequence[State]) -> State:
        """Return the state of all structures of several states."""
        first = states[0]
        return cls(
            {name: torch.cat([state.of_rows[name] for state in states]) for name in first.of_rows},
            {
                name: torch.cat([state.of_structures[name] for state in states])
                for name in first.of_structures
            },
        )


class Optimizer(ABC):
    """A way from forces to displacements.

    Args:
        longest_step: No row moves farther than this in one step, in Å; a longer step is shortened as a whole.
    """

    def __init__(self, longest_step: float = 0.2) -> None:
        self.longest_step = longest_step

    @abstractmethod
    def init(self, rows: Float[Tensor, "R 3"], n: int) -> State:
        """Return the state of ``n`` structures before their first step."""

    @abstractmethod
    def step(
        self,
        state: State,
        forces: Float[Tensor, "R 3"],
        energy: Float[Tensor, "b"],
        owner: Int[Tensor, "R"],
    ) -> tuple[Float[Tensor, "R 3"], State]:
        """Return the displacement of each row, and the state after it.

        Args:
            state: Before the step.
            forces: Minus the derivative of the energy in each row.
            energy: Of each structure.
            owner: Which structure each row belongs to.
        """

    def _shortened(self, move: Tensor, owner: Tensor, n: int, limit: Tensor | float) -> Tensor:
        longest = per_structure(move.norm(dim=1), owner, n, "amax")
        return move * (limit / torch.maximum(longest, torch.as_tensor(limit).to(longest)))[owner, None]


class Fire(Optimizer):
    r"""FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006), with its own parameters.

    Args:
        longest_step: In Å.
        time_step: First time step, with unit mass, in Å / sqrt(eV).
        longest_time_step: It grows to at most this.
        patience: Steps downhill before it grows. 6 are the steps that ASE makes, whose count begins with 0.
    """

    _FASTER, _SLOWER = 1.1, 0.5
    _MIXING, _LESS_MIXING = 0.1, 0.99

    def __init__(
        self,
        longest_step: float = 0.2,
        *,
        time_step: float = 0.1,
        longest_time_step: float = 1.0,
        patience: int = 6,
    ) -> None:
        super().__init__(longest_step)
        self.time_step, self.longest_time_step, self.patience = time_step, longest_time_step, patience

    def init(self, rows: Float[Tensor, "R 3"], n: int) -> State:
        """Return the state of structures at rest."""
        dt = rows.new_full((n,), self.time_step)
        return State(
            {"velocity": torch.zeros_like(rows)},
            {
                "dt": dt,
                "mixing": torch.full_like(dt, self._MIXING),
                "downhill": torch.zeros(n, dtype=torch.int64, device=rows.device),
            },
        )

    def step(
        self,
        state: State,
        forces: Float[Tensor, "R 3"],
        energy: Float[Tensor, "b"],
        owner: Int[Tensor, "R"],
    ) -> tuple[Float[Tensor, "R 3"], State]:
        """Return the displacements of one step of the dynamics; see the base class."""
        n = len(energy)
        velocity = state.of_rows["velocity"]
        dt, mixing, downhill = (state.of_structures[name] for name in ("dt", "mixing", "downhill"))
        power = per_structure((forces * velocity).sum(1), owner, n, "sum")
        speed = per_structure(velocity.square().sum(1), owner, n, "sum").sqrt()
        force = per_structure(forces.square().sum(1), owner, n, "sum").sqrt().clamp_min(1e-12)
        good = power > 0
        mixed = (1 - mixing)[owner, None] * velocity + (mixing * speed / force)[owner, None] * forces
        velocity = torch.where(good[owner, None], mixed, 0.0)
        downhill = torch.where(good, downhill + 1, 0)
        trusted = downhill > self.patience
        dt = torch.where(trusted, dt * self._FASTER, torch.where(power < 0, dt * self._SLOWER, dt))
        dt = dt.clamp_max(self.longest_time_step)
        mixing = torch.where(
            trusted, mixing * self._LESS_MIXING, torch.where(power < 0, self._MIXING, mixing)
        )
        velocity = velocity + dt[owner, None] * forces
        move = self._shortened(dt[owner, None] * velocity, owner, n, self.longest_step)
        return move, State({"velocity": velocity}, {"dt": dt, "mixing": mixing, "downhill": downhill})


class LBFGS(Optimizer):
    r"""L-BFGS (Nocedal, Math. Comp. 35, 773, 1980) within a trust radius.

    The inverse Hessian is built from the last displacements and changes of the forces, those along which the
    curvature is positive, upon :math:`s \cdot y / y \cdot y` of the last one. Where a step raised the energy,
    the longest allowed step is halved, and grows again with each one that lowers it.

    Args:
        longest_step: In Å.
        memory: Number of displacements.
        stiffness: Curvature in eV/Å² before the first step.
    """

    _SHORTER, _LONGER, _SHORTEST = 0.5, 1.5, 1e-3
    _NOISE = 1e-5  # eV per row: energies of networks are in single precision
    _SOFTEST, _STIFFEST = 1.0, 500.0  # eV/Å²

    def __init__(self, longest_step: float = 0.2, *, memory: int = 20, stiffness: float = 70.0) -> None:
        super().__init__(longest_step)
        self.memory, self.stiffness = memory, stiffness

    def init(self, rows: Float[Tensor, "R 3"], n: int) -> State:
        """Return the state of structures without a history."""
        history = rows.new_zeros(len(rows), self.memory, 3)
        return State(
            {"s": history, "y": history, "move": torch.zeros_like(rows), "forces": torch.zeros_like(rows)},
            {
                "rho": rows.new_zeros(n, self.memory),
                "inverse": rows.new_full((n,), 1 / self.stiffness),
                "energy": rows.new_full((n,), torch.inf),
                "radius": rows.new_full((n,), self.longest_step),
            },
        )

    def step(
        self,
        state: State,
        forces: Float[Tensor, "R 3"],
        energy: Float[Tensor, "b"],
        owner: Int[Tensor, "R"],
    ) -> tuple[Float[Tensor, "R 3"], State]:
        """Return the quasi-Newton displacements; see the base class."""
        n = len(energy)

        def dot(left: Tensor, right: Tensor) -> Tensor:
            return per_structure((left * right).sum(1), owner, n, "sum")

        rows, of = state.of_rows, state.of_structures
        last, change = rows["move"], rows["forces"] - forces
        sy, yy = dot(last, change), dot(change, change)
        convex = sy > 1e-10 * (dot(last, last) * yy).sqrt()
        convex &= of["energy"].isfinite()
        rho = torch.cat(
            [of["rho"][:, 1:], torch.where(convex, 1 / torch.where(convex, sy, 1.0), 0.0)[:, None]], 1
        )
        s = torch.cat([rows["s"][:, 1:], last[:, None]], 1)
        y = torch.cat([rows["y"][:, 1:], change[:, None]], 1)
        inverse = torch.where(convex, sy / torch.where(convex, yy, 1.0), of["inverse"])
        inverse = inverse.clamp(1 / self._STIFFEST, 1 / self._SOFTEST)
        q, factors = forces, []
        for k in reversed(range(self.memory)):
            factor = rho[:, k] * dot(s[:, k], q)
            q = q - factor[owner, None] * y[:, k]
            factors.append(factor)
        move = inverse[owner, None] * q
        for k, factor in enumerate(reversed(factors)):
            move = move + (factor - rho[:, k] * dot(y[:, k], move))[owner, None] * s[:, k]
        # Rounding can turn the direction uphill: begin anew along the forces.
        uphill = ~(dot(move, forces) > 0)
        rho = torch.where(uphill[:, None], 0.0, rho)
        move = torch.where(uphill[owner, None], inverse[owner, None] * forces, move)
        size = per_structure(torch.ones_like(move[:, 0]), owner, n, "sum")
        rose = energy > of["energy"] + self._NOISE * size
        radius = torch.where(rose, of["radius"] * self._SHORTER, of["radius"] * self._LONGER)
        radius = radius.clamp(self._SHORTEST, self.longest_step)
        move = self._shortened(move, owner, n, radius)
        return move, State(
            {"s": s, "y": y, "move": move, "forces": forces},
            {"rho": rho, "inverse": inverse, "energy": energy, "radius": radius},
        )


def per_structure(values: Tensor, owner: Tensor, n: int, reduce: str) -> Tensor:
    """Return sums or maxima of the values of each structure's rows, 0 where it has none."""
    return values.new_zeros(n).scatter_reduce(0, owner, values, reduce)
