"""How small a temperature may be."""

from __future__ import annotations

from eagc_jax._checks import SHARE, check_number


def minimum_temperature(
    learning_rate: float, curvature: float, floor: float = 0.2
) -> float:
    r"""The temperature below which gating destabilises a stable learning rate.

    Around the balance point of two objectives of opposed gradients, a gate on absolute
    magnitudes (``scale="global"``) multiplies the curvature that gradient descent feels
    by :math:`1 + 2(1-\gamma)/\tau`. With :math:`x = \eta\Lambda` it is stable where

    .. math:: \tau > \tau_{min} = 2 (1 - \gamma) x / (2 - x).

    Proved for K = 2, equal weights, one dimension and no smoothing; on one-dimensional
    quadratics ``1.05 * tau_min`` was stable with any smoothing too. Don't count on
    smoothing to allow less.

    Args:
      learning_rate: eta > 0 of gradient descent on the weighted sum.
      curvature: Lambda > 0 of the weighted sum along the conflict.
      floor: gamma in [0, 1] as in :func:`eagc_jax.soft_gate`.

    Returns:
      tau_min; ``inf`` where ``learning_rate * curvature >= 2``: not even the plain sum
      is stable.

    Raises:
      ValueError: an argument out of its range.

    Examples:
      >>> from eagc_jax import minimum_temperature
      >>> round(minimum_temperature(learning_rate=0.1, curvature=10.0), 2)
      1.6
    """
    if not (learning_rate > 0 and curvature > 0):
        raise ValueError(
            f"learning_rate and curvature must be positive, got {learning_rate} and "
            f"{curvature}."
        )
    check_number("floor", floor, SHARE)
    x = learning_rate * curvature
    return float("inf") if x >= 2 else 2 * (1 - floor) * x / (2 - x)
