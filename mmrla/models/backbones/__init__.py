# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones.

Each class over upstream's networks, such as ``RLAResNet``, exists twice: over mmdet's
in MMEngine's root registry, over mmpretrain's in mmpretrain's. So a name in a config
means the network of the config's library.
"""
