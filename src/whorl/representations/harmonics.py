"""Real spherical harmonics of vectors: values, gradients, and products of three."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class SolidHarmonics:
    r"""Real solid harmonics :math:`r^l Y_{lm}` of vectors and their gradients, m = -l … l.

    :math:`r^l Y_{l,\pm m} = N_{lm} \Pi_{lm}(z, r^2) \{A_m, B_m\}` with :math:`A_m + i B_m = (x + i y)^m` and
    :math:`\partial_z \Pi_{lm} = (l + m) \Pi_{l-1,m}`, :math:`\partial_x \Pi_{lm} = -x\, \Pi_{l-1,m+1}`.
    """

    def __init__(self, vectors: Float[Tensor, "N 3 m"]) -> None:
        self._x, self._y, self._z = vectors.unbind(1)
        self._square = vectors.square().sum(1)
        one = torch.ones_like(self._x)
        self._powers = [(one, torch.zeros_like(one))]
        self._legendre: dict[tuple[int, int], Tensor] = {(0, 0): one}

    def _power(self, m: int) -> tuple[Tensor, Tensor]:
        while len(self._powers) <= m:
            a, b = self._powers[-1]
            self._powers.append((self._x * a - self._y * b, self._y * a + self._x * b))
        return self._powers[m]

    def _pi(self, order: int, m: int) -> Tensor | float:
        """Return Π_lm, zero where m > l."""
        if m > order:
            return 0.0
        if (order, m) not in self._legendre:
            if order == m:
                known: Tensor | float = (2 * m - 1) * self._pi(m - 1, m - 1)
            else:
                known = (2 * order - 1) * self._z * self._pi(order - 1, m)
                known = (known - (order + m - 1) * self._square * self._pi(order - 2, m)) / (order - m)
            assert isinstance(known, Tensor)
            self._legendre[order, m] = known
        return self._legendre[order, m]

    @staticmethod
    def _norm(order: int, m: int) -> float:
        ratio = math.factorial(order - m) / math.factorial(order + m)
        return math.sqrt((2 - (m == 0)) * (2 * order + 1) / (4.0 * math.pi) * ratio)

    def value(self, order: int) -> Float[Tensor, "N M m"]:
        """Return the 2 l + 1 harmonics of one l."""
        rows: dict[int, Tensor] = {}
        for m in range(order + 1):
            a, b = self._power(m)
            pi = self._norm(order, m) * self._pi(order, m)
            rows[m] = pi * a
            if m:
                rows[-m] = pi * b
        return torch.stack([rows[m] for m in range(-order, order + 1)], 1)

    def gradient(self, order: int) -> Float[Tensor, "N 3 M m"]:
        """Return their derivatives in x, y and z."""
        rows: dict[int, Tensor] = {}
        for m in range(order + 1):
            (a, b), (a1, b1) = self._power(m), self._power(max(m - 1, 0))
            pi, up = self._pi(order, m), -1.0 * self._pi(order - 1, m + 1)
            along_z = (order + m) * self._pi(order - 1, m)
            norm = self._norm(order, m)
            for sign, of, dx, dy in ((1, a, a1, -b1), (-1, b, b1, a1)):
                if m == 0 and sign < 0:
                    continue
                x = self._x * up * of + m * (pi * dx)
                y = self._y * up * of + m * (pi * dy)
                rows[sign * m] = norm * torch.stack([x, y, along_z * of], 1)
        return torch.stack([rows[m] for m in range(-order, order + 1)], 2)


@lru_cache(maxsize=512)
def coupling(l1: int, l2: int, l3: int) -> Float[Tensor, "a b c"]:
    r"""Return the coefficients that couple three real harmonics to what no rotation changes.

    .. math::
       C_{m_1 m_2 m_3} \propto (-1)^{(l_1 + l_2 + l_3)/2} \int Y_{l_1 m_1} Y_{l_2 m_2} Y_{l_3 m_3}\, d\Omega,
       \qquad \sum C^2 = 1,

    which are the Wigner 3j symbols of real harmonics, where :math:`l_1 + l_2 + l_3` is even and no l exceeds
    the sum of the others. The integral is a sum over points for which it is exact.
    """
    assert (l1 + l2 + l3) % 2 == 0 and max(l1, l2, l3) <= (l1 + l2 + l3) // 2
    degree = l1 + l2 + l3
    z, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    angle = 2.0 * math.pi * np.arange(degree + 1) / (degree + 1)
    sine = np.sqrt(1.0 - z**2)[:, None]
    points = np.stack([sine * np.cos(angle), sine * np.sin(angle), z[:, None] + 0.0 * angle]).reshape(3, -1)
    harmonics = SolidHarmonics(torch.from_numpy(points)[None])
    of_points = torch.from_numpy(np.repeat(weights, degree + 1))
    values = [harmonics.value(order)[0] for order in (l1, l2, l3)]
    integral = torch.einsum("ap,bp,cp,p->abc", *values, of_points)
    integral[integral.abs() < 1e-12] = 0.0
    return (-1) ** (degree // 2) * integral / integral.norm()
