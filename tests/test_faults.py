"""A system that refuses: full disk, lost file, no permission, no more open files, a held lock."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest

from drstool.errors import InputError

FAILED, INPUT = 1, 3
NOBODY = 65534


@pytest.fixture
def place(made, voc):
    """A folder that others may enter, with artifacts to be spoilt."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    for name in ("cams", "labels", "cls", "pred"):
        source = getattr(made, name)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / source.name)
    shutil.copytree(voc, folder / "voc")
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    yield folder
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o777)
    shutil.rmtree(folder)


LINES = {
    "pseudo-label": lambda f: ("pseudo-label", f / "cams.h5", "--saliency", f / "voc/saliency_map", "-o", f / "out/x"),
    "pseudo-label, stream": lambda f: (
        "pseudo-label", f / "cams.h5", "--background", "power", "-o", f / "out/x.tar"),
    "eval": lambda f: ("eval", f / "pred", "--data", f / "voc", "--split", "val"),
    "overlay": lambda f: ("overlay", "--data", f / "voc", "--split", "val", "--labels", f / "pred", "-o", f / "out/x"),
    "saliency": lambda f: ("saliency", "--data", f / "voc", "--split", "val", "-o", f / "out/x"),
    "info": lambda f: ("info", f / "cams.h5"),
    "ids": lambda f: ("ids", "--data", f / "voc", "--split", "val"),
}


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_one_line(outcome, place, codes):
    lines = outcome.err.splitlines()
    assert outcome.code in codes, outcome.err
    assert len(lines) == 1 and lines[0].startswith("drstool: "), outcome.err
    # What --resume goes on with may stay; it is hidden, and 'check' calls it unfinished.
    left = [path.name for path in (place / "out").iterdir()]
    assert [name for name in left if not name.startswith(".x.resume")] == []


# --- no permission -----------------------------------------------------------------------------


