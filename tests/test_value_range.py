"""Images that do not use their file's whole range, and bands that are no alpha."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.data import open_dataset
from drstool.data.decoding import load_image, look_at
from drstool.data.image_notices import image_notices
from drstool.data.value_range import ValueRange, scaled
from drstool.errors import InputError
from drstool.figures.columns import Row

SIZE = (16, 24)
# A camera of 12 bits, and the same in colour.
GREY = np.linspace(100, 4000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
COLOR = np.stack([GREY, GREY[::-1], 4095 - GREY], axis=-1).astype(np.uint16)
SMALL = ("--backbone", "vgg16-small", "--init", "none", "--epochs", "0", "--image-size", "32")


def parse(text):
    return ValueRange.parse("--range", text)


def png_16(values, bits=()):
    """A PNG of 16 bits, which Pillow writes in grey only; ``bits`` are those that it says are significant."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">II5B", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), chunk(b"sBIT", bytes(bits)) if bits else b"",
                     chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(values, order="<", extra=(), bits=0, data=b""):
    """An uncompressed TIFF of any bands, in either byte order; ``extra`` says what the bands beyond colour are."""
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else values.shape[2]
    data = data or values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = 3 if values.dtype.kind == "f" else 1
    tags = {256: [width], 257: [height], 258: [bits or values.dtype.itemsize * 8] * bands, 259: [1],
            262: [2 if bands > 2 else 1], 273: [0], 277: [bands], 278: [height], 279: [len(data)], 339: [kind] * bands}
    tags |= {338: list(extra)} if extra else {}
    start, outside, entries = 8 + 2 + 12 * len(tags) + 4, b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        if len(packed) > 4:
            packed, outside = struct.pack(f"{order}I", start + len(outside)), outside + packed
        entries += struct.pack(f"{order}HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    place = entries.index(struct.pack(f"{order}HHI", 273, 3, 1)) + 8
    entries = entries[:place] + struct.pack(f"{order}H", start + len(outside)) + entries[place + 2:]
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + outside + data


def expected(values, low, high):
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


def pixels(path, content, text=None):
    path.write_bytes(content)
    return load_image(path, None if text is None else parse(text))


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: png_16(COLOR), lambda: tiff(COLOR), lambda: tiff(COLOR, ">"),
    lambda: tiff(np.concatenate([COLOR, COLOR[..., :1]], axis=-1))])
def test_16_bit_colour_keeps_all_of_its_bits(tmp_path, make):
    np.testing.assert_array_equal(pixels(tmp_path / "a", make(), "0,4095"), expected(COLOR, 0, 4095))
    # Without a range, the upper eight.
    np.testing.assert_array_equal(pixels(tmp_path / "a", make()), COLOR >> 8)


@pytest.mark.parametrize("make", [lambda: png_16(GREY), lambda: tiff(GREY), lambda: tiff(GREY, ">")])
@pytest.mark.parametrize(("text", "limits"), [
    ("0,4095", (0, 4095)), ("1000,2000", (1000, 2000)), ("5%,90%", tuple(np.percentile(GREY, (5, 90)))),
    ("0,90%", (0, np.percentile(GREY, 90)))])
def test_a_chosen_range(tmp_path, make, text, limits):
    image = pixels(tmp_path / "a", make(), text)
    np.testing.assert_array_equal(image, np.repeat(expected(GREY, *limits)[..., None], 3, axis=2))


def test_files_that_say_their_range(tmp_path):
    right = np.repeat(expected(GREY, 0, 4095)[..., None], 3, axis=2)
    Image.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo={281: 4095})
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif"), right)
    np.testing.assert_array_equal(pixels(tmp_path / "b.png", png_16(GREY, [12])), right)
    np.testing.assert_array_equal(pixels(tmp_path / "c.png", png_16(COLOR, [12] * 3)), expected(COLOR, 0, 4095))
    # Twelve bits a sample: two samples in three bytes.
    pairs = GREY.reshape(-1, 2).astype(np.uint32)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    content = tiff(GREY, bits=12, data=packed.astype(np.uint8).tobytes())
    np.testing.assert_array_equal(pixels(tmp_path / "d.tif", content), right)
    # What the user gives wins.
    np.testing.assert_array_equal(pixels(tmp_path / "d.tif", content, "0,2000")[..., 0], expected(GREY, 0, 2000))


@pytest.mark.parametrize("padded", [GREY << 4, GREY << 4 | GREY >> 8])
def test_significant_bits_are_the_upper_ones_by_the_standard(tmp_path, padded):
    image = pixels(tmp_path / "a.png", png_16(padded.astype(np.uint16), [12]))
    np.testing.assert_array_equal(image[..., 0], expected(padded, 0, 65535))


