"""Figures: what is in their cells, read back from pixels and files."""

import io
import itertools
import json
import re
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drstool.data import open_dataset
from drstool.figures.colors import ERRORS, IGNORED, class_colors, heat_colors, oklab
from drstool.figures.columns import Inputs, Row, parse_column, read_cell
from drstool.figures.layout import Box
from drstool.formats.label_png import encode_label_png
from drstool.recipe import CueSettings

pytest.importorskip("matplotlib")

SIDE = 60  # Of the pictures, in pixels: a cell of 60 pixels shows them one to one.
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two pictures of plain grey with ground truth, predictions and maps whose every pixel is known."""
    root = tmp_path_factory.mktemp("figures")
    target = np.zeros((SIDE, SIDE), np.uint8)
    target[:20, :20], target[:20, 40:], target[40:, :20] = 1, 2, 255
    wrong = target.copy()
    wrong[:20, :20], wrong[40:, 40:], wrong[:20, 40:], wrong[20:40, 40:] = 2, 1, 0, 255
    lines = []
    for name, prediction in (("a", target), ("b", wrong)):
        Image.fromarray(np.full((SIDE, SIDE, 3), 128, np.uint8)).save(root / f"{name}.png")
        (root / f"{name}-mask.png").write_bytes(encode_label_png(target))
        for folder, labels in (("good", np.where(target == 255, 0, target)), ("mixed", prediction)):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / f"{name}.png").write_bytes(encode_label_png(labels.astype(np.uint8)))
        lines.append({"id": name, "image": str(root / f"{name}.png"), "mask": str(root / f"{name}-mask.png"),
                      "tags": list(CLASSES)})
    (root / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "classes.txt").write_text("cat\ndog\n")
    ramp = np.broadcast_to(np.linspace(0, 0.5, SIDE, dtype=np.float32), (SIDE, SIDE))
    write_maps(root / "ramp.h5", {"a": ramp, "b": np.zeros_like(ramp)})
    write_maps(root / "flat.h5", {"a": np.full_like(ramp, 0.25), "b": np.full_like(ramp, 0.25)})
    return root


def write_maps(path, values):
    """A map file with one map of class cat for each id."""
    from drstool.formats import Header, MapRecord, open_sink
    from drstool.formats.records import encode_values

    with open_sink(str(path), Header("localization-maps", CLASSES, ())) as sink:
        sink.write_all(MapRecord(name, encode_values(each[np.newaxis]), (1,), each.shape, "")
                       for name, each in values.items())


@pytest.fixture
def figure(world, drs, tmp_path):
    """Draws a figure with the given columns; gives what the command said, and the pixels of a PNG."""

    def drawn(columns, *more, name="figure.png", code=0, scale=1, width=None):
        path = tmp_path / name
        count = len(columns.split(","))
        size = width or f"{count * SIDE * scale}px"
        said = drs("overlay", "--figure", path, "--data", world / "data.jsonl", "--columns",
                   columns.replace("@", f"{world}/"), "--width", size, "--gap", "0", "--dpi", str(72 * scale),
                   "--overwrite", *more)
        assert said.code == code, said.err
        pixels = np.asarray(Image.open(path)) if name.endswith("png") and not code else path
        return said, pixels

    return drawn


PLAIN = ("--no-titles", "--legend", "none", "--no-colorbar", "--opacity", "1", "--ids", "a")
# Places in the upper left, upper right, lower left and lower right of a picture, and in its middle.
CAT, DOG, VOID, REST, MIDDLE = (10, 10), (10, 50), (50, 10), (50, 50), (30, 30)


def cell(pixels, column, scale=1, top=None):
    """A cell of the first row of a figure with neither titles nor gaps."""
    top = round(scale) if top is None else top  # The margin of a point.
    return pixels[top:top + SIDE * scale, column * SIDE * scale:(column + 1) * SIDE * scale].astype(int)


@pytest.mark.parametrize("scale", [1, 2])
def test_every_kind_of_cell(figure, scale):
    """Colours at known places, one to one and twice as large."""
    columns = "image,target,@good,heat:@ramp.h5,error:@mixed,difference:@ramp.h5:@flat.h5,split:@ramp.h5:@flat.h5"
    _, pixels = figure(columns, *PLAIN, scale=scale)
    cells = [cell(pixels, column, scale) for column in range(7)]
    assert pixels.shape[1] == 7 * SIDE * scale

    def at(column, place):
        return tuple(cells[column][place[0] * scale, place[1] * scale].tolist())

    assert {at(0, place) for place in (CAT, DOG, VOID, REST)} == {(128, 128, 128)}
    colors = [tuple(color) for color in class_colors(2).tolist()]
    for column in (1, 2):
        assert (at(column, CAT), at(column, DOG), at(column, MIDDLE)) == (colors[1], colors[2], (128, 128, 128))
    assert at(2, VOID) == (128, 128, 128)
    heat = heat_colors()
    # The map reaches its own maximum at the right edge, where its colours are opaque.
    assert np.abs(cells[3][30 * scale, -1] - heat[255]).max() <= 3
    assert np.abs(cells[3][30 * scale, 0] - 128).max() <= 3
    # Where both are 0.25 there is no difference: white.
    assert min(at(5, (30, 30))) > 225
    assert at(5, (30, 2))[2] > at(5, (30, 2))[0] and at(5, (30, 57))[0] > at(5, (30, 57))[2]
    # Above the diagonal one map, below it the other, which is at its maximum everywhere.
    assert np.abs(np.array(at(6, (5, 2))) - 128).max() < 20
    assert np.abs(np.array(at(6, (55, 55))) - heat[255]).max() <= 3


@pytest.mark.parametrize("scale", [1, 2])
def test_error_map(figure, scale):
    _, pixels = figure("error:@mixed", "--opacity", "1", "--ids", "b", *PLAIN[:-2], scale=scale)
    found = cell(pixels, 0, scale)
    expected = {CAT: "wrong class", DOG: "missed", REST: "false"}
    for place, name in expected.items():
        color = found[place[0] * scale, place[1] * scale]
        # The image shines through a little.
        assert min(ERRORS, key=lambda each: np.abs(color - ERRORS[each]).sum()) == name
        assert np.abs(color - ERRORS[name]).max() < 25
    assert found[MIDDLE[0] * scale, MIDDLE[1] * scale].tolist() == [128] * 3
    # Hatched is what the prediction ignores, or ground truth.
    for top, left in ((22, 42), (42, 2)):
        ignored = found[top * scale:(top + 16) * scale, left * scale:(left + 16) * scale]
        assert np.ptp(ignored, axis=2).max() == 0 and 0.3 < (ignored[..., 0] > 200).mean() < 0.7


def test_styles(figure):
    for style, in_cat, between in (
            ("blend", (128, 0, 0), (128, 128, 128)), ("contour", (128, 128, 128), (128, 128, 128)),
            ("dim", (128, 128, 128), (0, 0, 0)), ("flat", (128, 0, 0), (0, 0, 0))):
        _, pixels = figure("target", *PLAIN, "--style", style, "--contour-width", "2")
        found = cell(pixels, 0)
        assert (tuple(found[5, 5]), tuple(found[MIDDLE])) == (in_cat, between), style
        # The edge, two points wide, and nothing of it beyond.
        assert tuple(found[10, 18]) == tuple(found[10, 19]) == (128, 0, 0) and tuple(found[10, 20]) == between
        if style in ("contour", "dim"):
            # A light line beside it, one pixel wide, by which dark colours are seen on dark images.
            assert tuple(found[10, 17]) == (230, 230, 230) and tuple(found[10, 16]) == in_cat
        # The object's other two sides are the image's, where it does not end.
        assert tuple(found[0, 10]) == in_cat
        assert tuple(found[50, 10]) not in {(128, 0, 0), (0, 128, 0)}


def test_ignored_pixels_in_every_style(figure):
    for style, ignored in itertools.product(("blend", "contour", "dim", "flat"), ("hatched", "white")):
        _, pixels = figure("target", *PLAIN, "--style", style, "--ignored-pixels", ignored)
        void = cell(pixels, 0)[42:58, 2:18]
        assert np.ptp(void, axis=2).max() == 0, style  # without a hue
        assert ((void > 225).all() if ignored == "white" else 0.3 < (void[..., 0] > 225).mean() < 0.7), style


def test_colour_maps_and_scales(figure):
    # The map rises to 0.5; the other one is 0.25 everywhere.
    for normalize, right, flat in (("own", 255, 255), ("shared", 255, 128), ("none", 128, 64)):
        _, pixels = figure("@ramp.h5,@flat.h5", *PLAIN, "--colormap", "jet", "--normalize", normalize)
        for column, place, value in ((0, (30, 59), right), (1, (30, 30), flat)):
            found = cell(pixels, column)[place]
            distance = np.abs(heat_colors("jet").astype(int) - found).sum(axis=1)
            assert abs(int(distance.argmin()) - value) <= 2 and distance.min() <= 3
    # Half of the values are above the median, which is taken for the maximum.
    _, pixels = figure("@ramp.h5", *PLAIN, "--colormap", "jet", "--percentile", "50")
    assert (cell(pixels, 0)[30, 31:] == heat_colors("jet")[255]).all()


@pytest.mark.parametrize("name", ["viridis", "magma"])
def test_colour_maps_of_matplotlib(name):
    import matplotlib

    expected = np.array(matplotlib.colormaps[name].colors)
    assert np.abs(heat_colors(name) / 255 - expected).max() <= 1 / 255


def test_zoomed_regions_with_their_factor(figure):
    said, pixels = figure("image,target", *PLAIN, "--crop", "a:0,0,30,15")
    # Below the row, as wide as the cell, and framed in the same colour as in the image.
    assert pixels.shape[0] == 1 + SIDE + SIDE // 2 + 1
    frame, marked, unmarked = pixels[61 + 15, 0].astype(int), cell(pixels, 0), cell(pixels, 1)
    assert frame[0] > 200 and frame[1] < 60
    assert np.abs(marked[0, 2:28] - frame).max() <= 4 and np.abs(marked[7, [0, 29]] - frame).max() <= 4
    assert marked[20, 5].tolist() == [128] * 3 and unmarked[0, 5].tolist() == [128, 0, 0]
    # Twice as large: the cat of 20 pixels takes 40.
    row = pixels[61 + 15, SIDE:]
    assert (row[2:40] == (128, 0, 0)).all() and (row[41:58] == 128).all()


def test_a_region_that_fit_crop_cuts_off_is_named(figure):
    for crop, noted in (("a:0,0,20,10", True), ("a:0,20,20,10", False)):
        said, pixels = figure("image", *PLAIN, "--crop", crop, "--fit", "crop", "--aspect", "2")
        assert (f"--crop {crop}: is not marked in its image: --fit crop cuts that region off" in said.err) == noted
        # A marker of the frame's red is all that is coloured in the image.
        assert (np.ptp(pixels[1:30].astype(int), axis=2).max() == 0) == noted


# --- text ------------------------------------------------------------------------------------------


def drawn_boxes(world, columns, ids=("a", "b"), class_names=CLASSES, scores=None, caption="", **settings):
    """The boxes that matplotlib measures for all texts of a figure, with the texts, and the figure."""
    from contextlib import ExitStack
    from dataclasses import replace

    import drstool.figures.render as render
    from drstool.data import open_dataset
    from drstool.figures.columns import Inputs, parse_column
    from drstool.figures.spec import FigureSpec
    from drstool.recipe import FigureSettings
    from drstool.stages.figure import draw_figure

    found = []

    def measured(axes, text, fonts, dpi):
        before = len(axes.texts)
        original(axes, text, fonts, dpi)
        extent = axes.texts[before].get_window_extent(axes.figure.canvas.get_renderer())
        height = axes.figure.bbox.height
        found.append((text.text, Box(extent.x0, height - extent.y1, extent.width, extent.height)))

    dataset = replace(open_dataset(str(world / "data.jsonl")), class_names=tuple(class_names))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        original = render._add_text
        patch.setattr(render, "_add_text", measured)
        inputs, known = Inputs.open([parse_column(text.replace("@", f"{world}/")) for text in columns], stack)
        inputs = replace(inputs, class_names=tuple(class_names), percentile=settings.get("percentile", 100.0))
        spec = FigureSpec(columns=known, ids=tuple(ids), settings=FigureSettings(**settings))
        figure = draw_figure(spec, inputs, dataset, "PNG", scores=scores, caption=caption)
    return found, figure


SCRIPTS = ("a rather long name_with-joints and_more/words than fit in any column", "사진과 정답의 아주 긴 이름입니다",
           "伪标签与条件随机场的一个很长的标题", "خريطة التنشيط للفئة مع اسم طويل جدا")


@pytest.mark.parametrize("legend", ["below", "names"])
def test_no_text_leaves_the_figure_or_meets_another(world, legend):
    columns = [f"{name}=@good" for name in SCRIPTS] + ["error:@mixed", "@ramp.h5", "difference:@ramp.h5:@flat.h5"]
    scores = {(row, column): 0.123 for row in ("a", "b") for column in range(4)}
    boxes, figure = drawn_boxes(
        world, columns, ids=("a", "b", "an-id-that-is-much-longer-than-its-row-is-high-and-nowhere-to-be-found"),
        class_names=(SCRIPTS[0], SCRIPTS[3]), scores=scores, caption=" ".join(SCRIPTS), legend=legend, row_ids=True,
        width="150mm", dpi=200)
    width, height = figure.layout.width, figure.layout.height
    assert len(boxes) > 20
    slack = 2  # Pixels that a letter may reach beyond its advance.
    for text, box in boxes:
        assert -slack <= box.x and box.right <= width + slack and -slack <= box.y and box.bottom <= height + slack, text
    inner = [(text, Box(b.x + slack, b.y + slack, b.width - 2 * slack, b.height - 2 * slack)) for text, b in boxes]
    assert [(one, other) for (one, a), (other, b) in itertools.combinations(inner, 2) if a.meets(b)] == []
    for (_, box), placed in zip(boxes, figure.texts, strict=True):
        # What the layout reckons with is what matplotlib draws.
        assert abs(box.width - placed.box.width) < 0.3 * placed.box.width + 4 or placed.upright or placed.back


def test_letters_that_no_font_has_are_named(world):
    _, figure = drawn_boxes(world, ["\U0010fffdx=@good"])
    assert [note for note in figure.notes if "\U0010fffd" in note and "--font FILE" in note]
    assert drawn_boxes(world, ["Ünï ع=@good"])[1].notes == ()


def test_a_font_with_the_letters_serves(world, tmp_path, figure):
    path = tmp_path / "letters.ttf"
    make_font(path, "사진abcdefghijklmnopqrstuvwxyz")
    _, plain = drawn_boxes(world, ["사진=@good"], ids=("a",))
    _, served = drawn_boxes(world, ["사진=@good"], ids=("a",), font=str(path))
    assert (len(plain.notes), served.notes) == (1, ())
    said, _ = figure("image", *PLAIN, "--font", "no such font", code=2)
    assert said.err == "drstool: --font: 'no such font' is not installed; give the file of a font, or omit it\n"
    (tmp_path / "no-font.ttf").write_bytes(b"nothing")
    assert "no-font.ttf is not a font" in figure("image", *PLAIN, "--font", tmp_path / "no-font.ttf", code=2)[0].err


def make_font(path, letters):
    """A font in which every letter is a square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for number, point in enumerate(((0, 0), (0, 500), (500, 500), (500, 0))):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"letter{ord(letter)}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"letter{ord(letter)}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_names_are_text_and_never_markup(figure, world, tmp_path):
    """Neither matplotlib's formulas nor a terminal's codes."""
    nasty = "<script>$x^2$[red]\x1b[31m\nnext"
    said, path = figure(f"{nasty}=@good", "--ids", "a", name="nasty.svg", width="400px")
    text = path.read_text()
    assert "&lt;script&gt;$x^2$[red]\\u001b[31m\\u000anext" in text.replace("</text>", "")
    assert "<script>" not in text and "\x1b" not in text + said.err


