# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What a user can put right: one exception, shown by the tools as one line."""

__all__ = ['UserError', 'one_line']


class UserError(Exception):
    """Something that the user can put right.

    Args:
        message (str): Names the culprit and the remedy.
        status (int): Exit status of a tool: 2 for what was asked for, 1 for what
            went wrong later. Defaults to 2.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(one_line(message))
        self.status = status


def one_line(error: object) -> str:
    """The text of an error or a message, in one line."""
    # str() of a KeyError is the repr of its argument.
    if isinstance(error, KeyError) and len(error.args) == 1:
        error = error.args[0]
    return ' '.join(str(error).split())
