"""Errors that speak to the user in one line."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave is wrong; the message names it and says what would be right."""


class NumericalError(RuntimeError):
    """A loss or gradient stopped being finite; training cannot go on from here."""