# --- legend ----------------------------------------------------------------------------------------


def test_the_legend_shows_just_what_is_seen_in_its_colours(world):
    _, figure = drawn_boxes(world, ["target", "error:@mixed", "@flat.h5"], ids=("b",), dpi=150)
    pixels = np.asarray(Image.open(io.BytesIO(figure.data)))
    keys = {key.name: box for box, key in figure.layout.swatches}
    assert list(keys) == ["cat", "dog", "missed", "false", "wrong class", "ignored"]
    for name, box in keys.items():
        inside = pixels[int(box.y) + 3:int(box.bottom) - 3, int(box.x) + 3:int(box.right) - 3].reshape(-1, 3)
        if name == "ignored":
            assert np.ptp(inside.astype(int), axis=1).max() == 0 and (inside == IGNORED).all(axis=1).any()
        else:
            known = dict(zip(("background", *CLASSES), class_colors(2).tolist())) | ERRORS
            assert {tuple(color) for color in inside.tolist()} == {tuple(known[name])}
    (bar, _), = figure.layout.bars
    middle = pixels[int((bar.y + bar.bottom) / 2), int(bar.x) + 3:int(bar.right) - 3]
    assert np.abs(middle[0].astype(int) - heat_colors()[0]).max() < 12
    assert np.abs(middle[-1].astype(int) - heat_colors()[255]).max() < 12
    words = [text.text for text in figure.texts]
    assert {"0", "maximum", "of each map"} <= set(words)


