"""Two processes that the training tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.training import Workers


@pytest.fixture(scope="session")
def two_workers() -> Iterator[Workers]:
    """A gloo group of two processes that runs the scenarios of all these tests in turn."""
    workers = Workers(2)
    yield workers
    workers.close()
