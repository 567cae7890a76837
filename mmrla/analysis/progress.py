# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Progress on one line of a terminal, or in a few lines of a log."""

from __future__ import annotations

import sys
from typing import Any, Iterable, Iterator

__all__ = ['Progress']


class Progress:
    """Show progress on stderr.

    On a terminal the line is rewritten. A file or pipe gets at most ten lines.

    Args:
        total: Number of steps.
        name: What is counted, like 'images'.
    """

    def __init__(self, total: int, name: str = 'steps') -> None:
        self.total, self.name, self.done = total, name, 0

    def update(self, steps: int = 1) -> None:
        """Report finished steps."""
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
        """Iterate over items and report each."""
        progress = cls(total, name)
        for item in items:
            yield item
            progress.update()
