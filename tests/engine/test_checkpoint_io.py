# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import errno
import io
import os
import pickle
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from mmrla.engine import checkpoint_io
from mmrla.engine.checkpoint_io import (
    AtomicBackend,
    CheckpointError,
    is_whole,
    load_foreign,
    newest_whole,
    save_file,
    sha256_of,
    state_dict_of,
    use_safe_loading,
)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


CHECKPOINT: Dict[str, Any] = dict(
    meta=dict(epoch=3, classes=('a', 'b'), mean=np.float64(0.5), seen={1, 2}),
    state_dict=OrderedDict(
        weight=torch.arange(6.0).reshape(2, 3),
        half=torch.ones(2, dtype=torch.bfloat16),
        count=torch.tensor(3),
        parameter=torch.nn.Parameter(torch.ones(2)),
    ),
    message_hub=dict(log_scalars=OrderedDict(loss=HistoryBuffer([1.0], [1]))),
    dtype=torch.float16,
    size=torch.Size([1, 2]),
    table=np.arange(4).reshape(2, 2),
)


@pytest.mark.parametrize('zipped', [True, False])
def test_foreign_checkpoint_is_read_without_objects(tmp_path, zipped):
    path, witness = tmp_path / 'x.pth', tmp_path / 'run'
    torch.save(
        dict(CHECKPOINT, evil=Evil(witness)),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    read = load_foreign(str(path))
    assert not witness.exists()
    for name, tensor in CHECKPOINT['state_dict'].items():
        assert read['state_dict'][name].equal(tensor)
        assert read['state_dict'][name].dtype == tensor.dtype
    assert read['meta'] == CHECKPOINT['meta']
    assert (read['table'] == CHECKPOINT['table']).all()
    assert read['dtype'] is torch.float16
    assert not isinstance(read['message_hub']['log_scalars']['loss'], HistoryBuffer)


@pytest.mark.parametrize('zipped', [True, False])
def test_strict_loading_names_refused_objects(tmp_path, zipped):
    path, witness = tmp_path / 'x.pth', tmp_path / 'run'
    for other, name in ((Evil(witness), 'builtins.getattr'), (Path(), 'pathlib.')):
        content = dict(state_dict=dict(a=torch.ones(1)), other=other)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=f'x.pth refused: .* {name}'):
            load_foreign(path, strict=True)
    assert not witness.exists()
    torch.save(dict(a=torch.arange(3)), path, _use_new_zipfile_serialization=zipped)
    assert load_foreign(path, strict=True)['a'].tolist() == [0, 1, 2]


class Loaded(Evil):
    """As Evil, with a looked-up function, a state, items and entries."""

    def __reduce__(self):
        return Lookup(), (self.path,), {'a': 1}, iter([1, 2]), iter([('k', 3)])


class Lookup:
    def __call__(self):
        """Makes instances callable, as constructors must be."""

    def __reduce__(self):
        return getattr, (Path, 'touch')


@pytest.mark.parametrize('protocol', [2, 4])
def test_no_pickle_opcode_calls_a_function(tmp_path, protocol):
    witness = tmp_path / 'run'
    stream = pickle.dumps([Loaded(witness), 5], protocol=protocol)
    assert checkpoint_io._Unpickler(io.BytesIO(stream)).load()[1] == 5
    assert not witness.exists()
    with pytest.raises(AttributeError):  # a PosixPath has no such state
        pickle.loads(pickle.dumps(Loaded(witness)))
    assert witness.exists()  # as plain pickle does