def test_names_stand_at_the_objects(world):
    boxes, figure = drawn_boxes(world, ["target"], ids=("a",), legend="names", width="600px", dpi=100)
    cells = figure.layout.cells[0, 0]
    for name, (y, x) in (("cat", CAT), ("dog", DOG)):
        (box,) = [box for text, box in boxes if text == name]
        assert abs(box.x + box.width / 2 - cells.width * x / SIDE) < 0.1 * cells.width
        assert abs(box.y + box.height / 2 - cells.y - cells.height * y / SIDE) < 0.1 * cells.height
    assert [key.name for _, key in figure.layout.swatches] == ["ignored"]


def test_a_name_stands_beside_an_object_that_it_would_hide(world):
    boxes, figure = drawn_boxes(world, ["target"], ids=("a",), legend="names", width="60px", dpi=150)
    cells = figure.layout.cells[0, 0]
    for name, left in (("cat", 0), ("dog", 2 / 3)):
        (box,) = [box for text, box in boxes if text == name]
        # Both are in the upper corners, a third of the cell wide and high.
        assert box.y >= cells.y + cells.height / 3 - 1 and left <= (box.x - cells.x) / cells.width + 0.2


def test_all_row_ids_are_of_one_size(world):
    _, figure = drawn_boxes(world, ["target"], ids=("a", "b", "a-rather-long-name-of-an-image"), row_ids=True)
    sizes = {text.size for text in figure.texts if text.upright}
    assert len(sizes) == 1 and sizes.pop() < 8


