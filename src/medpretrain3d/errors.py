"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. Its message is one line: what it got, what was wanted, what to do.

    The command line prints the message without a traceback and exits with code 2.
    """
