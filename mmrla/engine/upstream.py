# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The tools in the wheels of mmdet and mmpretrain."""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ..errors import UserError

__all__ = ['load_tool', 'tool_path']


def tool_path(package: str, tool: str) -> Path:
    """Path of a tool of an installed package.

    Args:
        package (str): 'mmdet' or 'mmpretrain'.
        tool (str): Its path in the package's ``tools``.

    Raises:
        UserError: The package or the tool is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"{package} is not installed: pip install 'mmrla[{package}]'")
    path = Path(spec.origin).parent / '.mim/tools' / tool
    if not path.is_file():
        raise UserError(f'{path} is missing; install {package} again')
    return path


def load_tool(package: str, tool: str) -> ModuleType:
    """Load a tool as a module; see :func:`tool_path`."""
    path = tool_path(package, tool)
    # Registered by name, so that its functions can be pickled.
    name = f'{package}_tools_{path.stem}'
    spec = spec_from_file_location(name, path)
    assert spec is not None  # it is a .py file
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
