import numpy as np
import pytest
from hypothesis import settings

from rank_increase.toy import make_problem
from wired import run_study

# The same examples in every run, or new ones with `pytest --hypothesis-profile search`. No deadline: how long an
# example takes on a busy machine says nothing of its truth.
settings.register_profile("search", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")


class Quadratic:
    """Loss 0.5 (p - a)^T H (p - a) of the products p, with the methods of toy.DiagonalHead that the flow needs."""

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
    def make(seed=0, samples=20, tokens=4, dim=6, weights="diagonal", teacher="diagonal"):
        return make_problem(
            seed,
            samples=samples,
            tokens=tokens,
            dim=dim,
            weights=weights,
            teacher=teacher,
            teacher_std_KQ=0.6,
            teacher_std_VO=0.8,
        )

    return make


@pytest.fixture(scope="session")
def wired(tmp_path_factory):
    """The study of tests/data/wired.yaml, run once by Snakemake to all its figures and pages, and published."""
    return run_study(tmp_path_factory.mktemp("wired"))
