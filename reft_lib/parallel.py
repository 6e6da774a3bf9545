"""Several processes that train one model together, each on its share of every batch.

``accelerate launch --num_processes N -m reft_lib reproduce ...`` starts the same command N times.
All processes hold the same weights, optimiser and random numbers, and go through the same loops.
They differ in the rows that they work on:

- sampling: each answers and grades its share of the questions, then all know all responses;
- reading: each reads its share of the rows, then all know all log-probabilities and values, so
  that whitening and metrics are those of the whole batch;
- updating: each computes the gradient of its rows, weighted by their share of the whole batch;
  the sum over processes is the gradient of the batch, and all take the same step;
- writing: the first process alone logs, prints and saves.

Sizes in a configuration are those of the whole batch; a micro-batch is what one process reads at
once. N may change between a stop and the call that goes on. What N processes compute is what one
would but for rounding: about 1e-6 in float32, 1e-3 in bfloat16, where samples soon differ. With one
process, functions here return what they are given, and torch is not imported.

An error in one process ends all of them: before they exchange anything they ask whether one has
failed (:func:`agree`). Tested with two processes on a CPU (gloo). With CUDA each takes the GPU of
its ``LOCAL_RANK``, and gradients go through nccl; that has not been run yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from reft_lib.errors import NumericalError, UserError

if TYPE_CHECKING:
    from torch import Tensor


class Shared(Exception):
    """An error that all processes have been told of; its argument is the error itself."""


def launched() -> bool:
    """Tell whether a launcher has started several processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_first() -> bool:
    """Tell whether this is the process that logs, prints and saves."""
    return not launched() or int(os.environ.get("RANK", 0)) == 0


def world() -> int:
    """Return the number of processes in the session, 1 outside of one."""
    if not launched():
        return 1
    from torch import distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


@contextmanager
def session() -> Iterator[None]:
    """Connect the processes that a launcher has started, if any; all but the first are silent."""
    if not launched():
        yield
        return
    import torch
    from torch import distributed as dist

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    with ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            yield
            agree()
        except Shared as shared:
            raise shared.args[0] from None
        except Exception as error:
            with suppress(Shared, RuntimeError):  # RuntimeError: another process is gone already
                agree(error)
            raise


def agree(error: Exception | None = None) -> None:
    """Wait for all processes; if one comes with an error, raise it in all, as :class:`Shared`."""
    import torch
    from torch import distributed as dist

    failed = torch.tensor(int(error is not None))
    dist.all_reduce(failed)
    if failed:
        if error is not None and not isinstance(error, UserError | NumericalError):
            said = (str(error).splitlines() or [""])[0]
            error = UserError(f"process {rank()} failed: {type(error).__name__}: {said}")
        raise Shared(next(e for e in gather(error, ask=False) if e is not None))


def mine(x: Any) -> Any:
    """Return this process's slice of a sequence or tensor: neighbours, as equal as can be."""
    n, i, parts = len(x), rank(), world()
    return x[n * i // parts : n * (i + 1) // parts]


def deal(x: Any) -> Any:
    """Return every N-th row, as cards are dealt: of rows sorted by length, all get like shares."""
    return x[rank() :: world()]


def micro_batches(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Deal rows (int64); returns those of this process in parts of at most ``size``."""
    own = deal(rows)
    return own.split(size) if len(own) else ()


def gather(x: Any, ask: bool = True) -> list[Any]:
    """Return what each process gives, in their order. Tensors in it must be on the CPU."""
    if world() == 1:
        return [x]
    from torch import distributed as dist

    if ask:
        agree()
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, x)
    return found


def from_first(make: Callable[[], Any]) -> Any:
    """Return in all processes what ``make`` returns in the first, the only one that calls it."""
    if world() == 1:
        return make()
    return gather(make() if is_first() else None)[0]


def sum_tensors(*tensors: Tensor) -> None:
    """Replace tensors, in place, by their sums over all processes."""
    if world() == 1:
        return
    from torch import distributed as dist

    agree()
    for x in tensors:
        dist.all_reduce(x)


def sum_gradients(parameters: Iterable[Tensor], stats: dict[str, float]) -> dict[str, float]:
    """Replace float32 gradients by their sums over all processes; returns the sums of ``stats``.

    A process without rows has no gradient: it counts as 0.
    """
    if world() == 1:
        return stats
    import torch

    parameters = list(parameters)
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in own])  # one exchange for all
    sum_tensors(flat)
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    total: dict[str, float] = {}
    for name, x in (item for found in gather(stats) for item in found.items()):
        total[name] = total.get(name, 0.0) + x
    return total


def first_only(write: Callable[..., None]) -> Callable[..., None]:
    """Make a function that writes do so in the first process only."""

    @wraps(write)
    def guarded(*args: Any, **options: Any) -> None:
        if is_first():
            write(*args, **options)

    return guarded


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Let the first process of each machine do something, such as a download, before the others."""
    together, ahead = world() > 1, int(os.environ.get("LOCAL_RANK", 0)) == 0
    if together and not ahead:
        agree()
    yield
    if together and ahead:
        agree()
