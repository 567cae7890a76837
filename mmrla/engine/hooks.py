# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Hooks for any runner: safe checkpoints, exact resuming."""

import random
import re
from collections import deque
from pathlib import Path
from typing import Any, Deque, List, Optional

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from .checkpoint_io import AtomicBackend, is_local

__all__ = ['SafeCheckpointHook', 'StepSeedHook']


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Crash-safe CheckpointHook.

    - A checkpoint and ``last_checkpoint`` get their names only when they are complete
      and on the disk.
    - The oldest checkpoint of ``max_keep_ckpts`` and the previous best one are removed
      only after the new one has been written.
    - A new run moves checkpoints of an earlier run in its work_dir to ``earlier/TIME``
      instead of overwriting them.

    Remote folders and explicit backends are handled by MMEngine.

    Args:
        **kwargs: Arguments of MMEngine's CheckpointHook.
    """

    file_backend: AtomicBackend
    backend_args: Optional[dict]
    keep_ckpt_ids: Deque[int]
    _is_atomic = False

    def before_train(self, runner: Any) -> None:
        """Choose the folder and tidy up after a killed run."""
        self._is_atomic = (
            self.backend_args is None
            and self.file_client_args is None
            and is_local(str(self.out_dir or runner.work_dir))
        )
        if self._is_atomic:
            self.backend_args = dict(backend='mmrla-atomic')
        super().before_train(runner)
        if not self._is_atomic:
            return
        if self.max_keep_ckpts > 0:
            # One more than max_keep_ckpts while the new one is written.
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)
        if is_main_process():
            self._remove_outdated()
            folder = Path(self.out_dir)
            for path in folder.glob('.*.tmp') if folder.is_dir() else []:
                path.unlink(missing_ok=True)
            self._put_aside(runner, folder)

    def _put_aside(self, runner: Any, folder: Path) -> None:
        """Move away checkpoints of an earlier run."""
        done = runner.epoch if self.by_epoch else runner.iter
        head, tail = map(re.escape, self.filename_tmpl.split('{}'))
        name = re.compile(f'(?:best_.*_)?{head}([0-9]+){tail}')
        matches = (name.fullmatch(p.name) for p in sorted(folder.glob('*')))
        paths = [folder / m.group(0) for m in matches if m and int(m.group(1)) > done]
        if not done and paths:
            paths.append(Path(runner.work_dir, 'last_checkpoint'))
        earlier = folder / 'earlier' / runner.timestamp
        for path in paths:
            if path.is_file():
                earlier.mkdir(parents=True, exist_ok=True)
                path.rename(earlier / path.name)
        if paths:
            runner.logger.warning(
                f'{folder} had checkpoints of an earlier run, now in {earlier}: '
                + ', '.join(path.name for path in paths)
            )

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        """Save as MMEngine does, in a safe order."""
        if not self._is_atomic:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
            # Including the one to be removed: if this run is killed first, the run
            # that resumes from here removes it.
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        outdated: List[str] = []
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
        if is_main_process():
            pointer = Path(runner.work_dir, 'last_checkpoint')
            self.file_backend.put(self.last_ckpt.encode(), pointer)
            for name in outdated:
                self.file_backend.remove(Path(self.out_dir, name))
            self._remove_outdated()

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        if self._is_atomic and is_main_process():
            self._remove_outdated()

    def _remove_outdated(self) -> None:
        keep = list(getattr(self, 'best_ckpt_path_dict', {}).values())
        keep.append(getattr(self, 'best_ckpt_path', None))
        self.file_backend.remove_outdated([path for path in keep if path])


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Draw the random numbers of each step from the seed and the step's number.

    Detectors sample proposals, and MMEngine does not save the generators' state, so a
    resumed run would draw other numbers than an undisturbed one. With this hook both
    end with the same weights, unless workers of data loaders draw numbers (they
    restart).
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Any) -> None:
        """Seed the data loader's draws."""
        self._seed(runner, 0)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seed the model's draws."""
        self._seed(runner, 1)

    @staticmethod
    def _seed(runner: Any, what: int) -> None:
        # SeedSequence spreads neighbouring numbers.
        sequence = np.random.SeedSequence([runner.seed, runner.iter, what])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
