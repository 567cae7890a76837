# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Progress and time left: one line in a terminal, a few whole lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, Iterable, Iterator

__all__ = ['Progress']

#: Seconds between two updates of the line in a terminal.
_INTERVAL = 0.1
#: Seconds before which a rate says little, and between two lines of a log.
_WARM_UP = 2.0


class Progress:
    """Count steps on stderr.

    A terminal shows one line that is rewritten. A file or pipe gets a line at each
    tenth of the steps, at most one every two seconds; work that is shorter has none.

    Args:
        total: Number of steps.
        name: What is counted, like 'images'.
    """

    def __init__(self, total: int, name: str = 'steps') -> None:
        self.total, self.name, self.done = total, name, 0
        self._start = self._shown = time.monotonic()
        self._tenth = 0

    def update(self, steps: int = 1) -> None:
        """Count some steps that are done."""
        self.done += steps
        now = time.monotonic()
        last = self.done >= self.total
        tenth = 10 * self.done // max(self.total, 1)
        if sys.stderr.isatty():
            if last or now - self._shown >= _INTERVAL:
                end = '\n' if last else ''
                print(
                    f'\r{self._text(now)}\x1b[K', end=end, file=sys.stderr, flush=True
                )
                self._shown = now
        elif tenth > self._tenth and now - self._shown >= _WARM_UP:
            print(self._text(now), file=sys.stderr, flush=True)
            self._shown, self._tenth = now, tenth

    def _text(self, now: float) -> str:
        text = f'{self.done} of {self.total} {self.name}'
        spent, rest = now - self._start, self.total - self.done
        if rest <= 0 or spent < _WARM_UP or not self.done:
            return text
        minutes, seconds = divmod(round(spent / self.done * rest), 60)
        return f'{text}, {minutes}:{seconds:02d} left'

    @classmethod
    def over(cls, items: Iterable[Any], total: int, name: str) -> Iterator[Any]:
        """Give the items one by one, and count them."""
        progress = cls(total, name)
        for item in items:
            yield item
            progress.update()
