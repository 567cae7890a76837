# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A record, inside the weights, of the wiring that they were trained with.

Networks of different wirings (integration v1 and v3, say) have the same
parameter names and shapes: weights of one load into the other without a word
and give garbage. A buffer carries the wiring through every kind of saving
(mmengine writes parameters and buffers, but no ``extra_state``), and loading
compares it.
"""

from typing import Any, Dict, List, Optional

import torch
from mmengine.model import BaseModule
from torch import Tensor

_LENGTH = 64


class WiringMismatchError(ValueError):
    """The weights belong to another wiring than the network's."""


def encode(wiring: str) -> Tensor:
    """``wiring`` as an int64 tensor of fixed length, ASCII padded with zeros.

    Hooks that average buffers over processes or steps sum them before they
    divide: of a smaller type that would overflow.
    """
    code = wiring.encode('ascii')
    if len(code) > _LENGTH:
        raise ValueError(f'wiring {wiring!r} is longer than {_LENGTH} characters')
    return torch.tensor(list(code.ljust(_LENGTH, b'\0')), dtype=torch.int64)


def decode(code: Tensor) -> str:
    """The inverse of :func:`encode`."""
    return bytes(code.tolist()).rstrip(b'\0').decode('ascii')


class WiringRecord(BaseModule):
    """Base of modules whose weights fit, by name, other wirings too.

    Args:
        wiring (str): What cannot be told from names and shapes.
        remedy (str): What to change so that a checkpoint with another wiring
            fits; ``{found}`` stands for the checkpoint's wiring.
        init_cfg: Initialisation of the module, as BaseModule takes it.
    """

    wiring: Tensor

    def __init__(
        self, wiring: str, remedy: str, init_cfg: Optional[List[dict]] = None
    ) -> None:
        super().__init__(init_cfg)
        self.register_buffer('wiring', encode(wiring))
        self._wiring, self._remedy = wiring, remedy

    def _load_from_state_dict(
        self,
        state_dict: Dict[str, Any],
        prefix: str,
        local_metadata: Dict[str, Any],
        strict: bool,
        missing_keys: List[str],
        unexpected_keys: List[str],
        error_msgs: List[str],
    ) -> None:
        code = state_dict.get(f'{prefix}wiring')
        if code is not None:
            found, own = decode(code), self._wiring
            if found != own:
                # Raised, not appended to error_msgs: mmengine only warns of
                # those when strict is False.
                raise WiringMismatchError(
                    f'{prefix.rstrip(".") or "network"}: the checkpoint was made '
                    f'with {found}, this network has {own}; '
                    + self._remedy.format(found=found)
                )
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
