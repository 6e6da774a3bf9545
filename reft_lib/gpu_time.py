"""Seconds of a step on a named GPU: a lower bound, and an estimate at assumed shares of its peak.

What :mod:`reft_lib.cost` counts, divided by what a GPU can do at most, is a time that no
implementation of the counted work can beat. Divided by a share of that it is an estimate, as good
as the share. Decoding has two limits, its operations and the bytes it must read; the slower one
counts (Pope et al. 2023, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from reft_lib.cost import Plan, decoded_bytes, gathered_bytes, operations
from reft_lib.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """What one GPU can do at most, as its maker's data sheet says."""

    name: str
    memory: float
    """Bytes."""
    flops: float
    """bfloat16 operations a second on dense matrices."""
    bandwidth: float
    """Bytes a second from its memory."""
    link: float
    """Bytes a second that it can receive from the other GPUs of its machine."""


H100 = Gpu("H100 SXM", 80e9, 989.5e12, 3.35e12, 450e9)
"""NVIDIA's data sheet (2024): 1,979 TFLOP/s with sparsity, half of it dense; NVLink 900 GB/s, half
of it in each direction."""
SHARE_FLOPS = 0.4
"""ASSUMED, not measured here: share of the peak that training reaches."""
SHARE_BANDWIDTH = 0.6
"""ASSUMED, not measured here: share of the memory's bandwidth that decoding reaches."""


def seconds(
    plan: Plan, gpu: Gpu = H100, flops: float = SHARE_FLOPS, bandwidth: float = SHARE_BANDWIDTH
) -> dict[str, float]:
    """Return the seconds of each phase, the larger of its limits.

    Parameters
    ----------
    plan : Plan
    gpu : Gpu
    flops, bandwidth : float
        Shares, above 0 and at most 1, of the GPU's peaks that are reached; with 1 the result
        is a lower bound for any implementation of the counted work. The link gets the second one.

    Returns
    -------
    dict
        As :func:`operations`, and ``total``.

    Raises
    ------
    UserError
        If a share is not above 0 and at most 1.
    """
    if not (0 < flops <= 1 and 0 < bandwidth <= 1):
        raise UserError(f"shares are {flops} and {bandwidth}; they must be above 0 and at most 1")
    found = {phase: n / (plan.gpus * gpu.flops * flops) for phase, n in operations(plan).items()}
    found["decode"] = max(found["decode"], decoded_bytes(plan) / (gpu.bandwidth * bandwidth))
    trained = found["score"] + found["update"]
    waited = gathered_bytes(plan) / (gpu.link * bandwidth)
    if waited > trained:  # the two overlap at best
        for phase in ("score", "update"):
            found[phase] *= waited / trained
    found["total"] = sum(found.values())
    return found


def gpu_hours(plan: Plan, steps: int, gpu: Gpu = H100) -> float:
    """Return the GPU-hours of many steps at the assumed shares, without evaluation and loading."""
    return steps * plan.gpus * seconds(plan, gpu)["total"] / 3600
