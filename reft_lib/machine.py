"""What a result may depend on besides its configuration: machine, versions, revision.

Nothing here names a place on this machine: a record is made to be committed and read elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "numpy")
# An absolute path inside a text, at its start or after a space, quote, "=" and the like; never the
# "//host/page" of an address. The group is the path's last part, which is all that is kept.
ABSOLUTE_PATH = re.compile(r"(?<![\w./~}])(?:file://)?/(?:[^\s/'\",:]+/)+([^\s/'\",:]*)")

KERNELS = 128
"""Kernels that :func:`keep_few_kernels` lets oneDNN keep: the step of a nano or SmolLM2-135M takes
no longer with 64 than with 1,024, and a quarter longer with 16."""
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def keep_memory() -> bool:
    """Let the C library keep what is freed for the next allocation; returns whether it will.

    An update frees what the next one wants again. By default glibc gives large blocks back to the
    system at once, and every page of the next ones has to be fetched and cleared. It is a setting
    of the whole process, and glibc's alone.
    """
    if sys.platform != "linux":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
    trim_threshold, mmap_max = -1, -4  # as in malloc.h
    return bool(set_option(mmap_max, 0) and set_option(trim_threshold, 2**31 - 1))


def keep_few_kernels(number: int | None = KERNELS) -> None:
    """Let oneDNN, which multiplies on CPUs, keep only so many of the programs it writes.

    It writes one for each product of new sizes, half a megabyte each, and keeps the last 1,024; so
    do PyTorch's layers with their own. Lengths differ from step to step, so that most of them are
    not wanted again, while a layer finds those of the layer before it. Works until the first
    product of the process; what the environment already asks for stays.

    Parameters
    ----------
    number : int, optional
        None: as many as oneDNN keeps by itself, here and in processes started from here.
    """
    for name in KERNEL_CACHES:
        if number is None:
            os.environ.pop(name, None)
        else:
            os.environ.setdefault(name, str(number))


def environment() -> dict[str, Any]:
    """Describe what, besides the configuration, a result may depend on."""
    return {
        "started": now(),
        "ended": None,
        "command": shlex.join(map(portable, sys.argv)),
        "git": git_state(Path(__file__).parent),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "device": device(),
    }


def device() -> dict[str, Any]:
    """Name the processor, its threads, and the GPU if there is one."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Revision of the repository that tracks ``folder``, and whether ``folder`` differs from it.

    Both are None without git, a commit, or a tracked file (an installed copy, for example). Only
    ``folder`` counts for ``dirty``, so the records that a run writes do not mark the next one.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if git("ls-files", "--", "."):
            revision = git("rev-parse", "HEAD")
            return {"revision": revision, "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        pass
    return {"revision": None, "dirty": None}


def portable(text: str) -> str:
    """Cut every absolute path in ``text`` down to its last part; relative ones stay."""
    if os.path.isabs(text) and "\n" not in text:
        return PurePath(text).name
    return ABSOLUTE_PATH.sub(r"\1", text)


def now() -> str:
    """Return the time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown"
