# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Data sets of mmrla: generated digit scenes, and CIFAR from folders."""
