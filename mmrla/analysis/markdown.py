# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Markdown tables and pages with generated parts."""

from pathlib import Path
from typing import Mapping, Sequence, Tuple

from ..errors import UserError

__all__ = ['filled', 'table']


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table.

    Args:
        head: Names of the columns.
        rows: Their cells.
        words: Number of leading columns with words; the others are aligned to the
            right. Defaults to 1.
    """
    marks = ['---'] * words + ['---:'] * (len(head) - words)
    return ''.join(f'| {" | ".join(row)} |\n' for row in (head, marks, *rows))


def filled(path: Path, parts: Mapping[Tuple[str, str], str], what: str = 'part') -> str:
    """Fill in a page's generated parts.

    Args:
        path: The page.
        parts: The text between two marks, by the marks.
        what: What a part is, for errors.

    Raises:
        UserError: If the page lacks the marks around a part.
    """
    text = path.read_text() if path.is_file() else ''
    for (start, end), part in parts.items():
        before, _, rest = text.partition(start)
        if text.count(start) != 1 or text.count(end) != 1 or end not in rest:
            raise UserError(f'{path} has no {what} between {start} and {end}')
        text = f'{before}{start}\n\n{part}\n{end}{rest.partition(end)[2]}'
    return text
