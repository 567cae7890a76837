# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The neck against the paper, which concatenates first and pools then."""

import pytest
import torch
import torch.nn.functional as F

from mmrla.models import RLANeck, WiringMismatchError


def test_equals_concatenation_before_pooling() -> None:
    torch.manual_seed(0)
    x, h = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 3, 5)
    neck = RLANeck(rla_channels=4).train()
    torch.nn.init.normal_(neck.hidden.norm.weight)
    expected = torch.cat(
        (
            x,
            F.relu(
                F.batch_norm(
                    h, None, None, neck.hidden.norm.weight, neck.hidden.norm.bias, True
                )
            ),
        ),
        1,
    )
    (got,) = neck((x, h))
    torch.testing.assert_close(got, F.adaptive_avg_pool2d(expected, 1).flatten(1))


def test_without_norm_and_activation() -> None:
    h = torch.randn(2, 4, 3, 5)
    (got,) = RLANeck(4, norm_cfg=None, act_cfg=None)((torch.randn(2, 8, 3, 5), h))
    torch.testing.assert_close(got[:, 8:], h.mean((2, 3)))


def test_plain_network() -> None:
    x = torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(RLANeck(0)((x,))[0], x.mean((2, 3)))


def test_weights_of_another_activation_are_refused() -> None:
    tanh = RLANeck(4, act_cfg=dict(type='Tanh'))
    with pytest.raises(WiringMismatchError, match="act='ReLU'.*act='Tanh'"):
        tanh.load_state_dict(RLANeck(4).state_dict(), strict=False)
