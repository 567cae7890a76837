# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of arguments; an error names the value and the allowed ones in one line."""

from typing import Any, Iterable


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        choices = ', '.join(map(repr, allowed))
        raise ValueError(f'{name}={value!r} is not one of {choices}')


def check_range(name: str, value: Any, low: int, high: int) -> None:
    """Raise ValueError unless ``value`` is an int in [``low``, ``high``]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'{name}={value!r} is not an int from {low} to {high}')
    if not low <= value <= high:
        raise ValueError(f'{name}={value!r} is not in the range {low} to {high}')


def check_at_most(name: str, value: Any, high: int) -> None:
    """Raise ValueError unless ``value`` is an int of at most ``high``."""
    if not isinstance(value, int) or value > high:
        raise ValueError(f'{name}={value!r} is not an int of at most {high}')


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name}={value!r} is not a positive int')


def check_odd(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is an odd int of at least 1."""
    check_positive(name, value)
    if value % 2 == 0:
        raise ValueError(f'{name}={value} is not odd')
