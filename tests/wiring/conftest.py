import pytest

from wired import run_study


@pytest.fixture(scope="session")
def wired(tmp_path_factory):
    """The study of tests/data/wired.yaml, run once by Snakemake to all its figures and pages, and published."""
    return run_study(tmp_path_factory.mktemp("wired"))
