"""One cluster for all tests here: starting Ray takes longer than they do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import LocalCluster, local_cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(1) as cluster:
        yield cluster
