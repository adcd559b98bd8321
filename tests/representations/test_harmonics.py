"""Real spherical harmonics against the addition theorem, rotations, and Wigner 3j symbols."""

import itertools

import numpy as np
import pytest
import torch

from whorl.representations.harmonics import SolidHarmonics, coupling


def test_harmonics_are_those_of_unit_length():
    rng = torch.Generator().manual_seed(0)
    u, v = torch.nn.functional.normalize(torch.randn(2, 1, 3, 50, generator=rng, dtype=torch.float64), dim=2)
    cosine = (u * v).sum(1)[0].numpy()
    for order in range(7):  # the addition theorem
        product = (SolidHarmonics(u).value(order) * SolidHarmonics(v).value(order)).sum(1)[0].numpy()
        legendre = np.polynomial.legendre.Legendre.basis(order)(cosine)
        np.testing.assert_allclose(product, (2 * order + 1) / (4 * np.pi) * legendre, atol=1e-12)


def test_gradients_are_those_of_autograd():
    vectors = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for order in range(6):
        variables = vectors.clone().requires_grad_(True)
        value = SolidHarmonics(variables).value(order)
        gradient = SolidHarmonics(vectors).gradient(order)
        for m in range(2 * order + 1):
            total = value[:, m].sum() + 0.0 * variables.sum()
            (expected,) = torch.autograd.grad(total, variables, retain_graph=True)
            torch.testing.assert_close(gradient[:, :, m], expected)


EVEN = [
    orders
    for orders in itertools.combinations_with_replacement(range(5), 3)
    if sum(orders) % 2 == 0 and orders[2] <= orders[0] + orders[1]
]


@pytest.mark.parametrize("orders", EVEN)
def test_couplings_are_wigner_3j_symbols(orders):
    """In complex harmonics, made of the real ones: Y_m = (Y_c + i Y_s) / √2 (-1)^m for m > 0."""
    from sympy.physics.wigner import wigner_3j

    def complex_of_real(order):
        matrix = np.zeros((2 * order + 1, 2 * order + 1), complex)
        matrix[order, order] = 1.0
        for m in range(1, order + 1):
            matrix[order + m, order + m] = (-1) ** m / 2**0.5
            matrix[order + m, order - m] = 1j * (-1) ** m / 2**0.5
            matrix[order - m, order + m] = 1 / 2**0.5
            matrix[order - m, order - m] = -1j / 2**0.5
        return matrix

    ranges = [range(-order, order + 1) for order in orders]
    symbols = np.array([float(wigner_3j(*orders, *m)) for m in itertools.product(*ranges)])
    symbols = symbols.reshape([2 * order + 1 for order in orders])
    expected = np.einsum("abc,ax,by,cz->xyz", symbols, *map(complex_of_real, orders))
    np.testing.assert_allclose(expected.imag, 0.0, atol=1e-12)
    np.testing.assert_allclose(coupling(*orders).numpy(), expected.real, atol=1e-12)
