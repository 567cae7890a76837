# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The command ``mmrla``: runs the tools and demos that the package carries.

    mmrla train CONFIG --work-dir DIR
    mmrla detect faster_rcnn_r50rla_fpn_1x_coco_388.pth street.jpg --out-dir found

``mmrla NAME ARGS`` is the program ``NAME.py`` of ``tools/`` or ``demo/`` with these
arguments; a few have short names. It works from an installed wheel, without a clone.
"""

import difflib
import os
import runpy
import sys
from pathlib import Path
from typing import Dict, List, NoReturn, Optional

from . import zoo
from .version import __version__

__all__ = ['main', 'programs']

#: Short name -> program, for what is used most.
SHORT = {
    'train': 'train',
    'test': 'test',
    'convert': 'rlanet_to_mmrla',
    'detect': 'detect_image',
    'classify': 'classify_image',
    'check': 'check_data',
    'browse': 'browse_dataset',
}


def programs() -> Dict[str, Path]:
    """Each program by its name: Python files with a main part, and ``dist_*.sh``."""
    # Behind the links of an editable install, where they all are: the clone.
    root = (zoo.root() / 'model-index.yml').resolve().parent
    files = [*root.glob('tools/**/*.py'), *root.glob('demo/*.py')]
    found = {p.stem: p for p in files if "__name__ == '__main__'" in p.read_text()}
    found.update({p.stem: p for p in root.glob('tools/dist_*.sh')})
    return dict(sorted(found.items()))


def _usage(found: Dict[str, Path]) -> str:
    short = [f'  {name:<10}{target}.py' for name, target in SHORT.items()]
    others = [name for name in found if name not in SHORT.values()]
    lines = ['usage: mmrla NAME [ARGS]    (mmrla NAME --help: its options)', '', *short]
    return '\n'.join([*lines, '', 'and by file name: ' + ', '.join(others)])


def _fail(message: str) -> NoReturn:
    print(f'mmrla: error: {message}', file=sys.stderr)
    sys.exit(2)


def main(argv: Optional[List[str]] = None) -> None:
    """Run a program of the package.

    Args:
        argv: Its name and arguments. Defaults to those of the command line.

    Exits with the program's status; with 2 if there is no such program.
    """
    args = sys.argv[1:] if argv is None else argv
    found = programs()
    if not args or args[0] in ('-h', '--help', 'help'):
        print(_usage(found))
        return
    if args[0] in ('-V', '--version'):
        print(__version__)
        return
    name, *rest = args
    path = found.get(SHORT.get(name, name.removesuffix('.py')))
    if path is None:
        near = difflib.get_close_matches(name, [*SHORT, *found], n=1)
        hint = (
            f'; is {near[0]} meant?' if near else '; mmrla --help lists what there is'
        )
        _fail(f'there is no {name}{hint}')
    if path.suffix == '.sh':
        os.environ.setdefault('PYTHON', sys.executable)
        os.execvp('bash', ['bash', str(path), *rest])  # nosec B606 B607 - a tool of ours
    # As `python FILE` has it: arguments, and neighbours that can be imported.
    sys.argv = [str(path), *rest]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
