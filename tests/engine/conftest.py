"""Fixtures of the tests on a real Ray cluster."""

from collections.abc import Iterator

import pytest

from tests.clusters import Cluster, cluster


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start one cluster of two CPUs for all tests that leave it as it is.

    Tests that kill its processes, change its environment or count its nodes start their own, or let
    raybd start Ray on this machine.
    """
    with cluster(tmp_path_factory.mktemp("cluster"), cpus=2) as here:
        yield here
