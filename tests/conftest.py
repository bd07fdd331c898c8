import numpy as np
import pytest
from hypothesis import settings

from rank_increase.toy.problem import make_problem

settings.register_profile("busy machine", deadline=None)  # how long an example takes says nothing of its truth
settings.load_profile("busy machine")


class Quadratic:
    """Loss 0.5 (p - a)^T H (p - a) of the products p, with the methods of a DiagonalHead that the flow needs."""

    def __init__(self, H, a):
        self.H, self.a = np.asarray(H, float), np.asarray(a, float)

    def subset(self, samples):
        return self

    def loss_and_g(self, p):
        g = self.H @ (self.a - p)
        return 0.5 * (self.a - p) @ g, g


@pytest.fixture(scope="session")
def quadratic():
    return Quadratic


@pytest.fixture(scope="session")
def small_problem():
    def make(seed=0, samples=20, tokens=4, dim=6, weights="diagonal", teacher="diagonal", **structure):
        return make_problem(
            seed,
            samples=samples,
            tokens=tokens,
            dim=dim,
            weights=weights,
            teacher=teacher,
            teacher_std_KQ=0.6,
            teacher_std_VO=0.8,
            **structure,
        )

    return make
