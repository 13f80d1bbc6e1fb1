"""The length of a Taylor series of exp, without torch: settings check their bound with it."""

from __future__ import annotations

MAX_BOUND = 30.0  # above this norm the alternating series of exp(-M) has no correct float32 digit


def taylor_terms(bound: float, tolerance: float = 2.0**-24) -> int:
    """Return the number m of Taylor terms that give exp to `tolerance` for norms up to `bound`.

    m >= 1 is the smallest number with bound^(m+1)/(m+1)! <= tolerance. The default tolerance is
    half a unit in the last place of float32.

    Raises:
        ValueError: If `bound` is negative, not finite, or above 30.
    """
    if not 0 <= bound <= MAX_BOUND:
        raise ValueError(
            f"the coupling's matrices may have norm {bound}; the Taylor series needs a norm in "
            f"[0, {MAX_BOUND:g}]. The scale parameters of this flow diverged: train with a "
            "smaller learning rate."
        )
    m = 1
    remainder = bound * bound / 2  # bound^(m+1)/(m+1)!
    while remainder > tolerance:
        m += 1
        remainder *= bound / (m + 1)
    return m
