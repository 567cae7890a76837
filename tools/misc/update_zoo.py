#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Update metafiles, the tables in READMEs and model-index.yml.

In a metafile.yml collections and metrics are written by hand. Names, parameters,
FLOPs (multiply-adds, at the size that the config tests with), epochs and batch
size are computed from the configs, and the table between the two marks of the
README is written from the metafile.
"""

import argparse
import logging
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import yaml
from mmengine.config import Config

from mmrla.analysis import markdown
from mmrla.analysis.networks import analyse
from mmrla.checkpoints.released import PUBLISHED
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HEADER = '# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0\n'
START, END = '<!-- models: tools/misc/update_zoo.py -->', '<!-- /models -->'
RELEASED_CODE = 'https://github.com/fangyanwen1106/RLANet'
# The data set by the last part of a config's name.
DATASETS = dict(
    in1k='ImageNet-1k',
    cifar10='CIFAR-10',
    cifar100='CIFAR-100',
    coco='COCO',
    digits='Digit scenes',
    **{'hard-digits': 'Hard digit scenes'},
)

Entry = Dict[str, Any]


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'folders',
        nargs='*',
        help='folders of configs/ (default: those with a metafile)',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='change nothing, exit with 1 if that is due',
    )
    parser.add_argument(
        '--keep-counts',
        action='store_true',
        help='take parameters and FLOPs from the metafile where they are there',
    )
    return parser.parse_args(argv)


def folders_of_configs(root: Path = ROOT) -> List[Path]:
    """Config folders with a metafile."""
    return sorted(path.parent for path in root.glob('configs/*/metafile.yml'))


def data_of(cfg: Config) -> Dict[str, str]:
    """Task and data set of a config, as upstream's metafiles spell them."""
    dataset = DATASETS[Path(cfg.filename).stem.rpartition('_')[2]]
    if cfg.default_scope == 'mmpretrain':
        return dict(Task='Image Classification', Dataset=dataset)
    has_mask = 'segm' in cfg.val_evaluator.metric
    task = 'Instance Segmentation' if has_mask else 'Object Detection'
    return dict(Task=task, Dataset=dataset)


def counts(cfg: Config) -> Dict[str, int]:
    """Parameters and FLOPs of a config's network."""
    complexity = analyse(cfg).complexity
    params, cost = complexity.of()
    return dict(Parameters=params, FLOPs=cost.macs)


def entry_of(path: Path, old: Entry, collection: str, keep_counts: bool) -> Entry:
    """A config's metafile entry, with the metrics of the old one."""
    cfg = Config.fromfile(path)
    data = data_of(cfg)
    known = old.get('Metadata', {})
    counted = {key: known[key] for key in ('Parameters', 'FLOPs') if key in known}
    if not keep_counts or len(counted) < 2:
        counted = counts(cfg)
    results = old.get('Results') or [dict(data, Metrics={})]
    entry: Entry = dict(Name=path.stem)
    entry['In Collection'] = old.get('In Collection', collection)
    entry['Config'] = str(path.relative_to(ROOT))
    entry['Metadata'] = {
        'Training Data': data['Dataset'],
        'Epochs': cfg.train_cfg.max_epochs,
        'Batch Size': cfg.auto_scale_lr.base_batch_size,
        **counted,
    }
    entry['Results'] = results
    name = str(path.relative_to(ROOT / 'configs'))
    for published in PUBLISHED:
        if published.config == name:
            entry['Converted From'] = dict(Weights=published.name, Code=RELEASED_CODE)
    return entry


def _in_order(path: Path) -> List[Any]:
    """Sort key: resnet50 before resnet101, and both before names that extend them."""
    parts = re.split(r'(\d+)', path.stem.replace('_', ' '))
    return [int(part) if part.isdigit() else part for part in parts]


def metafile_text(folder: Path, keep_counts: bool) -> str:
    """The metafile that a folder should have.

    Raises:
        UserError: If the metafile lacks its collections.
    """
    path = folder / 'metafile.yml'
    meta = yaml.safe_load(path.read_text()) if path.is_file() else None
    if not meta or not meta.get('Collections'):
        raise UserError(f'{path} has no Collections; write them first')
    old = {entry['Config']: entry for entry in meta.get('Models') or []}
    collection = meta['Collections'][0]['Name']
    entries = [
        entry_of(
            config, old.get(str(config.relative_to(ROOT)), {}), collection, keep_counts
        )
        for config in sorted(folder.glob('*.py'), key=_in_order)
    ]
    meta['Models'] = entries
    return HEADER + yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=88)


def _number(metric: str, value: Optional[float]) -> str:
    if value is None:
        return ''
    return f'{value:.2f}' if 'Error' in metric else f'{value:.1f}'


def table(models: Sequence[Entry]) -> str:
    """The models of a metafile as a table of Markdown."""
    metrics: List[str] = []
    for entry in models:
        for result in entry['Results']:
            metrics += [m for m in result['Metrics'] if m not in metrics]
    head = ['Config', 'Params (M)', 'FLOPs (G)', *metrics]
    rows = []
    for entry in models:
        values: Dict[str, Any] = {}
        for result in entry['Results']:
            values.update(result['Metrics'])
        metadata = entry['Metadata']
        rows.append(
            [
                f'[{entry["Name"]}]({Path(entry["Config"]).name})',
                f'{metadata["Parameters"] / 1e6:.2f}',
                f'{metadata["FLOPs"] / 1e9:.2f}',
                *(_number(metric, values.get(metric)) for metric in metrics),
            ]
        )
    return markdown.table(head, rows)


def readme_text(folder: Path, models: Sequence[Entry]) -> str:
    """The README that a folder should have.

    Raises:
        UserError: If the README lacks the marks around the table.
    """
    path = folder / 'README.md'
    return markdown.filled(path, {(START, END): table(models)}, 'table of models')


def index_text(root: Path = ROOT) -> str:
    """The model-index.yml over all metafiles."""
    metafiles = [f / 'metafile.yml' for f in folders_of_configs(root)]
    lines = [f'  - {path.relative_to(root)}\n' for path in metafiles]
    return HEADER + 'Import:\n' + ''.join(lines)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Update, or check."""
    args = parse_args(argv)
    # Silence upstream's constructors.
    logging.disable(logging.WARNING)
    folders = [Path(f).resolve() for f in args.folders] or folders_of_configs()
    stale = []

    def put(path: Path, text: str) -> None:
        if path.is_file() and path.read_text() == text:
            return
        stale.append(path)
        if not args.check:
            path.write_text(text)

    for folder in folders:
        text = metafile_text(folder, args.keep_counts)
        put(folder / 'metafile.yml', text)
        put(folder / 'README.md', readme_text(folder, yaml.safe_load(text)['Models']))
    put(ROOT / 'model-index.yml', index_text())
    for path in stale:
        print(f'{"out of date" if args.check else "updated"}: {path.relative_to(ROOT)}')
    if args.check and stale:
        sys.exit(1)


if __name__ == '__main__':
    main()
