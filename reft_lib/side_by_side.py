"""Independent pieces of work, one after another or in several processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import torch
from tqdm import tqdm

from reft_lib import machine


def run_all(
    work: Callable[..., Any], calls: Mapping[str, tuple], jobs: int, threads: int
) -> Iterator[tuple[str, Any]]:
    """Call ``work`` with each of the arguments; yields results as they come.

    Parameters
    ----------
    work : callable
        A function of a module, if there is to be more than one process.
    calls : mapping of str to tuple
        A name for each call, and its arguments.
    jobs : int
        Processes; 1: this one.
    threads : int
        Threads of torch in each of several processes.

    Yields
    ------
    (str, result)
        A call that fails is named at once; those under way end first, then its error is raised.
    """
    if jobs == 1:
        for name, arguments in tqdm(calls.items(), desc="units"):
            yield name, work(*arguments)
        return
    os.environ["TQDM_DISABLE"] = "1"  # for the workers: their bars would overwrite each other
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_start_worker, initargs=(threads,)
    ) as pool:
        futures = {pool.submit(work, *arguments): name for name, arguments in calls.items()}
        for future in tqdm(as_completed(futures), total=len(futures), desc="units"):
            if error := future.exception():
                tqdm.write(f"{futures[future]}: {error}; waiting for units under way")
                pool.shutdown(wait=False, cancel_futures=True)
            yield futures[future], future.result()


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    machine.keep_memory()
    machine.keep_few_kernels()
    parent = os.getppid()

    def leave_with_parent() -> None:
        while os.getppid() == parent:  # a killed parent cannot tell its workers to stop
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