@pytest.mark.parametrize("width", ["700px", "701px", "702px", "703px"])
def test_cells_of_one_size_reach_the_right_edge(world, width):
    _, figure = drawn_boxes(world, ["image", "target", "@good", "image"], ids=("a",), width=width)
    cells = figure.layout.cells.values()
    assert max(cell.right for cell in cells) == figure.layout.width and len({cell.width for cell in cells}) == 1
    gaps = [other.x - cell.right for cell, other in itertools.pairwise(cells)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("settings", "lines"), [
    ({"width": "100mm"}, 1), ({"width": "60px", "dpi": 72}, 2),
    ({"width": "90px", "dpi": 72, "fit": "pad", "aspect": 2.0}, 2),
])
def test_a_map_without_a_value_says_so(world, settings, lines):
    boxes, figure = drawn_boxes(world, ["@ramp.h5"], ids=("a", "b"), legend="none", **settings)
    notes = [text for text in figure.texts if text.back == (255, 255, 255)]
    assert " ".join(text.text for text in notes) == "no value above 0" and len(notes) == lines
    # Of a class that is not among the image's, that there is none.
    boxes, _ = drawn_boxes(world, ["@ramp.h5#dog", "difference:@ramp.h5:@flat.h5#dog"], width="100mm")
    assert [text for text, _ in boxes].count("no map of dog") == 4
    # No wider than the picture, which with margins is as high as the cell.
    cell = figure.layout.cells[1, 0]
    assert all(text.box.width <= cell.height + 1 for text in notes)


@pytest.mark.parametrize(("settings", "high", "words"), [
    ({}, "maximum", "of each map"),
    ({"percentile": 92.0}, "92nd percentile", "of each map"),
    ({"normalize": "shared"}, "2", "(shared by all maps)"),
    ({"normalize": "shared", "percentile": 50.0}, "≥ 1", "(the highest 50th percentile of the maps)"),
    ({"normalize": "none"}, "≥ 1", "(as stored)"),
])
def test_colour_bars_say_what_their_ends_are(world, tmp_path, settings, high, words):
    from drstool.formats import Header, MapRecord, open_sink

    with open_sink(str(tmp_path / "wide.h5"), Header("localization-maps", CLASSES, ())) as sink:
        sink.write(MapRecord("a", np.linspace(0, 2, SIDE * SIDE, dtype=np.float16).reshape(1, SIDE, SIDE), (1,),
                             (SIDE, SIDE), ""))
    _, figure = drawn_boxes(world, [f"{tmp_path}/wide.h5", f"difference:{tmp_path}/wide.h5:@flat.h5"], ids=("a",),
                            width="800px", dpi=100, **settings)
    (box, heat), (other, difference) = figure.layout.bars
    assert (heat.low, heat.high, heat.words) == ("0", high, words)
    cut = "percentile" in settings
    assert (difference.low[:2], difference.high[:2]) == (("≤ ", "≥ ") if cut else ("−1", "+1"))
    assert (box.x, box.width) == (other.x, other.width)


@pytest.mark.parametrize("count", [20, 80, 254])
def test_generated_colours_stay_apart(count):
    lab = oklab(np.concatenate([class_colors(count, "distinct"), [IGNORED]]))
    distance = np.linalg.norm(lab[:, np.newaxis] - lab, axis=-1) + 9 * np.eye(len(lab))
    # On a scale where black and white are 1 apart; for comparison, VOC's 20 classes come as near as 0.03.
    assert distance.min() > {20: 0.14, 80: 0.07, 254: 0.03}[count]


def test_any_number_of_classes_has_a_colour_each():
    for count in (255, 3000, 65534):
        colors = class_colors(count)
        assert len(np.unique(colors, axis=0)) == count + 1
        assert not (colors == IGNORED).all(axis=1).any()
    np.testing.assert_array_equal(class_colors(3000)[:21], class_colors(20, "distinct"))
    # Of an unknown number of classes, all that a label image of 8 bits can have.
    assert len(class_colors(0)) == 255


