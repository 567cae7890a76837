# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What networks cost, learn and find: counts, timings and figures."""
