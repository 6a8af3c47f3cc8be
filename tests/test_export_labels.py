"""Labels in the formats of other projects: read back as those projects document it, and by drstool itself."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import call, must
from hypothesis import given, settings as run_settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from drstool.annotations.drawing import rasterize_polygon
from drstool.annotations.labelmap import read_labelmap
from drstool.data import load_target, open_dataset
from drstool.exchange.coco_out import encode_rle
from drstool.exchange.outlines import area_of, outline, regions, rings
from drstool.formats import Header, LabelRecord, open_sink

CLASSES = ("cat", "dog", "potted plant")
IDS = ("a", "b", "empty", "noise")


def labels_of(identifier):
    """Label images with holes in holes, touching corners, regions at the edges, and ignored pixels."""
    labels = np.zeros((24, 30), np.uint8)
    if identifier == "a":
        labels[2:20, 3:25] = 1
        labels[4:16, 5:20] = 0
        labels[6:12, 8:15] = 2
        labels[8:10, 9:12] = 255
        labels[20, 25], labels[21, 26], labels[21, 24] = 3, 3, 3
    elif identifier == "b":
        labels[:10, :12] = 2
        labels[10:, 12:] = 3
        labels[12, 14] = labels[13, 15] = 0
    elif identifier == "noise":
        labels[:] = np.random.default_rng(0).choice([0, 1, 2, 3, 255], labels.shape)
    return labels


def write_labels(folder, made, images=None, classes=CLASSES):
    with open_sink(str(folder), Header("labels", classes)) as sink:
        for identifier, labels in made.items():
            sink.write(LabelRecord(identifier, labels, "" if images is None else str(images[identifier])))
    return folder


def pictures(folder, sizes, suffix=".jpg"):
    paths = {}
    for number, (identifier, size) in enumerate(sizes.items()):
        paths[identifier] = folder / f"{identifier}{suffix}"
        paths[identifier].parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(paths[identifier])
    return paths


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with images in ``photos`` and label images in ``labels``, which name them."""
    root = tmp_path_factory.mktemp("labels")
    images = pictures(root / "photos", {identifier: (24, 30) for identifier in IDS})
    write_labels(root / "labels", {identifier: labels_of(identifier) for identifier in IDS}, images)
    return root


def export(to, source, output, *more):
    return must("export", "--to", to, source, "-o", output, *more)


def check_equal(dataset, expected=labels_of, ids=IDS):
    assert {item.id for item in dataset.items} == set(ids)
    for item in dataset.items:
        np.testing.assert_array_equal(load_target(item, (24, 30)), expected(item.id))


# --- outlines --------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(2, 4))
@run_settings(max_examples=150, deadline=None)
def test_outlines_follow_the_edges_of_pixels(seed, height, width, number):
    labels = np.random.default_rng(seed).integers(0, number, (height, width))
    seen = np.zeros(labels.shape, int)
    for region in regions(labels):
        mask = np.zeros(labels.shape, bool)
        row, column = region.corner
        mask[row:row + region.mask.shape[0], column:column + region.mask.shape[1]] = region.mask
        outer, *holes = rings(region)
        drawn = np.zeros_like(mask)
        for ring in (outer, *holes):
            # Each corner once, and between two of them a line along pixels.
            assert len(set(ring)) == len(ring)
            assert all((x == a) != (y == b) for (x, y), (a, b) in zip(ring, ring[1:] + ring[:1]))
            drawn ^= rasterize_polygon([value for point in ring for value in point], labels.shape, "ring")
        np.testing.assert_array_equal(drawn, mask)
        assert area_of(outer) - sum(map(area_of, holes)) == mask.sum()
        assert (labels[mask] == region.label).all()
        seen += mask
    assert (seen == 1).all()


def test_a_region_whose_ends_touch_at_a_corner_has_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    assert outline(mask) == [(0, 0), (3, 0), (3, 2), (2, 2), (2, 3), (0, 3)]
    region, = (each for each in regions(mask.astype(int)) if each.label)
    assert rings(region)[1:] == [[(1, 1), (2, 1), (2, 2), (1, 2)]]


# --- mmsegmentation --------------------------------------------------------------------------------


