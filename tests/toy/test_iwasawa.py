"""The identities of the coordinates of full weights (docs/full-weights.md), by themselves: no code of ours is used.

W_L = X (f+ + f-) / sqrt 2 and W_R = Y (f+ - f-) / sqrt 2, where the rows of f+ are exp(rho_i) F+_i and those of f- are
exp(kappa_i - rho_i) F-_i. The flow is W_L' = G W_R, W_R' = G^T W_L.
"""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp


@dataclass(frozen=True)
class Coordinates:
    X: np.ndarray
    Y: np.ndarray
    F_plus: np.ndarray
    F_minus: np.ndarray
    rho: np.ndarray
    kappa: np.ndarray

    @property
    def f_plus(self):
        return np.exp(self.rho)[:, None] * self.F_plus

    @property
    def f_minus(self):
        return np.exp(self.kappa - self.rho)[:, None] * self.F_minus

    @property
    def weights(self):
        return np.stack([self.X @ (self.f_plus + self.f_minus), self.Y @ (self.f_plus - self.f_minus)]) / np.sqrt(2)


def velocities(at, G):
    """X', Y', F+', F-', rho', entry by entry as on the page; kappa rests."""
    Gh = at.X.T @ G @ at.Y
    E, D = (Gh + Gh.T) / 2, (Gh - Gh.T) / 2
    Omega, Psi, dF_plus, dF_minus = np.zeros_like(Gh), np.zeros_like(Gh), *np.zeros((2, *at.F_plus.shape))
    kappa, rho, n = at.kappa, at.rho, len(at.rho)
    for i in range(n):
        for j in range(n):
            if i < j:
                Omega[i, j], Psi[i, j] = -Gh[j, i], -Gh[i, j]
                Omega[j, i], Psi[j, i] = Gh[j, i], Gh[i, j]
                dF_plus[i] += 2 * E[i, j] * np.exp(rho[j] - rho[i]) * at.F_plus[j]
            if i > j:
                dF_minus[i] -= 2 * E[i, j] * np.exp((kappa[j] - rho[j]) - (kappa[i] - rho[i])) * at.F_minus[j]
            dF_plus[i] -= 2 * D[i, j] * np.exp(kappa[j] - rho[j] - rho[i]) * at.F_minus[j]
    return at.X @ Omega, at.Y @ Psi, dF_plus, dF_minus, np.diag(Gh)


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def draw(seed, n, columns):
    rng = np.random.default_rng(seed)
    F_plus, F_minus = rng.standard_normal((2, n, columns))
    rho, kappa = rng.uniform(-2, 2, (2, n))
    return Coordinates(orthogonal(rng, n), orthogonal(rng, n), F_plus, F_minus, rho, kappa), rng.standard_normal((n, n))


shapes = given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), columns=st.integers(1, 6))


@shapes
def test_velocities_of_the_coordinates_are_those_of_the_weights(seed, n, columns):
    at, G = draw(seed, n, columns)
    dX, dY, dF_plus, dF_minus, drho = velocities(at, G)
    df_plus = np.exp(at.rho)[:, None] * (dF_plus + drho[:, None] * at.F_plus)
    df_minus = np.exp(at.kappa - at.rho)[:, None] * (dF_minus - drho[:, None] * at.F_minus)
    dW_L = (dX @ (at.f_plus + at.f_minus) + at.X @ (df_plus + df_minus)) / np.sqrt(2)
    dW_R = (dY @ (at.f_plus - at.f_minus) + at.Y @ (df_plus - df_minus)) / np.sqrt(2)
    W_L, W_R = at.weights
    size = abs(G).max() * (abs(at.f_plus).max() + abs(at.f_minus).max())
    np.testing.assert_allclose(dW_L, G @ W_R, rtol=0, atol=1e-13 * n * size)
    np.testing.assert_allclose(dW_R, G.T @ W_L, rtol=0, atol=1e-13 * n * size)
    for rotation, velocity in ((at.X, dX), (at.Y, dY)):  # it stays orthogonal
        np.testing.assert_allclose(rotation.T @ velocity + velocity.T @ rotation, 0, atol=1e-13 * n * abs(G).max())


