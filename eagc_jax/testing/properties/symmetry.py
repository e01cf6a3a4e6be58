"""What does not matter: order, basis, units."""

from __future__ import annotations

import numpy as np

from eagc_jax.testing._aggregation import Aggregation, Answer
from eagc_jax.testing.failures import Violation
from eagc_jax.testing.properties._base import about, is_short, off_by, relative, unit


@about("general", 2e-5)
def permutation_equivariant(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The order of objectives does not matter: :math:`A(PJ) = A(J)`, P a permutation.

    Their weights are permuted with them, hence the name. TorchJD's documentation calls
    the same "permutation invariance".
    """
    answer = aggregate(matrix)
    shift = 1 if len(matrix) < 3 else 2
    order = np.roll(np.arange(len(matrix))[::-1], shift)
    if len(matrix) == 2:
        order = np.array([1, 0])
    found = relative(aggregate(matrix[order]).direction, answer.direction, answer.size)
    return off_by(
        found, tolerance, f"in the order {order.tolist()}, the update is off by"
    )


@about("general", 2e-4)
def rotation_equivariant(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The basis of the parameters does not matter: :math:`A(JQ) = A(J)Q`, Q orthogonal.

    So it is for every weighted sum whose weights depend on the Gram matrix
    :math:`JJ^\top` alone. Here Q reflects blocks of four entries,
    :math:`I - \tfrac12 1 1^\top`, and shifts them by one, which floats represent.
    """

    def rotated(rows: np.ndarray) -> np.ndarray:
        blocks = np.roll(rows, 1, axis=-1).reshape(*rows.shape[:-1], -1, 4)
        blocks = blocks - 0.5 * np.sum(blocks, axis=-1, keepdims=True)
        return np.roll(blocks.reshape(rows.shape), 2, axis=-1)

    answer = aggregate(matrix)
    turned = aggregate(rotated(matrix)).direction
    found = relative(turned, rotated(answer.direction), answer.size)
    return off_by(found, tolerance, "the update of rotated gradients is off by")


@about("general", 1e-4)
def scale_invariant(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The common unit does not turn the update: :math:`A(cJ) \parallel A(J)`, c > 0.

    Weaker than ``homogeneous`` and ``normalized``, which say what the length does. Here
    c is :math:`2^{\pm 20}`.
    """
    answer = aggregate(matrix)
    if is_short(answer):
        return None
    for exponent in (-20, 20):
        other = aggregate(np.float32(2.0**exponent) * matrix).direction
        off = np.linalg.norm(unit(other) - unit(answer.direction))
        broken = off_by(
            float(off), tolerance, f"times 2**{exponent}, the unit direction is off by"
        )
        if broken:
            return broken
    return None


@about("general", 1e-6)
def homogeneous(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The update has the gradients' unit: :math:`A(cJ) = c\,A(J)` for c > 0.

    Here c is :math:`2^{\pm 20}`, which floats multiply by exactly.
    """
    return _of_degree(aggregate, matrix, 1, tolerance)


@about("general", 1e-6)
def normalized(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The update has no unit: :math:`A(cJ) = A(J)` for c > 0.

    So it is for Nash-MTL as published, whose length is :math:`\sqrt K`: Navon et al.,
    "Multi-Task Learning as a Bargaining Game", arXiv:2202.01017.
    """
    return _of_degree(aggregate, matrix, 0, tolerance)


def _of_degree(
    aggregate: Aggregation, matrix: np.ndarray, degree: int, tolerance: float
) -> Violation | None:
    answer = aggregate(matrix)
    for exponent in (-20, 20):
        factor = 2.0**exponent
        other = aggregate(np.float32(factor) * matrix).direction / factor**degree
        broken = off_by(
            relative(other, answer.direction, answer.size),
            tolerance,
            f"times 2**{exponent}, the update is off by",
        )
        if broken:
            return broken
    return None


@about("general", 1e-4)
def rescaling_invariant(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The objectives' units do not matter: :math:`A(\mathrm{diag}(c)J) \parallel A(J)`.

    For any c > 0, one for each objective. An axiom of the Nash bargaining solution
    (Navon et al., arXiv:2202.01017), and true of ConFIG (Liu et al., arXiv:2408.11104).
    """
    answer = aggregate(matrix)
    factors = 2.0 ** (np.arange(len(matrix)) * 5 % 7 - 3)
    other = aggregate(factors[:, None] * matrix)
    if is_short(answer) or is_short(other):
        return None
    found = np.linalg.norm(unit(other.direction) - unit(answer.direction))
    return off_by(
        float(found),
        tolerance,
        f"with the objectives times {factors.tolist()}, the unit direction is off by",
    )


@about("general", 1e-4)
def linear_under_scaling(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""Linear in the objectives' scales: :math:`c \mapsto A(\mathrm{diag}(c)J)`, c > 0.

    :math:`A(\mathrm{diag}(a + b)J) = A(\mathrm{diag}(a)J) + A(\mathrm{diag}(b)J)`: the
    update grows in proportion to each gradient. Quinton and Rey, arXiv:2406.16232,
    section 2.
    """
    index = np.arange(len(matrix))
    a, b = (index % 3 + 1) / 2.0, (index * 2 % 5 + 1) / 4.0

    def scaled(factors: np.ndarray) -> Answer:
        return aggregate(factors[:, None] * matrix)

    whole = scaled(a + b)
    parts = scaled(a).direction + scaled(b).direction
    return off_by(
        relative(parts, whole.direction, whole.size),
        tolerance,
        f"with a = {a.tolist()} and b = {b.tolist()}, the sum is off by",
    )