def as_mmsegmentation_reads(config):
    """What BaseSegDataset.load_data_list and LoadAnnotations of mmsegmentation 1.x do, from their documentation."""
    values = {}
    exec(config.read_text(), {"dict": dict}, values)
    dataset = values["dataset"]
    assert dataset["type"] == "BaseSegDataset" and not dataset["reduce_zero_label"]
    root, prefix = Path(dataset["data_root"]), dataset["data_prefix"]
    found = {}
    for line in (root / dataset["ann_file"]).read_text().splitlines():
        name = line.strip()
        image = root / prefix["img_path"] / (name + dataset["img_suffix"])
        target = root / prefix["seg_map_path"] / (name + dataset["seg_map_suffix"])
        found[name] = image, np.array(Image.open(target)).squeeze().astype(np.uint8)
    return found, dataset


def test_mmseg(made, tmp_path):
    out = tmp_path / "mm"
    export("mmseg", made / "labels", out)
    found, dataset = as_mmsegmentation_reads(out / "mmseg_dataset.py")
    assert dataset["metainfo"]["classes"] == ("background", *CLASSES) and dataset["ignore_index"] == 255
    assert dataset["metainfo"]["palette"][:2] == [[0, 0, 0], [128, 0, 0]] and len(dataset["metainfo"]["palette"]) == 4
    assert set(found) == set(IDS)
    for identifier, (image, labels) in found.items():
        np.testing.assert_array_equal(labels, labels_of(identifier))
        assert image.read_bytes() == (made / "photos" / f"{identifier}.jpg").read_bytes()
    again = open_dataset(str(out), "train")
    assert again.class_names == CLASSES
    check_equal(again)


def test_mmseg_of_a_split_with_images_of_several_endings(tmp_path):
    images = pictures(tmp_path / "one", {"x/1": (24, 30)}, ".JPG")
    images |= pictures(tmp_path / "two", {"2": (24, 30)}, ".bmp")
    rows = [{"id": identifier, "image": str(path), "tags": ["cat"], "split": "val"}
            for identifier, path in images.items()]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = write_labels(tmp_path / "labels", {"x/1": labels_of("a"), "2": labels_of("b")})
    out = tmp_path / "mm"
    told = export("mmseg", source, out, "--data", tmp_path / "data.jsonl", "--split", "val").err
    assert "2 images written as PNG: mmsegmentation takes one ending for all" in told
    found, _ = as_mmsegmentation_reads(out / "mmseg_dataset.py")
    assert (out / "splits/val.txt").read_text().split() == list(found)
    for identifier, (image, _) in found.items():
        np.testing.assert_array_equal(Image.open(image), Image.open(images[identifier]))


@pytest.mark.parametrize("recorded", [True, False])
def test_mmseg_of_images_with_a_range(tmp_path, recorded):
    path, values = tmp_path / "a.tif", np.arange(24 * 30, dtype=np.uint16).reshape(24, 30)
    Image.fromarray(values).save(path)
    history = ({"command": "cam", "inputs": {"range": "0,1000"}},) if recorded else ()
    with open_sink(str(tmp_path / "labels"), Header("labels", CLASSES, history)) as sink:
        sink.write(LabelRecord("a", labels_of("a"), str(path)))
    more = () if recorded else ("--data", path, "--range", "0,1000")
    told = export("mmseg", tmp_path / "labels", tmp_path / "mm", *more).err
    assert "1 image written as PNG, with --range 0,1000" in told
    (image, _), = as_mmsegmentation_reads(tmp_path / "mm" / "mmseg_dataset.py")[0].values()
    np.testing.assert_array_equal(np.asarray(Image.open(image))[..., 0], np.rint(values / 1000 * 255))


# --- COCO ------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.0, 0.001, 0.3, 0.5, 1.0]))
@run_settings(max_examples=60, deadline=None)
def test_pycocotools_reads_and_writes_our_run_lengths(seed, height, width, share):
    from pycocotools import mask as coco_mask

    region = np.random.default_rng(seed).random((height, width)) < share
    code = encode_rle(region)
    np.testing.assert_array_equal(coco_mask.decode(code), region)
    assert code["counts"] == coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))["counts"].decode()


def test_run_lengths_of_a_large_picture():
    from pycocotools import mask as coco_mask

    region = np.zeros((1200, 900), bool)
    region[700, 5], region[3, 600:] = True, True
    np.testing.assert_array_equal(coco_mask.decode(encode_rle(region)), region)