@shapes
def test_the_conserved_matrix_depends_on_kappa_but_not_on_rho(seed, n, columns):
    at, _ = draw(seed, n, columns)
    W_L, W_R = at.weights
    crossed = np.einsum("i,ia,ib->ab", np.exp(at.kappa), at.F_plus, at.F_minus)
    size = (abs(at.f_plus).max() + abs(at.f_minus).max()) ** 2
    np.testing.assert_allclose(W_L.T @ W_L - W_R.T @ W_R, crossed + crossed.T, rtol=0, atol=1e-13 * n * size)


@shapes
def test_changes_of_coordinates_leave_the_weights_alone(seed, n, columns):
    at, _ = draw(seed, n, columns)
    first, last = 0, n - 1
    swapped = replace(
        at,
        Y=np.concatenate([-at.Y[:, :1], at.Y[:, 1:]], axis=1),
        F_plus=np.concatenate([at.F_minus[:1], at.F_plus[1:]]),
        F_minus=np.concatenate([at.F_plus[:1], at.F_minus[1:]]),
        rho=np.concatenate([at.kappa[:1] - at.rho[:1], at.rho[1:]]),
    )
    rotation = np.eye(n)
    if n > 1:
        rotation[[first, first, last, last], [first, last, first, last]] = np.cos(1), -np.sin(1), np.sin(1), np.cos(1)
    back = rotation.T
    rotated = replace(
        at,
        X=at.X @ rotation,
        Y=at.Y @ rotation,
        F_plus=np.exp(-at.rho)[:, None] * (back @ at.f_plus),
        F_minus=np.exp(at.rho - at.kappa)[:, None] * (back @ at.f_minus),
    )
    size = abs(at.f_plus).max() + abs(at.f_minus).max()
    for changed in (swapped, rotated):
        np.testing.assert_allclose(changed.weights, at.weights, rtol=0, atol=1e-13 * n * size)


def test_log_singular_values_are_2_rho_minus_ln_2_where_f_minus_is_small():
    rng = np.random.default_rng(0)
    rho, n = np.array([0.0, -1.0, -2.5]), 3
    at = Coordinates(orthogonal(rng, n), orthogonal(rng, n), orthogonal(rng, n), np.eye(n), rho, np.full(n, -100.0))
    W_L, W_R = at.weights
    values = np.linalg.svd(W_L @ W_R.T, compute_uv=False)
    np.testing.assert_allclose(np.log(values), 2 * rho - np.log(2), rtol=1e-12)


def test_while_G_rests_X_and_Y_turn_to_its_singular_vectors_in_order():
    rng, rates = np.random.default_rng(0), np.array([2.0, 1.2, 0.5])
    G = orthogonal(rng, 3) @ np.diag(rates) @ orthogonal(rng, 3)
    still = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3), np.zeros(3)

    def turn(t, rotations):
        return np.concatenate(velocities(Coordinates(*rotations.reshape(2, 3, 3), *still), G)[:2]).ravel()

    flow = solve_ivp(turn, (0, 30), np.stack([orthogonal(rng, 3), orthogonal(rng, 3)]).ravel(), rtol=1e-10, atol=1e-12)
    X, Y = flow.y[:, -1].reshape(2, 3, 3)
    Gh = X.T @ G @ Y
    rates[-1] *= np.sign(np.linalg.det(Gh))  # rotations leave it: then f- of the last row grows, not f+
    np.testing.assert_allclose(Gh, np.diag(rates), atol=1e-7)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6))
def test_with_diagonal_weights_rho_is_the_coordinate_of_the_diagonal_flow(seed, n):
    rng = np.random.default_rng(seed)
    c, s, g = rng.uniform([[0.1], [-2], [-1]], [[1], [2], [1]], (3, n))
    u, v = np.sqrt(c) * np.cosh(s), np.sqrt(c) * np.sinh(s)  # s' = g (paper, Lemma 4.1)
    at = Coordinates(np.eye(n), np.eye(n), np.eye(n), np.eye(n), s + np.log(c / 2) / 2, np.log(c / 2))
    np.testing.assert_allclose(at.weights, [np.diag(u), np.diag(v)], rtol=1e-12, atol=1e-12)
    *others, drho = velocities(at, np.diag(g))
    assert not any(map(np.any, others))
    np.testing.assert_array_equal(drho, g)
