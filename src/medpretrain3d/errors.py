"""The exceptions a user is meant to read, and how a program ends with them."""

from __future__ import annotations

MAX_CHARACTERS = 1200
"""Of a message; of a longer one the beginning and the end are shown."""


class UserError(ValueError):
    """Bad input. Its message is one line: what it got, what was wanted, what to do.

    The command line prints the message without a traceback and exits with `exit_code`. What a message quotes may come
    from a file of strangers, so characters that a terminal would obey rather than show are escaped.

    Args:
        message: the line.
        below: further lines that the message speaks of, such as the tree of a folder.
    """

    def __init__(self, message: str, below: str = "") -> None:
        super().__init__(message, below)

    def __str__(self) -> str:
        message, below = self.args
        line = printable(message)
        if len(line) > MAX_CHARACTERS:  # it quotes a value that is that long
            line = f"{line[: MAX_CHARACTERS * 2 // 3]} ... {line[-MAX_CHARACTERS // 4 :]}"
        return "\n".join([line, *map(printable, below.splitlines())])


class MachineError(UserError):
    """What a machine refuses, as space on a disk, or loses, as a process: the input may be right."""


def exit_code(error: UserError) -> int:
    """Return the code with which a program ends: 2 for bad input, 1 where the machine is behind it.

    Args:
        error: whose causes count as well, since what is said of a full disk may say more than that.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MachineError):
            return 1
        cause = cause.__cause__
    return 2


def printable(text: str) -> str:
    r"""The text with what cannot be seen (control characters, line ends, marks of direction) as escapes like `\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
