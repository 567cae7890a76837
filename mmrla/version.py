# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Version of the package; setup.py reads it from here."""

__version__ = '0.2.0'
