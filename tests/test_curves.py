"""overlay --curves: figures of training logs and sweeps."""

import json

import numpy as np
import pytest
from PIL import Image

from drstool.errors import InputError
from drstool.figures.curves import read_curves

USAGE, INPUT = 2, 3
EVIL = "a$b$ {x} \u202e<b>.jsonl"


def log_lines(epochs, loss=0.5, **metrics):
    yield {"event": "start", "format": "drstool", "kind": "training-log", "version": 1, "command": "train-cls"}
    for epoch in range(1, epochs + 1):
        yield {"event": "step", "step": 4 * epoch, "epoch": epoch, "loss": loss / epoch}
        yield {"event": "epoch", "epoch": epoch, "step": 4 * epoch, "loss": 2 * loss / epoch, "baseline": 0.4,
               **metrics}


def write_log(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "a.jsonl", *log_lines(5, map=0.7, val_map=None))


@pytest.fixture(scope="module")
def sweep(made, voc, drs, tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.json"
    path.write_text(drs("eval", made.cams, "--data", voc, "--split", "train", "--sweep", "alpha", "--json").out)
    return path


def test_curves_of_a_log(log, tmp_path):
    loss, baseline, score = read_curves(str(log))
    assert loss.panel == ("loss", "step") and loss.role == "" and score.panel == ("mAP", "step")
    assert loss.points == tuple((4.0 * n, 1.0 / n) for n in range(1, 6))
    assert baseline.points == tuple((4.0 * n, 0.4) for n in range(1, 6)) and baseline.role == "baseline"
    assert score.role == "training images" and {y for _, y in score.points} == {0.7}
    # With few epochs, the steps; a training that diverges has losses that are no numbers.
    few = [*log_lines(2), {"event": "step", "step": 12, "epoch": 3, "loss": float("nan")}]
    loss, _ = read_curves(str(write_log(tmp_path / "few.jsonl", *few)))
    assert loss.points == ((4.0, 0.5), (8.0, 0.25))


def test_the_log_of_a_training(drs, voc, tmp_path):
    from conftest import SMALL

    words = [word if word != "0" else "3" for word in SMALL]
    drs("train-cls", "--data", voc, "--split", "train", *words, "--device", "cpu", "--val-split", "val",
        "-o", tmp_path / "cls.pt", "--log", tmp_path / "log.jsonl")
    curves = read_curves(str(tmp_path / "log.jsonl"))
    assert [curve.role for curve in curves] == ["", "baseline", "training images", "other images (--val-split)"]
    assert {len(curve.points) for curve in curves} == {3}


def test_curves_of_a_sweep(sweep):
    curve, best = read_curves(str(sweep))
    scores = json.loads(sweep.read_text())
    assert curve.panel == ("mean IoU", "alpha") and len(curve.points) == 256
    assert curve.points[51] == (0.2, scores["rows"][51]["mean_iou"])
    assert best.points == ((scores["best"]["value"], scores["best"]["mean_iou"]),)


def test_curves_of_a_sweep_of_two_numbers(made, voc, drs, tmp_path):
    """The curve at the best saliency threshold; those at the others have rows of their own in the file."""
    line = ("eval", made.cams, "--data", voc, "--split", "train", "--sweep", "alpha,saliency-threshold", "--json")
    scores = drs(*line).json()
    (tmp_path / "pairs.json").write_text(json.dumps(scores))
    curve, best = read_curves(str(tmp_path / "pairs.json"))
    threshold = scores["best"]["saliency_threshold"]
    rows = [row for row in scores["rows"] if row["saliency_threshold"] == threshold]
    assert curve.panel == ("mean IoU", f"alpha (saliency threshold {threshold})")
    assert curve.points == tuple((row["value"], row["mean_iou"]) for row in rows) and len(rows) == 256
    assert best.points == ((scores["best"]["value"], scores["best"]["mean_iou"]),)


def test_what_is_neither(tmp_path, made, voc, must, log):
    plain = must("eval", made.pred, "--data", voc, "--split", "val", "--json").out
    lines = log.read_text().splitlines()
    for name, text in (
        ("empty", ""), ("text", "hello\n"), ("scores", plain), ("list", "[1, 2]"), ("deep", "[" * 100_000),
        ("begun", lines[0] + "\n"), ("damaged", "\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n"),
        ("odd", "\n".join([lines[0], '{"event": "step", "step": "x", "loss": []}', lines[1]]) + "\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}: (is neither|has no step)"):
            read_curves(str(tmp_path / name))
    # The last line of a training that runs may be cut short.
    (tmp_path / "running").write_text("\n".join([*lines[:-1], lines[-1][:10]]))
    assert len(read_curves(str(tmp_path / "running"))[0].points) == 4


def test_command_lines(drs, log, tmp_path):
    pytest.importorskip("matplotlib")
    for words, code, message in (
        (("--curves", "-o", "x.pdf"), USAGE, "--curves: names no file"),
        (("--curves", log), USAGE, "-o curves.pdf"),
        ((log, "-o", "x.pdf"), USAGE, "add --curves"),
        (("--curves", log, "-o", tmp_path / "x.txt"), USAGE, "expected .png"),
        (("--curves", log, "-o", tmp_path / "x.pdf", "--data", "d"), USAGE, "--data: does not go together"),
        (("--curves", log, "--gallery", "d"), USAGE, "--gallery: does not go together"),
        (("--curves", log, "-o", tmp_path / "x.pdf", "--resume"), USAGE, "--resume"),
        (("--curves", tmp_path / "none", "-o", tmp_path / "x.pdf"), INPUT, "none"),
        (("--curves", f"A={tmp_path}/none", "-o", tmp_path / "x.pdf"), INPUT, f"{tmp_path}/none: cannot be read"),
        (("--curves", f"A={log}", f"A={log}", "-o", tmp_path / "x.pdf"), USAGE, "two files have the same title"),
        (("--curves", log, "-o", tmp_path / "x.pdf", "--dpi", "100"), USAGE, "--dpi: has no effect"),
        (("--curves", log, "-o", tmp_path / "x.pdf", "--width", "50mm"), USAGE, "--width: is too narrow for 2 panels"),
    ):
        outcome = drs("overlay", *words)
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [log]


def test_without_matplotlib(drs, log, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = drs("overlay", "--curves", log, "-o", tmp_path / "x.pdf")
    assert outcome.code == USAGE and "pip install 'drstool[figures]'" in outcome.err


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "jpg"])
def test_the_same_command_gives_the_same_bytes(drs, log, sweep, tmp_path, ending):
    pytest.importorskip("matplotlib")
    output = tmp_path / f"curves.{ending}"
    found = set()
    for _ in range(2):
        outcome = drs("overlay", "--curves", log, sweep, "-o", output, "--overwrite")
        assert outcome.code == 0 and "wrote 5 curves of 2 files" in outcome.err, outcome.err
        found.add(output.read_bytes())
    assert len(found) == 1
    refused = drs("overlay", "--curves", log, "-o", output)
    assert refused.code != 0 and "already exists" in refused.err and output.read_bytes() in found


def test_text_is_text(drs, log, sweep, tmp_path):
    pytest.importorskip("matplotlib")
    evil = write_log(tmp_path / EVIL, *log_lines(4))
    assert drs("overlay", "--curves", log, evil, sweep, "-o", tmp_path / "c.svg").code == 0
    text = (tmp_path / "c.svg").read_text()
    for words in ("loss", "step", "mAP", "alpha", "mean IoU", "baseline", "best", "training images",
                  "a$b$ {x} \\u202e&lt;b&gt;"):
        assert f">{words}</text>" in text


def test_titles_width_and_whole_steps(drs, tmp_path):
    pytest.importorskip("matplotlib")
    path = write_log(tmp_path / "a=b.jsonl", *(line | ({"step": line["epoch"]} if "epoch" in line else {})
                                               for line in log_lines(3, map=0.7)))
    outcome = drs("overlay", "--curves", path, f"ours={path}", "-o", tmp_path / "c.svg", "--width", "127mm")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "c.svg").read_text()
    assert 'width="360' in text and ">ours</text>" in text and ">a=b</text>" in text
    assert ">2</text>" in text and ">1.5</text>" not in text


def test_curves_differ_in_grey(drs, tmp_path):
    pytest.importorskip("matplotlib")
    from drstool.figures.curves import _style

    styles = [(style["linestyle"], style["marker"]) for style in map(_style, range(30))]
    assert len(set(styles)) == len(styles)
    shades = [Image.new("RGB", (1, 1), _style(n)["color"]).convert("L").getpixel((0, 0)) for n in range(4)]
    assert min(shades) < 30 and max(np.diff(sorted(shades))) > 20