@pytest.mark.parametrize('content', [b'', b'<html>', b'PK\x03\x04', b'\x80\x02}q\x00.'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / 'x.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='x.pth'):
        state_dict_of(load_foreign(str(path)), str(path))


@pytest.mark.parametrize(
    'content',
    [None, [], {}, {'epoch': 3}, {'state_dict': {'a': 3}}, {1: torch.ones(1)}],
)
def test_files_without_weights_are_refused(content):
    with pytest.raises(CheckpointError, match='holds no weights'):
        state_dict_of(content, 'x.pth')


def test_wrapper_prefixes_are_dropped():
    weights = {'state_dict': {'module.a': torch.ones(1), 'b': torch.ones(1)}}
    assert list(state_dict_of(weights, 'x.pth')) == ['a', 'b']


def test_own_files_load_in_full_and_foreign_safely(tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    own, foreign = str(tmp_path / 'own.pth'), str(tmp_path / 'foreign.pth')
    for path in (own, foreign):
        torch.save(CHECKPOINT, path)
    use_safe_loading(own=own)
    for path, is_full in ((own, True), (foreign, False)):
        read = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        loss = read['message_hub']['log_scalars']['loss']
        assert isinstance(loss, HistoryBuffer) == is_full


# --- whole files ---


def save(path, when, epoch=1):
    torch.save(dict(CHECKPOINT, meta=dict(epoch=epoch)), path)
    os.utime(path, (when, when))
    return path


def damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    if how == 'cut':
        content = content[:middle]
    elif how == 'empty':
        content = b''
    elif how == 'zeroed':  # a block that never came to the disk
        start = content.index(np.arange(6.0, dtype=np.float32).tobytes())
        content = content[:start] + bytes(24) + content[start + 24 :]
    path.write_bytes(content)


@pytest.mark.parametrize('how', ['cut', 'empty', 'zeroed'])
def test_torn_files_are_not_whole(tmp_path, how):
    path = save(tmp_path / 'x.pth', 100)
    assert is_whole(str(path))
    damage(path, how)
    assert not is_whole(str(path))


def test_other_zip_archives_are_not_whole(tmp_path):
    np.savez(tmp_path / 'x.npz', a=np.ones(2))
    assert not is_whole(str(tmp_path / 'x.npz'))


class TestNewestWhole:
    def newest(self, folder, template='epoch_{}.pth'):
        found = newest_whole(str(folder), str(folder), template)
        return found and Path(found).name

    def test_no_checkpoint(self, tmp_path):
        assert self.newest(tmp_path) is None
        assert self.newest(tmp_path / 'not there') is None

    def test_last_checkpoint_is_followed(self, tmp_path):
        save(tmp_path / 'epoch_2.pth', 200)
        last = save(tmp_path / 'epoch_1.pth', 100)
        (tmp_path / 'last_checkpoint').write_text(str(last))
        assert self.newest(tmp_path) == 'epoch_1.pth'

    @pytest.mark.parametrize('pointer', [None, '', '\0' * 40, '/gone/epoch_9.pth'])
    def test_newest_without_usable_last_checkpoint(self, tmp_path, pointer):
        if pointer is not None:
            (tmp_path / 'last_checkpoint').write_text(pointer)
        save(tmp_path / 'epoch_9.pth', 100)
        save(tmp_path / 'epoch_10.pth', 200)
        save(tmp_path / 'best_acc_epoch_11.pth', 300)
        save(tmp_path / 'epoch_12.pth.old', 400)
        save(tmp_path / '.epoch_13.pth.tmp', 500)
        assert self.newest(tmp_path) == 'epoch_10.pth'
        assert self.newest(tmp_path, 'iter_{}.pth') is None

    @pytest.mark.parametrize('how', ['cut', 'empty', 'zeroed'])
    def test_torn_files_are_skipped(self, tmp_path, how, capsys):
        save(tmp_path / 'epoch_1.pth', 100)
        torn = [save(tmp_path / f'epoch_{i}.pth', 100 * i) for i in (2, 3)]
        for path in torn:
            damage(path, how)
        (tmp_path / 'last_checkpoint').write_text(str(torn[-1]))
        assert self.newest(tmp_path) == 'epoch_1.pth'
        assert f'{torn[-1]} is missing or torn' in capsys.readouterr().out


def test_equal_objects_give_equal_bytes(tmp_path):
    for name in ('a.pth', 'b.pth'):
        save_file(dict(a=torch.arange(3)), tmp_path / 'new' / name)
    assert sha256_of(tmp_path / 'new/a.pth') == sha256_of(tmp_path / 'new/b.pth')


@pytest.mark.parametrize(
    'error', [OSError(errno.ENOSPC, 'No space left on device'), RuntimeError('full')]
)
def test_failed_save_keeps_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / 'x.pth'
    save_file(dict(a=1), path)
    before = path.read_bytes()

    def save(obj, file):
        file.write(b'half')
        raise error

    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(CheckpointError, match='x.pth: (No space|full)'):
        save_file(dict(a=2), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['x.pth']


def test_folder_is_not_overwritten(tmp_path):
    with pytest.raises(CheckpointError, match='Is a directory'):
        save_file({}, tmp_path / '..' / tmp_path.name)
    assert tmp_path.is_dir()


class TestAtomicBackend:
    def test_writes_and_replaces(self, tmp_path):
        path = tmp_path / 'new' / 'x.pth'
        for content in (b'one', b'two'):
            AtomicBackend().put(content, str(path))
            assert path.read_bytes() == content
        assert os.listdir(path.parent) == ['x.pth']

    @pytest.mark.parametrize('step', ['fsync', 'replace'])
    def test_full_disk_keeps_old_file(self, tmp_path, monkeypatch, step):
        path = tmp_path / 'x.pth'
        path.write_bytes(b'before')

        def full(*args):
            raise OSError(errno.ENOSPC, 'No space left on device')

        monkeypatch.setattr(checkpoint_io.os, step, full)
        with pytest.raises(CheckpointError, match='x.pth: No space') as error:
            AtomicBackend().put(b'after', str(path))
        assert error.value.status == 1
        assert path.read_bytes() == b'before'
        assert os.listdir(tmp_path) == ['x.pth']

    @pytest.mark.parametrize('step', ['fsync', 'open'])
    def test_folder_that_cannot_be_synced(self, tmp_path, monkeypatch, step):
        """The file is whole, whatever error the mount gives."""
        original = getattr(os, step)

        def refuse(what, *args):
            is_folder = (
                what == tmp_path
                if step == 'open'
                else stat.S_ISDIR(os.fstat(what).st_mode)
            )
            if is_folder:
                raise OSError(errno.EBADF, 'Bad file descriptor')
            return original(what, *args)

        monkeypatch.setattr(checkpoint_io.os, step, refuse)
        AtomicBackend().put(b'x', str(tmp_path / 'x.pth'))
        assert (tmp_path / 'x.pth').read_bytes() == b'x'

    def test_rename_comes_last(self, tmp_path, monkeypatch):
        """Until the content is on the disk, the name does not exist."""
        path = tmp_path / 'x.pth'
        seen: List[bool] = []
        monkeypatch.setattr(
            checkpoint_io.os,
            'fsync',
            lambda fd: seen.append(path.exists()),
        )
        AtomicBackend().put(b'x', path)
        assert seen == [False, True]  # the file, then the folder
        assert path.read_bytes() == b'x'

    def test_outdated_files_stay_until_removed(self, tmp_path):
        backend = AtomicBackend()
        paths = [tmp_path / name for name in 'abc']
        for path in paths[:2]:
            path.touch()
            backend.remove(path)
        backend.remove(paths[2])  # not there any more
        assert paths[0].exists()
        backend.remove_outdated(keep=[str(paths[1])])
        assert [p.exists() for p in paths] == [False, True, False]
        backend.remove_outdated(keep=[])
        assert paths[1].exists()  # forgotten, not kept for later


def test_all_pickle_protocols_load(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        torch.save(CHECKPOINT, tmp_path / 'x.pth', pickle_protocol=protocol)
        assert load_foreign(str(tmp_path / 'x.pth'))['meta'] == CHECKPOINT['meta']
