# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Progress that one line of a terminal shows, or a few lines of a log."""

from __future__ import annotations

import sys
from typing import Any, Iterable, Iterator

__all__ = ['Progress']


class Progress:
    """Count steps on stderr.

    A terminal shows them in one line. A file or pipe gets a whole line after each
    tenth of the steps at most.

    Args:
        total: Number of steps.
        name: What is counted, like 'images'.
    """

    def __init__(self, total: int, name: str = 'steps') -> None:
        self.total, self.name, self.done = total, name, 0

    def update(self, steps: int = 1) -> None:
        """Count some steps that are done."""
        before, self.done = self.done, self.done + steps
        text = f'{self.done} of {self.total} {self.name}'
        last = self.done >= self.total
        if sys.stderr.isatty():
            end = '\n' if last else ''
            print(f'\r{text}', end=end, file=sys.stderr, flush=True)
        elif last or 10 * before // self.total < 10 * self.done // self.total:
            print(text, file=sys.stderr, flush=True)

    @classmethod
    def over(cls, items: Iterable[Any], total: int, name: str) -> Iterator[Any]:
        """Give the items one by one, and count them."""
        progress = cls(total, name)
        for item in items:
            yield item
            progress.update()
