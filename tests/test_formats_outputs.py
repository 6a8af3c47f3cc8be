"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drstool.artifacts.atomic import check_writable, new_file, new_folder, write_fully
from drstool.artifacts.header import Header, json_bytes
from drstool.errors import OutputError


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def make_ours(folder: Path) -> None:
    folder.mkdir()
    (folder / "drstool.json").write_bytes(json_bytes(Header("labels", ("cat",)).to_json()))
    (folder / "old.png").write_bytes(b"old")


def test_a_file_appears_at_the_end(tmp_path):
    target = tmp_path / "out.bin"
    with new_file(target) as partial:
        assert partial.parent == tmp_path and partial.name.startswith(".out.bin.partial-")
        partial.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new" and tree(tmp_path) == {"out.bin"}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, failure, there):
    target = tmp_path / "out.bin"
    if there:
        target.write_bytes(b"old")
    with pytest.raises(failure), new_file(target, overwrite=True) as partial:
        partial.write_bytes(b"half")
        raise failure
    assert tree(tmp_path) == ({"out.bin"} if there else set())
    assert not there or target.read_bytes() == b"old"


def test_no_file_is_replaced_unasked(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with (
        pytest.raises(OutputError, match="already exists; choose another name, or use --overwrite"),
        new_file(target),
    ):
        pytest.fail("the work began")
    with new_file(target, overwrite=True) as partial:
        partial.write_bytes(b"new")
    assert target.read_bytes() == b"new"


def test_what_another_program_made_meanwhile_stays(tmp_path):
    target = tmp_path / "out.bin"
    with pytest.raises(OutputError, match="exists"), new_file(target) as partial:
        partial.write_bytes(b"mine")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs" and tree(tmp_path) == {"out.bin"}


def test_a_file_system_without_hard_links_serves(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with new_file(tmp_path / "out.bin") as partial:
        partial.write_bytes(b"new")
    assert tree(tmp_path) == {"out.bin"}


def test_a_symbolic_link_stands_for_its_target(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out.bin")
    with new_file(tmp_path / "link") as partial:
        partial.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/out.bin").read_bytes() == b"new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_odd_targets_are_refused(tmp_path, overwrite):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    cases = [
        (tmp_path, False, "is a folder"),
        (tmp_path / "fifo", False, "not a regular file"),
        (tmp_path / "file", True, "is a file"),
        (tmp_path / "no/x", False, "does not exist"),
        (tmp_path / "file/x", False, "does not exist"),
        ("", False, "empty"),
        (tmp_path / ("n" * 300), False, "too long"),
    ]
    for path, folder, told in cases:
        with pytest.raises(OutputError, match=told):
            check_writable(path, overwrite, folder=folder)
    assert tree(tmp_path) == {"file", "fifo"}


def test_names_as_long_as_may_be_work(tmp_path):
    for name in ("n" * 255, "ä" * 127):
        with new_file(tmp_path / name) as partial:
            partial.write_bytes(b"new")
    assert tree(tmp_path) == {"n" * 255, "ä" * 127}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, code):
    for make in (new_file, new_folder):
        with (
            pytest.raises(OutputError, match="cannot be written") as caught,
            make(tmp_path / "out"),
        ):
            raise OSError(code, os.strerror(code))
        assert "\n" not in str(caught.value)
    assert tree(tmp_path) == set()


def test_what_is_not_about_the_output_passes_through(tmp_path):
    for failure in (
        BrokenPipeError(errno.EPIPE, "x"),
        FileNotFoundError(2, "no", "/elsewhere/a.jpg"),
    ):
        with pytest.raises(type(failure)), new_file(tmp_path / "out"):
            raise failure
    assert tree(tmp_path) == set()


def test_a_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with new_folder(target) as partial:
        (partial / "a.png").write_bytes(b"new")
        assert not any(target.iterdir())
    assert tree(tmp_path) == {"out", "out/a.png"}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder(tmp_path, failure):
    make_ours(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(failure), new_folder(tmp_path / "out", overwrite=True) as partial:
        (partial / "a.png").write_bytes(b"new")
        raise failure
    assert tree(tmp_path) == before


def test_a_folder_is_replaced_only_when_ours(tmp_path):
    make_ours(tmp_path / "ours")
    with pytest.raises(OutputError, match="exists"), new_folder(tmp_path / "ours"):
        pytest.fail("the work began")
    with new_folder(tmp_path / "ours", overwrite=True) as partial:
        (partial / "a.png").write_bytes(b"new")
    assert tree(tmp_path / "ours") == {"a.png"}
    for text in (None, b"{}", b"no json", b'"drstool"'):
        theirs = tmp_path / "theirs"
        theirs.mkdir(exist_ok=True)
        (theirs / "x").touch()
        if text is not None:
            (theirs / "drstool.json").write_bytes(text)
        with (
            pytest.raises(OutputError, match="not written by drstool; move it, or choose another -o"),
            new_folder(theirs, overwrite=True),
        ):
            pytest.fail("the work began")
    assert (tmp_path / "theirs/x").exists()


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    make_ours(tmp_path / "out")
    before, rename = tree(tmp_path), os.rename

    def refuse(source: Path, target: Path) -> None:
        if ".partial-" in str(source):
            raise OSError(errno.EIO, "Input/output error", str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with (
        pytest.raises(OutputError, match="Input/output"),
        new_folder(tmp_path / "out", True) as partial,
    ):
        (partial / "new.png").touch()
    assert tree(tmp_path) == before


def test_the_current_folder_is_no_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="current folder"):
        check_writable(".", False, folder=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    (tmp_path / "sub").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(tmp_path / "sub/x", False)


def test_a_full_device_is_told_and_nothing_comes_at_exit():
    code = (
        "import sys\nfrom drstool.artifacts.atomic import write_fully\n"
        "from drstool.errors import OutputError\n"
        "try: write_fully(sys.stdout.buffer, b'x' * 9000)\n"
        "except OutputError as error: print(error, file=sys.stderr)\n"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.startswith("stdout: cannot be written: No space left")
        and done.stderr.count("\n") == 1
    )


def test_a_closed_pipe_is_no_output_error():
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError), open(writing, "wb", buffering=0) as stream:
        write_fully(stream, b"x")


def test_a_pipe_that_does_not_block_is_waited_for():
    import threading

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data, got = os.urandom(300_000), []

    def drain() -> None:
        with open(reading, "rb") as stream:
            got.append(stream.read())

    reader = threading.Thread(target=drain)
    reader.start()
    with open(writing, "wb") as stream:
        write_fully(stream, data)
    reader.join(30)
    assert got == [data]


def test_only_a_dataset_replaces_a_dataset(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "drstool.json").write_bytes(json_bytes(Header("dataset", ()).to_json()))
    with pytest.raises(OutputError, match="is a dataset"), new_folder(folder, overwrite=True):
        pass
    with pytest.raises(OutputError, match="is a dataset"):
        check_writable(folder, True, folder=True)
    assert (folder / "drstool.json").is_file()
    inner = folder / "saliency_map"
    inner.mkdir()
    check_writable(inner, False, folder=True)
    (inner / "drstool.json").write_bytes(json_bytes(Header("saliency", ()).to_json()))
    with pytest.raises(OutputError, match="is part of a dataset"):
        check_writable(inner, True, folder=True)
    with new_folder(folder, overwrite=True, dataset=True) as partial:
        (partial / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
