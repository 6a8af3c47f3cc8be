"""The command lines of README and of the pages in examples run as they are printed, on a few small drawings."""

import json
import re
import shutil

import pytest
from forking import Forking
from pages import EXAMPLES, PAGES, README, blocks
from PIL import Image
from pypdf import PdfReader

SMALL = {"--backbone": ["vgg16-small"], "--init": ["none"], "--epochs": ["1"], "--image-size": ["32"],
         "--batch-size": ["4"], "--min-steps": ["0"]}
# Added to the lines, so that they take moments; what a page says for its own readers stays, except for these.
SCALED = {
    "demo": {"--train": ["12"], "--val": ["4"], "--size": ["64"]},
    "train-cls": SMALL | {"--resize-size": ["36"], "--drs-layers": ["16"]},
    "refine-train": SMALL,
    "train-seg": {name: SMALL[name] for name in SMALL if name != "--min-steps"} | {"--steps": ["3"]},
    "cam": {"--sizes": ["32,40"]},
    "refine": {"--sizes": ["32,40"]},
    "crf": {"--crf-iterations": ["1"]},
}
ALWAYS = ("--batch-size", "--epochs")
# Pages whose lines begin with nothing; the others begin with what README's chain made.
GUIDES = ("photographs", "voc", "without-saliency", "rerunning", "many-machines")
OTHERS = [page.stem for page in PAGES[1:] if page.stem not in (*GUIDES, "README")]


@pytest.fixture(scope="module")
def drstool(tmp_path_factory):
    program = Forking(tmp_path_factory.mktemp("program"), SCALED, ALWAYS)
    yield program
    program.close()


def run(drstool, page, folder):
    """Runs the blocks of a page; what the last one said on stdout and all on stderr."""
    done, told = None, ""
    for block in blocks(page):
        if block.runs:
            done = drstool.bash(block.text, folder)
            told += done.stderr
            assert done.returncode == 0, f"{page.name}:\n{block.text}\n{done.stderr}"
    return done, told


@pytest.fixture(scope="module")
def chain(drstool, tmp_path_factory):
    """A folder in which README's commands have run, and what they said."""
    folder = tmp_path_factory.mktemp("chain")
    assert drstool.bash("drstool demo VOC2012", folder).returncode == 0
    done, told = run(drstool, README, folder)
    return folder, done, told


def test_the_door(chain):
    folder, done, told = chain
    assert "Mean IoU" in done.stdout
    for name in ("cls.pt", "cams.h5", "refiner.pt", "refined.h5", "labels", "seg.pt", "pred", "figures"):
        assert (folder / name).exists(), told


@pytest.mark.parametrize("name", OTHERS)
def test_reference(drstool, chain, tmp_path, name):
    shutil.copytree(chain[0], tmp_path / "work")
    (tmp_path / "work" / "examples").symlink_to(EXAMPLES)
    run(drstool, EXAMPLES / f"{name}.md", tmp_path / "work")


@pytest.fixture
def guide(drstool, tmp_path):
    """Runs a guide in an empty folder with the repository's examples; the folder, and what was said."""
    (tmp_path / "examples").symlink_to(EXAMPLES)

    def run_guide(name):
        done, told = run(drstool, EXAMPLES / f"{name}.md", tmp_path)
        return tmp_path, done, told

    return run_guide


def test_photographs(guide):
    folder, _, _ = guide("photographs")
    rows = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all(row["tags"] for row in rows)
    assert {path.name for path in (folder / "labels").glob("*.png")} == {f"{row['id']}.png" for row in rows}
    assert len(list((folder / "pred").glob("*.png"))) == 4
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {f"{row['id']}_overlay.png" for row in rows} <= names
    assert {f"{row['id']}_heat_{tag}.png" for row in rows for tag in row["tags"]} <= names
    # Image, maps and labels of eight rows: there is no ground truth to show.
    text = PdfReader(folder / "sheet.pdf").pages[0].extract_text()
    assert "cams" in text and "labels" in text and "target" not in text


def test_voc(guide):
    folder, done, _ = guide("voc")
    assert "pred-ms" in done.stdout
    assert {path.name for path in (folder / "pred").glob("*.png")} == {
        path.name for path in (folder / "pred-ms").glob("*.png")}


def test_without_saliency(guide):
    folder, done, told = guide("without-saliency")
    assert "Mean IoU" in done.stdout
    labels = [folder / f"labels-{name}" for name in ("constant", "power", "ignore", "crf")]
    assert all(len(list(path.glob("*.png"))) == 12 for path in labels)


def test_rerunning(drstool, guide):
    folder, _, told = guide("rerunning")
    page = (EXAMPLES / "rerunning.md").read_text(encoding="utf-8")
    said = re.findall(r"^[\w-]+: [\w.]+ (?:is finished|exists, but) .*$", told, re.MULTILINE)
    names = ["train-cls", "cam", "pseudo-label", "train-seg", "segment", "overlay"]
    again, changed = said[:6], said[6:]
    assert [line.partition(":")[0] for line in again] == names
    assert all(line.endswith(" is finished already") for line in again)
    # As the page shows them.
    assert changed == blocks(EXAMPLES / "rerunning.md", "text")[0].text.splitlines()
    assert "six steps" in page
    # Nothing else makes a difference, and each of these makes its own.
    assert len(re.findall("is finished already", drstool.bash("ALPHA=0.3 sh chain.sh", folder).stderr)) == 6
    image = next((folder / "demo" / "saliency_map").glob("*.png"))
    Image.new("L", Image.open(image).size, 255).save(image)
    told = drstool.bash("ALPHA=0.3 sh chain.sh", folder).stderr
    assert "cam: cams.h5 is finished already" in told
    assert "pseudo-label: labels exists, but --saliency changed; making it again" in told


def test_many_machines(guide):
    folder, _, told = guide("many-machines")
    assert "cat: wrote localization maps of 12 images to cams.h5" in told
    assert (folder / "fused.h5").is_file() and (folder / "some.tar").is_file()