# Colours as they look to people without one of the three kinds of cones, as matrices on linear sRGB: Machado, Oliveira
# and Fernandes, A physiologically-based model for simulation of color vision deficiency, 2009, table of severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colour_blind_can_tell_errors_apart(kind):
    share = np.array([*ERRORS.values(), IGNORED]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLINDNESS[kind]), 0, 1)
    lab = oklab(255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    distance = np.linalg.norm(lab[:, np.newaxis] - lab, axis=-1) + 9 * np.eye(len(lab))
    assert distance.min() > 0.11
    assert distance[:4, :4].min() > 0.2


# --- scores, rows ----------------------------------------------------------------------------------


def test_scores_are_those_of_eval(figure, world, drs, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    _, path = figure("image,good=@good,mixed=@mixed", "--score", "--baseline", "good", "--caption", name="scores.pdf",
                     width="500px")
    lines = pypdf.PdfReader(path).pages[0].extract_text()
    for column in ("good", "mixed"):
        scores = drs("eval", world / column, "--data", world / "data.jsonl", "--classes", world / "classes.txt",
                     "--per-image", "--json").json()["per_image"]
        for row in scores:
            assert f"{row['mean_iou']:.3f}" in lines
    assert "(+0.000)" in lines and "(−" in lines
    assert {"good", "mixed", "cat", "dog", "ignored"} <= set(re.findall(r"\w+", lines))
    assert "Below the cells: mean IoU." in lines.replace("\n", " ")


def test_rows_are_chosen_by_score(figure, world, drs):
    for pick, rows in (("worst:1", "b"), ("best:1", "a"), ("worst:2", "ba"), ("around:cat:1", "b"), ("even:2", "ab")):
        said, path = figure("image,mixed=@mixed", "--pick", pick, name="picked.svg", width="300px")
        history = json.loads(re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(), re.S)[1]
                             .replace("&quot;", '"').replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        own = history[-1]
        assert "".join(own["settings"]["ids"]) == rows
        assert own["settings"]["chosen"] in said.err and "time" not in own
        assert own["used"]["pixel_ground_truth"] == ("scored" if pick != "even:2" else False)
    said, _ = figure("image", "--pick", "random:30")
    assert "rows: all 2 images\n" in said.err
    columns = "A=@good,A=@mixed,A=image,error:@mixed"
    for name in ("mixed", world / "mixed"):
        said, _ = figure(columns, "--pick", "worst:1", "--by", name, "--score", "--baseline", name)
        assert "the lowest mean IoU of A" in said.err


def test_a_path_in_two_columns_has_its_scores_in_both(figure):
    columns = "one=@mixed,error:@mixed,two=@mixed"
    _, path = figure(columns, "--score", "--baseline", "mixed", "--ids", "a", name="two.svg")
    assert len(re.findall(r">\d\.\d{3}( \(\+0\.000\))?<", path.read_text())) == 2


@pytest.mark.parametrize(("columns", "more", "words"), [
    ("@ramp.h5", ("--score",), "Below the cells: mean IoU. Labels of maps: "),
    ("A=@ramp.h5,labels:@ramp.h5", (), "Labels of maps: "),
    ("@ramp.h5,@good", (), None),
])
def test_the_caption_names_the_cues_of_labels_of_maps(figure, columns, more, words):
    _, path = figure(columns, *more, "--caption", "--cues", "background=constant,constant=0.1", name="cues.svg",
                     width="1500px")
    assert re.findall(">((?:Below|Labels)[^<]*)<", path.read_text()) == (
        [words + "alpha 0.2, background constant, constant 0.1."] if words else [])


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "jpg", "pdf", "svg"])
def test_the_same_command_gives_the_same_bytes(figure, ending):
    columns = "image,target,@ramp.h5"
    found = [figure(columns, "--workers", workers, name=f"same.{ending}")[1] for workers in ("1", "3")]
    first = found[0].read_bytes() if ending != "png" else found[0].tobytes()
    again = found[1].read_bytes() if ending != "png" else found[1].tobytes()
    assert first == again
    if ending != "png":
        assert found[0].read_bytes().startswith({"jpg": b"\xff\xd8", "pdf": b"%PDF", "svg": b"<?xml"}[ending])


@pytest.mark.parametrize("ending", ["png", "jpg", "pdf", "svg"])
def test_info_reads_the_history_of_a_figure(figure, drs, tmp_path, ending):
    """Of whatever format, with letters that each escapes in its own way."""
    path, title = tmp_path / f"told.{ending}", '<猫> & ("a")\\'
    figure(f"{title}=image,error:@mixed", "--pick", "worst:1", "--no-titles", name=path.name)
    told = drs("info", path, "--json").json()
    assert (told["kind"], told["rows"]) == ("figure", ["b"])
    assert told["columns"] == [title, "mixed, errors"]
    assert "the lowest mean IoU of mixed" in told["chosen"] and told["provenance"][-1]["settings"]["dpi"] == 72
    assert "columns  2: <猫>" in drs("info", path).out
    figure("image,target", "--no-provenance", name=path.name)
    assert b"drstool overlay" not in path.read_bytes() and drs("info", path, "--json").json()["provenance"] == []
    path.write_bytes(path.read_bytes().replace(b"drstool", b"another"))
    assert drs("info", path).code == 3


def test_a_damaged_history_is_one_line(figure, drs, tmp_path):
    _, path = figure("image", name="told.svg")
    path.write_text(re.sub("<dc:description>.", "<dc:description>", path.read_text()))
    outcome = drs("info", path)
    assert (outcome.code, outcome.err) == (
        3, f"drstool: {path}: has a damaged history; copy it again or recreate it\n")


def test_masks_and_text_of_vector_files(figure):
    """In SVG a text is a text, and a mask has the pixels that it has, whatever the resolution."""
    import base64

    _, path = figure("target", "--ids", "a", name="crisp.svg", width="40px", scale=1)
    text = path.read_text()
    assert re.search(r"<text[^>]*>ground", text)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size
             for data in re.findall(r"base64,\s*([^\"]+)\"", text)]
    assert (SIDE, SIDE) in sizes


def test_a_pdf_holds_a_photograph_once_and_masks_as_they_are(figure):
    pypdf = pytest.importorskip("pypdf")
    _, path = figure("image,target,@good", "--ids", "a", "--opacity", "1", "--legend", "none", name="once.pdf",
                     width="90px")
    pictures = [np.asarray(each.image.convert("RGBA")) for each in pypdf.PdfReader(path).pages[0].images]
    # Of the photograph there are 30 pixels a side, in the masks as many as in their files, the right way up.
    assert sorted(each.shape[0] for each in pictures) == [30, SIDE, SIDE]
    for mask in pictures:
        if mask.shape[0] == SIDE:
            assert [mask[place][3] for place in (CAT, DOG, MIDDLE, REST)] == [255, 255, 0, 0]


