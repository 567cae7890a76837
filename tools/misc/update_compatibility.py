#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Record what a stack's tests and demo gave, in the table of docs/install.md.

``make compatibility STACK=NAME`` runs both and then this. Records are kept in
docs/compatibility.json; the versions are those of the Python that runs this. Without
a stack the table is written from the file.
"""

import argparse
import json
import platform
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple
from xml.etree import ElementTree  # nosec B405

from mmrla import compat
from mmrla.analysis import markdown
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / 'docs/compatibility.json'
README = ROOT / 'docs/install.md'
START, END = '<!-- stacks: tools/misc/update_compatibility.py -->', '<!-- /stacks -->'
# Beside the packages that mmrla.compat knows.
PACKAGES = ('torchvision', 'numpy', 'opencv-python', 'pycocotools')

Record = Dict[str, Any]


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of an update."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'stack', nargs='?', choices=sorted(stack_files()), help='the stack that was run'
    )
    parser.add_argument(
        '--tests',
        nargs='+',
        type=Path,
        metavar='FILE',
        help='what pytest --junitxml wrote, of all parts of the suite',
    )
    parser.add_argument(
        '--demo',
        type=Path,
        metavar='FOLDER',
        help='work_dir of demo/run_demo.py; without it the demo counts as not run',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='change nothing, exit with 1 if that is due',
    )
    args = parser.parse_args(argv)
    if args.stack and not args.tests:
        parser.error(f'{args.stack} needs --tests')
    return args


def stack_files() -> Dict[str, Path]:
    """The pinned requirements of each stack, the default one first."""
    files = {path.stem: path for path in sorted(ROOT.glob('requirements/stacks/*.txt'))}
    return {'default': ROOT / 'requirements.txt', **files}


def versions() -> Dict[str, str]:
    """The packages that are installed here, by the names of their distributions."""
    known = [dist for dists in compat.RANGES.values() for dist in dists]
    found = {}
    for name in [*known, *PACKAGES]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def tests_of(paths: Sequence[Path]) -> Record:
    """Counts and minutes of a test suite.

    Args:
        paths: Files of its parts. A test that is in several counts once, as in the
            last of them.

    Raises:
        UserError: If a file is missing or is not of ``pytest --junitxml``.
    """
    outcomes: Dict[Tuple[str, str], str] = {}
    seconds = 0.0
    for path in paths:
        try:
            # Files that pytest has just written here.
            suites = list(ElementTree.parse(path).iter('testsuite'))  # nosec B314
        except (OSError, ElementTree.ParseError) as error:
            raise UserError(
                f'{path} is no file of pytest --junitxml: {error}'
            ) from error
        for suite in suites:
            seconds += float(suite.attrib['time'])
            for case in suite.iter('testcase'):
                marks = {mark.tag for mark in case}
                outcome = 'skipped' if 'skipped' in marks else 'passed'
                if marks & {'failure', 'error'}:
                    outcome = 'failed'
                outcomes[case.attrib['classname'], case.attrib['name']] = outcome
    counts = Counter(outcomes.values())
    record = {name: counts[name] for name in ('passed', 'failed', 'skipped')}
    return dict(record, minutes=round(seconds / 60, 1))


def demo_of(folder: Path) -> Record:
    """APs of a demo, and its minutes if it was run in one go.

    Raises:
        UserError: If there is none.
    """
    path = folder / 'demo.json'
    outcome = json.loads(path.read_text()).get('outcome') if path.is_file() else None
    if not outcome:
        raise UserError(
            f'{path} has no outcome; run demo/run_demo.py --work-dir {folder}'
        )
    record = dict(
        box_ap=round(outcome['coco/bbox_mAP'], 3),
        mask_ap=round(outcome['coco/segm_mAP'], 3),
    )
    if 'seconds' in outcome:
        record['minutes'] = round(outcome['seconds'] / 60, 1)
    return record


def read_records() -> Dict[str, Record]:
    """What was recorded, the default stack first."""
    records = json.loads(RECORDS.read_text()) if RECORDS.is_file() else {}
    return {name: records[name] for name in stack_files() if name in records}


def table(records: Dict[str, Record]) -> str:
    """The records as a table of Markdown."""
    if not records:
        return 'No run is recorded yet.\n'
    head = ['Stack', 'Python', 'torch', 'numpy', 'OpenCV', 'Packages']
    head += ['Tests passed, failed, skipped', 'Demo: box AP, mask AP', 'Run on']
    rows = []
    for name, record in records.items():
        found, tests, demo = record['packages'], record['tests'], record['demo']
        packages = [
            f'{dist} {found[dist]}'
            for module, dists in compat.RANGES.items()
            for dist in dists
            if module != 'torch' and dist in found
        ]
        rows.append(
            [
                f'[{name}](../{stack_files()[name].relative_to(ROOT)})',
                record['python'],
                found['torch'],
                found['numpy'],
                found['opencv-python'],
                ', '.join(packages),
                f'{tests["passed"]}, {tests["failed"]}, {tests["skipped"]}',
                f'{demo["box_ap"]:.3f}, {demo["mask_ap"]:.3f}' if demo else 'not run',
                record['date'],
            ]
        )
    return markdown.table(head, rows, words=len(head))


def readme_text(records: Dict[str, Record]) -> str:
    """The README that there should be.

    Raises:
        UserError: If the README lacks the marks around the table.
    """
    return markdown.filled(README, {(START, END): table(records)}, 'table of stacks')


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Record, and write the table, or check it."""
    args = parse_args(argv)
    records = read_records()
    if args.stack:
        records[args.stack] = dict(
            date=time.strftime('%Y-%m-%d'),
            python=platform.python_version(),
            packages=versions(),
            tests=tests_of(args.tests),
            demo=args.demo and demo_of(args.demo),
        )
        records = {name: records[name] for name in stack_files() if name in records}
    stale = []
    for path, text in (
        (RECORDS, json.dumps(records, indent=2) + '\n'),
        (README, readme_text(records)),
    ):
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(path)
        print(f'{"out of date" if args.check else "updated"}: {path.relative_to(ROOT)}')
        if not args.check:
            path.write_text(text)
    if args.check and stale:
        sys.exit(1)


if __name__ == '__main__':
    main()
