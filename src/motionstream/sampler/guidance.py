"""Joint text and motion guidance (paper, eq. 2)."""

from __future__ import annotations

from torch import Tensor


def joint_guidance(full: Tensor, no_text: Tensor, no_motion: Tensor, text: float, motion: float) -> Tensor:
    """Combine three velocities.

    v_base = α v(∅, c_m) + (1 − α) v(c_t, ∅) with α = w_t / (w_t + w_m), and
    v = v_base + w_t (v(c_t, c_m) − v(∅, c_m)) + w_m (v(c_t, c_m) − v(c_t, ∅)).

    Args:
        full: v(c_t, c_m), both conditions.
        no_text: v(∅, c_m).
        no_motion: v(c_t, ∅).
        text: w_t; with ``motion`` = 0 this is classifier-free guidance of scale w_t on the text.
        motion: w_m; with ``text`` = 0 it is classifier-free guidance on the motion.

    Raises:
        ValueError: a weight is negative, or both are zero (α would be 0/0).
    """
    if text < 0 or motion < 0:
        raise ValueError(f"guidance weights ({text}, {motion}) must not be negative")
    if text + motion == 0:
        raise ValueError("guidance weights (0, 0) have no meaning; ask for plain conditional sampling (guidance=None)")
    alpha = text / (text + motion)
    base = alpha * no_text + (1 - alpha) * no_motion
    return base + text * (full - no_text) + motion * (full - no_motion)
