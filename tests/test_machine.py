"""What a process asks of the machine it runs on."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from reft_lib import machine

if sys.argv[1] == "keep":
    assert machine.keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)  # 64 MB, of which the next ones can be made
before = faults()
for _ in range(5):
    torch.ones(2**21)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_where_glibc_can_do_so():
    """Each of five blocks of 8 MB is 2,048 pages, which a larger block has had before them."""

    def pages(how):
        said = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        )
        return int(said.stdout)

    assert pages("keep") < 500 < 5 * 1500 < pages("give back")
