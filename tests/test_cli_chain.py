"""The chain as typed: on files and on pipes, cut off, killed and interrupted."""

import fcntl
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import tarfile
import time

import h5py
import numpy as np
import pytest
import torch

BLOCK = 512
SMALL = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32")
PARTIAL = ".*.partial-*"


def wait_for(condition, process=None, seconds=60):
    """Until something has happened; the limit only ends a test that has failed."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        assert process is None or process.poll() is None, "the program ended before it happened"
        time.sleep(0.02)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def read_member(stream):
    """One file of a tar stream as it stands in it, with the extended headers before it; and its name."""
    whole, name = b"", None
    while True:
        block = stream.read(BLOCK)
        assert len(block) == BLOCK
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        whole += block + stream.read(info.size + -info.size % BLOCK)
        if info.isreg():
            name = info.name
            return whole, name


# --- pipes, as typed ---------------------------------------------------------------------------


def test_the_chain_on_pipes(program, drs, voc, made, tmp_path):
    """Chosen by grep, seen by tee, one number at the end: the same as on files."""
    done = program.shell(f"""
        drstool ids --data '{voc}' --split train | grep -v '"p3"' | tee chosen.jsonl |
        drstool cam --data - --weights '{made.cls}' --sizes 32,40 --no-provenance -q | tee cams.tar |
        drstool refine --weights '{made.refiner}' --sizes 32,40 -q |
        drstool pseudo-label --saliency '{voc}/saliency_map' -q |
        drstool eval --data chosen.jsonl --json
        """, tmp_path)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    scores = json.loads(done.stdout)
    assert scores["images"] == 3

    chosen = tmp_path / "chosen.jsonl"
    assert [json.loads(line)["id"] for line in chosen.read_text().splitlines()] == ["p0", "p1", "p2"]
    refined, labels = tmp_path / "refined.h5", tmp_path / "labels"
    maps = ("--data", chosen, "--weights", made.cls, "--sizes", "32,40")
    assert drs("refine", tmp_path / "cams.tar", "--weights", made.refiner, "--sizes", "32,40", "-o", refined).code == 0
    assert drs("pseudo-label", refined, "--saliency", voc / "saliency_map", "-o", labels).code == 0
    on_files = drs("eval", labels, "--data", chosen, "--json").json()
    assert on_files["classes"] == scores["classes"]

    # What passed through the pipe is a tar of HDF5 files, of the same maps as in a map file.
    assert drs("cam", *maps, "-o", tmp_path / "cams.h5").code == 0
    with tarfile.open(tmp_path / "cams.tar") as stream, h5py.File(tmp_path / "cams.h5") as file:
        assert stream.getnames() == ["drstool.json", "p0.h5", "p1.h5", "p2.h5", "drstool.end.json"]
        for identifier in ("p0", "p1", "p2"):
            with h5py.File(io.BytesIO(stream.extractfile(f"{identifier}.h5").read())) as one:
                assert np.array_equal(one["maps"][identifier][()], file["maps"][identifier][()])

    steps = [step["command"].split()[1] for step in scores["provenance"]]
    assert "refine-train" in steps
    assert steps[-2:] == ["refine", "pseudo-label"]


def test_stages_run_at_the_same_time_and_one_is_killed(program, voc, made, tmp_path):
    """Labels are written while maps are still being made; when ``cam`` dies nothing is left."""
    reading, writing = os.pipe()
    # Too small for the rest of the maps: 'cam' cannot end before they are taken.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    cam = program.start(
        "cam", "--data", voc, "--split", "train", "--weights", made.cls, "--sizes", "32", "--map-size", "128",
        "--batch-size", "1", "-q", stdout=writing)
    os.close(writing)
    labels = program.start(
        "pseudo-label", "--saliency", voc / "saliency_map", "--workers", "1", "-o", tmp_path / "labels", "-q")
    with open(reading, "rb", buffering=0) as pipe, cam, labels:
        stream = io.BufferedReader(pipe, 1)
        for expected in ("drstool.json", "p0.h5", "p1.h5"):
            member, name = read_member(stream)
            assert name == expected
            labels.stdin.write(member)
            labels.stdin.flush()
        wait_for(lambda: len(list(tmp_path.glob(f"{PARTIAL}/p[01].png"))) == 2, labels)
        assert cam.poll() is None
        assert left_in(tmp_path) != ["labels"]
        cam.kill()
        labels.stdin.close()
        assert labels.wait(60) == 3
        (line,) = labels.stderr.read().decode().splitlines()
        assert "ends after 2 records" in line
        cam.wait(60)
    assert left_in(tmp_path) == []


def test_a_stage_that_fails_ends_the_chain(program, made, tmp_path, own_voc):
    """Each stage tells of its own failure, and no file pretends to be whole."""
    (own_voc / "saliency_map" / "p3.png").unlink()
    done = program.shell(f"""
        drstool pseudo-label '{made.cams}' --saliency '{own_voc}/saliency_map' --workers 1 |
        drstool eval --data '{own_voc}' --split train --json > scores.json
        echo "${{PIPESTATUS[@]}}"
        """, tmp_path)
    assert done.stdout.decode() == "3 3\n"
    first, second = sorted(done.stderr.decode().splitlines(), key=lambda line: "stdin" in line)
    assert "p3" in first
    assert "stdin" in second and "end record" in second
    assert (tmp_path / "scores.json").read_bytes() == b""


def test_cut_stream(drs, voc, made, tmp_path):
    stream = tmp_path / "cams.tar"
    must(drs, "cam", "--data", voc, "--split", "train", "--weights", made.cls, "--sizes", "32", "-o", stream)
    whole = stream.read_bytes()
    for share in (0.1, 0.5, 0.9):
        cut = whole[: int(share * len(whole))]
        outcome = drs("pseudo-label", "--background", "power", "-o", tmp_path / "labels", stdin=cut)
        assert outcome.code == 3
        assert len(outcome.err.splitlines()) == 1
        assert left_in(tmp_path) == ["cams.tar"]


def must(drs, *arguments, **more):
    outcome = drs(*arguments, **more)
    assert outcome.code == 0, outcome.err
    return outcome


# --- where stdout leads ------------------------------------------------------------------------


def binary_lines(voc, made):
    """Command lines that write maps or label images to stdout."""
    return [
        ("cam", "--data", voc, "--split", "train", "--weights", made.cls, "--sizes", "32"),
        ("refine", made.cams, "--weights", made.refiner, "--sizes", "32"),
        ("pseudo-label", made.cams, "--background", "power"),
        ("segment", "--data", voc, "--split", "val", "--weights", made.seg),
        ("saliency", "--data", voc, "--split", "val"),
    ]


def test_maps_into_a_regular_file_are_hdf5(drs, voc, made, tmp_path):
    for line in binary_lines(voc, made)[:2]:
        target = tmp_path / f"{line[0]}.h5"
        with open(target, "wb") as file:
            assert must(drs, *line, stdout=file).err.startswith(line[0])
        with h5py.File(target) as found:
            assert sorted(found["maps"]) == ["p0", "p1", "p2", "p3"]
        with open(target, "ab") as file:
            assert drs(*line, stdout=file).code == 1


def test_labels_into_a_regular_file_are_a_stream(drs, voc, made, tmp_path):
    target = tmp_path / "labels.tar"
    with open(target, "wb") as file:
        must(drs, *binary_lines(voc, made)[2], stdout=file)
    with tarfile.open(target) as stream:
        assert "p0.png" in stream.getnames()
    assert must(drs, "info", target, "--json").json()["images"] == 4


def test_nothing_binary_on_a_terminal(drs, voc, made):
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "wb", buffering=0) as terminal:
        for line in binary_lines(voc, made):
            outcome = drs(*line, stdout=terminal)
            assert outcome.code == 2
            assert outcome.err == "drstool: stdout: is a terminal, but the output is binary; use a pipe or -o FILE\n"
        terminal.write(b"end")
        assert screen.read(100) == b"end"


def test_closed_pipe_ends_quietly(program, voc, made):
    lines = (
        ("pseudo-label", made.cams, "--background", "power"), ("ids", "--data", voc, "--split", "train"), ("--help",))
    for line in lines:
        reading, writing = os.pipe()
        os.close(reading)
        with program.start(*line, stdout=writing, stdin=subprocess.DEVNULL) as process:
            os.close(writing)
            assert process.stderr.read() == b""
        assert process.returncode == 141


def test_head_takes_what_it_wants(program, made, tmp_path):
    done = program.shell(f"""
        drstool pseudo-label '{made.cams}' --background power -q | head -c 1000 | wc -c
        """, tmp_path)
    assert int(done.stdout) == 1000
    assert done.stderr == b""
    # 0 where all fitted into the pipe before head closed it.
    assert done.returncode in (0, 141)


def test_full_device_on_stdout(program, voc, made, tmp_path):
    for line in (f"ids --data '{voc}' --split train", f"pseudo-label '{made.cams}' --background power"):
        done = program.shell(f"drstool {line} > /dev/full", tmp_path)
        assert done.returncode == 1
        (told,) = done.stderr.decode().splitlines()
        assert told.startswith("drstool: stdout: cannot be written: No space left on device")


def test_closed_standard_streams(program, voc, made, tmp_path):
    script = f"""
        drstool ids --data '{voc}' --split train >&- 2> out; echo $?
        drstool pseudo-label --background power -o labels <&- 2> in; echo $?
        drstool pseudo-label '{made.cams}' --background power 2>&- > err.tar; echo $?
        """
    assert program.shell(script, tmp_path).stdout.split() == [b"1", b"2", b"0"]
    assert (tmp_path / "out").read_text().startswith("drstool: stdout: is closed")
    assert (tmp_path / "in").read_text().startswith("drstool: stdin: is closed")
    # No message went where the data go.
    with tarfile.open(tmp_path / "err.tar") as stream:
        assert stream.getnames()[-1] == "drstool.end.json"


# --- on files ----------------------------------------------------------------------------------


def writers(voc, made):
    """Every command that writes a file or folder, but for its -o."""
    train, val = ("--data", voc, "--split", "train"), ("--data", voc, "--split", "val")
    small = (*SMALL, "--epochs", "1", "--device", "cpu")
    return {
        "train-cls": (*train, *small), "refine-train": (*train, *small, "--maps", made.cams),
        "train-seg": (*train, *small, "--labels", made.labels),
        "cam": (*train, "--weights", made.cls, "--sizes", "32"),
        "refine": (made.cams, "--weights", made.refiner, "--sizes", "32"),
        "pseudo-label": (made.cams, "--saliency", voc / "saliency_map"),
        "segment": (*val, "--weights", made.seg), "overlay": (*val, "--labels", made.pred),
        "saliency": val,
    }


COMMANDS = ("train-cls", "refine-train", "train-seg", "cam", "refine", "pseudo-label", "segment", "overlay", "saliency")


def contents(path):
    """Bytes of a file, or of every file of a folder."""
    if path.is_file():
        return path.read_bytes()
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_provenance_gives_equal_bytes(drs, voc, made, tmp_path, command):
    for name in ("a", "b"):
        must(drs, command, *writers(voc, made)[command], "--no-provenance", "-o", tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_says_nothing_and_overwrite_replaces(drs, voc, made, tmp_path, command):
    line = (command, *writers(voc, made)[command], "-o", tmp_path / "result")
    outcome = must(drs, *line, "--no-provenance", "-q")
    assert (outcome.out, outcome.err) == ("", "")
    before = contents(tmp_path / "result")
    assert drs(*line, "-q").code == 1
    assert contents(tmp_path / "result") == before
    outcome = must(drs, *line, "--overwrite")
    # One line at the end, and one an epoch.
    assert outcome.err.splitlines()[-1].startswith(f"{command}: ")
    assert contents(tmp_path / "result") != before
    assert left_in(tmp_path) == ["result"]


def test_provenance_names_what_went_in(drs, made):
    steps = must(drs, "info", made.pred, "--json").json()["provenance"]
    assert [step["command"].split()[1] for step in steps] == [
        "train-cls", "cam", "pseudo-label", "train-seg", "segment"]
    assert steps[0]["used"] == {"pixel_ground_truth": False, "tags": "list"}
    assert steps[1]["inputs"]["checkpoint"].startswith("sha256:")
    assert not any(step["used"].get("pixel_ground_truth") for step in steps)


def test_history_holds_the_settings_that_were_used(drs, voc, made, tmp_path):
    """Also where they follow from the network, which was trained at 32 pixels."""
    train = ("--data", voc, "--split", "train")
    must(drs, "cam", *train, "--weights", made.cls, "-o", tmp_path / "cams.h5")
    must(drs, "refine", *train, "--weights", made.refiner, "-o", tmp_path / "refined.h5")
    for name in ("cams.h5", "refined.h5"):
        settings = must(drs, "info", tmp_path / name, "--json").json()["provenance"][-1]["settings"]
        assert (settings["image_size"], settings["sizes"]) == (32, [26, 32, 38])
        assert settings.get("method", "drs") == "drs"
    told = must(drs, "eval", tmp_path / "cams.h5", *train, "--json").json()
    assert told["protocol"]["method"]["sizes"] == [26, 32, 38]


def test_info_counts_relus_as_users_do(drs, voc, tmp_path):
    for given, shown in (("14-16", "14,15,16"), ("all", "1..16")):
        must(drs, "train-cls", "--data", voc, "--split", "train", "--backbone", "vgg16-small", "--init", "none",
             "--image-size", "32", "--epochs", "0", "--drs-layers", given, "--overwrite", "-o", tmp_path / "cls.pt")
        (line,) = [line for line in must(drs, "info", tmp_path / "cls.pt").out.splitlines() if "architecture" in line]
        assert f"drs_layers {shown}" in line


def test_info_believes_no_numbers(drs, made, tmp_path):
    content = torch.load(made.cls, weights_only=True)
    content["recipe"]["sizes"] = [1, 2, 3, 4, 3 * 10**12]
    torch.save(content, tmp_path / "cls.pt")
    assert "sizes 1,2,3,4,3000000000000" in must(drs, "info", tmp_path / "cls.pt").out


def test_info_tells_of_every_artefact(drs, voc, made, tmp_path):
    kinds = {
        made.cls: "classifier", made.refiner: "refiner", made.seg: "segmenter", made.cams: "localization-maps",
        made.refined: "refined-maps", made.labels: "labels", made.pred: "labels", made.figures: "figures"}
    for path, kind in kinds.items():
        told = must(drs, "info", path, "--json").json()
        assert told["kind"] == kind
        assert told["class_names"] == ["bar", "disc"]
        assert told["provenance"]
        text = must(drs, "info", path).out
        assert text.splitlines()[0].split() == ["kind", kind]
        assert "1: " not in text or "bar, disc" in text
    for path in (made.cams, made.labels):
        stream = io.BytesIO()
        if path.is_dir():
            with tarfile.open(fileobj=stream, mode="w") as tar:
                names = [p.name for p in path.iterdir() if not p.name.startswith("drstool")]
                for name in ("drstool.json", *sorted(names), "drstool.end.json"):
                    tar.add(path / name, name)
        else:
            stream.write(path.read_bytes())
        assert must(drs, "info", "--json", stdin=stream.getvalue()).json()["images"] == 4
    foreign = must(drs, "info", voc / "SegmentationClass").out
    assert "unknown" in foreign


def test_score_maps_can_be_evaluated(drs, voc, made, tmp_path):
    val = ("--data", voc, "--split", "val")
    scores = tmp_path / "scores.h5"
    must(drs, "segment", *val, "--weights", made.seg, "-o", tmp_path / "labels", "--scores", scores)
    assert must(drs, "info", scores, "--json").json()["kind"] == "score-maps"
    assert must(drs, "eval", scores, *val, "--background", "power", "--json").json()["images"] == 2


def test_ground_truth_scores_are_perfect(drs, voc):
    result = must(drs, "eval", voc / "SegmentationClass", "--data", voc, "--split", "val", "--json")
    assert result.json()["mean_iou"] == 1
    table = must(drs, "eval", voc / "SegmentationClass", "--data", voc, "--split", "val").out
    assert "disc" in table
    text = must(drs, "eval", voc / "SegmentationClass", "--data", voc, "--split", "val", "--csv").out
    assert len(text.splitlines()) > 3


def test_maps_need_no_masks(drs, made, own_voc, tmp_path):
    """Only eval reads pixel ground truth: without any, the rest is the same."""
    shutil.rmtree(own_voc / "SegmentationClass")
    train = ("--data", own_voc, "--split", "train")
    must(drs, "cam", *train, "--weights", made.cls, "--sizes", "32,40", "--no-provenance", "-o", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as ours, h5py.File(made.cams) as theirs:
        for name in ours["maps"]:
            assert np.array_equal(ours["maps"][name][()], theirs["maps"][name][()])
    must(drs, "pseudo-label", tmp_path / "m.h5", "--saliency", own_voc / "saliency_map", "-o", tmp_path / "labels")
    for path in (tmp_path / "labels").glob("p*.png"):
        # The name of the image is another; the labels are the same.
        from drstool.formats.label_png import read_label_png

        assert np.array_equal(read_label_png(path), read_label_png(made.labels / path.name))


# --- interrupted -------------------------------------------------------------------------------


def long_lines(voc, made, folder):
    """Command lines that take far longer than a test waits."""
    manifest = folder / "many.jsonl"
    image = str(voc / "JPEGImages" / "p0.jpg")
    with open(manifest, "w") as file:
        for number in range(5_000):
            print(json.dumps({"id": f"i{number}", "image": image, "tags": ["bar"]}), file=file)
    train = ("--data", voc, "--split", "train", *SMALL, "--device", "cpu", "--epochs", "1000000")
    return {
        "train-cls": ("train-cls", *train, "--workers", "1"),
        "cam": ("cam", "--data", manifest, "--weights", made.cls, "--sizes", "128", "-q"),
        "pseudo-label": ("pseudo-label", "--background", "power", "-q"),
    }


@pytest.mark.parametrize(("command", "number", "code"), [
    ("train-cls", signal.SIGINT, 130), ("train-cls", signal.SIGTERM, 143), ("cam", signal.SIGINT, 130),
    ("cam", signal.SIGTERM, 143), ("pseudo-label", signal.SIGINT, 130), ("pseudo-label", signal.SIGTERM, 143)])
def test_interrupted(program, voc, made, tmp_path, command, number, code):
    folder = tmp_path / "here"
    folder.mkdir()
    line = long_lines(voc, made, tmp_path)[command]
    # A group of its own: a terminal interrupts all processes of a command, the loading ones too.
    process = program.start(*line, "-o", folder / "result", start_new_session=True)
    with process:
        if command == "train-cls":
            assert any(told.startswith(b"train-cls: epoch 1/") for told in process.stderr)
        else:
            if command == "pseudo-label":
                # The beginning of a stream: it waits for more.
                process.stdin.write(stream_head(made))
                process.stdin.flush()
            wait_for(lambda: list(folder.glob(PARTIAL)), process)
        os.killpg(process.pid, number)
        told = [text for text in process.stderr.read().decode().splitlines() if not text.startswith("train-cls: ")]
        assert process.wait(60) == code
    assert told == (["drstool: interrupted"] if number == signal.SIGINT else [])
    # What --resume goes on with, where there is something.
    assert left_in(folder) in ([".result.resume"], [] if command != "train-cls" else None)


def stream_head(made):
    from drstool.formats import open_records
    from drstool.formats.stream import StreamWriter

    with open_records(made.cams) as maps:
        stream = io.BytesIO()
        StreamWriter(stream, maps.header)
        return stream.getvalue()


def test_eval_takes_the_saliency_maps_of_the_dataset(drs, voc, made):
    given = ("eval", made.cams, "--data", voc, "--split", "train", "--json")
    own, named = drs(*given), drs(*given, "--saliency", voc / "saliency_map")
    constant = drs(*given, "--background", "constant")
    assert own.code == named.code == constant.code == 0
    assert own.json()["mean_iou"] == named.json()["mean_iou"] != constant.json()["mean_iou"]