def test_coco(made, tmp_path):
    from pycocotools.coco import COCO

    path = tmp_path / "instances.json"
    told = export("coco", made / "labels", path).err
    assert "2 images with ignored pixels: they are crowds of a category 'ignore'" in told
    again = open_dataset(str(path), images=str(made / "photos"))
    assert again.class_names == CLASSES
    check_equal(again)
    for item in again.items:
        present = sorted(set(np.unique(labels_of(item.id)).tolist()) - {0, 255})
        assert set(item.tags) == {CLASSES[label - 1] for label in present}

    coco = COCO(str(path))
    assert {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())} == {
        1: "cat", 2: "dog", 3: "potted plant", 255: "ignore"}
    for image in coco.loadImgs(coco.getImgIds()):
        expected = labels_of(Path(image["file_name"]).stem)
        for each in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = expected == each["category_id"]
            np.testing.assert_array_equal(coco.annToMask(each), mask)
            rows, columns = np.nonzero(mask)
            assert each["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert each["area"] == mask.sum() and each["iscrowd"] == (each["category_id"] == 255)


def test_coco_of_16_bits(tmp_path):
    names = tuple(f"c{number}" for number in range(300))
    labels = np.full((24, 30), 65535, np.uint16)
    labels[3:8], labels[10:] = 290, 0
    images = pictures(tmp_path / "photos", {"a": (24, 30)})
    source = write_labels(tmp_path / "labels", {"a": labels}, images, names)
    export("coco", source, tmp_path / "x.json")
    again = open_dataset(str(tmp_path / "x.json"), images=str(tmp_path / "photos"))
    assert again.class_names == names
    np.testing.assert_array_equal(load_target(again.items[0]), labels)


# --- CVAT ------------------------------------------------------------------------------------------


def test_cvat(made, tmp_path):
    out = tmp_path / "cvat"
    told = export("cvat", made / "labels", out).err
    assert "2 images with ignored pixels: they are the label 'ignored' of labelmap.txt" in told
    assert (out / "labelmap.txt").read_text().splitlines()[:3] == [
        "# label:color_rgb:parts:actions", "background:0,0,0::", "cat:128,0,0::"]
    assert (out / "ImageSets/Segmentation/default.txt").read_text().split() == list(IDS)
    colors = {name: color for color, name in read_labelmap(out / "labelmap.txt").items()}
    for identifier in IDS:
        with Image.open(out / "SegmentationClass" / f"{identifier}.png") as picture:
            assert picture.mode == "RGB"
            pixels = np.asarray(picture)
        for label, name in enumerate(("background", *CLASSES)):
            np.testing.assert_array_equal((pixels == colors[name]).all(axis=2), labels_of(identifier) == label)
    shutil.copytree(made / "photos", out / "JPEGImages")
    again = open_dataset(str(out), "default")
    assert again.class_names == CLASSES
    check_equal(again)


@pytest.mark.parametrize("name", ["a:b", "#a", " a"])
def test_cvat_has_no_room_for_some_names(tmp_path, name):
    source = write_labels(tmp_path / "labels", {"a": np.ones((3, 4), np.uint8)}, classes=(name,))
    outcome = call("export", "--to", "cvat", source, "-o", tmp_path / "out")
    assert outcome.code == 3 and "which labelmap.txt cannot hold" in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- labelme ---------------------------------------------------------------------------------------


def test_labelme(made, tmp_path):
    out = tmp_path / "labelme"
    told = export("labelme", made / "labels", out).err
    assert "2 images with ignored pixels: they are polygons named __ignore__" in told
    again = open_dataset(str(out), images=str(made / "photos"))
    check_equal(again)
    assert not any("belong to no image" in line for line in again.notices)
    assert again.class_names == CLASSES
    content = json.loads((out / "a.json").read_text())
    assert (out / content["imagePath"]).samefile(made / "photos" / "a.jpg")
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (24, 30, None)
    # The hole of the cat is drawn over it, and what lies in it over the hole.
    assert [shape["label"] for shape in content["shapes"]][:4] == ["cat", "_background_", "dog", "__ignore__"]
    assert {shape["shape_type"] for shape in content["shapes"]} == {"polygon"}
    assert json.loads((out / "empty.json").read_text())["shapes"] == []


@given(st.integers(0, 10**6))
@run_settings(max_examples=40, deadline=None)
def test_shapes_of_labelme_draw_any_label_image(seed):
    from drstool.exchange.labelme_out import _shapes
    from drstool.exchange.labels_out import Labelled

    random = np.random.default_rng(seed)
    labels = random.choice(np.uint8([0, 1, 2, 255]), random.integers(1, 14, 2), p=random.dirichlet(np.ones(4)))
    drawn = np.zeros_like(labels)
    values = {"cat": 1, "dog": 2, "_background_": 0, "__ignore__": 255}
    for shape in _shapes(Labelled("a", labels, None), ("cat", "dog")):
        region = rasterize_polygon([value for point in shape["points"] for value in point], labels.shape, "shape")
        drawn[region] = values[shape["label"]]
    np.testing.assert_array_equal(drawn, labels)


# --- GeoJSON ---------------------------------------------------------------------------------------


SCALE, TIEPOINT = ((33550, (0.5, 0.25, 0.0)), (33922, (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0)))
UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


def geotiff(path, *tags, size=(24, 30)):
    """As GDAL writes one: doubles for places, numbers of 16 bits for keys."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags:
        info.tagtype[tag] = 3 if tag in (34735, 274) else 12
        info[tag] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, tiffinfo=info)
    return path


def geo_export(tmp_path, *tags, identifiers=("a",)):
    images = {identifier: geotiff(tmp_path / f"{identifier}.tif", *tags) for identifier in identifiers}
    source = write_labels(tmp_path / "labels", {each: labels_of(each) for each in identifiers}, images)
    return call("export", "--to", "geojson", source, "-o", tmp_path / "out.geojson")


def drawn_back(collection, identifier, to_pixel):
    """The label image of an export's polygons, whose coordinates are taken back to pixels."""
    labels = np.zeros((24, 30), np.uint8)
    for feature in collection["features"]:
        if feature["properties"]["image"] != identifier:
            continue
        region = np.zeros(labels.shape, bool)
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            assert ring[0] == ring[-1]
            x, y = np.array(ring).T
            area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
            # RFC 7946: outer rings counterclockwise, holes clockwise.
            assert (area > 0) == (number == 0)
            flat = [value for point in ring[:-1] for value in to_pixel(*point)]
            region ^= rasterize_polygon(flat, labels.shape, "ring")
        assert not labels[region].any()
        assert feature["properties"]["class"] == CLASSES[feature["properties"]["label"] - 1]
        labels[region] = feature["properties"]["label"]
    return labels


def without_ignored(identifier):
    labels = labels_of(identifier)
    return np.where(labels == 255, 0, labels)


def test_geojson(tmp_path):
    outcome = geo_export(tmp_path, SCALE, TIEPOINT, (34735, UTM), identifiers=("a", "b", "noise"))
    assert outcome.code == 0, outcome.err
    assert "EPSG:32633" in outcome.err and "2 images with ignored pixels: they are left out" in outcome.err
    collection = json.loads((tmp_path / "out.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    for identifier in ("a", "b", "noise"):
        back = drawn_back(collection, identifier, lambda x, y: ((x - 500000) / 0.5, (4600000 - y) / 0.25))
        np.testing.assert_array_equal(back, without_ignored(identifier))
    wanted = {"image": "a", "class": "cat", "label": 1}
    cat = next(each for each in collection["features"] if each["properties"] == wanted)
    outer, hole = cat["geometry"]["coordinates"]
    assert sorted({x for x, _ in outer}) == [500001.5, 500012.5] and min(y for _, y in outer) == 4599995.0
    assert len(hole) == 5


POINT = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)


@pytest.mark.parametrize("tags, to_pixel, conformant", [
    # Longitude and latitude of pixels' centres, of which the first has the column and row 2 and 3.
    ([(33550, (0.5, 0.25, 0.0)), (33922, (2.0, 3.0, 0.0, 10.0, 50.0, 0.0)), (34735, POINT)],
     lambda x, y: ((x - 10) / 0.5 + 2.5, (50 - y) / 0.25 + 3.5), True),
    # A matrix that turns by 90 degrees: x grows with rows, y with columns.
    ([(34264, (0.0, 2.0, 0.0, 100.0, 4.0, 0.0, 0.0, 200.0, *[0.0] * 7, 1.0)), (34735, UTM)],
     lambda x, y: ((y - 200) / 4, (x - 100) / 2), False)])
def test_other_georeferences(tmp_path, tags, to_pixel, conformant):
    outcome = geo_export(tmp_path, *tags)
    assert outcome.code == 0, outcome.err
    collection = json.loads((tmp_path / "out.geojson").read_text())
    np.testing.assert_array_equal(drawn_back(collection, "a", to_pixel), without_ignored("a"))
    assert ("crs" not in collection) == conformant


@pytest.mark.parametrize("tags, words", [
    ((), "has no georeference"),
    ((SCALE, TIEPOINT), "without an EPSG code"),
    ((SCALE, TIEPOINT, (34735, (*UTM[:-1], 32767))), "without an EPSG code"),
    ((TIEPOINT, (34735, UTM)), "control points alone"),
    (((33550, (0.0, 0.0, 0.0)), TIEPOINT, (34735, UTM)), "damaged georeference"),
    (((33550, (float("nan"), 1.0, 0.0)), TIEPOINT, (34735, UTM)), "damaged georeference"),
    (((274, 3), SCALE, TIEPOINT, (34735, UTM)), "turned or mirrored")])
def test_images_without_a_georeference_are_refused(tmp_path, tags, words):
    outcome = geo_export(tmp_path, *tags)
    assert (outcome.code, outcome.err.count("\n")) == (3, 1) and words in outcome.err
    assert not (tmp_path / "out.geojson").exists()


def test_images_of_two_coordinate_systems_are_refused(tmp_path):
    images = {"a": geotiff(tmp_path / "a.tif", SCALE, TIEPOINT, (34735, UTM)),
              "b": geotiff(tmp_path / "b.tif", SCALE, TIEPOINT, (34735, (*UTM[:-1], 32634)))}
    source = write_labels(tmp_path / "labels", {each: labels_of(each) for each in images}, images)
    outcome = call("export", "--to", "geojson", source, "-o", tmp_path / "out.geojson")
    assert outcome.code == 3 and "'a' lies in EPSG:32633 and 'b' in EPSG:32634" in outcome.err


# --- the VOC server --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results.tar.gz", "results.tgz"])
def test_voc_server(made, tmp_path, name):
    told = export("voc-server", made / "labels", tmp_path / name).err
    assert "2 images with ignored pixels: they are background there" in told
    assert "the classes are not the 20 of PASCAL VOC" in told
    with tarfile.open(tmp_path / name, "r:gz") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    assert set(members) == {f"{folder}/{identifier}.png" for identifier in IDS}
    for identifier in IDS:
        with Image.open(io.BytesIO(members[f"{folder}/{identifier}.png"])) as picture:
            assert picture.mode == "P" and picture.getpalette()[3:6] == [128, 0, 0]
            np.testing.assert_array_equal(np.asarray(picture), without_ignored(identifier))
    export("voc-server", made / "labels", tmp_path / f"again-{name}", "--no-provenance")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_voc_server_of_vocs_classes_says_nothing_of_them(tmp_path):
    from drstool.data.sbd import CLASS_NAMES

    source = write_labels(tmp_path / "labels", {"2007_000001": np.full((3, 4), 20, np.uint8)}, classes=CLASS_NAMES)
    assert "PASCAL" not in export("voc-server", source, tmp_path / "r.tgz").err
    outcome = call("export", "--to", "voc-server", source, "-o", tmp_path / "r.zip")
    assert outcome.code == 2 and "does not end in .tar.gz or .tgz" in outcome.err
    source = write_labels(tmp_path / "folders", {"x/1": np.zeros((3, 4), np.uint8)}, classes=CLASS_NAMES)
    outcome = call("export", "--to", "voc-server", source, "-o", tmp_path / "s.tgz")
    assert outcome.code == 3 and "id 'x/1' names a folder" in outcome.err and not (tmp_path / "s.tgz").exists()


# --- what all have in common -----------------------------------------------------------------------

FORMATS = {"mmseg": "out", "coco": "out.json", "cvat": "out", "labelme": "out", "voc-server": "out.tgz",
           "geojson": "out.json"}
WITH_IMAGES = ("mmseg", "coco", "labelme", "geojson")


def refused(to, source, tmp_path, *more, code=3):
    before = sorted(path.name for path in tmp_path.iterdir())
    outcome = call("export", "--to", to, source, "-o", tmp_path / FORMATS[to], *more)
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert outcome.err.count("\n") == 1
    return outcome.err


@pytest.mark.parametrize("to", FORMATS)
def test_bad_labels_are_one_line_and_nothing_is_written(tmp_path, to, made):
    maps = tmp_path / "maps.h5"
    from drstool.formats import MapRecord

    with open_sink(str(maps), Header("localization-maps", CLASSES)) as sink:
        sink.write(MapRecord("a", np.zeros((1, 2, 2), np.uint8), (1,), (24, 30)))
    assert "make labels of maps with 'drstool pseudo-label'" in refused(to, maps, tmp_path)

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    Image.fromarray(np.full((24, 30), 7, np.uint8)).save(foreign / "a.png")
    assert "does not name its classes" in refused(to, foreign, tmp_path)
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    line = ("--classes", tmp_path / "classes.txt")
    assert "contains unknown label values: 7" in refused(to, foreign, tmp_path, *line)

    (tmp_path / "other.txt").write_text("dog\ncat\n")
    assert "--classes has dog, cat" in refused(to, made / "labels", tmp_path, "--classes", tmp_path / "other.txt")

    damaged = tmp_path / "damaged"
    shutil.copytree(made / "labels", damaged)
    (damaged / "b.png").write_bytes((damaged / "b.png").read_bytes()[:60])
    assert "b" in refused(to, damaged, tmp_path)


@pytest.mark.parametrize("to", WITH_IMAGES)
def test_images_of_labels_are_there_and_of_their_size(tmp_path, to):
    nameless = write_labels(tmp_path / "nameless", {"a": labels_of("a")})
    assert "does not name its image" in refused(to, nameless, tmp_path)
    gone = write_labels(tmp_path / "gone", {"a": labels_of("a")}, {"a": tmp_path / "a.jpg"})
    assert "a.jpg" in refused(to, gone, tmp_path)
    pictures(tmp_path, {"a": (24, 31)})
    assert "is 31 × 24 pixels, but its label image 30 × 24" in refused(to, gone, tmp_path)


@pytest.mark.parametrize("to", FORMATS)
def test_labels_and_data_that_do_not_match(made, tmp_path, to):
    few = tmp_path / "few"
    for identifier in ("a", "other"):
        geotiff(few / f"{identifier}.tif", SCALE, TIEPOINT, (34735, UTM))
    told = refused(to, made / "labels", tmp_path, "--data", few, "-q")
    assert f"3 label images of no image of {few}: b, empty, noise" in told
    source = write_labels(tmp_path / "labels", {"a": labels_of("a")})
    assert "1 image without labels left out: other" in export(to, source, tmp_path / FORMATS[to], "--data", few).err


@pytest.mark.parametrize("to", ["mmseg", "cvat", "voc-server"])
def test_formats_of_8_bits_refuse_more_classes(tmp_path, to):
    names = tuple(f"c{number}" for number in range(300))
    images = pictures(tmp_path / "photos", {"a": (24, 30)})
    source = write_labels(tmp_path / "labels", {"a": np.zeros((24, 30), np.uint16)}, images, names)
    assert "reads labels of 8 bits" in refused(to, source, tmp_path)


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten_unasked_and_no_folder_of_others_ever(made, tmp_path, to):
    more = ("--data", tmp_path / "geo") if to == "geojson" else ()
    for identifier in IDS if more else ():
        geotiff(tmp_path / "geo" / f"{identifier}.tif", SCALE, TIEPOINT, (34735, UTM))
    out = tmp_path / FORMATS[to]
    export(to, made / "labels", out, *more)
    outcome = call("export", "--to", to, made / "labels", "-o", out, *more)
    assert outcome.code == 1 and "already exists" in outcome.err
    export(to, made / "labels", out, "--overwrite", *more)
    if out.is_dir():
        assert must("check", out).code == 0
        (out / "mine.txt").write_text("mine")
        outcome = call("export", "--to", to, made / "labels", "-o", out, "--overwrite", *more)
        assert outcome.code == 1 and (out / "mine.txt").read_text() == "mine"
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        (theirs / "x.json").write_text("{}")
        outcome = call("export", "--to", to, made / "labels", "-o", theirs, "--overwrite", *more)
        assert outcome.code == 1 and "was not written by drstool" in outcome.err
        assert [path.name for path in theirs.iterdir()] == ["x.json"]


def test_foreign_labels_and_a_stream(made, tmp_path):
    """Another program's PNGs with classes and images from --data; and a stream on stdin."""
    folder = tmp_path / "png"
    folder.mkdir()
    for identifier in IDS:
        shutil.copy(made / "labels" / f"{identifier}.png", folder)
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    export("coco", folder, tmp_path / "x.json", "--data", made / "photos", "--classes", tmp_path / "classes.txt")
    check_equal(open_dataset(str(tmp_path / "x.json"), images=str(made / "photos")))

    must("cat", made / "labels", "-o", tmp_path / "labels.tar")
    stream = (tmp_path / "labels.tar").read_bytes()
    must("export", "--to", "coco", "-o", tmp_path / "y.json", "--no-provenance", stdin=stream)
    check_equal(open_dataset(str(tmp_path / "y.json"), images=str(made / "photos")))
    outcome = call("export", "--to", "coco", "-o", tmp_path / "z.json", stdin=stream[:-3000])
    assert outcome.code == 3 and not (tmp_path / "z.json").exists()
