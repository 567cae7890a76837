# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, one architecture a file; mmdet's and mmpretrain's in one file each.

``RLAResNet`` and its like exist twice: over mmdet's networks in MMEngine's root
registry, over mmpretrain's in mmpretrain's own. A name in a config therefore means
the network of the library that the config is for.
"""
