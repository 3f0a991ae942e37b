"""Eigenvalues, trace and spectral density of a symmetric matrix that is known by its products."""

from typing import Any, Protocol

import torch
from torch import Generator, Tensor

TOLERANCE = 1e-3
"""Relative error of an eigenvalue: products in single precision are no better by much."""
RESTARTS = 100
"""Restarts after which an eigenvalue that is still not found is left out."""
SPENT = 1e-6
"""Relative length of a remainder that is nothing but rounding."""
MARGIN = 5
"""Widths of the kernel that the density reaches beyond the outermost values."""


class Symmetric(Protocol):
    """A symmetric matrix."""

    size: int
    """Rows."""

    def __matmul__(self, v_P: Tensor) -> Tensor:
        """Return the product with a vector."""


def largest(matrix: Symmetric, count: int, rng: Generator) -> list[float]:
    """Return the largest eigenvalues that were found, in descending order, at most size - 1.

    By the restarted Lanczos method of ARPACK.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    def product(v_P: Any) -> Any:
        return (matrix @ torch.from_numpy(v_P).float().flatten()).numpy()

    start_P = torch.randn(matrix.size, generator=rng)
    operator = LinearOperator((matrix.size, matrix.size), matvec=product, dtype="float32")
    try:
        found = eigsh(
            operator,
            k=min(count, matrix.size - 1),
            which="LA",
            v0=start_P.numpy(),
            tol=TOLERANCE,
            maxiter=RESTARTS,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        found = error.eigenvalues
    return sorted((float(value) for value in found), reverse=True)


def traces(matrix: Symmetric, probes: int, rng: Generator) -> Tensor:
    """Return an unbiased estimate of the trace for each probe (Hutchinson 1990), float64."""
    found = []
    for _ in range(probes):
        sign_P = 2.0 * torch.randint(2, (matrix.size,), generator=rng) - 1
        found.append(sign_P.double() @ (matrix @ sign_P).double())
    return torch.stack(found)


def lanczos(matrix: Symmetric, steps: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return values and weights whose weighted sum stands for the spectrum, float64.

    Without orthogonalising again, as in Papyan 2020, JMLR 21, algorithm 2: a value may come twice,
    and then its weight is divided. Fewer than `steps` where the space of the start is spent.
    """
    v_P = torch.randn(matrix.size, generator=rng)
    v_P = v_P / v_P.norm()
    before_P = torch.zeros_like(v_P)
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(min(steps, matrix.size)):
        next_P = matrix @ v_P
        if step:
            next_P = next_P - beside[-1].float() * before_P
        diagonal.append(next_P.double() @ v_P.double())
        next_P = next_P - diagonal[-1].float() * v_P
        length = next_P.double().norm()
        beside.append(length)
        # What is left is then no direction, but rounding.
        if length <= SPENT * torch.stack(diagonal + beside).abs().max():
            break
        before_P, v_P = v_P, next_P / length.float()

    off = torch.stack(beside[:-1]) if len(beside) > 1 else torch.zeros(0, dtype=torch.float64)
    whole = torch.diag(torch.stack(diagonal)) + torch.diag(off, 1) + torch.diag(off, -1)
    value_S, vectors_SS = torch.linalg.eigh(whole)
    return value_S, vectors_SS[0] ** 2


def density(value_S: Tensor, weight_S: Tensor, kernel: float, points: int) -> tuple[Tensor, Tensor]:
    """Return places and the density of weighted values, each spread by a Gaussian; it sums to 1.

    `kernel` is the width (standard deviation) as a share of the range of the values.
    """
    spread = float(value_S.max() - value_S.min())
    # Values that are all equal have no range.
    width = kernel * (spread or float(value_S.abs().max()) or 1.0)
    reach = MARGIN * width
    at_X = torch.linspace(
        float(value_S.min()) - reach, float(value_S.max()) + reach, points, dtype=torch.float64
    )
    bump_XS = torch.exp(-0.5 * ((at_X[:, None] - value_S) / width) ** 2)
    density_X = (bump_XS * weight_S).sum(1) / (width * (2 * torch.pi) ** 0.5)
    return at_X, density_X
