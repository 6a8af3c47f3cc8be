"""examples/results.sh measures a recipe on a dataset, and writes a table."""

import importlib.util
from pathlib import Path

import pytest
from forking import Forking

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def drstool(tmp_path):
    folder = tmp_path / "program"
    folder.mkdir()
    program = Forking(folder, {})
    yield program
    program.close()


def test_measuring_a_recipe(drstool, drs, tmp_path):
    drs("demo", tmp_path / "demo", "--train", 4, "--val", 2, "--size", 64)
    line = (f"MOBILENET_V2=none OPTIONS='--epochs 1 --min-steps 0 --image-size 64' "
            f"sh {EXAMPLES}/results.sh {tmp_path}/demo {tmp_path}/results")
    done = drstool.bash(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "results.md").read_text() == done.stdout
    rows = [row.strip("| ").split(" | ") for row in done.stdout.splitlines()[2:]]
    assert {row[0] for row in rows} == {"light-train"}
    assert [row[1] for row in rows] == [
        "plain CAM", "DRS, fixed", "refined maps", "pseudo labels", "pseudo labels, CRF", "segmenter, on val",
        "the same, four scales and flipped"]
    pred = tmp_path / "results" / "light-train-0" / "pred"
    scores = drs("eval", pred, "--data", tmp_path / "demo", "--split", "val", "--json")
    assert rows[-2][2] == f"{scores.json()['mean_iou']:.3f}"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.pt")}
    again = drstool.bash(line, tmp_path)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert len(made) == 4 and made == {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.parametrize(("values", "text"), [
    ([0.25], "0.250"), ([0.25, 0.5], "0.375 (0.250–0.500)"), ([None, 0.25], "0.250"), ([None], "")])
def test_means_and_ranges_over_seeds(values, text):
    spec = importlib.util.spec_from_file_location("results", EXAMPLES / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.cell(values) == text
