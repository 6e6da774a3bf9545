"""What a process asks of the machine it runs on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from reft_lib import machine, models

FAULTS = """
import ctypes, resource, sys
import torch
from reft_lib import machine

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 kB, which can be counted
if sys.argv[1] == "keep":
    assert machine.keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**26)  # 256 MiB, of which the next five can be made, one behind the other
before = faults()
for _ in range(5):
    torch.ones(5 * 2**21)
print(faults() - before)
"""

GROWTH = """
import sys
import torch
from reft_lib import machine, speed_case

machine.keep_few_kernels(128 if sys.argv[1] == "few" else None)
weight = torch.ones(64, 64).bfloat16()
torch.ones(8, 64).bfloat16() @ weight
before = speed_case.held_memory(True)
for rows in range(1, 400):
    torch.ones(rows, 64).bfloat16() @ weight
print(speed_case.held_memory(True) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_where_glibc_can_do_so():
    """Each of five blocks of 40 MiB is 10,240 pages, which a larger block has had before them.

    By itself glibc moves its threshold for large blocks with what a program frees, up to 32 MiB:
    smaller blocks are given back in one process and kept in another.
    """

    def pages(how):
        said = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        )
        return int(said.stdout)

    assert pages("keep") < 500
    assert pages("give back") > 5 * 10_000


@pytest.mark.skipif(not models.has_fast_bf16(), reason="kernels for bfloat16 are not written here")
@pytest.mark.skipif(sys.platform != "linux", reason="held memory is read from Linux")
def test_few_kernels_hold_little_memory():
    """Products of 399 sizes: three times as many kernels as are kept."""

    def grown(how):
        said = subprocess.run(
            [sys.executable, "-c", GROWTH, how], capture_output=True, text=True, check=True
        )
        return float(said.stdout)

    assert grown("few") < 0.5 * grown("many")


def test_what_the_environment_asks_for_stays(monkeypatch):
    one, other = machine.KERNEL_CACHES
    monkeypatch.setenv(one, "7")
    monkeypatch.delenv(other, raising=False)
    machine.keep_few_kernels()
    assert (os.environ[one], os.environ[other]) == ("7", str(machine.KERNELS))
    machine.keep_few_kernels(None)
    assert not {one, other} & set(os.environ)
