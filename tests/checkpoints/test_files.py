# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints safely, writing them whole or not at all."""

import errno
import os
import pickle

import pytest
import torch

from mmrla.checkpoints.files import CheckpointError, load_file, save_file, sha256_of


class Malicious:
    def __reduce__(self):
        return os.makedirs, ('made by a checkpoint',)


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict={}, extra=Malicious()), 'evil.pth')
    with pytest.raises(CheckpointError, match='evil.pth: refused: loading it needs'):
        load_file('evil.pth')
    assert not (tmp_path / 'made by a checkpoint').exists()


@pytest.mark.parametrize('kept', [0, 10, 3000, -1])
def test_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / 'cut.pth'
    torch.save(dict(a=torch.rand(1000)), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match='truncated or of another kind'):
        load_file(path)


@pytest.mark.parametrize('content', [b'<html>not found</html>', pickle.dumps([1, 2])])
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / 'page.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='not a checkpoint that PyTorch can read'):
        load_file(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match='no such file'):
        load_file(tmp_path / 'none.pth')
    with pytest.raises(CheckpointError, match='no such file'):
        load_file(tmp_path)


def test_files_of_old_torch_are_read(tmp_path):
    path = tmp_path / 'old.pth.tar'
    torch.save(dict(a=torch.arange(3)), path, _use_new_zipfile_serialization=False)
    assert load_file(path)['a'].tolist() == [0, 1, 2]


def test_equal_objects_give_equal_bytes(tmp_path):
    for name in ('a.pth', 'b.pth'):
        save_file(dict(a=torch.arange(3)), tmp_path / 'new' / name)
    assert sha256_of(tmp_path / 'new/a.pth') == sha256_of(tmp_path / 'new/b.pth')


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'model.pth'
    save_file(dict(a=1), path)
    before = path.read_bytes()

    def save(obj, file):
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(CheckpointError, match='model.pth: cannot be written: No space'):
        save_file(dict(a=2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['model.pth']


def test_folder_as_target_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='is a folder'):
        save_file({}, tmp_path)
