"""overlay --gallery: the folder, and the page in a browser, where there is one."""

import base64
import io
import json
import re
import shutil
import zlib
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from browser import PROGRAM, Browser
from drstool.cues import pseudo_label, resize_maps
from drstool.formats import Header, LabelRecord, MapRecord, open_sink
from drstool.formats.label_png import encode_label_png
from drstool.recipe import CueSettings

USAGE, INPUT, PARTLY = 2, 3, 4
EVIL_NAMES = ("<script>alert(1)</script>", '[red]"\'&amp;', "gpj\u202etac")
EVIL_IDS = ("a/b c", "<img src=x onerror=alert(1)>", 'ü "quoted" \'猫\'', "100%#?&", "\u202etxt")
SIZE = (30, 40)

in_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dataset with odd names, and labels and maps of its images."""
    root = tmp_path_factory.mktemp("odd")
    random, lines = np.random.default_rng(0), []
    with (open_sink(str(root / "maps.h5"), Header("localization-maps", EVIL_NAMES)) as maps,
          open_sink(str(root / "labels"), Header("labels", EVIL_NAMES)) as labels):
        for number, identifier in enumerate(EVIL_IDS):
            target = np.zeros(SIZE, np.uint8)
            target[5:20, 4:30], target[22:] = 1 + number % 3, 2
            target[:2] = 255
            image, mask, saliency = (root / f"{number}-{kind}.png" for kind in ("image", "mask", "saliency"))
            Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(image)
            mask.write_bytes(encode_label_png(target))
            Image.fromarray(np.where(target % 255 > 0, 180, 20).astype(np.uint8)).save(saliency)
            prediction = np.roll(target, number, axis=1)
            prediction[:, :number] = 255
            labels.write(LabelRecord(identifier, prediction, str(image)))
            values = random.integers(0, 256, (3, 13, 17), np.uint8)
            maps.write(MapRecord(identifier, values, (1, 2, 3), SIZE, str(image)))
            lines.append({"id": identifier, "image": str(image), "mask": str(mask), "saliency": str(saliency),
                          "tags": sorted({EVIL_NAMES[n - 1] for n in (1 + number % 3, 2)})})
    (root / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in EVIL_NAMES))
    return root


def line(run, output):
    return ("overlay", "--gallery", output, "--data", run / "data.jsonl", "--labels", run / "labels", "--maps",
            run / "maps.h5")


@pytest.fixture(scope="module")
def gallery(run, drs):
    outcome = drs(*line(run, run / "gallery"), "--no-provenance")
    assert outcome.code == 0, outcome.err
    return run / "gallery"


def index_of(gallery):
    text = (gallery / "page" / "index.js").read_text()
    return json.loads(re.fullmatch(r"window\.galleryIndex = (.*);\n", text)[1])


# --- the folder ----------------------------------------------------------------------------------


def test_the_folder_is_whole_and_the_same_each_time(gallery, run, drs, tmp_path):
    names = {path.relative_to(gallery).as_posix() for path in gallery.rglob("*") if path.is_file()}
    assert names == {
        "index.html", "page/page.css", "page/page.js", "page/cues.js", "page/index.js", "drstool.json",
        "drstool.end.json", *(f"{kind}/00000{n}.{end}" for n in range(5) for kind, end in (
            ("images", "jpg"), ("thumbnails", "jpg"), ("layers", "js")))}
    assert drs(*line(run, tmp_path / "again"), "--no-provenance", "--workers", "3").code == 0
    assert all((gallery / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    assert drs("check", gallery).code == 0
    assert "images       5" in drs("info", gallery).out == drs("info", gallery / "index.html").out
    (tmp_path / "again" / "layers" / "000002.js").unlink()
    assert drs("check", tmp_path / "again").code == INPUT


def test_only_our_folder_is_replaced(gallery, run, drs, tmp_path):
    shutil.copytree(gallery, tmp_path / "copy")
    assert "already exists" in drs(*line(run, tmp_path / "copy")).err
    assert drs(*line(run, tmp_path / "copy"), "--overwrite").code == 0
    (tmp_path / "copy" / "layers" / "notes.js").write_text("mine")
    outcome = drs(*line(run, tmp_path / "copy"), "--overwrite")
    assert outcome.code != 0 and "notes.js" in outcome.err
    assert (tmp_path / "copy" / "layers" / "notes.js").read_text() == "mine"
    (tmp_path / "copy" / "layers" / "notes.js").rename(tmp_path / "copy" / "layers" / "000009.js")
    outcome = drs(*line(run, tmp_path / "copy"), "--overwrite")
    assert outcome.code != 0 and "holds files that drstool did not write" in outcome.err
    assert (tmp_path / "copy" / "layers" / "000009.js").read_text() == "mine"


def test_scores_in_the_index_are_those_of_eval(gallery, run, drs):
    index = index_of(gallery)
    assert index["classes"] == ["background", *EVIL_NAMES] and [row["id"] for row in index["images"]] == list(EVIL_IDS)
    saliency = CueSettings()
    assert index["maps"][0]["cues"]["background"] == saliency.background
    for layer, path in enumerate(("labels", "maps.h5")):
        scores = drs("eval", run / path, "--data", run / "data.jsonl", "--json").json()
        counts = np.zeros((4, 5), int)
        for row in index["images"]:
            for target, prediction, pixels in np.reshape(row["counts"][layer], (-1, 3)):
                counts[target, prediction] += pixels
        assert counts.tolist() == scores["confusion"]["counts"]
    for name in ("alpha", "constant"):
        rows = drs("eval", run / "maps.h5", "--data", run / "data.jsonl", "--json", "--sweep", name).json()["rows"]
        assert index["sweeps"][0][name] == [row["mean_iou"] for row in rows]


def test_records_alone_name_their_images(run, drs, tmp_path):
    outcome = drs("overlay", "--gallery", tmp_path / "g", "--maps", run / "maps.h5", "--labels", f"A={run / 'labels'}",
                  "--labels", f"B={run / 'labels'}")
    assert outcome.code == 0, outcome.err
    index = index_of(tmp_path / "g")
    assert index["labels"] == ["A", "B"] and not index["targets"] and index["sweeps"] == []
    assert index["images"][0]["tags"] is None and index["images"][0]["counts"][0][0] == -1
    assert index["maps"][0]["cues"]["background"] == "constant"


def test_images_that_fail(run, drs, tmp_path):
    lines = [json.loads(text) for text in (run / "data.jsonl").read_text().splitlines()]
    (tmp_path / "damaged.png").write_bytes(b"damaged")
    lines[1]["image"] = str(tmp_path / "damaged.png")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    words = ("overlay", "--data", tmp_path / "data.jsonl", "--labels", run / "labels", "--gallery", tmp_path / "g")
    outcome = drs(*words)
    assert outcome.code == INPUT and "damaged.png" in outcome.err and len(outcome.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.png", "data.jsonl"]
    assert drs(*words, "--keep-going").code == PARTLY
    assert [row["file"] for row in index_of(tmp_path / "g")["images"]] == [0, 2, 3, 4]


def test_what_cannot_be_shown(run, drs, tmp_path, voc):
    with open_sink(str(tmp_path / "small"), Header("labels", EVIL_NAMES)) as sink:
        sink.write(LabelRecord(EVIL_IDS[0], np.zeros((3, 4), np.uint8)))
    other = json.loads((run / "data.jsonl").read_text().splitlines()[0]) | {"id": "another"}
    (tmp_path / "other.jsonl").write_text(json.dumps(other) + "\n")
    outside = tmp_path / "g"
    for words, code, message in (
        (("--labels", tmp_path / "small", "--data", run / "data.jsonl"), INPUT,
         f"{EVIL_IDS[0]}: the label image is 4 × 3 pixels, but the image is 40 × 30"),
        (("--labels", run / "maps.h5"), USAGE, "give it as --maps"),
        (("--maps", run / "labels"), USAGE, "give it as --labels"),
        (("--labels", run / "labels", "--labels", run / "labels"), USAGE, "several have the name 'labels'"),
        (("--labels", run / "labels", "--data", voc, "--split", "val"), INPUT, "labels: has 3 classes ("),
        (("--labels", run / "labels", "--data", tmp_path / "other.jsonl"), INPUT, "has none of the images"),
        ((), USAGE, "nothing to show"),
        (("--data", run / "data.jsonl", "--resume"), USAGE, "--resume: cannot be used with --gallery"),
        (("--data", run / "data.jsonl", "-o", tmp_path / "o"), USAGE, "--output: does not go together with --gallery"),
        (("--data", run / "data.jsonl", "--saliency", tmp_path / "none"), INPUT, "none"),
    ):
        outcome = drs("overlay", "--gallery", outside, *words)
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
        assert len(outcome.err.splitlines()) == 1 and not outside.exists()
    outcome = drs("overlay", "-o", outside, "--data", run / "data.jsonl", "--saliency", run)
    assert (outcome.code, "add --gallery" in outcome.err) == (USAGE, True)


def test_a_stream_is_refused_in_one_line(run, drs, tmp_path, must):
    must("cat", run / "maps.h5", "-o", tmp_path / "maps.tar")
    outcome = drs("overlay", "--gallery", tmp_path / "g", "--maps", tmp_path / "maps.tar")
    assert outcome.code == INPUT and "is a stream" in outcome.err and "save it first" in outcome.err


def test_large_images_are_reduced_and_16_bit_labels_kept(tmp_path, drs):
    names = tuple(f"class-{n}" for n in range(300))
    Image.fromarray(np.zeros((1100, 2200, 3), np.uint8)).save(tmp_path / "large.png")
    labels = np.zeros((1100, 2200), np.uint16)
    labels[:, 1100:] = 300
    with open_sink(str(tmp_path / "labels"), Header("labels", names)) as sink:
        sink.write(LabelRecord("large", labels, str(tmp_path / "large.png")))
    assert drs("overlay", "--gallery", tmp_path / "g", "--labels", tmp_path / "labels").code == 0
    row, = index_of(tmp_path / "g")["images"]
    assert (row["size"], row["full"]) == ([512, 1024], [1100, 2200])
    assert row["counts"][0] == [-1, 0, 1100 * 1100, -1, 300, 1100 * 1100]
    with Image.open(tmp_path / "g" / "images" / "000000.jpg") as picture:
        assert picture.size == (1024, 512)
    text = (tmp_path / "g" / "layers" / "000000.js").read_text()
    layer = json.loads(re.fullmatch(r"galleryLayers\(0,(.*)\);\n", text)[1])["labels"][0]
    assert decoded(layer)[0, :, 511:513].tolist() == [[0, 300]] * 512


def decoded(layer):
    differences = np.frombuffer(zlib.decompress(base64.b64decode(layer["data"])), f"<u{layer['bytes']}")
    return np.add.accumulate(differences.reshape(layer["shape"]), axis=2, dtype=differences.dtype)


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, gallery):
    browser.events.clear()
    browser.open((gallery / "index.html").as_uri())
    yield browser
    assert browser.complaints() == []


def shown(page):
    """Ids of the images in the grid."""
    return page.run("galleryState.state.shown.map((image) => image.id)")


def set_control(page, name, value):
    page.run(f"""(() => {{ const input = document.getElementById({json.dumps(name)});
        input.value = {json.dumps(value)}; input.dispatchEvent(new Event("input", {{bubbles: true}})); }})()""")


@in_browser
def test_names_are_text_never_markup(page):
    page.press("c", "Enter")
    page.until("document.querySelectorAll('.layers button').length > 5")
    text = page.run("document.body.textContent")
    assert "<script>alert(1)</script>" in text and '[red]"\'&amp;' in text and "gpj\\u202etac" in text
    assert "\u202e" not in text
    assert page.run("document.querySelectorAll('script:not([src])').length + document.images.length") == 0
    titles = page.run("[...document.querySelectorAll('.tile')].map((tile) => tile.title)")
    assert titles == [identifier.replace("\u202e", "\\u202e") for identifier in EVIL_IDS]


@in_browser
def test_each_image_opens_by_its_address(page, gallery):
    for identifier in EVIL_IDS:
        page.open(f"{(gallery / 'index.html').as_uri()}#{quote(identifier, safe='')}")
        page.until("document.querySelectorAll('#viewer[open] .layers button').length")
        assert page.run("galleryState.state.shown[galleryState.state.current].id") == identifier


@in_browser
def test_thumbnails_and_pictures_can_be_read(page):
    sizes = page.run("""Promise.all(galleryState.state.shown.flatMap(({file}) => ["thumbnails", "images"].map(
        async (kind) => { const picture = new Image(); picture.src = `${kind}/${String(file).padStart(6, "0")}.jpg`;
        await picture.decode(); return [picture.naturalWidth, picture.naturalHeight]; })))""")
    # A thumbnail has four frames: image, ground truth, labels, labels of the maps.
    assert sizes == [[160, 30], [40, 30]] * 5


@in_browser
def test_sorting_and_filtering(page, run, drs):
    scores = drs("eval", run / "labels", "--data", run / "data.jsonl", "--json", "--per-image").json()
    images = scores["per_image"]
    assert shown(page) == list(EVIL_IDS)
    set_control(page, "sort", "worst")
    assert shown(page) == [each["id"] for each in images]
    assert f"mean IoU {scores['mean_iou']:.3f}" in page.run("document.getElementById('summary').textContent")
    set_control(page, "high", f"{images[2]['mean_iou'] + 1e-9}")
    assert shown(page) == [each["id"] for each in images[:3]]
    page.run("document.getElementById('reset').click()")
    page.until("galleryState.state.shown.length === 5")
    assert shown(page) == list(EVIL_IDS)
    set_control(page, "sort", "ignored")
    assert shown(page) == list(EVIL_IDS)[::-1]
    set_control(page, "ignored", "6")
    assert shown(page) == list(EVIL_IDS)[:2:-1]
    page.run("document.getElementById('reset').click()")
    page.until("galleryState.state.shown.length === 5")
    set_control(page, "class", "1")
    assert shown(page) == [EVIL_IDS[0], EVIL_IDS[3]]
    set_control(page, "text", "100%")
    assert shown(page) == [EVIL_IDS[3]]
    set_control(page, "text", "no such id")
    assert shown(page) == [] and not page.run("document.getElementById('empty').hidden")


@in_browser
def test_scores_follow_what_the_thumbnails_show(page):
    scored = "[galleryState.state.layer, +document.getElementById('scored').value]"
    for frame, layer in ((3, 1), (0, 1), (2, 0), (1, 0)):
        set_control(page, "frame", str(frame))
        assert page.run(scored) == [layer, layer]
    page.press("4")
    assert page.run(scored) == [1, 1]
    # Until others are chosen.
    set_control(page, "scored", "0")
    set_control(page, "sort", "worst")
    assert page.run(scored) == [0, 0] and page.run("galleryState.state.frame") == 3


@in_browser
def test_the_legend_of_errors_has_hatching(page):
    page.press("Enter")
    page.until("document.querySelectorAll('.layers button').length")
    page.press("e")
    legend = "[...document.querySelectorAll('#panel .row.faint .row')].map((each) => each.textContent)"
    assert page.run(legend) == ["missed", "false", "wrong class", "ignored"]
    assert page.run("document.querySelector('#panel .row.faint .hatched').parentNode.textContent") == "ignored"


@in_browser
def test_a_cell_of_the_confusion_matrix_shows_its_images(page):
    page.press("c")
    table = page.run("[...document.querySelectorAll('#matrix tbody tr')].map((row) => row.cells.length)")
    assert table == [6] * 4  # the class's name, four classes, ignored
    page.run("document.querySelector('[data-cell=\"2 4\"]').click()")
    # Those with the second class where the labels are ignored, most pixels first.
    assert shown(page) == list(EVIL_IDS)[:0:-1]
    page.press("ArrowLeft")
    assert page.run("document.activeElement.dataset.cell") == "2 2"
    page.press("Enter")
    assert len(shown(page)) == 5
    chip = page.run("document.getElementById('confusion').textContent")
    assert chip == f"{EVIL_NAMES[1]} predicted as {EVIL_NAMES[1]} ✕"


@in_browser
def test_the_keyboard_is_enough(page):
    layer = "document.getElementById('caption').textContent"
    page.press("ArrowRight", "Enter")
    page.until("document.querySelectorAll('.layers button').length")
    # What the thumbnails show.
    assert page.run(layer) == "labels"
    names = []
    for key in "1234567":
        page.press(key)
        names.append(page.run(layer))
    assert names[:4] == ["image", "ground truth", "labels", "labels from maps"]
    assert names[4:] == [f"heat of {name}" for name in (*EVIL_NAMES[:2], "gpj\\u202etac")]
    page.press("+", "+")
    page.press("ArrowLeft", shift=True)
    before = page.run("[galleryState.look.zoom, galleryState.look.x, galleryState.look.y]")
    assert before[0] == pytest.approx(1.25 ** 2) and before[1] != 0.5
    page.press("ArrowRight")
    page.until("document.querySelector('#panel .faint').textContent.startsWith('3 of')")
    assert page.run("[galleryState.look.zoom, galleryState.look.x, galleryState.look.y]") == before
    assert page.run(layer) == names[-1]
    page.press("0", "Escape")
    page.until("!document.getElementById('viewer').open && document.activeElement.dataset.place === '2'")
    page.press("4")
    page.run("document.querySelector('.tile').click()")
    page.until(f"{layer} === 'labels from maps'")


def screen(page):
    """What the page shows, (H, W, 3)."""
    data = base64.b64decode(page.call("Page.captureScreenshot")["data"])
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@in_browser
def test_the_focus_is_seen_on_all_sides(page):
    page.press("ArrowRight", "ArrowLeft")
    x, y, width, height = page.run(
        "(() => { const {x, y, width, height} = document.activeElement.getBoundingClientRect();"
        " return [x, y, width, height].map(Math.round); })()")
    around = [(y - 2, x + width // 2), (y + height + 1, x + width // 2), (y + height // 2, x - 2),
              (y + height // 2, x + width + 1)]
    picture = screen(page)
    assert {tuple(picture[place]) for place in around} == {(47, 111, 222)}  # --accent of page.css


@in_browser
def test_the_canvas_shows_the_layer(page):
    page.press("Enter")
    page.until("document.querySelectorAll('.layers button').length")
    page.press("2", "]", "]", "]")
    page.run("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    # A picture from disk may be shown but not read: of the page only its screenshot tells.
    canvas = screen(page)
    box = page.run("(() => { const box = document.getElementById('canvas').getBoundingClientRect(); "
                   "return [box.x, box.y, box.width, box.height]; })()")
    middle = canvas[int(box[1] + box[3] * 0.4), int(box[0] + box[2] * 0.4)]
    assert middle.tolist() == [128, 0, 0]  # VOC's first class, fully opaque


@in_browser
def test_light_and_dark(page):
    color = "getComputedStyle(document.body).backgroundColor"
    page.scheme("light")
    light = page.run(color)
    page.scheme("dark")
    page.until(f"{color} !== {json.dumps(light)}")
    page.press("t")
    assert page.run(color) == light
    page.press("t")
    assert page.run(color) != light
    page.run("localStorage.clear()")


@in_browser
def test_only_what_is_seen_is_there(gallery, browser, tmp_path):
    shutil.copytree(gallery, tmp_path / "many")
    index = index_of(gallery)
    index["images"] = [{**index["images"][0], "id": f"image {n}"} for n in range(10_000)]
    (tmp_path / "many" / "page" / "index.js").write_text(f"window.galleryIndex = {json.dumps(index)};")
    browser.open((tmp_path / "many" / "index.html").as_uri())
    tiles = "document.querySelectorAll('.tile').length"
    assert 0 < browser.run(tiles) < 100
    browser.press("End")
    browser.until("document.activeElement.title === 'image 9999'")
    assert 0 < browser.run(tiles) < 100


# --- labels from maps ----------------------------------------------------------------------------

SETTINGS = [
    {"alpha": 0.2}, {"alpha": 51 / 255, "soft": True}, {"soft": True, "saliency_scale": 1.5},
    {"soft": True, "saliency_scale": 0.0, "conflict": 0.5}, {"background": "constant", "constant": 0.3},
    {"background": "constant", "constant": 0.7, "background_below": 0.4, "alpha": 0.0},
    {"background": "power", "power": 1.5}, {"background": "rest", "alpha": 0.0},
    {"background": "saliency+constant", "combine": "min", "constant": 0.6},
    {"background": "saliency+power", "power": 0.8, "conflict": 0.6}, {"background": "constant", "conflict": 0.3},
    {"background": "constant", "constant": 51 / 255, "alpha": 0.0},
]


@in_browser
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_the_page_makes_the_labels_that_python_makes(page, changes):
    random, settings, size = np.random.default_rng(1), CueSettings(**changes), (23, 31)
    saliency = random.choice(np.uint8([0, 50, 51, 128, 230, 255]), size)
    for shape in ((3, 9, 14), (3, *size)):
        values = random.integers(0, 256, shape, np.uint8)
        # Ties, and values that equal a threshold.
        values[1, :4], values[:, 4:6] = values[0, :4], 51
        maps = resize_maps(values.astype(np.float32) / np.float32(255), size)
        for rules in (False, True):
            expected = pseudo_label(maps, (1, 2, 3), settings, saliency, ignore_rules=rules)
            found = page.run(f"""[...Cues.labelsOf(
                Cues.resize(new Uint8Array({values.ravel().tolist()}), {list(shape)}, {list(size)}), [1, 2, 3], 23 * 31,
                {json.dumps(vars(settings))}, new Uint8Array({saliency.ravel().tolist()}), 255,
                {json.dumps(rules)})]""")
            assert found == expected.ravel().tolist()
            assert len(set(found)) > 2


@in_browser
def test_the_slider_labels_anew(page, run, drs):
    def scored(*words):
        scores = drs("eval", run / "maps.h5", "--data", run / "data.jsonl", "--json", "--per-image", *words).json()
        return scores | {"per_image": sorted(scores["per_image"], key=lambda each: EVIL_IDS.index(each["id"]))}

    page.press("Enter")
    page.until("document.querySelectorAll('.layers button').length")
    page.press("4")
    for press, alpha in (((), 51), ((".", ".", ".", "."), 71), ((",",), 66)):
        page.press(*press)
        scores = scored("--alpha", alpha / 255)
        assert page.run("galleryState.iou()") == f"{scores['per_image'][0]['mean_iou']:.3f}"
        assert f"mean IoU {scores['mean_iou']:.3f} at this alpha" in page.run(
            "document.querySelector('.curve').textContent")
    page.run("""(() => { const select = document.getElementById("background-0"); select.value = "constant";
        select.dispatchEvent(new Event("change")); })()""")
    set_control(page, "constant-0", "128")
    scores = scored("--alpha", 66 / 255, "--background", "constant", "--constant", 128 / 255)
    assert page.run("galleryState.iou()") == f"{scores['per_image'][0]['mean_iou']:.3f}"
    # Two numbers have been moved, and Python computed what happens when one is.
    assert "known only" in page.run("document.querySelector('.curve').textContent")


@in_browser
def test_a_missing_file_is_said(gallery, browser, tmp_path):
    shutil.copytree(gallery, tmp_path / "g")
    (tmp_path / "g" / "layers" / "000000.js").unlink()
    browser.open((tmp_path / "g" / "index.html").as_uri())
    browser.press("Enter")
    browser.until("document.getElementById('caption').textContent.includes('cannot be read')")
    browser.press("ArrowRight")
    browser.until("document.querySelectorAll('.layers button').length")
