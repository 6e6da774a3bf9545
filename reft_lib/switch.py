"""Whether the fast versions of layers are used, and in which precision matrices are multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_enabled = True


@contextmanager
def plain() -> Iterator[None]:
    """Compute as peft, transformers and PyTorch do by themselves."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def enabled() -> bool:
    """Return whether layers are fused here: everywhere but inside :func:`plain`."""
    return _enabled


def precision(x: Tensor) -> torch.dtype:
    """Return the dtype in which matrices are multiplied here: autocast's, else that of ``x``."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
