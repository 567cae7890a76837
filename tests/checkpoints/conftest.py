# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch


@pytest.fixture(autouse=True, scope='package')
def _one_thread():
    """The images are too small for more; where others compute, they only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