@pytest.mark.parametrize(("width", "dpi", "pixels"), [("25.4mm", 200, 200), ("1.5in", 100, 150), ("123px", 300, 123)])
def test_widths(figure, width, dpi, pixels):
    _, found = figure("image", *PLAIN, "--dpi", str(dpi), width=width)
    assert found.shape[1] == pixels


def test_aspect_is_kept_and_cells_are_made_equal(world, own_voc, drs, tmp_path):
    """A picture of 60 × 48 pixels and one of 64 × 52, as they are, cut off, or with margins."""
    rows = {"fit": None, "crop": 80, "pad": 80}
    for fit, height in rows.items():
        path = tmp_path / f"{fit}.png"
        said = drs("overlay", "--figure", path, "--data", own_voc, "--split", "val", "--columns", "image", "--width",
                   "160px", "--dpi", "72", "--fit", fit, "--aspect", "2", *PLAIN[:-2], "--gap", "0")
        assert said.code == 0, said.err
        found = np.asarray(Image.open(path)).astype(int)
        expected = 2 * height if height else sum(
            round(160 * h / w) for w, h in (Image.open(own_voc / f"JPEGImages/p{n}.jpg").size for n in (4, 5)))
        assert abs(found.shape[0] - expected - 2) <= 1
        white = (found[20] == 255).all(axis=1)
        assert white.any() == (fit == "pad") and (not white.all())


def test_figures_are_replaced_and_photographs_never(figure, world):
    figure("image", *PLAIN)
    figure("image", *PLAIN, name="figure.jpg")
    figure("image", *PLAIN, name="figure.jpg")
    from shutil import copy

    said, path = figure("image", *PLAIN)
    target = world.parent / "photo.png"
    copy(world / "a.png", target)
    assert "is a picture, which this command does not write" in figure(
        "image", *PLAIN, name=str(target), code=1)[0].err


# --- spec ------------------------------------------------------------------------------------------


def test_a_spec_gives_the_same_figure(figure, world, drs, tmp_path):
    import tomllib

    spec = tmp_path / "spec.toml"
    more = ("--pick", "worst:1", "--by", "m", "--style", "contour", "--contour-width", "1.5", "--row-ids", "--cues",
            "background=constant,constant=0.1", "--crop", "b:0,0,30,30")
    columns = "image,target,cats=@ramp.h5#cat,m=@mixed,split:@ramp.h5:@flat.h5"
    said, path = figure(columns, *more, "--write-spec", spec, name="a.svg", width="300px")
    content = tomllib.loads(spec.read_text())
    assert content["columns"][2] == {"title": "cats", "paths": [f"{world}/ramp.h5"], "class": "cat"}
    first = path.read_bytes()
    # Defaults are not written, and replace nothing.
    assert "empty_tags" not in content
    spec.write_text('empty_tags = "negative"\n' + spec.read_text())
    assert drs("overlay", "--spec", spec, "--write-spec", tmp_path / "more.toml").code == 0
    assert tomllib.loads((tmp_path / "more.toml").read_text()) == content | {"empty_tags": "negative"}
    again = drs("overlay", "--spec", spec, "--figure", tmp_path / "b.svg", "--no-provenance")
    assert again.code == 0, again.err
    figure(columns, *more, "--no-provenance", name="c.svg", width="300px")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "c.svg").read_bytes() != first
    # An option replaces what the file says.
    other = drs("overlay", "--spec", spec, "--figure", tmp_path / "d.png", "--ids", "a", "--crop", "a:0,0,10,10")
    assert other.code == 0 and "chosen" not in other.err
    # Of the file's regions, those of rows that the command line leaves out are, too.
    other = drs("overlay", "--spec", spec, "--figure", tmp_path / "e.png", "--ids", "a,a")
    assert other.code == 0 and "--crop b:0,0,30,30: left out: the figure has no such row" in other.err
    assert "--ids: names 'a' 2 times; it is one row" in other.err


@pytest.mark.parametrize(("text", "message"), [
    ("colour = 3", "has an unknown key 'colour'; there are figure, data, split"),
    ("width = 3", "width is 3; expected text"),
    ("dpi = true", "dpi is True; expected a whole number"),
    ("dpi = 5", "5 is too small; must be at least 36"),
    ("style = 'bold'", "'bold' is not one of blend, contour, dim, flat"),
    ("ids = 'a'", "ids is 'a'; expected a list of texts"),
    ("columns = ['image']", "columns are not tables; write each as [[columns]]"),
    ("[[columns]]\nshow = 'heat'", "columns.paths has 0; heat takes 1"),
    ("[[columns]]\nshow = 'hot'\npaths = ['x']", "columns.show is 'hot'; expected one of image"),
    ("[[columns]]\ncolor = 'x'", "has an unknown key 'columns.color'; there are show, title, paths, class"),
    ("[cues]\nbeta = 1", "has an unknown key 'cues.beta'; there are alpha, background"),
    ("pick = 'worst'\n[[columns]]\nshow='image'", "'worst' is not a choice of images"),
    ("= 3", "is not a TOML file"),
])
def test_specs_that_are_wrong(world, drs, tmp_path, text, message):
    spec = tmp_path / "wrong.toml"
    spec.write_text(text)
    said = drs("overlay", "--spec", spec, "--figure", tmp_path / "x.png", "--data", world / "data.jsonl")
    assert said.code in (2, 3) and message in said.err, said.err
    assert said.err.count("\n") == 1 >= said.err.count("wrong.toml") and not (tmp_path / "x.png").exists()


# --- bad input -------------------------------------------------------------------------------------


def test_what_is_missing_is_said_in_the_cell(figure, world, tmp_path):
    columns = "image,target,good=@good,maps=@ramp.h5"
    said, path = figure(columns, "--ids", "a,nowhere", name="missing.svg", code=4, width="500px")
    assert "4 cells of 8 have nothing to show" in said.err and "image 'nowhere': is not in the dataset" in said.err
    assert path.read_text().count(">no image<") == 4
    said, path = figure(columns, "--ids", "a,nowhere", "--strict", name="strict.svg", code=3, width="500px")
    assert not path.exists()