def test_ranges_of_8_bits(tmp_path):
    dark = (GREY // 80).astype(np.uint8)
    Image.fromarray(dark).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", parse("0,50"))[..., 0], expected(dark, 0, 50))
    assert load_image(tmp_path / "a.png", parse("0%,100%")).max() == 255
    with pytest.raises(InputError, match="has 8 bits, whose values end at 255, but --range is 0,4095; use percentiles"):
        load_image(tmp_path / "a.png", parse("0,4095"))


def test_floating_point_needs_a_range(tmp_path):
    values = GREY.astype(np.float32) / 4095
    with pytest.raises(InputError, match="--range MIN,MAX"):
        pixels(tmp_path / "a.tif", tiff(values))
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif", tiff(values), "0,1")[..., 0], expected(values, 0, 1))
    values[0, 0] = np.nan
    assert pixels(tmp_path / "a.tif", tiff(values), "0,1")[0, 0].tolist() == [0, 0, 0]


def test_an_image_of_one_value_has_no_percentiles_apart():
    assert scaled(np.full((2, 2), 7, np.uint16), 7, 7).tolist() == [[0, 0], [0, 0]]


def test_transparent_stays_transparent(tmp_path):
    rgba = np.zeros((*SIZE, 4), np.uint8)
    rgba[..., 3][:, :12] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png", parse("0,100"))
    assert (image[:, :12] == 0).all() and (image[:, 12:] == 255).all()


@pytest.mark.parametrize("text", [
    "", "4095", "0,1,2", "a,b", "5,5", "9,1", "90%,10%", "0%,101%", "-1%,50%", "0,inf", "nan,1", "0,1e3", "0,²"])
def test_what_is_no_range(drs, voc, tmp_path, text):
    outcome = drs("saliency", "--data", voc, "--split", "val", "--range", text, "-o", tmp_path / "s")
    assert outcome.code == 2 and outcome.err.startswith("drstool: --range: ") and outcome.err.count("\n") == 1
    assert not (tmp_path / "s").exists()


# --- bands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extra", "left_out"), [((), True), ((0,), True), ((2,), False)])
def test_a_fourth_band_is_alpha_only_where_the_file_says_so(tmp_path, extra, left_out):
    color = np.full((*SIZE, 3), (200, 100, 50), np.uint8)
    bands = np.concatenate([color, np.zeros((*SIZE, 1), np.uint8)], axis=-1)
    image = pixels(tmp_path / "a.tif", tiff(bands, extra=extra))
    np.testing.assert_array_equal(image, color if left_out else np.full_like(color, 255))
    assert look_at(tmp_path / "a.tif").extra_band is left_out


def test_what_is_told(drs, tmp_path):
    (tmp_path / "dark.png").write_bytes(png_16(GREY))
    (tmp_path / "said.png").write_bytes(png_16(GREY, [12]))
    (tmp_path / "bands.tif").write_bytes(tiff(np.zeros((*SIZE, 4), np.uint8)))
    (tmp_path / "light.tif").write_bytes(tiff(COLOR << 4))
    Image.new("RGB", (24, 16)).save(tmp_path / "usual.jpg")
    rows = "".join(f"{name},{name}\n" for name in ("dark.png", "said.png", "light.tif", "bands.tif", "usual.jpg"))
    (tmp_path / "m.csv").write_text("id,image\n" + rows)
    outcome = drs("saliency", "--data", tmp_path / "m.csv", "-o", tmp_path / "s")
    assert outcome.code == 0
    assert outcome.err.splitlines()[:-1] == [
        "saliency: fourth band, not marked as alpha, left out: 1 of 5 images",
        "saliency: dark 16-bit images: 1 of 2, without a value above 4000 of 65535; give --range, such as 0,4095 or "
        "1%,99%"]
    assert image_notices(open_dataset(str(tmp_path / "m.csv"), range="1%,99%")) == [
        "fourth band, not marked as alpha, left out: 1 of 5 images"]


def test_what_decodes_no_image_takes_no_range(drs, voc, made):
    for line in (("ids",), ("eval", made.pred)):
        refused = drs(*line, "--data", voc, "--split", "val", "--range", "0,4095")
        assert refused.code == 2 and refused.err == f"drstool: --range: {line[0]} decodes no images; omit it\n"


# --- what is remembered ------------------------------------------------------------------------


@pytest.fixture
def microscopy(tmp_path):
    """Four images of 12 bits in 16, and a classifier that was trained on them with a range."""
    for number in range(4):
        Image.fromarray(np.roll(GREY, number * 5, 1)).save(tmp_path / f"{number}.tif")
    rows = "".join(f"{number},{number}.tif,{'ab'[number % 2]}\n" for number in range(4))
    (tmp_path / "m.csv").write_text("id,image,tags\n" + rows)
    return tmp_path


def history(drs, path):
    return json.loads(drs("info", path, "--json").out)["provenance"]


def test_a_network_reads_images_as_in_its_training(must, drs, microscopy):
    data, weights = ("--data", microscopy / "m.csv"), microscopy / "c.pt"
    must("train-cls", *data, *SMALL, "--range", "0, 4095", "-o", weights)
    assert load_checkpoint(weights).recipe["range"] == "0,4095"
    cam = ("cam", *data, "--weights", weights, "--sizes", "32")
    same = must(*cam, "-o", microscopy / "same.h5")
    assert f"cam: reading images with --range 0,4095, as for {weights}" in same.err.splitlines()
    assert "--range" not in must(*cam, "--range", "0,4095", "-o", microscopy / "given.h5").err
    other = must(*cam, "--range", "1%,99%", "-o", microscopy / "other.h5")
    assert f"cam: --range 1%,99% differs from that of {weights}, 0,4095" in other.err.splitlines()
    maps = [(microscopy / name).read_bytes() for name in ("same.h5", "given.h5", "other.h5")]
    inputs = [history(drs, microscopy / name)[-1]["inputs"]["range"] for name in ("same.h5", "given.h5", "other.h5")]
    assert inputs == ["0,4095", "0,4095", "1%,99%"] and maps[0] != maps[2]


def test_what_follows_the_maps_reads_images_as_they_were(must, drs, microscopy):
    data, maps = ("--data", microscopy / "m.csv"), microscopy / "m.h5"
    must("train-cls", *data, *SMALL, "--range", "0,4095", "-o", microscopy / "c.pt")
    must("cam", *data, "--weights", microscopy / "c.pt", "--sizes", "32", "-o", maps)
    must("refine-train", *data, *SMALL, "--maps", maps, "-o", microscopy / "r.pt")
    assert load_checkpoint(microscopy / "r.pt").recipe["range"] == "0,4095"
    must("refine", maps, "--weights", microscopy / "r.pt", "--sizes", "32", "-o", microscopy / "r.h5")
    must("crf", microscopy / "r.h5", "--background", "power", "-o", microscopy / "crf.h5")
    for name in ("r.h5", "crf.h5"):
        assert history(drs, microscopy / name)[-1]["inputs"]["range"] == "0,4095"
    # No image is read without a CRF.
    assert "--range" not in must("pseudo-label", maps, "--background", "power", "-o", microscopy / "l").err
    refused = drs("pseudo-label", maps, "--background", "power", "--range", "0,9", "-o", microscopy / "l2")
    assert refused.code == 2 and "there is no CRF" in refused.err
    must("overlay", "--maps", microscopy / "crf.h5", "-o", microscopy / "figures")
    drawn = np.array(Image.open(microscopy / "figures" / "0_image.png"))
    np.testing.assert_array_equal(drawn[..., 0], expected(GREY, 0, 4095))


@pytest.mark.parametrize("data", [(), ("--data",)])
def test_galleries_read_images_as_their_maps_were_made(must, microscopy, data):
    made = ("--data", microscopy / "m.csv")
    must("train-cls", *made, *SMALL, "--range", "0,4095", "-o", microscopy / "c.pt")
    must("cam", *made, "--weights", microscopy / "c.pt", "--sizes", "32", "-o", microscopy / "m.h5")
    data = made if data else ()
    assert "--range 0,4095" in must("overlay", "--gallery", microscopy / "g", *data, "--maps", microscopy / "m.h5").err
    with Image.open(microscopy / "g/images/000000.jpg") as picture:
        shown = np.array(picture.convert("L"), int)
    # But for the losses of JPEG; read with all 16 bits, no value would be above 15.
    assert np.abs(shown - expected(GREY, 0, 4095)).mean() < 6


def test_figures_read_images_as_their_maps_were_made(microscopy):
    dataset = open_dataset(str(microscopy / "m.csv"), range="0,4095")
    row = Row(dataset.items[0].id, dataset.items[0])
    np.testing.assert_array_equal(row.image[..., 0], expected(GREY, 0, 4095))


def test_a_range_that_training_did_not_have_is_told(must, microscopy):
    data, weights = ("--data", microscopy / "m.csv"), microscopy / "c.pt"
    told = must("train-cls", *data, *SMALL, "-o", weights).err
    assert "dark 16-bit images: 4 of 4" in told and "range" not in load_checkpoint(weights).recipe
    line = ("cam", *data, "--weights", weights, "--sizes", "32", "--range", "0,4095", "-o", microscopy / "m.h5")
    assert f"cam: --range 0,4095 differs from that of {weights}, none" in must(*line).err


def test_resuming_with_another_range_is_another_job(must, drs, microscopy):
    line = ("saliency", "--data", microscopy / "m.csv", "-o", microscopy / "s")
    must(*line, "--range", "0,4095")
    assert "finished already" in must(*line, "--range", "0,4095", "--resume").err
    assert drs(*line, "--range", "0,2000", "--resume").code == 1
