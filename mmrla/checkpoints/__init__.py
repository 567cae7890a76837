# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the wiring record and the names of the released files."""
