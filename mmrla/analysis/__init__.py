# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Parameters and FLOPs of networks, and the paper's tables of them."""
