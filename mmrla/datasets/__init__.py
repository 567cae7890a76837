# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Data sets that mmrla makes itself: see :mod:`mmrla.datasets.digit_scenes`."""
