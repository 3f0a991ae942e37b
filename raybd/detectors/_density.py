"""Clusters by density: the single-linkage tree of HDBSCAN, and its largest branch.

Campello, Moulavi and Sander 2013, Density-Based Clustering Based on Hierarchical Density Estimates.
Densities are reciprocals of distances.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TINY = 1e-12
"""Least distance: equal rows have a finite density."""


@dataclass(frozen=True)
class Edge:
    """Two parts that are joined at a distance."""

    first: int
    second: int
    distance: float


def linkage(y_ND: Array, neighbours: int) -> list[Edge]:
    """Return the edges of a minimum spanning tree of mutual reachability, shortest first.

    The reachability of two rows is the largest of their distance and of both distances to their
    n-th neighbour. Time grows with the square of the rows, memory does not.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(y_ND)
    # A row is its own first neighbour.
    nearest = NearestNeighbors(n_neighbors=min(n, neighbours + 1)).fit(y_ND)
    core_N = nearest.kneighbors(y_ND)[0][:, -1]

    # Prim's algorithm: the nearest row outside of the tree joins it.
    reach_N = np.full(n, np.inf)
    parent_N = np.zeros(n, dtype=np.int64)
    outside_N = np.ones(n, dtype=bool)
    edges = []
    place = 0
    for _ in range(n - 1):
        outside_N[place] = False
        distance_N = np.sqrt(np.square(y_ND - y_ND[place]).sum(1))
        mutual_N = np.maximum(np.maximum(distance_N, core_N), core_N[place])
        nearer_N = outside_N & (mutual_N < reach_N)
        reach_N[nearer_N] = mutual_N[nearer_N]
        parent_N[nearer_N] = place
        place = int(np.where(outside_N, reach_N, np.inf).argmin())
        edges.append(Edge(int(parent_N[place]), place, float(reach_N[place])))
    return sorted(edges, key=lambda edge: edge.distance)


def leaving(edges: list[Edge], smallest: int) -> tuple[Array, list[float]]:
    """Follow the largest cluster from the whole set into ever denser parts.

    Returns the density at which each row leaves it, and the densities at which it splits into two
    parts of at least `smallest` rows; the last one is where it ends.
    """
    n = len(edges) + 1
    # Node n + i is the i-th merge; its parent is the merge that it is a side of.
    root = list(range(2 * n - 1))
    size = [1] * n + [0] * (n - 1)
    sides: dict[int, tuple[int, int, float]] = {}
    for node, edge in enumerate(edges, start=n):
        first, second = _root_of(root, edge.first), _root_of(root, edge.second)
        root[first] = root[second] = node
        size[node] = size[first] + size[second]
        sides[node] = (first, second, edge.distance)

    density_N = np.full(n, 1 / TINY)
    splits: list[float] = []
    node = 2 * n - 2
    while node in sides:
        first, second, distance = sides[node]
        large, small = sorted((first, second), key=size.__getitem__, reverse=True)
        density = 1 / max(distance, TINY)
        density_N[_rows(sides, small)] = density
        if size[large] < smallest:
            density_N[_rows(sides, large)] = density
            splits.append(density)
            break
        if size[small] >= smallest:
            splits.append(density)
        node = large
    return density_N, splits


def _root_of(root: list[int], node: int) -> int:
    """Return the last merge that a row takes part in so far, and shorten the way to it."""
    top = node
    while root[top] != top:
        top = root[top]
    while root[node] != top:
        root[node], node = top, root[node]
    return top


def _rows(sides: dict[int, tuple[int, int, float]], node: int) -> list[int]:
    """Return the rows below a node."""
    rows = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node in sides:
            waiting.extend(sides[node][:2])
        else:
            rows.append(node)
    return rows