@contextlib.contextmanager
def unprivileged():
    """As somebody whom permissions bind; the administrator is not bound."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


UNREADABLE = {
    "map file": ("cams.h5", "pseudo-label"),
    "map file, info": ("cams.h5", "info"),
    "label folder": ("pred", "eval"),
    "header of labels": ("pred/drstool.json", "eval"),
    "label image": ("pred/p4.png", "eval"),
    "saliency folder": ("voc/saliency_map", "pseudo-label"),
    "saliency map": ("voc/saliency_map/p1.png", "pseudo-label"),
    "mask": ("voc/SegmentationClass/p5.png", "eval"),
    "image": ("voc/JPEGImages/p5.jpg", "saliency"),
    "list": ("voc/ImageSets/Segmentation/val.txt", "ids"),
    "class names": ("voc/classes.txt", "ids"),
    "images": ("voc/JPEGImages", "ids"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_may_not_be_read(drs, place, name):
    spoilt, command = UNREADABLE[name]
    line = LINES[command](place)
    # Once as it is: everything is imported then, which needs permissions of its own.
    assert drs(*line, "-q").code == 0
    empty(place / "out")
    (place / spoilt).chmod(0)
    with unprivileged():
        outcome = drs(*line)
    (place / spoilt).chmod(0o777)
    check_one_line(outcome, place, {INPUT})


UNLISTABLE = {
    "masks": ("SegmentationClass", "eval"),
    "further masks": ("SegmentationClassAug", "eval"),
    "saliency maps of the dataset": ("saliency_map", "ids"),
    "annotations": ("Annotations", "ids"),
    "lists": ("ImageSets/Segmentation", "ids"),
    "lists of classes": ("ImageSets/Main", "ids"),
    "images below": ("JPEGImages/more", "ids"),
    "masks below": ("SegmentationClass/more", "ids"),
}


@pytest.mark.parametrize("mode", [0, 0o100], ids=["no permission", "no listing"])
@pytest.mark.parametrize("name", UNLISTABLE)
def test_folder_of_a_dataset_that_may_not_be_listed(drs, place, name, mode):
    """It does not count as absent: other masks, tags or classes would take its place."""
    spoilt, command = UNLISTABLE[name]
    for folder in ("JPEGImages/more", "SegmentationClass/more", "SegmentationClassAug", "Annotations",
                   "ImageSets/Main"):
        (place / "voc" / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(place / "voc/JPEGImages/p4.jpg", place / "voc/JPEGImages/more/p4.jpg")
    line = LINES[command](place)
    if name in ("annotations", "lists of classes"):
        (place / "voc/classes.txt").unlink()
        (place / "voc/ImageSets/Segmentation/val_cls.txt").unlink()
    if name == "images below":
        shutil.rmtree(place / "voc/ImageSets/Segmentation")
        line = ("ids", "--data", place / "voc")
    if name == "further masks":
        shutil.move(place / "voc/SegmentationClass/p4.png", place / "voc/SegmentationClassAug/p4.png")
    if name == "masks below":
        (place / "voc/ImageSets/Segmentation/val.txt").write_text("more/p4\n")
    assert drs(*line, "-q").code == 0
    (place / "voc" / spoilt).chmod(mode)
    with unprivileged():
        outcome = drs(*line)
    (place / "voc" / spoilt).chmod(0o777)
    check_one_line(outcome, place, {INPUT})
    assert spoilt in outcome.err and "Permission denied" in outcome.err and outcome.out == ""


def test_folders_whose_parts_may_not_be_listed(drs, place):
    from drstool.files import content_digest

    inner = place / "pred/below"
    inner.mkdir()
    shutil.copy(place / "pred/p4.png", inner)
    content_digest(place / "pred")
    inner.chmod(0)
    with unprivileged(), pytest.raises(InputError, match="below: cannot be read: Permission denied"):
        content_digest(place / "pred")
    with unprivileged():
        outcome = drs("info", place / "pred")
    inner.chmod(0o777)
    check_one_line(outcome, place, {INPUT})
    assert "below: cannot be read: Permission denied" in outcome.err


def test_images_and_markers_behind_a_closed_folder(drs, place):
    """What is wrong is the permission, not the path."""
    manifest = place / "list.jsonl"
    manifest.write_text('{"id": "p4", "image": "voc/JPEGImages/p4.jpg"}\n')
    lines = {
        "JPEGImages": ("ids", "--data", manifest), "labels": ("check", place / "labels"),
        "cls": ("info", place / "closed/cls.pt"), "data": ("ids", "--data", place / "closed/voc"),
    }
    (place / "closed").mkdir()
    shutil.copy(place / "cls.pt", place / "closed/cls.pt")
    for closed in (place / "voc/JPEGImages", place / "labels", place / "closed"):
        closed.chmod(0)
    with unprivileged():
        found = {name: drs(*line) for name, line in lines.items()}
    for name, outcome in found.items():
        assert outcome.code == INPUT, name
        assert (outcome.err + outcome.out).count("Permission denied") == 1, name


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ESTALE, errno.EMFILE])
def test_only_what_does_not_exist_is_missing(monkeypatch, tmp_path, number):
    from drstool import files

    assert files.status(tmp_path / "no") is None and files.names_in(tmp_path / "no") == []
    assert files.status(tmp_path / ("n" * 300)) is None and files.names_in("null\0character") == []
    assert list(files.walk(tmp_path / "no")) == [] and not files.is_file(tmp_path) and files.is_folder(tmp_path)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path))

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    for ask in (files.status, files.is_file, files.is_folder, files.names_in, lambda path: list(files.walk(path))):
        with pytest.raises(InputError, match=f"cannot be read: {os.strerror(number)}"):
            ask(tmp_path)


def test_checkpoint_that_may_not_be_read(place):
    from drstool.checkpoints.checkpoint import load_tensors

    (place / "cls.pt").chmod(0)
    with unprivileged(), pytest.raises(InputError, match="cls.pt: cannot be read: Permission denied"):
        load_tensors(place / "cls.pt")


@pytest.mark.parametrize("command", ["pseudo-label", "pseudo-label, stream", "overlay", "saliency"])
def test_folder_that_may_not_be_written(drs, place, command):
    line = LINES[command](place)
    assert drs(*line, "-q").code == 0
    empty(place / "out")
    (place / "out").chmod(0o555)
    with unprivileged():
        outcome = drs(*line)
    (place / "out").chmod(0o777)
    check_one_line(outcome, place, {FAILED})


def test_check_names_what_may_not_be_read(drs, place):
    assert drs("check", place / "cams.h5", place / "pred").code == 0
    (place / "cams.h5").chmod(0)
    (place / "pred/p4.png").chmod(0)
    with unprivileged():
        outcome = drs("check", place / "cams.h5", place / "pred")
    assert (outcome.code, outcome.err) == (INPUT, "")
    first, second = outcome.out.splitlines()
    assert "cams.h5" in first and "p4.png" in second
    assert outcome.out.count("Permission denied") == 2


# --- lost and changed while at work --------------------------------------------------------------


def then(monkeypatch, function, deed, at):
    """Do something at the N-th call of a function, named ``module.name``."""
    module, _, name = function.rpartition(".")
    import importlib

    holder = importlib.import_module(module) if not module[module.rfind(".") + 1].isupper() else None
    if holder is None:
        outer, _, kind = module.rpartition(".")
        holder = getattr(importlib.import_module(outer), kind)
    real, calls = getattr(holder, name), []

    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            deed()
        return real(*arguments, **options)

    monkeypatch.setattr(holder, name, wrapped)


LOST = {
    "saliency map": ("pseudo-label", "drstool.stages.pseudo_label.load_saliency", "voc/saliency_map/p3.png"),
    "mask": ("eval", "drstool.stages.eval.count_labels", "voc/SegmentationClass/p5.png"),
    "label image": ("eval", "drstool.stages.eval.count_labels", "pred/p5.png"),
    "image": ("overlay", "drstool.figures.columns.load_image", "voc/JPEGImages/p5.jpg"),
}


@pytest.mark.parametrize("name", LOST)
def test_file_that_is_lost_while_at_work(drs, place, monkeypatch, name):
    command, function, lost = LOST[name]
    then(monkeypatch, function, (place / lost).unlink, 1)
    check_one_line(drs(*LINES[command](place), "--workers", "0", "-q"), place, {INPUT})


def test_map_file_that_is_cut_while_at_work(drs, place, monkeypatch):
    def cut():
        os.truncate(place / "cams.h5", 3000)

    then(monkeypatch, "drstool.formats.map_file.MapFileReader.read", cut, 3)
    check_one_line(drs(*LINES["pseudo-label"](place), "--workers", "0", "-q"), place, {INPUT})


def test_map_file_that_is_replaced_while_at_work(drs, place, monkeypatch, made):
    """The one that was opened is read to its end."""
    then(monkeypatch, "drstool.formats.map_file.MapFileReader.read", (place / "cams.h5").unlink, 2)
    assert drs(*LINES["pseudo-label"](place), "--workers", "0", "-q").code == 0
    assert sorted(path.name for path in (place / "out/x").glob("p*.png")) == ["p0.png", "p1.png", "p2.png", "p3.png"]


def replaced(folder):
    """Another folder in the place of one, as --overwrite puts it there."""
    os.rename(folder, folder.with_name("old"))
    shutil.copytree(folder.with_name("old"), folder)


@pytest.mark.parametrize("touch", [False, True], ids=["another folder", "another marker"])
@pytest.mark.parametrize("read", ["LabelFolderReader.read", "LabelFolderReader.lazy"])
def test_label_folder_that_is_replaced_while_at_work(drs, place, monkeypatch, read, touch):
    line = LINES["eval"](place) if read.endswith("lazy") else ("cat", place / "pred", "-o", place / "out/x")
    assert drs(*line, "-q", "--workers", "0").code == 0
    empty(place / "out")

    def deed():
        if touch:
            os.utime(place / "pred/drstool.json")
        else:
            replaced(place / "pred")

    then(monkeypatch, f"drstool.formats.label_folder.{read}", deed, 2)
    outcome = drs(*line, "-q", "--workers", "0")
    check_one_line(outcome, place, {INPUT})
    assert outcome.err == f"drstool: {place / 'pred'}: was replaced while it was being read; run this command again\n"


def test_last_label_image_of_a_replaced_folder_is_not_taken(place):
    from drstool.formats.label_folder import LabelFolderReader

    reader = LabelFolderReader(place / "pred")
    replaced(place / "pred")
    for identifier in reader.ids():
        with pytest.raises(InputError, match="was replaced"):
            reader.read(identifier)
    # Also where the file is gone.
    shutil.rmtree(place / "pred")
    with pytest.raises(InputError, match="was replaced"):
        reader.read(reader.ids()[0])


def test_labels_that_are_replaced_while_training(place):
    from drstool.formats.label_folder import label_paths

    paths = label_paths(place / "labels")[1]
    assert paths["p0"] == place / "labels/p0.png" and "p9" not in paths and len(paths) == 4
    replaced(place / "labels")
    with pytest.raises(InputError, match="was replaced"):
        paths["p0"]


def test_saliency_maps_that_are_replaced_while_at_work(drs, place, monkeypatch):
    line = LINES["pseudo-label"](place)
    then(monkeypatch, "drstool.stages.pseudo_label.load_saliency", lambda: replaced(place / "voc/saliency_map"), 1)
    outcome = drs(*line, "--workers", "0", "-q")
    check_one_line(outcome, place, {INPUT})
    assert "saliency_map: was replaced while it was being read" in outcome.err


# --- no room, no handles ---------------------------------------------------------------------------


@contextlib.contextmanager
def limited(kind, most):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.mark.parametrize("room", [0, 1, 100, 400, 600, 1100, 2000])
@pytest.mark.parametrize("command", ["pseudo-label", "pseudo-label, stream", "overlay", "saliency"])
def test_disk_that_fills_up(drs, place, command, room):
    with limited(resource.RLIMIT_FSIZE, room):
        outcome = drs(*LINES[command](place), "-q")
    if outcome.code:
        check_one_line(outcome, place, {FAILED})
    else:
        (made,) = (place / "out").iterdir()
        assert drs("check", made, "-q").code == 0
    assert outcome.code or room > 400


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("command", ["pseudo-label", "eval", "ids", "info"])
def test_stdout_without_room(place, program, command):
    line = [word for word in LINES[command](place) if word not in ("-o", place / "out/x")]
    with open("/dev/full", "wb") as full:
        process = program.start(*line, "-q", stdout=full)
        error = process.communicate(timeout=300)[1].decode()
    assert process.returncode == FAILED
    assert error == "drstool: stdout: cannot be written: No space left on device; free some space, or write elsewhere\n"


@pytest.mark.parametrize("command", LINES)
def test_no_more_open_files(drs, place, command):
    """With every number of handles left, from none to enough."""
    line = LINES[command](place)
    assert drs(*line, "-q").code == 0
    codes = []
    for left in range(12):
        empty(place / "out")
        held = [os.dup(0) for _ in range(3)]
        lowest = os.dup(0)
        for handle in (*held, lowest):
            os.close(handle)
        # Handles are numbered from the lowest that is free.
        with limited(resource.RLIMIT_NOFILE, min(held[0], lowest) + left):
            outcome = drs(*line, "-q", "--workers", "0")
        codes.append(outcome.code)
        if outcome.code:
            check_one_line(outcome, place, {FAILED, INPUT})
    assert codes[0] in (FAILED, INPUT) and codes[-1] == 0, codes


def test_file_that_another_program_has_locked(drs, place):
    """HDF5's own locks fail on some network disks; reading goes without."""
    with open(place / "cams.h5", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert drs(*LINES["pseudo-label"](place), "-q").code == 0
        assert drs("check", place / "cams.h5", "-q").code == 0
