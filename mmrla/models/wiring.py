# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A record of the wiring that weights were trained with, kept among the weights.

Networks of different wirings (integration v1 and v3, for example) have the same
parameter names and shapes, so weights of one would load into the other without an
error and give garbage. A buffer holds the wiring, and loading compares it. Unlike
``extra_state``, buffers are in every checkpoint that MMEngine writes.
"""

from typing import Any, Dict, List, Optional

import torch
from mmengine.model import BaseModule
from torch import Tensor

_LENGTH = 64


class WiringMismatchError(ValueError):
    """The weights were trained with another wiring than the network's."""


def encode(wiring: str) -> Tensor:
    """``wiring`` in ASCII, padded with zeros to an int64 tensor of 64 elements.

    int64, as hooks that average buffers over processes or steps sum them first: a
    smaller type would overflow.

    Raises:
        ValueError: If ``wiring`` is longer than 64 characters.
    """
    code = wiring.encode('ascii')
    if len(code) > _LENGTH:
        raise ValueError(f'wiring {wiring!r} is longer than {_LENGTH} characters')
    return torch.tensor(list(code.ljust(_LENGTH, b'\0')), dtype=torch.int64)


def decode(code: Tensor) -> str:
    """The inverse of :func:`encode`."""
    return bytes(code.tolist()).rstrip(b'\0').decode('ascii')


class WiringRecord(BaseModule):
    """Base of modules whose names and shapes do not tell the wiring.

    Args:
        wiring (str): The wiring, such as ``"integration='v1', cell='conv'"``.
        remedy (str): How to make a checkpoint of another wiring fit; ``{found}``
            stands for that wiring.
        init_cfg: As in BaseModule. Defaults to None.

    Loading a checkpoint of another wiring raises :class:`WiringMismatchError`.
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
                # Not appended to error_msgs, of which MMEngine only warns.
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
