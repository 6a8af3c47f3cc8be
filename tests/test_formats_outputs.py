"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drstool.artifacts.atomic import check_writable, clear_away, new_file, new_folder, write_fully
from drstool.artifacts.end_record import end_record
from drstool.artifacts.header import Header, json_bytes
from drstool.errors import OutputError


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def make_ours(folder: Path) -> None:
    folder.mkdir()
    (folder / "drstool.json").write_bytes(json_bytes(Header("labels", ("cat",)).to_json()))
    (folder / "old.png").write_bytes(b"old")
    (folder / "drstool.end.json").write_bytes(end_record(1))


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
    (folder / "drstool.end.json").write_bytes(end_record(0))
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


def folder_of(root, kind="labels", names=("a.png", "street/b.png"), names_known=True):
    """A folder of drstool's with these files."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"old")
    (root / "drstool.json").write_bytes(json_bytes(Header(kind, ("cat",)).to_json()))
    (root / "drstool.end.json").write_bytes(end_record(len(names), names=names if names_known else None))
    return root


def put(path, link=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(link) if link else path.write_bytes(b"mine")


FOREIGN = {
    "a file": (lambda f: put(f / "notes.txt"), "also holds 'notes.txt', which drstool did not write"),
    "many": (lambda f: [put(f / f"n{n}") for n in range(5)], "also holds 'n[0-9]', 'n[0-9]', 'n[0-9]', …"),
    "a hidden file": (lambda f: put(f / ".git" / "HEAD"), "also holds '.git/HEAD'"),
    "a PNG": (lambda f: put(f / "by hand" / "a.png"), "(it wrote 2); the newest of 3 are 'by hand/a.png'"),
    "a PNG, another gone": (lambda f: [put(f / "c.png"), (f / "a.png").unlink()], "the newest of 2 are 'c.png'"),
    "a link": (lambda f: put(f / "c", "elsewhere"), "also holds 'c'"),
    "a link that is a PNG": (lambda f: [(f / "a.png").unlink(), put(f / "a.png", "b.png")], "also holds 'a.png'"),
    "a linked folder": (lambda f: put(f / "c", f / "street"), "also holds 'c'"),
    "a nested folder of drstool's": (lambda f: folder_of(f / "c", names=()), "also holds 'c/drstool"),
    "no end record": (lambda f: (f / "drstool.end.json").unlink(), "has no end record"),
    "a damaged end record": (lambda f: (f / "drstool.end.json").write_bytes(b"[]"), "has no end record"),
}


@pytest.mark.parametrize("kind", ["labels", "figures"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_put_into_a_folder_is_named_and_stays(tmp_path, name, kind):
    import re

    folder = folder_of(tmp_path / "out", kind)
    change, told = FOREIGN[name]
    change(folder)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=told if "[" in told else re.escape(told)), new_folder(folder, overwrite=True):
        pytest.fail("the work began")
    assert tree(tmp_path) == before
    check_writable(folder, False, folder=True, may_exist=True)


@pytest.mark.parametrize("names_known", [True, False])
def test_a_folder_that_lacks_some_files_or_says_little_may_be_replaced(tmp_path, names_known):
    folder = folder_of(tmp_path / "out", names_known=names_known)
    check_writable(folder, True, folder=True)
    (folder / "a.png").unlink()
    check_writable(folder, True, folder=True)


def test_what_others_put_there_during_the_work_stays(tmp_path):
    folder = folder_of(tmp_path / "out")
    with pytest.raises(OutputError, match="also holds 'notes'"), new_folder(folder, overwrite=True) as making:
        (making / "new.png").touch()
        put(folder / "notes")
    assert tree(tmp_path) == {
        "out", "out/a.png", "out/street", "out/street/b.png", "out/drstool.json", "out/drstool.end.json", "out/notes"}


def voc_at(root):
    for name in ("JPEGImages", "ImageSets/Segmentation", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no picture")
    (root / "classes.txt").touch()
    return root


@pytest.mark.parametrize("name", [
    "JPEGImages/a.jpg", "JPEGImages/new.h5", "JPEGImages/deep/er.h5", "ImageSets/Segmentation/train.txt", "classes.txt",
    "SegmentationClass/a.png", "Annotations", "saliency_map/a.png"])
@pytest.mark.parametrize("folder", [False, True])
def test_the_files_of_a_dataset_are_no_output(tmp_path, name, folder):
    root = voc_at(tmp_path / "voc")
    (root / "JPEGImages" / "deep").mkdir()
    (tmp_path / "link").symlink_to(root)
    for base in (root, tmp_path / "link"):
        with pytest.raises(OutputError, match=f"is part of the dataset '{root}'; choose another -o"):
            check_writable(base / name, True, folder=folder)


def test_new_names_beside_those_of_a_dataset_are_outputs(tmp_path):
    root = voc_at(tmp_path / "voc")
    check_writable(root / "labels", False, folder=True)
    check_writable(root / "cams.h5", False)
    check_writable(root / "saliency_map", False, folder=True)
    folder_of(root / "saliency_map", "saliency")
    check_writable(root / "saliency_map", True, folder=True)
    # Of no dataset, these are names as any others.
    check_writable(tmp_path / "Annotations", False, folder=True)


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_picture_is_not_replaced_by_a_file(tmp_path, start):
    (tmp_path / "x").write_bytes(start + bytes(100))
    with pytest.raises(OutputError, match="is a picture"):
        check_writable(tmp_path / "x", True)


def test_the_marks_of_a_folder_are_no_output(tmp_path):
    folder_of(tmp_path / "out")
    for name in ("drstool.json", "drstool.end.json"):
        with pytest.raises(OutputError, match="is a name that drstool gives"):
            check_writable(tmp_path / "out" / name, True)


@pytest.mark.skipif(os.name == "nt", reason="without permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_permissions_are_kept(tmp_path, mode):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(mode)
    with new_file(tmp_path / "file", overwrite=True) as partial:
        assert partial.stat().st_mode & 0o077 == 0
        partial.write_bytes(b"new")
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    folder = folder_of(tmp_path / "out")
    (folder / "drstool.json").chmod(mode)
    folder.chmod(mode | 0o100)
    with new_folder(folder, overwrite=True) as partial:
        assert partial.stat().st_mode & 0o077 == 0
        for name in ("a.png", "deep/c.png"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).touch()
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "deep")} == {mode | 0o100}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.png")} == {mode}


@pytest.fixture
def system(monkeypatch):
    """What the file system is asked to do, in order: inodes that are synced, and names that change."""
    asked = []

    def noted(name, note):
        real = getattr(os, name)

        def call(*arguments, **more):
            asked.append((name, *note(*arguments)))
            return real(*arguments, **more)

        monkeypatch.setattr(os, name, call)

    noted("fsync", lambda descriptor: [os.fstat(descriptor).st_ino])
    for name in ("rename", "replace", "link"):
        noted(name, lambda source, target: [Path(target).name])
    noted("unlink", lambda path, **_: [Path(path).name])
    return asked


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, system):
    for overwrite, step in ((False, "link"), (True, "replace")):
        system.clear()
        with new_file(tmp_path / "out", overwrite) as partial:
            inode = partial.stat().st_ino
        names = [each[0] for each in system if each[0] != "unlink"]
        assert names == ["fsync", step, "fsync"]
        assert [each[1] for each in system if each[0] == "fsync"] == [inode, tmp_path.stat().st_ino]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_on_the_disk_before_its_name_and_the_name_before_the_old_one_goes(tmp_path, system, there, kept):
    if there:
        folder_of(tmp_path / "out")
    at = tmp_path / ".out.resume" if kept else None
    if kept:
        at.mkdir()
    system.clear()
    with new_folder(tmp_path / "out", overwrite=there, at=at) as making:
        for name in ("a.png", "street/b.png", "street/deep/c.png"):
            (making / name).parent.mkdir(exist_ok=True)
            (making / name).write_bytes(b"new")
        inodes = {path.stat().st_ino for path in (making, *making.rglob("*"))}
    place = system.index(("rename", "out"))
    assert {each[1] for each in system[:place] if each[0] == "fsync"} == inodes
    assert system[place + 1] == ("fsync", tmp_path.stat().st_ino)
    assert [each for each in system[:place] if each[0] == "unlink"] == []
    assert (("unlink", "a.png") in system[place + 2:]) == there


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_serves(tmp_path, monkeypatch, code):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with new_file(tmp_path / "file"), new_folder(tmp_path / "out") as making:
        (making / "a.png").touch()
    assert tree(tmp_path) == {"file", "out", "out/a.png"}


def test_a_system_that_opens_no_folders_serves(tmp_path, monkeypatch):
    """As Windows does not."""
    real = os.open

    def refuse(path, *more):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *more)

    monkeypatch.setattr(os, "open", refuse)
    with new_file(tmp_path / "file"), new_folder(tmp_path / "out") as making:
        (making / "a.png").touch()
    assert tree(tmp_path) == {"file", "out", "out/a.png"}


def test_a_disk_that_fails_at_the_sync_leaves_what_was_there(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "out")
    before = tree(tmp_path)

    def refuse(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="Input/output error; check the disk"), new_folder(folder, True) as making:
        (making / "new.png").touch()
    assert tree(tmp_path) == before


def test_a_kill_while_the_old_folder_goes_leaves_what_is_known(tmp_path, monkeypatch):
    """What is left goes at the next start, and does not come back as an output."""
    folder_of(tmp_path / "out")
    unlink, left = os.unlink, [2]

    def counting(path, **more):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        unlink(path, **more)

    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out", True) as making:
        (making / "drstool.json").touch()
        monkeypatch.setattr(os, "unlink", counting)
    monkeypatch.undo()
    (old,) = tmp_path.glob(".out.replaced-*")
    assert (old / "drstool.json").exists() and tree(tmp_path / "out") == {"drstool.json"}
    os.rename(tmp_path / "out", tmp_path / "moved")
    clear_away(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved"]
