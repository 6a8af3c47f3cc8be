"""Checkpoints: whole, ours, and without code."""

import os
import pickle
import signal
import sys
from dataclasses import replace

import pytest
import torch

from drstool.checkpoints.checkpoint import KINDS, Checkpoint, load_checkpoint, load_tensors, save_checkpoint
from drstool.errors import InputError, OutputError

MADE = Checkpoint(
    kind="classifier",
    class_names=("cat", "Kuh ä"),
    architecture={"backbone": "vgg16-small", "drs_layers": [0, 3], "delta": 0.55},
    recipe={"lr": 0.001, "decay_epochs": (5, 10), "sizes": ()},
    weights={
        "a": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3),
        "b": torch.ones(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)},
    provenance=({"command": "drstool train-cls"},),
)


def changed(path, **changes):
    """A checkpoint file with other content under some keys; None takes a key away."""
    save_checkpoint(path, MADE, overwrite=True)
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        content[key] = value
        if value is None:
            del content[key]
    torch.save(content, path)
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "cls.pt"
    save_checkpoint(path, MADE)
    found = load_checkpoint(path, "classifier")
    assert replace(found, weights={}) == replace(MADE, weights={})
    assert found.weights.keys() == MADE.weights.keys()
    for name, value in MADE.weights.items():
        assert torch.equal(found.weights[name], value)
        assert found.weights[name].dtype == value.dtype
    assert load_checkpoint(path).kind == "classifier"


def test_weights_that_are_trained_are_stored_as_plain_values(tmp_path):
    weights = {"a": torch.nn.Parameter(torch.ones(2))}
    save_checkpoint(tmp_path / "x.pt", replace(MADE, weights=weights))
    assert not load_checkpoint(tmp_path / "x.pt").weights["a"].requires_grad


def test_same_content_gives_the_same_bytes(tmp_path):
    for name in ("one.pt", "another name.pt"):
        save_checkpoint(tmp_path / name, MADE)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()


def test_existing_file_is_kept(tmp_path):
    path = tmp_path / "cls.pt"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="cls.pt"):
        save_checkpoint(path, MADE)
    assert path.read_bytes() == b"mine"
    save_checkpoint(path, MADE, overwrite=True)
    assert load_checkpoint(path).kind == "classifier"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"classifier"}))
def test_another_kind(tmp_path, kind):
    save_checkpoint(tmp_path / "cls.pt", MADE)
    with pytest.raises(InputError, match=f"holds a classifier, not a {kind}; .*drstool {KINDS[kind]}"):
        load_checkpoint(tmp_path / "cls.pt", kind)


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_code_is_refused_and_not_run(tmp_path, form, recwarn):
    path, mark = tmp_path / "x.pt", tmp_path / "mark"
    content = {"format": "drstool", "weights": {"a": Code(mark)}}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="could run code"):
        load_checkpoint(path)
    assert not mark.exists()
    assert not recwarn.list
    # What is refused does work where code may run.
    torch.load(path, weights_only=False) if "pickle" not in form else pickle.loads(path.read_bytes())
    assert mark.exists()


def test_truncated_files(tmp_path):
    whole = tmp_path / "whole.pt"
    save_checkpoint(whole, MADE)
    data = whole.read_bytes()
    for size in (0, 1, 2, 100, len(data) // 2, len(data) - 30):
        path = tmp_path / "cut.pt"
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("content", [
    b"once upon a time\n", b"\x89PNG\r\n\x1a\n" + bytes(60), b"\x89HDF\r\n\x1a\n" + bytes(60),
    b"\x93NUMPY\x01\x00" + bytes(60), bytes(300)], ids=["text", "png", "hdf5", "npy", "zeros"])
def test_other_files_are_not_called_code(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a torch file, or is damaged"):
        load_tensors(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(InputError, match="is not a file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [
    {"a": torch.ones(2)}, [1, 2], torch.ones(2), {"format": "other", "weights": {}}, {"format": "drstool"}])
def test_foreign_torch_files(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match="is not a drstool checkpoint"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(("changes", "words"), [
    ({"version": 99}, "version 99"),
    ({"kind": "poem"}, "'poem'"),
    ({"architecture": None}, "'architecture' is missing"),
    ({"architecture": [1]}, "'architecture'"),
    ({"weights": [torch.ones(1)]}, "'weights'"),
    ({"provenance": "none"}, "'provenance'"),
    ({"class_names": []}, "names no object class"),
    ({"class_names": ["a", "a"]}, "'a' twice"),
    ({"class_names": "cat"}, "'class_names'"),
])
def test_damaged_content(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        load_checkpoint(changed(tmp_path / "x.pt", **changes))


@pytest.mark.parametrize("moment", ["_save", "__enter__", "__exit__"])
@pytest.mark.parametrize(("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_until_a_file_is_written(tmp_path, monkeypatch, moment, number, end):
    """torch's writer, broken off before it has closed its archive, would end the process."""
    from drstool.checkpoints.checkpoint import save_torch

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    holder = torch.serialization if moment == "_save" else torch.serialization._open_zipfile_writer_buffer
    function = getattr(holder, moment)

    def signalled(*arguments, **more):
        signal.raise_signal(number)
        return function(*arguments, **more)

    monkeypatch.setattr(holder, moment, signalled)
    try:
        with pytest.raises(end):
            save_torch(tmp_path / "net.pt", {"weights": {"a": torch.ones(2)}})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=True)["weights"]["a"], torch.ones(2))
