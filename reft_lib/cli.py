"""The command line: ``python -m reft_lib COMMAND --help``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from typing import Any

import tyro

from reft_lib import machine, parallel
from reft_lib.commands import COMMANDS, Reproduce
from reft_lib.config import preset
from reft_lib.errors import NumericalError, UserError


def parse(args: list[str]) -> Any:
    """Return the command that the arguments describe.

    Raises
    ------
    UserError
        If a command, a preset or an option is unknown, or a value does not fit its option.
    SystemExit
        After ``--help``.
    """
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(0 if args else 2)
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; there are: {', '.join(COMMANDS)}")
    default: Any = tyro.MISSING_NONPROP
    if name in ("compare", "reproduce", "handover"):
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--preset", nargs="?", default="nano", const="nano")
        chosen = finder.parse_known_args(rest)[0].preset
        default = COMMANDS[name](config=preset(chosen), preset=chosen)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command, unknown = tyro.cli(
                COMMANDS[name],
                args=rest,
                prog=f"python -m reft_lib {name}",
                return_unknown_args=True,
                default=default,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(complaint.getvalue())) from None
    if unknown:
        raise UserError(
            f"unknown option {unknown[0]!r}; python -m reft_lib {name} --help lists them"
        )
    return command


def _one_line(box: str) -> str:
    """Return what stands between the first two rules of tyro's message, as one line."""
    parts = re.split(r"^.*[-─]{5}.*$", box.replace("│", " "), flags=re.MULTILINE)
    said = parts[1] if len(parts) > 1 else box
    return " ".join(said.split())


def overview() -> str:
    """Return the help text: every command with its first line."""
    lines = [
        f"  {name:<18}{(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: python -m reft_lib COMMAND [options]",
            "",
            "ReFT and its relatives: fine-tune small language models, and compare.",
            "",
            *lines,
            "",
            "python -m reft_lib COMMAND --help lists a command's options.",
        ]
    )


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    machine.keep_memory()
    machine.keep_few_kernels()
    try:
        with parallel.session():
            command = parse(sys.argv[1:] if args is None else args)
            if parallel.launched() and not isinstance(command, Reproduce):
                raise UserError(
                    "only reproduce runs in several processes; start other commands by themselves"
                )
            command.run()
    except (UserError, NumericalError) as error:
        if parallel.is_first():
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was saved is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has left; nothing can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
