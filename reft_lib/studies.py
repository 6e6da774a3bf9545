"""The studies by name: each stands in a module ``study_<name>``, as ``STUDY``.

Another study is one more such module. They are imported when they are asked for.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from reft_lib.errors import UserError
from reft_lib.study import Study

PREFIX = "study_"


def names() -> list[str]:
    """Return the names of all studies; a dash stands for the underscore of a module's name."""
    modules = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(m.removeprefix(PREFIX).replace("_", "-") for m in modules if m.startswith(PREFIX))


def get(name: str) -> Study:
    """Return a study.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    if name not in names():
        raise UserError(f"unknown study {name!r}; there are: {', '.join(names())}")
    study: Study = import_module(f"reft_lib.{PREFIX}{name.replace('-', '_')}").STUDY
    return study
