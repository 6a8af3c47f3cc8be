"""examples/results.sh measures a recipe on a dataset, and writes a table."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_measuring_a_recipe(program, drs, tmp_path):
    drs("demo", tmp_path / "demo", "--train", 4, "--val", 2, "--size", 64)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in (("drstool", "-m drstool"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (folder / name).chmod(0o755)
    environment = {
        **program.environment, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "MOBILENET_V2": "none",
        "OPTIONS": "--epochs 1 --min-steps 0 --image-size 64"}
    line = ["sh", EXAMPLES / "results.sh", tmp_path / "demo", tmp_path / "results"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "results.md").read_text() == done.stdout
    rows = [row.strip("| ").split(" | ") for row in done.stdout.splitlines()[2:]]
    assert {row[0] for row in rows} == {"light-train"}
    assert [row[1] for row in rows] == [
        "plain CAM", "DRS, fixed", "refined maps", "pseudo labels", "pseudo labels, CRF", "segmenter, on val"]
    pred = tmp_path / "results" / "light-train-0" / "pred"
    scores = drs("eval", pred, "--data", tmp_path / "demo", "--split", "val", "--json")
    assert rows[-1][2] == f"{scores.json()['mean_iou']:.3f}"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.pt")}
    again = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert len(made) == 4 and made == {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.parametrize(("values", "text"), [
    ([0.25], "0.250"), ([0.25, 0.5], "0.375 (0.250–0.500)"), ([None, 0.25], "0.250"), ([None], "")])
def test_means_and_ranges_over_seeds(values, text):
    spec = importlib.util.spec_from_file_location("results", EXAMPLES / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.cell(values) == text
