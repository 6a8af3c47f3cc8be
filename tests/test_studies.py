"""examples/bed.sh and examples/compare-methods.sh, on small drawings in the formats of the projects they are for."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from forking import Forking
from PIL import Image
from test_wsss_bed import of_wsss_bed

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def study(tmp_path_factory, drs):
    """Runs a script in a folder with a drawn dataset, and maps and saliency maps as WSSS-BED names them."""
    root = tmp_path_factory.mktemp("study")
    drs("demo", root / "demo", "--train", 6, "--val", 2, "--size", 64)
    drawn = {}
    for line in (root / "demo/ImageSets/Segmentation/trainval_cls.txt").read_text().splitlines():
        identifier, *tags = line.split()
        mask = np.asarray(Image.open(root / "demo/SegmentationClass" / f"{identifier}.png"))
        random = np.random.default_rng(len(drawn))
        classes = sorted(map(int, tags))
        maps = [np.clip(random.integers(0, 120, mask.shape) + 130 * (mask == number + 1), 0, 255) for number in classes]
        saliency = np.clip(random.integers(0, 70, mask.shape) + 90 * (mask > 0), 0, 255)
        drawn[identifier] = np.uint8(maps), classes, np.uint8(saliency)
        for folder in ("VOC2012_DRS", "VOC2012_CAM", "VOC2012_VST", "VOC2012_DSS"):
            (root / folder).mkdir(exist_ok=True)
        for number, values in zip(classes, drawn[identifier][0]):
            Image.fromarray(values).save(root / "VOC2012_DRS" / f"{identifier}_{number}.png")
            Image.fromarray(values // 2).save(root / "VOC2012_CAM" / f"{identifier}_{number}.png")
        Image.fromarray(drawn[identifier][2]).save(root / "VOC2012_VST" / f"{identifier}.png")
        Image.fromarray(np.uint8(mask > 0) * 255).save(root / "VOC2012_DSS" / f"{identifier}.png")
    server = Forking(tmp_path_factory.mktemp("program"), {})

    def run(script, *arguments, **settings):
        return subprocess.run(
            ["sh", EXAMPLES / script, *map(str, arguments)], cwd=root, env={**server.environment, **settings},
            capture_output=True, text=True)

    yield root, run, drawn
    server.close()


def labels_in(folder):
    return {path.stem: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def test_a_study_with_the_files_of_wsss_bed(study, drs):
    root, run, drawn = study
    done = run("bed.sh", "demo", "drs", "VOC2012_DRS", "VOC2012_VST", "VOC2012_DSS")
    assert done.returncode == 0, done.stderr
    train = (root / "demo/ImageSets/Segmentation/train.txt").read_text().split()
    labels = labels_in(root / "bed/drs/labels-VOC2012_VST")
    assert set(labels) == set(train)
    for identifier, found in labels.items():
        maps, classes, saliency = drawn[identifier]
        np.testing.assert_array_equal(found, of_wsss_bed(maps, classes, saliency, 0.5, ignore=True))
    assert any((found == 255).any() for found in labels.values())

    line = ("eval", root / "bed/drs/maps.h5", "--data", root / "demo", "--split", "train", "--saliency")
    for name in ("VOC2012_VST", "VOC2012_DSS"):
        scores = drs(*line, root / name, "--sweep", "alpha,saliency-threshold", "--csv")
        rows = list(csv.DictReader(io.StringIO(scores.out)))
        best = max(rows, key=lambda row: float(row["mean_iou"]))
        text = (root / f"bed/drs/sweep-{name}.txt").read_text()
        assert re.search(rf"^Mean IoU\s+{float(best['mean_iou']):.4f}$", text, re.MULTILINE)
        assert text in done.stdout and (root / f"bed/drs/scores-{name}.txt").read_text() in done.stdout
    again = run("bed.sh", "demo", "drs", "VOC2012_DRS", "VOC2012_VST", "VOC2012_DSS")
    assert again.stdout == done.stdout and "is finished already" in again.stderr


def test_methods_that_were_trained_with_saliency(study):
    root, run, drawn = study
    done = run("bed.sh", "demo", "l2g", "VOC2012_CAM", SPLIT="val", ALPHA="0.25", FOLDER="out")
    assert done.returncode == 0, done.stderr
    labels = labels_in(root / "out/labels-none")
    assert set(labels) == set((root / "demo/ImageSets/Segmentation/val.txt").read_text().split())
    for identifier, found in labels.items():
        maps, classes, saliency = drawn[identifier]
        np.testing.assert_array_equal(
            found, of_wsss_bed(maps // 2, classes, saliency, 0.25, ignore=False, without_saliency=True))
    assert "Best constant" in (root / "out/sweep-none.txt").read_text()


def test_two_methods_side_by_side(study, drs):
    """The second has no maps of the list's last image, which is then no row of the figure."""
    root, run, drawn = study
    last = (root / "demo/ImageSets/Segmentation/train.txt").read_text().split()[-1]
    shutil.copytree(root / "VOC2012_CAM", root / "fewer", ignore=shutil.ignore_patterns(f"{last}_*"))
    drs("import", root / "fewer", "--data", root / "demo", "--split", "train", "--intersect",
        "-o", root / "cam.h5")
    done = run("compare-methods.sh", "demo", "DRS=VOC2012_DRS", "CAM=cam.h5", ROWS="even:2", FIGURE="both.png",
               CUES="--saliency VOC2012_DSS --alpha 0.3")
    assert done.returncode == 0 and "images with labels of both: 5 of 6" in done.stderr, done.stderr
    shown = [line for line in drs("ids", "--data", root / "demo", "--split", "train").out.splitlines()
             if f'"{last}"' not in line]
    (root / "shown.jsonl").write_text("\n".join(shown))
    scores = drs("eval", root / "compared/labels-DRS", root / "compared/labels-CAM", "--data", root / "shown.jsonl",
                 "--ignored", "skip", "--json").json()
    for run_of in scores["runs"]:
        assert f"{run_of['mean_iou']['value']:.4f}" in done.stdout
        assert f"{run_of['mean_iou']['low']:.4f} to {run_of['mean_iou']['high']:.4f}" in done.stdout
    assert f"{scores['runs'][1]['difference']['value']:+.4f}" in done.stdout
    with Image.open(root / "compared/both.png") as figure:
        assert figure.width > figure.height > 100
    step = json.loads((root / "compared/labels-CAM/drstool.json").read_text())["provenance"][-1]
    assert step["settings"]["alpha"] == 0.3


@pytest.mark.parametrize("script, arguments, words", [
    ("bed.sh", ("demo", "drs"), "usage"), ("bed.sh", ("demo", "irn", "x", "y"), "'irn' is not one of"),
    ("bed.sh", ("demo", "drs", "VOC2012_DRS"), "needs a folder of saliency maps"),
    ("bed.sh", ("demo", "eps", "VOC2012_DRS", "VOC2012_VST"), "takes no saliency maps"),
    ("compare-methods.sh", ("demo", "a=x"), "usage"), ("compare-methods.sh", ("demo", "a=x", "y"), "is not NAME=MAPS"),
    ("compare-methods.sh", ("demo", "a=x", "a=y"), "both methods are called 'a'")])
def test_command_lines_that_make_no_sense(study, script, arguments, words):
    root, run, _ = study
    before = sorted(root.iterdir())
    done = run(script, *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert sorted(root.iterdir()) == before
