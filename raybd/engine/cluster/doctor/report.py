"""All checks of `raybd doctor`, in the order in which it shows them."""

from collections.abc import Iterator

from raybd.engine.cluster.connect import connected
from raybd.engine.cluster.doctor.doors import door_findings
from raybd.engine.cluster.doctor.finding import Finding
from raybd.engine.cluster.doctor.machine import machine_findings
from raybd.engine.cluster.doctor.node import alive_nodes, cluster_findings, largest_group
from raybd.engine.cluster.doctor.store import shared_store_findings, store_findings
from raybd.types.errors import UserError


def examine(store_url: str, address: str | None = None) -> list[Finding]:
    """Run every check. A check that fails does not stop the others."""
    return [
        *machine_findings(),
        *_connected_findings(address, store_url),
        *store_findings(store_url),
    ]


def _connected_findings(address: str | None, store_url: str) -> Iterator[Finding]:
    """Connect to the cluster, and check what needs a connection."""
    try:
        with connected(address) as cluster:
            where = f"at {address}" if address else "on this machine"
            yield Finding("cluster", True, f"{where}: {cluster}")
            yield from door_findings(where)
            yield largest_group([node["Resources"] for node in alive_nodes()])
            # A cluster that was started for this check is this machine.
            if address or len(cluster.nodes) > 1:
                yield from cluster_findings()
            # A single node shares its store with nobody.
            if len(cluster.nodes) > 1:
                yield from shared_store_findings(store_url)
    except UserError as error:
        yield Finding("cluster", False, error.what, error.hint)