def test_layers_of_other_sizes(figure, world, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(encode_label_png(np.zeros((5, 6), np.uint8)))
    said, path = figure(f"image,{folder}", name="sizes.svg", code=4, width="500px")
    assert "small: a: the label image is 6 × 5 pixels, but the image is 60 × 60" in said.err


def test_a_column_that_cannot_be_scored_leaves_the_others_theirs(figure, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(encode_label_png(np.full((SIDE, SIDE), 30, np.uint8)))
    columns, reason = f"image,bad=labels:{tmp_path},@good", "contains unknown label values: 30"
    said, path = figure(columns, "--score", name="scores.svg", code=4, width="500px")
    assert said.err.count(reason) == 2 and "2 cells of 6 have nothing to show" in said.err
    assert path.read_text().count(">cannot be shown<") == 2
    assert len(re.findall(r">\d\.\d{3}<", path.read_text())) == 2
    said, path = figure(columns, "--pick", "worst:1", "--by", "bad", name="picked.svg", code=3)
    assert said.err.count(reason) == said.err.count("\n") == 1 and f"{tmp_path}: " in said.err
    (tmp_path / "a.png").write_bytes(encode_label_png(np.zeros((SIDE, SIDE), np.uint8)))
    said, path = figure(columns, "--pick", "worst:1", "--by", "bad", name="picked.svg")
    assert f"--pick: not all images have a score: {tmp_path}: " in said.err and reason in said.err


@pytest.mark.parametrize(("columns", "more", "code", "message"), [
    ("imag", (), 3, "imag: no such file or folder; a column is image, target"),
    ("picture:nowhere", (), 3, "nowhere: no such folder; give a folder of pictures"),
    ("difference:a", (), 2, "'difference:a' names 1 file; difference takes 2"),
    ("@ramp.h5#cow", (), 3, "has no class 'cow'; its classes are cat, dog"),
    ("@good#cat", (), 3, "holds labels"),
    ("heat:@good", (), 3, "holds labels; 'good' needs a map file"),
    ("image", ("--ids", "x,y"), 3, "has none of the rows, such as 'x'; its ids look like 'a'"),
    ("image", ("--ids", ","), 3, "--ids: ',' names no image"),
    ("image", ("--pick", "worst:0"), 2, "'worst:0' is not a choice of images; expected worst:N"),
    ("image", ("--pick", "worst:1"), 2, "no column has scores"),
    ("good=@good", ("--pick", "worst:1", "--by", "x"), 2, "--by: no column with scores is called 'x'; those that"),
    ("@good,image", ("--pick", "worst:1", "--by", "image"), 2, "no column with scores is called 'image'"),
    ("A=@good,A=@mixed", ("--pick", "worst:1", "--by", "A"), 2, "--by: several columns with scores are called 'A'"),
    ("image", ("--by", "image"), 2, "--by: has no effect without --pick; add --pick, or omit it"),
    ("@good", ("--pick", "random:1", "--by", "good"), 2, "--by: has no effect with --pick random:1; omit it"),
    ("image", ("--baseline", "image"), 2, "--baseline: has no effect without --score"),
    ("image", ("--ids", "a", "--pick", "even:1"), 2, "--pick: chooses rows that --ids names already"),
    ("image", ("--resume",), 2, "--resume: cannot be used with --figure"),
    ("good=@good", ("--pick", "around:cow:1"), 3, "there is no class 'cow'; the classes are cat, dog"),
    ("image", ("--crop", "a:0,0,0,5"), 2, "--crop: 'a:0,0,0,5' is not a region; expected ID:x,y,w,h"),
    ("image", ("--crop", "x:0,0,5,5"), 2, "--crop: 'x' is not a row of the figure; its rows are a, b"),
    ("image", ("--crop", "a:50,50,20,5"), 2, "'a:50,50,20,5' leaves the image; it has 60 × 60 pixels"),
    ("image", ("--width", "12"), 2, "--width: '12' is not a width; expected something like 174mm"),
    ("image", ("--width", "5px"), 2, "--width: is 5 pixels at 72 dpi"),
    (",".join(["image"] * 20), ("--width", "200px"), 2, "pixels for each of 20 columns"),
    ("a_long_title=image,target,image", ("--width", "40px"), 2, "--width: columns of 13 pixels are too narrow for"),
    ("@good", ("--score", "--baseline", "x"), 2, "--baseline: no column with scores is called 'x'"),
    ("image", ("--cues", "beta=1"), 2, "--cues: there is no setting 'beta'; there are alpha"),
    ("image", ("--cues", "alpha=x"), 2, "--cues: 'x' is not a value of alpha; expected a number"),
    ("image", ("--palette", "cvd"), 2, "--palette: 'cvd' is not one of voc, distinct"),
])
def test_columns_and_options_that_are_wrong(figure, tmp_path, columns, more, code, message):
    said, path = figure(columns, *more, code=code)
    assert message in said.err and said.err.count("\n") == 1, said.err
    assert not path.exists()


def test_classes_must_be_the_same(figure, tmp_path):
    from drstool.formats import Header, MapRecord, open_sink

    with open_sink(str(tmp_path / "other.h5"), Header("localization-maps", ("cow",), ())) as sink:
        sink.write_all([MapRecord("a", np.zeros((1, 5, 5), np.uint8), (1,), (SIDE, SIDE), "")])
    said, _ = figure(f"@ramp.h5,{tmp_path}/other.h5", code=3)
    assert "other.h5: has 1 class (cow), but" in said.err and "2 (cat, dog)" in said.err
    # So must those of the dataset.
    said, _ = figure(f"image,{tmp_path}/other.h5", code=3)
    assert f"{tmp_path}/other.h5: has 1 class (cow), but" in said.err and said.err.count("\n") == 1


def test_rows_from_a_file_of_ids_with_spaces(drs, world, tmp_path):
    rows = [{"id": name, "image": str(world / "a.png")} for name in ("a", "a b")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # As tables of tags and lists of paths have them.
    (tmp_path / "ids.txt").write_text("a b 3\na 0 1\n", encoding="utf-16")
    outcome = drs("overlay", "--data", tmp_path / "m.jsonl", "--columns", "image", "--ids", tmp_path / "ids.txt",
                  "--figure", tmp_path / "x.png")
    assert outcome.code == 0 and "wrote 2 cells" in outcome.err, outcome.err


def test_outputs_that_are_wrong(drs, world, tmp_path):
    line = ("overlay", "--data", world / "data.jsonl", "--columns", "image")
    for more, code, message in (
            (("--figure", tmp_path / "x.gif"), 2, "has no ending of a figure; expected .png, .jpg"),
            (("--figure", tmp_path / "nowhere/x.png"), 1, "nowhere"),
            (("--figure", tmp_path / "x.png", "-o", tmp_path / "y"), 2, "-o: does not go together with --figure"),
            (("-o", tmp_path / "y"), 2, "--columns: has no effect without a figure; add --figure FILE"),
            (("--write-spec", tmp_path / "nowhere/x.toml"), 1, "nowhere")):
        said = drs(*line, *more)
        assert said.code == code and message in said.err and said.err.count("\n") == 1, said.err
    assert "--dpi: has no effect without a figure" in drs(
        "overlay", "--data", world / "data.jsonl", "--dpi", "100", "-o", tmp_path / "y").err
    assert "overlay: has nowhere to write; give -o FOLDER, --figure FILE or --gallery FOLDER" in drs(
        "overlay", "--data", world / "data.jsonl").err
    assert "--columns: there are none" in drs(
        "overlay", "--data", world / "data.jsonl", "--figure", tmp_path / "x.png").err


def test_too_many_rows_are_not_guessed_at(drs, world, tmp_path):
    lines = (world / "data.jsonl").read_text().splitlines()
    many = [json.dumps(json.loads(lines[0]) | {"id": f"x{n}"}) for n in range(41)]
    (tmp_path / "many.jsonl").write_text("\n".join(many))
    said = drs("overlay", "--data", tmp_path / "many.jsonl", "--columns", "image", "--figure", tmp_path / "x.png")
    assert (said.code, "would have 41 rows; choose them with --ids or --pick" in said.err) == (2, True)


def test_pictures_of_others_are_shown_as_they_are(figure, world, tmp_path):
    for name in "ab":
        Image.fromarray(np.full((30, 30, 3), (9, 99, 199), np.uint8)).save(tmp_path / f"{name}-x.png")
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.fromarray(np.full((30, 30, 3), (9, 99, 199), np.uint8)).save(tmp_path / "folder" / f"{name}.png")
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.fromarray(np.full((SIDE, SIDE), 1, np.uint8)).save(tmp_path / "grey" / f"{name}.png")
    for column in (f"{tmp_path}/folder", "picture:" + str(tmp_path / "{id}-x.png")):
        _, pixels = figure(f"image,{column}", *PLAIN)
        assert (cell(pixels, 1) == (9, 99, 199)).all()
    said, _ = figure(f"{tmp_path}/grey", code=3)
    assert "holds grey PNGs, which may be labels or pictures; write labels:" in said.err
    assert (cell(figure(f"labels:{tmp_path}/grey", *PLAIN)[1], 0) == (128, 0, 0)).all()


def test_without_matplotlib_a_line_says_what_to_install(figure, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said, _ = figure("image", code=2)
    assert said.err == "drstool: --figure: needs matplotlib; install it: pip install 'drstool[figures]'\n"


def test_repeated_labels_and_maps_are_columns(drs, world, tmp_path):
    said = drs("overlay", "--figure", tmp_path / "x.svg", "--data", world / "data.jsonl", "--labels",
               f"A={world}/good", "--labels", f"B={world}/mixed", "--maps", f"{world}/ramp.h5", "--maps",
               f"{world}/flat.h5")
    assert said.code == 0, said.err
    titles = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "x.svg").read_text())
    assert titles[:6] == ["image", "ground truth", "ramp", "flat", "A", "B"]
    # Ground truth only where there is some.
    lines = [json.loads(line) for line in (world / "data.jsonl").read_text().splitlines()]
    (tmp_path / "bare.jsonl").write_text("\n".join(json.dumps(line | {"mask": None}) for line in lines))
    said = drs("overlay", "--figure", tmp_path / "y.svg", "--data", tmp_path / "bare.jsonl", "--labels", world / "good")
    assert said.code == 0, said.err
    assert "ground truth" not in (tmp_path / "y.svg").read_text()


def test_repeated_labels_are_all_drawn_into_a_folder(drs, world, tmp_path):
    said = drs("overlay", "-o", tmp_path / "out", "--data", world / "data.jsonl", "--labels", f"A={world}/good",
               "--labels", f"{world}/mixed", "--by-kind", "--no-target")
    assert said.code == 0, said.err
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert names == {f"{kind}/{name}.png" for name in "ab"
                     for kind in ("image", "pred_A", "overlay_A", "pred_mixed", "overlay_mixed")}


def test_labels_of_maps_use_the_range_of_the_saliency(world, tmp_path):
    """Maps of 0 and 1 are black on the usual scale."""
    Image.fromarray(np.uint8(np.arange(SIDE) < 20)[None].repeat(SIDE, axis=0)).save(tmp_path / "a.png")
    dataset = open_dataset(str(world / "data.jsonl"))
    for value_range, labelled in (((), 0), ((0, 1), 20 * SIDE)):
        with ExitStack() as stack:
            inputs, (column,) = Inputs.open([parse_column(f"labels:{world / 'flat.h5'}")], stack)
            inputs = replace(
                inputs, settings=CueSettings(saliency_range=value_range), saliency_of=lambda _: tmp_path / "a.png")
            cell = read_cell(column, Row("a", dataset.items[0]), inputs)
        assert np.count_nonzero(cell.labels == 1) == labelled
