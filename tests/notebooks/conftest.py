"""The kernels of the notebooks are forked, as a user's are."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _warm(warm_runs: None) -> None:
    """Fork the runs of every file."""
