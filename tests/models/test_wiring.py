# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The record of the wiring, and what training does to buffers."""

import pytest
import torch

from mmrla.models.layers.recurrent import CELLS
from mmrla.models.rla import INTEGRATIONS, RLAUnit
from mmrla.models.wiring import WiringMismatchError, WiringRecord, decode, encode


@pytest.mark.parametrize('integration', INTEGRATIONS)
@pytest.mark.parametrize('cell', CELLS)
def test_each_wiring_has_its_own_record(integration: str, cell: str) -> None:
    if cell != 'conv' and integration in ('v2', 'v4', 'v6'):
        pytest.skip('the cell does not have this integration')
    unit = RLAUnit(None, [4], 2, integration=integration, cell=cell)
    assert decode(unit.wiring) == f'integration={integration!r}, cell={cell!r}'


def test_averaging_over_processes_changes_nothing() -> None:
    """As in MMEngine's SyncBuffersHook: a sum, divided, copied back."""
    code = encode("integration='v3', cell='convlstm'")
    mean = torch.zeros_like(code)
    for _ in range(64):
        mean += code
    code.copy_(torch.div(mean, 64))
    assert decode(code) == "integration='v3', cell='convlstm'"


def test_half_precision_changes_nothing() -> None:
    record = WiringRecord('a', '').half()
    assert decode(record.wiring) == 'a'


def test_the_error_names_both_wirings() -> None:
    one, other = WiringRecord('a', ''), WiringRecord('b', 'build it with {found}')
    with pytest.raises(WiringMismatchError, match='with a, .* has b; build it with a'):
        other.load_state_dict(one.state_dict(), strict=False)


def test_long_wirings_are_refused() -> None:
    with pytest.raises(ValueError, match='longer than 64'):
        encode('x' * 65)
