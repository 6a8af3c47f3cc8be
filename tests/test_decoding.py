"""Pictures of every kind come out right, and damaged ones as one error naming the file."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from drstool.data.decoding import image_size, load_image, load_pil, load_saliency, load_target
from drstool.data.item import Item
from drstool.errors import InputError
from drstool.pixels import MAX_PIXELS

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(array, path, **options):
    Image.fromarray(array).save(path, **options)
    return path


def with_exif(path, orientation, size=(6, 4)):
    """A picture whose left half is red, stored with an EXIF orientation."""
    array = np.zeros((*size, 3), np.uint8)
    array[:, : size[1] // 2] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(array, path, exif=exif)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(path, width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"")
                     + png_chunk(b"IEND", b""))
    return path


def test_color(tmp_path):
    image = load_image(save(COLOR, tmp_path / "a.png"))
    assert image.dtype == np.uint8 and image.flags.writeable and image.flags.c_contiguous
    np.testing.assert_array_equal(image, COLOR)
    assert load_pil(tmp_path / "a.png").mode == "RGB"
    assert image_size(str(tmp_path / "a.png")) == (5, 7)


@pytest.mark.parametrize("ending", ["jpg", "bmp", "tif", "webp", "gif", "ppm", "png"])
def test_formats(tmp_path, ending):
    path = save(np.full((4, 6, 3), 200, np.uint8), tmp_path / f"a.{ending}")
    assert np.abs(load_image(path).astype(int) - 200).max() <= 2
    assert image_size(path) == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_exif_orientation(tmp_path, orientation, ending):
    from PIL import ImageOps

    path = with_exif(tmp_path / f"a.{ending}", orientation)
    with Image.open(path) as stored:
        expected = np.array(ImageOps.exif_transpose(stored).convert("RGB"))
    image = load_image(path)
    np.testing.assert_array_equal(image, expected)
    assert image.shape[:2] == image_size(path) == ((4, 6) if orientation > 4 else (6, 4))


def test_exif_of_jpeg_that_lies_on_its_side(tmp_path):
    path = with_exif(tmp_path / "a.jpg", 6, size=(16, 32))
    image = load_image(path)
    assert image.shape == (32, 16, 3) and image_size(path) == (32, 16)
    assert (image[:12, :, 0] > 200).all() and (image[20:, :, 0] < 50).all()


def test_exif_stored_after_the_pixels(tmp_path):
    # As exiftool writes it into a PNG.
    content = save(COLOR, tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = tmp_path / "late.png"
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert load_image(path).shape[:2] == image_size(path) == (7, 5)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_unknown_orientation_is_as_stored(tmp_path, value):
    path = with_exif(tmp_path / "a.png", value)
    assert load_image(path).shape[:2] == image_size(path) == (6, 4)


def test_broken_exif_is_no_reason_to_refuse(tmp_path):
    path = save(COLOR, tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image(path).shape == (5, 7, 3)


def test_grey_and_one_bit(tmp_path):
    grey = COLOR[..., 0]
    np.testing.assert_array_equal(load_image(save(grey, tmp_path / "g.png"))[..., 2], grey)
    bits = save(grey > 100, tmp_path / "b.png")
    np.testing.assert_array_equal(load_image(bits)[..., 0], (grey > 100) * 255)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_by_its_full_range(tmp_path, ending):
    values = np.array([[0, 257, 32768, 65535], [128, 129, 1000, 300]], np.uint16)
    path = save(values, tmp_path / f"a.{ending}")
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(load_image(path)[..., 0], expected)
    np.testing.assert_array_equal(load_saliency(path), expected)


def test_cmyk(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (4, 3), (0, 0, 0, 0)).save(path)
    assert (load_image(path) > 250).all() and load_image(path).shape == (3, 4, 3)


def test_transparency_lies_over_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    image = load_image(save(rgba, tmp_path / "a.png"))
    assert image[0, 0].tolist() == [10, 20, 30] and (image[1] == 255).all()
    grey_alpha = np.zeros((2, 2, 2), np.uint8)
    path = tmp_path / "la.png"
    Image.fromarray(grey_alpha[..., 0]).convert("LA").save(path)
    assert (load_image(path) == 0).all()


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    image.putdata([0, 1, 2])
    path = tmp_path / "p.png"
    image.save(path, transparency=1)
    assert load_image(path)[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path, ending):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **(
        {"lossless": True} if ending == "webp" else {}))
    assert (load_image(path) == (255, 0, 0)).all() and image_size(path) == (4, 6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_one_pixel(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (1, 1)).save(path)
    assert load_image(path).shape == (1, 1, 3) and image_size(path) == (1, 1)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "tif", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_cut_short(tmp_path, ending, share):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = save(noise, tmp_path / f"a.{ending}").read_bytes()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"cut\.{ending}: ") as caught:
        load_image(path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_zero_bytes(tmp_path):
    (tmp_path / "a.jpg").touch()
    for load in (load_image, load_pil, image_size, load_saliency):
        with pytest.raises(InputError, match=r"a\.jpg: is empty"):
            load(tmp_path / "a.jpg")


def test_no_picture_no_file_a_folder_a_pipe(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(InputError, match="is not a readable picture"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="is not a file"):
        load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="is not a file"):
        load_image(tmp_path / "pipe.jpg")
    with pytest.raises(InputError):
        load_image("a\0b.jpg")


@pytest.mark.parametrize("bands", [5, 8])
def test_tiff_of_many_bands(tmp_path, caplog, bands):
    # Width, height, bits, colours, where the pixels are, bands, and their length.
    tags = {256: 1, 257: 1, 258: 8, 262: 2, 273: 200, 277: bands, 279: bands}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    head = struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + bytes(bands))
    with pytest.raises(InputError, match=rf"a\.tif: has {bands} bands; keep three of them"):
        load_image(tmp_path / "a.tif")
    assert not caplog.records


def test_eps_is_not_handed_to_another_program(tmp_path):
    (tmp_path / "a.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match="is not a readable picture"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])
@pytest.mark.parametrize("load", [load_image, image_size, load_saliency])
def test_pixel_bomb(tmp_path, side, load):
    path = png_claiming(tmp_path / "bomb.png", side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"bomb\.png: has "):
            load(path)
    assert side * side > MAX_PIXELS


def test_damaged_at_any_byte_is_read_or_refused_but_never_crashes(tmp_path):
    for ending in ("jpg", "png", "gif", "tif", "webp"):
        content = bytearray(save(COLOR, tmp_path / f"a.{ending}").read_bytes())
        path = tmp_path / f"b.{ending}"
        for position in RNG.integers(0, len(content), 150):
            damaged = content.copy()
            damaged[position] ^= int(RNG.integers(1, 256))
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for load in (load_image, image_size, load_saliency):
                    try:
                        load(path)
                    except InputError as error:
                        assert str(error).startswith(str(path))


def palette_png(path, labels):
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette(RNG.integers(0, 256, 768).tolist())
    image.save(path)
    return path


def test_target_values_are_the_palette_indices(tmp_path):
    labels = np.array([[0, 1, 20], [255, 5, 3]], np.uint8)
    mask = palette_png(tmp_path / "m.png", labels)
    target = load_target(Item("a", tmp_path / "a.jpg", mask=mask), (2, 3))
    assert target.dtype == np.uint8
    np.testing.assert_array_equal(target, labels)
    grey = save(labels, tmp_path / "g.png")
    np.testing.assert_array_equal(load_target(Item("a", tmp_path / "a.jpg", mask=grey)), labels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_target_of_few_bits_a_pixel(tmp_path, bits):
    rows = zlib.compress(bytes([0, 0b01000000 >> (0 if bits < 3 else 2)]))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0))
    path = tmp_path / "m.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows)
                     + png_chunk(b"IEND", b""))
    first = {1: 0, 2: 1, 4: 1}[bits]
    assert load_target(Item("a", path, mask=path))[0].tolist() == [first, int(bits == 1)]


def test_target_errors(tmp_path):
    item = Item("a", tmp_path / "a.jpg")
    with pytest.raises(InputError, match="^a: has no ground truth mask"):
        load_target(item)
    with pytest.raises(InputError, match="mode RGB"):
        load_target(Item("a", item.image, mask=save(COLOR, tmp_path / "c.png")))
    wide = load_target(Item("a", item.image, mask=save(COLOR[..., 0].astype(np.uint16), tmp_path / "d.png")))
    assert wide.dtype == np.uint16 and (wide == COLOR[..., 0]).all()
    with pytest.raises(InputError, match=r"gone\.png: .*o such file"):
        load_target(Item("a", item.image, mask=tmp_path / "gone.png"))
    mask = save(COLOR[..., 0], tmp_path / "m.png")
    with pytest.raises(InputError, match="is 7 × 5 pixels, but its image is 4 × 6;"):
        load_target(Item("a", item.image, mask=mask), (6, 4))


def test_target_of_a_rotated_image(tmp_path):
    image = with_exif(tmp_path / "a.jpg", 6, size=(6, 4))
    mask = save(np.zeros((6, 4), np.uint8), tmp_path / "m.png")
    with pytest.raises(InputError, match="if the image is rotated by EXIF, rotate the mask too"):
        load_target(Item("a", image, mask=mask), image_size(image))
    small = with_exif(tmp_path / "b.jpg", 1, size=(5, 5))
    with pytest.raises(InputError, match="the mask must have the image's size"):
        load_target(Item("b", small, mask=mask), image_size(small))


def test_saliency_kinds(tmp_path):
    grey = COLOR[..., 0]
    np.testing.assert_array_equal(load_saliency(save(grey, tmp_path / "g.png")), grey)
    rgb = save(np.repeat(grey[..., None], 3, axis=2), tmp_path / "c.png")
    np.testing.assert_array_equal(load_saliency(rgb), grey)
    bits = save(grey > 9, tmp_path / "b.png")
    np.testing.assert_array_equal(load_saliency(bits), (grey > 9) * 255)
    with pytest.raises(InputError, match="is a colour image"):
        load_saliency(save(COLOR, tmp_path / "d.png"))
    with pytest.raises(InputError, match="is 7 × 5 pixels"):
        load_saliency(tmp_path / "g.png", (7, 5))
    assert load_saliency(tmp_path / "g.png", (5, 7)).dtype == np.uint8


def test_float_pictures_are_refused(tmp_path):
    path = save(np.ones((2, 2), np.float32), tmp_path / "f.tif")
    for load in (load_image, load_saliency):
        with pytest.raises(InputError, match="floating-point"):
            load(path)


def test_image_of_many_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = save(COLOR, tmp_path / "a.png")
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(load_image, [path] * 64):
            np.testing.assert_array_equal(image, COLOR)


def test_loading_leaves_no_file_open(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(COLOR).save(buffer, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue()[:-30])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        with pytest.raises(InputError):
            load_image(path)
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after == before
