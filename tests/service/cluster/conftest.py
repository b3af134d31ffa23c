"""One cluster for all tests here: starting Ray takes longer than they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import LocalCluster, local_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Serve's before the others here: what Ray Data leaves running in a cluster would slow its start."""
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    others = [item for item in items if item.path.parent != Path(__file__).parent]
    items[:] = others + sorted(here, key=lambda item: item.path.name != "test_serve.py")


@pytest.fixture(scope="package")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(1) as cluster:
        yield cluster
