"""Maps of other projects: read value by value from files written as those projects write them, and written back."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from functools import partial

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, TRAIN, VAL, must
from PIL import Image

from drstool.artifacts.header import Header
from drstool.data import image_size, open_dataset
from drstool.errors import InputError
from drstool.exchange.maps_in import open_maps
from drstool.formats import MapFileWriter, MapRecord, open_records
from drstool.pickles import load_npy
from drstool.reports.text import counted

VOC_IDS = ("2007_000032", "2007_000039", "2008_000008")


@pytest.fixture(scope="module")
def images(voc):
    """Sizes and class numbers of the training images."""
    dataset = open_dataset(str(voc), "train")
    return {item.id: (image_size(item.image), [CLASSES.index(tag) for tag in item.tags]) for item in dataset.items}


def drawn(identifier, count, size):
    """CAMs as a network gives them: float32, not normalised."""
    random = np.random.default_rng(sum(map(ord, identifier)))
    return torch.from_numpy(random.random((count, *size), np.float32) * 7)


# --- each project's own way of writing ---------------------------------------------------------


def write_irn(folder, name, size, numbers):
    """As ``step/make_cam.py`` of jiwoon-ahn/irn."""
    label = torch.zeros(len(CLASSES))
    label[numbers] = 1
    highres_cam = drawn(name, len(CLASSES), size)
    strided_cam = F.interpolate(highres_cam[None], tuple((side - 1) // 4 + 1 for side in size), mode="bilinear")[0]
    valid_cat = torch.nonzero(label)[:, 0]
    strided_cam = strided_cam[valid_cat]
    strided_cam /= F.adaptive_max_pool2d(strided_cam, (1, 1)) + 1e-5
    highres_cam = highres_cam[valid_cat]
    highres_cam /= F.adaptive_max_pool2d(highres_cam, (1, 1)) + 1e-5
    np.save(folder / f"{name}.npy",
            {"keys": valid_cat, "cam": strided_cam.cpu(), "high_res": highres_cam.cpu().numpy()})
    return dict(zip(numbers, highres_cam.numpy(), strict=True))


def write_psa(folder, name, size, numbers):
    """As ``infer_cls.py`` of jiwoon-ahn/psa."""
    sum_cam = drawn(name, len(CLASSES), size).numpy()
    norm_cam = sum_cam / (np.max(sum_cam, (1, 2), keepdims=True) + 1e-5)
    cam_dict = {}
    for i in range(len(CLASSES)):
        if i in numbers:
            cam_dict[i] = norm_cam[i]
    np.save(folder / f"{name}.npy", cam_dict)
    return cam_dict


def write_mctformer(folder, name, size, numbers):
    """As ``engine.py`` of xulianuwa/MCTformer."""
    sum_cam = drawn(name, len(CLASSES), size).unsqueeze(0)
    cam_dict = {}
    for cls_ind in range(len(CLASSES)):
        if cls_ind in numbers:
            cls_attention = sum_cam[0, cls_ind, :]
            cls_attention = (cls_attention - cls_attention.min()) / (cls_attention.max() - cls_attention.min() + 1e-8)
            cam_dict[cls_ind] = cls_attention.cpu().numpy()
    np.save(folder / f"{name}.npy", cam_dict)
    return cam_dict


def write_puzzlecam(folder, name, size, numbers, key="hr_cam"):
    """As ``inference_classification.py`` of shjo-april/PuzzleCAM."""
    label = np.zeros(len(CLASSES), np.float32)
    label[numbers] = 1
    hr_cams = drawn(name, len(CLASSES), size)
    keys = torch.nonzero(torch.from_numpy(label))[:, 0]
    hr_cams = hr_cams[keys]
    hr_cams /= F.adaptive_max_pool2d(hr_cams, (1, 1)) + 1e-5
    keys = np.pad(keys + 1, (1, 0), mode="constant")
    np.save(folder / f"{name}.npy", {"keys": keys, "cam": hr_cams[:, ::4, ::4].cpu(), key: hr_cams.cpu().numpy()})
    return dict(zip(numbers, hr_cams.numpy(), strict=True))


def write_clip_es(folder, name, size, numbers):
    """As ``generate_cams_voc12.py`` of linyq2117/CLIP-ES; classes are in the order of the annotation."""
    keys, refined_cam_to_save = [], []
    for number in reversed(numbers):
        keys.append(number)
        refined_cam_to_save.append(drawn(f"{name}{number}", 1, size)[0] / 7)
    refined = torch.stack(refined_cam_to_save, dim=0)
    np.save(folder / f"{name}.npy", {
        "keys": torch.tensor(keys).numpy(), "attn_highres": refined.cpu().numpy().astype(np.float16)})
    return dict(zip(keys, refined.numpy().astype(np.float16), strict=True))


def write_wsss_bed(folder, name, size, numbers):
    """As ``classifier/infer.py`` of clovaai/WSSS-BED; OpenCV rounds what it is given."""
    sum_cam = drawn(name, len(CLASSES), size).numpy()
    norm_cam = sum_cam / (np.max(sum_cam, (1, 2), keepdims=True) + 1e-5)
    for j in numbers:
        Image.fromarray(np.rint(norm_cam[j] * 255.0).astype(np.uint8)).save(folder / f"{name}_{j}.png")
    # As ``wsss_bed/run.py`` reads it.
    return {j: np.asarray(Image.open(folder / f"{name}_{j}.png")).astype(np.float32) / 255.0 for j in numbers}


def write_drs(folder, name, size, numbers):
    """As ``scripts/localization_map_gen.py`` of qjadud1994/DRS."""
    localization_maps = np.zeros((len(CLASSES), 320, 320), dtype=np.float32)
    for number in numbers:
        localization_maps[number] = drawn(f"{name}{number}", 1, (320, 320))[0] / 7
    localization_maps = np.uint8(localization_maps * 255)
    np.save(folder / f"{name}.npy", localization_maps)
    return {number: localization_maps[number] / np.float32(255) for number in numbers}


def write_npz(folder, name, size, numbers):
    maps = drawn(name, len(numbers), size).numpy().astype(np.float16) / 7
    np.savez(folder / f"{name}.npz", maps=maps, keys=np.array(numbers), image_size=size)
    return dict(zip(numbers, maps, strict=True))


# What --from takes, and what recognises it without.
WRITERS = {
    "irn": write_irn, "psa": write_psa, "mctformer": write_mctformer, "puzzlecam": write_puzzlecam,
    "clip-es": write_clip_es, "oaa": write_wsss_bed, "wsss-bed": write_wsss_bed, "drs": write_drs, "npz": write_npz}
RECOGNISED = {"mctformer": "psa", "oaa": "png", "wsss-bed": "png"}


def written(folder, images, writer):
    folder.mkdir()
    return {name: writer(folder, name, size, numbers) for name, (size, numbers) in images.items()}


def assert_same(path, truth, images):
    """The records are the values of the other project, as float16 where they are finer."""
    with open_records(path) as source:
        assert source.header.class_names == CLASSES and source.kind == "localization-maps"
        records = {record.id: record for record in source.records()}
    assert list(records) == list(truth)
    for name, record in records.items():
        assert record.labels == tuple(number + 1 for number in sorted(truth[name]))
        assert record.image_size == images[name][0]
        for label, values in zip(record.labels, record.as_float(), strict=True):
            expected = truth[name][label - 1]
            if record.values.dtype == np.float16:
                expected = expected.astype(np.float16)
            assert np.array_equal(values, expected)


@pytest.mark.parametrize("origin", WRITERS)
def test_each_format_is_read_value_by_value(voc, images, tmp_path, drs, origin):
    truth = written(tmp_path / "maps", images, WRITERS[origin])
    for more in (("--from", origin), ()):
        outcome = must("import", tmp_path / "maps", *more, "--data", voc, "--split", "train", "-o", tmp_path / "x.h5",
                       "--overwrite")
        assert_same(tmp_path / "x.h5", truth, images)
        said = f"read as maps of the format {RECOGNISED.get(origin, origin)}"
        assert (said in outcome.err) == (not more)


def test_puzzlecam_after_the_random_walk(voc, images, tmp_path):
    truth = written(tmp_path / "maps", images, partial(write_puzzlecam, key="rw"))
    must("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    assert_same(tmp_path / "x.h5", truth, images)


def test_what_is_exact_as_uint8_is_stored_so(voc, images, tmp_path):
    written(tmp_path / "maps", images, write_wsss_bed)
    written(tmp_path / "fine", images, write_psa)
    kinds = {}
    for name, more in (("maps", ()), ("fine", ()), ("fine", ("--dtype", "uint8"))):
        outcome = must("import", tmp_path / name, "--data", voc, "--split", "train", *more, "-o", tmp_path / "x.h5",
                       "--overwrite")
        with open_records(tmp_path / "x.h5") as source:
            kinds[name, *more] = {str(record.values.dtype) for record in source.records()}, "rounded" in outcome.err
    assert kinds == {("maps",): ({"uint8"}, False), ("fine",): ({"float16"}, True),
                     ("fine", "--dtype", "uint8"): ({"uint8"}, True)}


def test_import_joins_a_pipe(voc, images, tmp_path):
    written(tmp_path / "maps", images, write_irn)
    line = (f"drstool import --from irn maps --data '{voc}' --split train | drstool pseudo-label --background constant "
            f"| drstool eval --data '{voc}' --split train --json")
    program = f"drstool() {{ '{sys.executable}' -m drstool \"$@\"; }}; set -o pipefail; {line}"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["mean_iou"] <= 1
    assert "'cam' of 4 images was left out" in done.stderr


# --- out, and back -----------------------------------------------------------------------------


@pytest.fixture
def ours(voc, images, tmp_path):
    """A map file of uint8 maps in their images' size."""
    with MapFileWriter(tmp_path / "ours.h5", Header("localization-maps", CLASSES)) as writer:
        for name, (size, numbers) in images.items():
            values = np.rint(drawn(name, len(numbers), size).numpy() / 7 * 255).astype(np.uint8)
            path = str(voc / "JPEGImages" / f"{name}.jpg")
            writer.write(MapRecord(name, values, tuple(number + 1 for number in numbers), size, path))
    return tmp_path / "ours.h5"


def records_of(path):
    with open_records(path) as source:
        return {record.id: record for record in source.records()}


@pytest.mark.parametrize("to", ["irn", "psa", "png", "npz"])
def test_round_trips_are_exact(voc, ours, tmp_path, to):
    must("export", "--to", to, ours, "-o", tmp_path / "theirs")
    must("import", tmp_path / "theirs", "--data", voc, "--split", "train", "-o", tmp_path / "back.h5")
    before, after = records_of(ours), records_of(tmp_path / "back.h5")
    assert list(before) == list(after)
    for name, record in before.items():
        assert record.info() == after[name].info()
        assert np.array_equal(record.values, after[name].values)


def test_npz_needs_no_dataset_and_keeps_float16(ours, tmp_path):
    with MapFileWriter(tmp_path / "fine.h5", Header("refined-maps", CLASSES)) as writer:
        writer.write(MapRecord("a/b c", np.float16([[[0.1, 1.5, 0.3]]]), (2,), (40, 60)))
        writer.write(MapRecord("d", np.zeros((0, 2, 2), np.uint8), (), (4, 6)))
    must("export", "--to", "npz", tmp_path / "fine.h5", "-o", tmp_path / "theirs")
    outcome = must("import", tmp_path / "theirs", "--dtype", "float16", "-o", tmp_path / "back.h5")
    after = records_of(tmp_path / "back.h5")
    assert np.array_equal(after["a/b c"].values, np.float16([[[0.1, 1.5, 0.3]]]))
    assert after["a/b c"].labels == (2,) and after["a/b c"].image_size == (40, 60) and after["d"].image_size == (4, 6)
    assert "values over 1 (up to 1.5) of 1 image were kept" in outcome.err


def test_what_the_other_projects_read_of_ours(ours, images, tmp_path):
    """As IRN's and PSA's later steps, the authors' refiner and WSSS-BED read the files."""
    for to in ("irn", "psa", "drs", "png"):
        must("export", "--to", to, ours, "-o", tmp_path / to)
    for name, record in records_of(ours).items():
        size, numbers = images[name]
        cam_dict = np.load(tmp_path / "irn" / f"{name}.npy", allow_pickle=True).item()
        assert cam_dict["keys"].tolist() == numbers and cam_dict["cam"].is_floating_point()
        assert tuple(cam_dict["cam"].shape[1:]) == tuple((side - 1) // 4 + 1 for side in size)
        assert np.array_equal(cam_dict["high_res"], record.as_float())
        cam = np.load(tmp_path / "psa" / f"{name}.npy", allow_pickle=True).item()
        assert list(cam) == numbers and np.array_equal(np.stack(list(cam.values())), record.as_float())
        att_map = np.load(tmp_path / "drs" / f"{name}.npy")
        assert att_map.dtype == np.uint8 and att_map.shape == (len(CLASSES), 320, 320)
        assert [int(number) for number in range(len(CLASSES)) if att_map[number].any()] == numbers
        for number, values in zip(numbers, record.values, strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / "png" / f"{name}_{number}.png")), values)


def test_square_maps_go_to_drs_and_back(voc, images, tmp_path):
    truth = written(tmp_path / "maps", images, write_drs)
    data = ("--data", voc, "--split", "train")
    must("import", tmp_path / "maps", *data, "-o", tmp_path / "x.h5")
    must("export", "--to", "drs", tmp_path / "x.h5", "-o", tmp_path / "again")
    for name in truth:
        assert (tmp_path / "again" / f"{name}.npy").read_bytes() == (tmp_path / "maps" / f"{name}.npy").read_bytes()


def test_export_tells_what_is_lost(images, tmp_path, drs):
    with MapFileWriter(tmp_path / "fine.h5", Header("refined-maps", CLASSES)) as writer:
        writer.write(MapRecord("a", np.float16([[[0.1, 1.5, -0.3]]]), (2,), (40, 60)))
        writer.write(MapRecord("b", np.zeros((0, 2, 2), np.uint8), (), (4, 6)))
    told = must("export", "--to", "png", tmp_path / "fine.h5", "-o", tmp_path / "p").err
    for line in ("values of 1 image were rounded to 256 steps", "values of 1 image were clipped to 0..1",
                 "maps of 1 image were resized", "there are no files of 1 image: they",
                 "the files do not hold class names and image paths"):
        assert line in told
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "a_1.png", "drstool.end.json", "drstool.json"]


def test_all_maps_for_the_authors_are_of_their_size(tmp_path):
    with MapFileWriter(tmp_path / "square.h5", Header("refined-maps", CLASSES)) as writer:
        writer.write(MapRecord("a", np.full((1, 40, 40), 51, np.uint8), (2,), (40, 60)))
        writer.write(MapRecord("b", np.zeros((0, 2, 2), np.uint8), (), (4, 6)))
    told = must("export", "--to", "drs", tmp_path / "square.h5", "-o", tmp_path / "d").err
    assert "maps of 1 image were resized" in told
    found = np.load(tmp_path / "d" / "a.npy")
    assert found.shape == np.load(tmp_path / "d" / "b.npy").shape == (len(CLASSES), 320, 320)
    assert (found[1] == 51).all() and not found[0].any()


def test_an_exported_folder_is_known(ours, tmp_path, drs):
    must("export", "--to", "png", ours, "-o", tmp_path / "p")
    info = must("info", "--json", tmp_path / "p").json()
    assert (info["kind"], info["class_names"]) == ("export", list(CLASSES)) and info["files"] >= 4
    assert drs("check", tmp_path / "p").code == 0
    assert drs("export", "--to", "png", ours, "-o", tmp_path / "p").code == 1
    must("export", "--to", "npz", ours, "-o", tmp_path / "p", "--overwrite")
    (tmp_path / "p" / "mine.txt").write_text("mine")
    assert "files that drstool did not write" in drs("export", "--to", "png", ours, "-o", tmp_path / "p",
                                                      "--overwrite").err
    assert (tmp_path / "p" / "mine.txt").exists()
    (tmp_path / "p" / "mine.txt").unlink()
    next((tmp_path / "p").glob("*.npz")).unlink()
    assert drs("check", tmp_path / "p").code == 3


# --- what the files do not say -----------------------------------------------------------------


def test_voc_is_known_by_its_ids(tmp_path, drs):
    (tmp_path / "maps").mkdir()
    for name in VOC_IDS:
        np.save(tmp_path / "maps" / f"{name}.npy", {14: np.full((3, 4), 0.5, np.float32)})
    outcome = must("import", tmp_path / "maps", "-o", tmp_path / "x.h5")
    assert "taken for those of PASCAL VOC" in outcome.err
    with open_records(tmp_path / "x.h5") as source:
        assert source.header.class_names[14] == "person" and source.ids() == VOC_IDS
    np.save(tmp_path / "maps" / "photo.npy", {14: np.full((3, 4), 0.5, np.float32)})
    outcome = drs("import", tmp_path / "maps", "-o", tmp_path / "y.h5")
    assert outcome.code == 3 and "does not say its class names; give --data, or --classes" in outcome.err


def test_drs_needs_the_sizes_of_the_images(voc, images, tmp_path, drs):
    written(tmp_path / "maps", images, write_drs)
    outcome = drs("import", tmp_path / "maps", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and "does not say the images' own sizes; give --data" in outcome.err


def test_tags_that_the_maps_contradict(voc, images, tmp_path):
    turned = {name: (size, [1 - number for number in numbers]) for name, (size, numbers) in images.items()}
    written(tmp_path / "maps", turned, write_psa)
    outcome = must("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    one = [name for name, (_, numbers) in images.items() if len(numbers) == 1]
    assert one and f"the maps of {len(one)} of {len(images)} images are not of their tags" in outcome.err
    assert "would fit all" not in outcome.err and "no maps" not in outcome.err
    np.save(tmp_path / "maps" / f"{one[0]}.npy", {})
    outcome = must("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "y.h5")
    assert f"the maps of {len(one) - 1} of" in outcome.err
    assert f"tagged images without maps: 1 of {len(images)} images: {one[0]}" in outcome.err


@pytest.mark.parametrize(("added", "said"), [(1, "minus"), (-1, "plus")])
def test_class_numbers_off_by_one(voc, tmp_path, added, said):
    """All images that the maps are of have the one class whose other number is in the list, too."""
    (tmp_path / "maps").mkdir()
    dataset = open_dataset(str(voc), "train")
    tagged = [item for item in dataset.items if item.tags == (CLASSES[added < 0],)]
    assert tagged
    for item in tagged:
        write_psa(tmp_path / "maps", item.id, image_size(item.image), [CLASSES.index(item.tags[0]) + added])
    line = ("import", tmp_path / "maps", "--data", voc, "--split", "train", "--intersect", "-o", tmp_path / "x.h5")
    known = f"{len(tagged)} of {counted(len(tagged), 'image')} are not of their tags: "
    assert f"; class numbers {said} 1 would fit all\n" in (found := must(*line).err) and known in found


@pytest.mark.parametrize("ending", ["png", "npy"])
def test_masks_of_0_and_1(voc, images, tmp_path, drs, ending):
    """As uint8 they would be maps of 0 and 1/255; any larger value tells that they are maps."""
    (tmp_path / "maps").mkdir()

    def write(name, value):
        size, numbers = images[name]
        if ending == "npy":
            np.save(tmp_path / "maps" / f"{name}.npy", dict.fromkeys(numbers, np.full(size, value, np.uint8)))
        else:
            Image.fromarray(np.full(size, value, np.uint8)).save(tmp_path / "maps" / f"{name}_{numbers[0]}.png")

    for name in images:
        write(name, 1)
    line = ("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    outcome = drs(*line)
    assert outcome.code == 3 and not (tmp_path / "x.h5").exists()
    assert outcome.err.endswith(f"{tmp_path / 'maps'}: no value of its uint8 maps is above 1, but 255 stands for 1; "
                                "write masks with 0 and 255, or as floating-point numbers\n")
    write(name, 2)
    must(*line)


@pytest.mark.parametrize("missing, more", [("p1", ()), ((), ("q1", "q2"))])
def test_images_that_only_one_source_has(voc, images, tmp_path, drs, missing, more):
    written(tmp_path / "maps", images, write_psa)
    for name in more:
        shutil.copy(tmp_path / "maps" / "p0.npy", tmp_path / "maps" / f"{name}.npy")
    if missing:
        (tmp_path / "maps" / f"{missing}.npy").unlink()
    line = ("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    outcome = drs(*line)
    assert outcome.code == 3 and not (tmp_path / "x.h5").exists()
    where = f"{tmp_path / 'maps'} lacks 1 image of {voc}: p1" if missing else f"{voc} lacks "
    assert where in outcome.err and "--intersect" in outcome.err and all(name in outcome.err for name in more)
    outcome = must(*line, "--intersect")
    assert where in outcome.err
    assert list(records_of(tmp_path / "x.h5")) == [name for name in TRAIN if name != missing]


def test_ids_of_other_images(voc, images, tmp_path, drs):
    written(tmp_path / "maps", images, write_psa)
    outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "val", "--intersect", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and f"its ids are like 'p0', those of the data like '{VAL[0]}'" in outcome.err


# --- HDF5 --------------------------------------------------------------------------------------


def bare(path, *, below="", attributes=(), dtype=np.float32, **more):
    with h5py.File(path, "w") as file:
        file.attrs.update(more)
        for name in TRAIN:
            dataset = file.create_dataset(f"{below}{name}", data=np.full((2, 6, 8), 0.25, dtype))
            dataset.attrs.update(attributes)
    return path


@pytest.mark.parametrize("below", ["", "maps/", "deep/er/"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_plain_hdf5_file(voc, images, tmp_path, below, dtype):
    path = bare(tmp_path / "x.hdf5", below=below, attributes={"labels": [1, 2], "image_size": [12, 16]}, dtype=dtype)
    must("import", path, "--classes", voc / "classes.txt", "-o", tmp_path / "y.h5")
    prefix = below if below != "maps/" else ""
    record = records_of(tmp_path / "y.h5")[f"{prefix}p0"]
    assert record.labels == (1, 2) and record.image_size == (12, 16) and (record.values == 0.25).all()


def test_other_commands_lead_from_a_plain_hdf5_file_to_import(voc, tmp_path, drs):
    path = bare(tmp_path / "x.h5", class_names=list(CLASSES))
    outcome = drs("pseudo-label", path, "-o", tmp_path / "labels")
    assert outcome.code == 3 and "drstool import" in outcome.err
    outcome = must("import", path, "-o", tmp_path / "y.h5")
    assert "the maps' size is taken for the image's in 4 images" in outcome.err
    assert records_of(tmp_path / "y.h5")["p0"].labels == (1, 2)
    must("pseudo-label", tmp_path / "y.h5", "--background", "constant", "-o", tmp_path / "labels")


def test_folders_and_files_of_other_projects_lead_to_import(images, tmp_path, drs):
    written(tmp_path / "maps", images, write_psa)
    for path in (tmp_path / "maps", tmp_path / "maps" / "p0.npy"):
        outcome = drs("pseudo-label", path, "-o", tmp_path / "labels")
        assert outcome.code == 3 and "drstool import" in outcome.err


@pytest.mark.parametrize("name", ["format", "version", "kind", "class_names", "complete", "labels", "image_size"])
def test_a_map_file_that_lacks_an_attribute_says_which(tmp_path, drs, name):
    header = {"format": "drstool", "version": 1, "kind": "localization-maps", "class_names": CLASSES, "complete": True}
    attributes = {"labels": [1, 2], "image_size": [6, 8]}
    path = bare(tmp_path / "x.h5", below="maps/", dtype=np.float16,
                attributes={key: value for key, value in attributes.items() if key != name},
                **{key: value for key, value in header.items() if key != name})
    outcome = drs("cat", path, "-o", tmp_path / "y.h5")
    words = {"format": "not one of drstool's", "class_names": "class names"}
    assert outcome.code == 3 and words.get(name, name) in outcome.err


def test_our_own_map_file_is_not_imported(ours, tmp_path, drs):
    outcome = drs("import", ours, "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and "is a map file of drstool's; use it as it is" in outcome.err


def test_an_unfinished_map_file_is_not_imported(voc, tmp_path, drs):
    path = bare(tmp_path / "x.h5", below="maps/", attributes={"labels": [1, 2]}, format="drstool", complete=False)
    outcome = drs("import", path, "--classes", voc / "classes.txt", "-o", tmp_path / "y.h5")
    assert outcome.code == 3 and "is an unfinished map file" in outcome.err


def test_maps_of_another_number_of_classes(voc, images, tmp_path, drs):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    outcome = drs("import", bare(tmp_path / "x.h5"), "--classes", tmp_path / "classes.txt", "-o", tmp_path / "y.h5")
    assert outcome.code == 3 and "has maps of 2 classes, but there are 3 names" in outcome.err


def test_the_size_that_a_file_says_is_that_of_the_image(voc, images, tmp_path, drs):
    other = {name: ((size[0] + 1, size[1]), numbers) for name, (size, numbers) in images.items()}
    written(tmp_path / "maps", other, write_npz)
    outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "y.h5")
    assert outcome.code == 3
    assert "p0.npz: says that its image has 64 × 49 pixels, but the image has 64 × 48" in outcome.err


def test_history_tells_the_format_and_the_images(voc, images, tmp_path):
    written(tmp_path / "maps", images, write_irn)
    must("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    must("export", "--to", "npz", tmp_path / "x.h5", "-o", tmp_path / "out")
    steps = must("info", "--json", tmp_path / "out").json()["provenance"]
    assert [step["settings"] for step in steps] == [{"from": "irn", "dtype": None, "intersect": False}, {"to": "npz"}]
    assert set(steps[0]["inputs"]) == {"list"} and set(steps[1]["inputs"]) == {"file"}
    for name in ("a", "b"):
        must("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / f"{name}.h5",
             "--no-provenance", "--workers", 1 if name == "a" else 4)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("change, message", [
    ({"labels": [1]}, "has 2 maps and the labels [1]"), ({"labels": [0, 1]}, "has 2 maps and the labels [0, 1]"),
    ({"labels": [2, 2]}, "two maps of one class"), ({"labels": [1, 9]}, "class number 8, but there are 2 classes"),
    ({"labels": ["a", "b"]}, "attributes of other types"), ({"labels": [1, 2], "image_size": 5}, "image size"),
])
def test_damaged_hdf5_files(voc, tmp_path, drs, change, message):
    outcome = drs("import", bare(tmp_path / "x.h5", attributes=change), "--classes", voc / "classes.txt",
                  "-o", tmp_path / "y.h5")
    assert outcome.code == 3 and message in outcome.err and outcome.err.count("drstool: ") == 1
    assert not (tmp_path / "y.h5").exists()


def test_truncated_and_foreign_hdf5_files(voc, tmp_path, drs):
    path = bare(tmp_path / "x.h5")
    whole = path.read_bytes()
    for content in (b"", whole[:200], whole[:-500], b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path.write_bytes(content)
        outcome = drs("import", path, "--classes", voc / "classes.txt", "-o", tmp_path / "y.h5")
        assert outcome.code == 3 and outcome.err.count("\n") == 1 and (content or "x.h5: is empty" in outcome.err)
    with h5py.File(path, "w") as file:
        file["p0"] = h5py.ExternalLink("/etc/passwd", "/")
    assert "is a link" in drs("import", path, "--classes", voc / "classes.txt", "-o", tmp_path / "y.h5").err
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros((3, 3))
    assert "holds no dataset of shape (K, H, W)" in drs(
        "import", path, "--classes", voc / "classes.txt", "-o", tmp_path / "y.h5").err
    h5py.File(path, "w").close()
    assert "x.h5: is empty; expected" in drs(
        "import", path, "--classes", voc / "classes.txt", "-o", tmp_path / "y.h5").err


# --- files that cannot be right ----------------------------------------------------------------


class Hostile:
    def __reduce__(self):
        return print, ("this must not run",)


GOOD = np.full((3, 4), 0.5, np.float32)
STACK = GOOD[None]


@pytest.mark.parametrize("content, message", [
    ({0: GOOD, "1": GOOD}, "holds a dictionary with the keys 0, '1', no maps of a known format"),
    ({"cat": GOOD}, "holds a dictionary with the keys 'cat', no maps of a known format"),
    ({0: GOOD, 1: GOOD[:2]}, "are not (H, W) of one size"), ({0: STACK}, "are not (H, W) of one size"),
    ({-1: GOOD}, "class number -1"), ({2: GOOD}, "class number 2, but there are 2 classes (numbers 0 to 1)"),
    ({0: np.float32([[0, np.nan]])}, "not a finite number"), ({0: np.float32([[0, np.inf]])}, "not a finite number"),
    ({0: np.array([[0, 1]])}, "has maps of int64"), ({0: GOOD, 1: 1 - GOOD}, "add up to 1 at every pixel"),
    ({}, "does not say the size of its image; give --data"),
    ({"keys": np.array([0, 1]), "high_res": STACK}, "has 1 map and 2 class numbers"),
    ({"keys": np.array([0.5]), "high_res": STACK}, "not a list of whole numbers"),
    ({"keys": np.array([0, 0]), "high_res": np.stack([GOOD, GOOD])}, "two maps of one class"),
    ({"keys": np.array([0]), "high_res": GOOD}, "not (K, H, W)"),
    ({"keys": np.array([0]), "high_res": None}, "not (K, H, W)"),
    ({"keys": np.array([1]), "hr_cam": STACK}, "PuzzleCAM's are a 0, for the background"),
    ({"keys": np.array([0, 3]), "hr_cam": STACK}, "class number 2, but there are 2"),
    (np.zeros((2, 4, 4)), "no maps of a known format"), (np.zeros((2, 3, 4), np.uint8), "no maps of a known format"),
    ([1, 2], "no maps of a known format"), ({"keys": Hostile()}, "it names builtins.print"),
    (Hostile(), "it names builtins.print"), ({0: np.array(["a"])}, "is not a type of numbers"),
    ({0: torch.zeros(2, 2, dtype=torch.bfloat16)}, "BFloat16Storage"),
])
def test_files_that_are_refused(voc, tmp_path, drs, content, message):
    np.save(tmp_path / "p0.npy", content if isinstance(content, np.ndarray) else np.array(content, dtype=object)
            if not isinstance(content, list) else np.array([None]))
    if isinstance(content, list):
        message = "holds an array of object and shape (1,)"
    outcome = drs("import", tmp_path / "p0.npy", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and message in outcome.err
    assert outcome.err.splitlines()[-1].startswith(f"drstool: {tmp_path / 'p0.npy'}")
    assert not (tmp_path / "x.h5").exists() and outcome.out == "" and "Traceback" not in outcome.err


def test_values_below_0_and_over_1(voc, tmp_path):
    np.save(tmp_path / "p0.npy", {1: np.float32([[-1, 0.5, 3]])})
    found = {}
    for dtype in ("float16", "uint8"):
        outcome = must("import", tmp_path / "p0.npy", "--classes", voc / "classes.txt", "--dtype", dtype,
                       "-o", tmp_path / f"{dtype}.h5")
        assert "negative values of 1 image were set to 0" in outcome.err
        assert f"values over 1 (up to 3) of 1 image were {'kept' if dtype == 'float16' else 'clipped'}" in outcome.err
        found[dtype] = records_of(tmp_path / f"{dtype}.h5")["p0"].as_float().ravel().tolist()
    assert found == {"float16": [0, 0.5, 3], "uint8": [0, pytest.approx(128 / 255), 1]}


@pytest.mark.parametrize(("values", "words"), [([-1, 0.5, 1], "from -1 to 1"), ([0, 0.5, 3], "from 0 to 3")])
def test_values_below_0_and_over_1_are_refused_unless_it_is_said_how_to_store_them(drs, voc, tmp_path, values, words):
    np.save(tmp_path / "p0.npy", {1: np.float32([values])})
    outcome = drs("import", tmp_path / "p0.npy", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")
    assert (outcome.code, len(outcome.err.splitlines())) == (3, 2)
    assert f"p0.npy: has values {words}; those of maps are from 0 to 1" in outcome.err
    assert not (tmp_path / "x.h5").exists()
    np.save(tmp_path / "p0.npy", {1: np.float32([[0, 0.5, 1.0005]])})
    must("import", tmp_path / "p0.npy", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")


def test_maps_of_another_size_than_their_image(voc, images, tmp_path, drs):
    wrong = {name: (size[::-1], numbers) for name, (size, numbers) in images.items()}
    written(tmp_path / "maps", wrong, write_psa)
    outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and "rotated by EXIF" in outcome.err and not (tmp_path / "x.h5").exists()


def test_files_of_two_formats(voc, images, tmp_path, drs):
    written(tmp_path / "maps", images, write_irn)
    write_puzzlecam(tmp_path / "maps", "p1", *images["p1"])
    outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and "p1.npy: is not of the format irn, but of puzzlecam" in outcome.err
    assert not (tmp_path / "x.h5").exists()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "maps" / "p0_1.png")
    outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and "holds .npy and .png files; say which to read with --from" in outcome.err


@pytest.mark.parametrize("writer", [write_irn, write_drs, write_npz, write_wsss_bed])
def test_truncated_files(voc, images, tmp_path, drs, writer):
    written(tmp_path / "maps", images, writer)
    path = sorted(path for path in (tmp_path / "maps").iterdir())[1]
    whole = path.read_bytes()
    for content in (b"", whole[:20], whole[:len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
        assert outcome.code == 3 and outcome.err.splitlines()[-1].startswith(f"drstool: {path}")
        assert content or "is empty" in outcome.err
        if content and writer is write_irn:
            assert outcome.err.endswith(f"{path}: is truncated; copy it again or recreate it\n")
        assert not (tmp_path / "x.h5").exists() and "Traceback" not in outcome.err


@pytest.mark.parametrize("arrays", [{"maps": STACK}, {"labels": [1]}, {"maps": STACK, "labels": [1], "keys": [0]}])
def test_what_an_npz_file_lacks(voc, tmp_path, drs, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    outcome = drs("import", tmp_path / "a.npz", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and (f"it holds the arrays {', '.join(arrays)}; expected arrays 'maps' (K, H, W), and "
                                  "either 'labels' (from 1) or 'keys' (from 0)") in outcome.err


def test_pngs_that_are_no_maps(voc, tmp_path, drs):
    (tmp_path / "maps").mkdir()
    line = ("import", tmp_path / "maps", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")
    grey = Image.fromarray(np.zeros((2, 2), np.uint8))
    for name, picture, message in (
            ("2007_000032", grey, "holds '2007_000032.png'; expected ID_CLASS.png"),
            ("a_7", grey, "a_7.png: has a map of class number 7, but there are 2 classes"),
            ("a_0", grey.convert("P"), "PNG of mode P"),
            ("a_0", grey.convert("RGB"), "PNG of mode RGB")):
        picture.save(tmp_path / "maps" / f"{name}.png")
        outcome = drs(*line)
        assert outcome.code == 3 and message in outcome.err
        (tmp_path / "maps" / f"{name}.png").unlink()
    outcome = drs(*line)
    assert outcome.code == 3 and "holds no .npy, .npz or .png files" in outcome.err


def test_a_zip_bomb_is_not_inflated(voc, tmp_path, drs):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("maps.npy", b"x")
        archive.writestr("keys.npy", b"x")
    # The size that the directory at the end claims for each of them.
    parts = (tmp_path / "a.npz").read_bytes().split(b"PK\x01\x02")
    parts[1:] = [part[:20] + b"\xf0\xff\xff\xff" + part[24:] for part in parts[1:]]
    (tmp_path / "a.npz").write_bytes(b"PK\x01\x02".join(parts))
    outcome = drs("import", tmp_path / "a.npz", "--classes", voc / "classes.txt", "-o", tmp_path / "x.h5")
    assert outcome.code == 3 and "claims to hold more than 4 GiB" in outcome.err


def test_mixed_keys_in_a_later_file(voc, images, tmp_path, drs):
    written(tmp_path / "maps", images, write_psa)
    np.save(tmp_path / "maps" / "p2.npy", {0: GOOD, "1": GOOD})
    outcome = drs("import", tmp_path / "maps", "--data", voc, "--split", "train", "-o", tmp_path / "x.h5")
    assert "p2.npy: is not of the format psa, but a dictionary with the keys 0, '1'" in outcome.err
    assert outcome.code == 3 and not (tmp_path / "x.h5").exists()


def test_paths_that_are_not_there_or_of_another_kind(voc, images, tmp_path, drs):
    written(tmp_path / "maps", images, write_psa)
    (tmp_path / "x.pth").write_bytes(b"x")
    for line, message in (((tmp_path / "none",), "no such file or folder"),
                          (("--from", "irn", tmp_path / "none"), "no such file or folder"),
                          (("--from", "hdf5", tmp_path / "maps"), "is a folder; expected one HDF5 file"),
                          (("--from", "png", tmp_path / "maps"), "holds no .png files"),
                          (("--from", "irn", tmp_path / "x.pth"), "is not a .npy file")):
        outcome = drs("import", *line, "-o", tmp_path / "y")
        assert outcome.code == 3 and message in outcome.err and outcome.err.count("\n") == 1


def test_command_lines_that_do_not_fit(voc, images, tmp_path, drs, ours):
    written(tmp_path / "maps", images, write_psa)
    maps, data, network = tmp_path / "maps", ("--data", voc, "--split", "train"), tmp_path / "c.pth"
    network.write_bytes(b"x")
    for line, option in (
            (("import", "--from", "mars", maps), "--from"), (("import", maps, "--intersect"), "--intersect"),
            (("import", maps, *data, "--kind", "refiner"), "--kind"),
            (("import", maps, *data, "--dtype", "x"), "--dtype"),
            (("import", maps, *data, "--range", "0,9"), "--range"),
            (("import", network, "--data", voc), "--data"), (("import", network), "-o"),
            (("export", "--to", "mars", ours), "--to"), (("export", "--to", "irn", ours, "--data", voc), "--data"),
            (("export", "--to", "irn", ours, "--range", "0,9"), "--range"),
            (("export", "--to", "safetensors", network, "--range", "0,9"), "--range")):
        outcome = drs(*line, *(() if option == "-o" else ("-o", tmp_path / "x")))
        assert outcome.code == 2 and outcome.err.startswith(f"drstool: {option}: "), outcome.err
        assert not (tmp_path / "x").exists()


# --- pickles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [
    torch.arange(24.).reshape(2, 3, 4), torch.arange(24.).reshape(2, 3, 4).permute(2, 0, 1),
    torch.arange(24).reshape(4, 6)[1:, ::2], torch.arange(4.).half(), torch.zeros(0, 3), torch.tensor(5),
    torch.ones(3, dtype=torch.bool), np.asfortranarray(np.arange(6.).reshape(2, 3)), np.arange(6, dtype=">i4"),
], ids=lambda value: f"{type(value).__name__}-{tuple(value.shape)}")
def test_arrays_and_tensors_of_every_protocol(protocol, value):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump(np.array({"x": value, "n": [1, None]}, dtype=object), file, protocol=protocol)
    found = load_npy(file.getvalue(), "x.npy", what="holds no arrays", right="")
    assert found["n"] == [1, None]
    assert np.array_equal(found["x"], np.asarray(value)) and found["x"].shape == tuple(value.shape)


def tampered(old, new):
    file = io.BytesIO()
    np.save(file, {"x": torch.arange(6.).reshape(2, 3)})
    content = file.getvalue()
    assert old in content
    return content.replace(old, new)


@pytest.mark.parametrize("old, new", [
    (b"FloatStorage", b"FlaotStorage"), (b"_load_from_bytes", b"_load_from_bites"), (b"K\x03K\x01", b"K\x03K\x09"),
    (b"K\x02K\x03", b"K\xffK\xff"), (b"numpy", b"nampy")])
def test_tampered_tensors(old, new):
    with pytest.raises(InputError, match="x.npy: holds no arrays"):
        load_npy(tampered(old, new), "x.npy", what="holds no arrays", right="")


def test_lists_in_lists_without_end():
    deep = wide = []
    for _ in range(40):
        wide = [wide, wide]
    cyclic = []
    cyclic.append(cyclic)
    for value in (wide, cyclic, [deep]):
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump({"x": value}, file)
        if value == [deep]:
            assert load_npy(file.getvalue(), "x", what="holds no arrays", right="") == {"x": [[]]}
            continue
        with pytest.raises(InputError, match="nested too deeply"):
            load_npy(file.getvalue(), "x", what="holds no arrays", right="")


# --- the library -------------------------------------------------------------------------------


def test_the_page_writes_valid_map_files(tmp_path, monkeypatch):
    from pages import EXAMPLES, blocks

    monkeypatch.chdir(tmp_path)
    snippets = blocks(EXAMPLES / "files.md", "python")
    assert len(snippets) == 2
    for snippet in snippets:
        assert len(snippet.text.strip().splitlines()) <= 11
        exec(compile(snippet.text, "files.md", "exec"), {})
        record = records_of("mine.h5")["photo 1"]
        assert record.labels == (2,) and record.values.shape == (1, 96, 128) and record.image_size == (480, 640)
        must("check", "mine.h5")
        must("pseudo-label", "mine.h5", "--background", "constant", "-o", "labels", "--overwrite")
        (tmp_path / "mine.h5").unlink()


def test_the_writer_checks_its_header(tmp_path):
    for header, message in ((Header("maps", CLASSES), "the kind 'maps'; expected one of localization-maps"),
                            (Header("labels", CLASSES), "the kind 'labels'"),
                            (Header("refined-maps", ()), "names no object class"),
                            (Header("refined-maps", ("cat", "background")), "lists 'background'")):
        with pytest.raises(InputError, match=message):
            MapFileWriter(tmp_path / "x.h5", header)
        assert not (tmp_path / "x.h5").exists()


def test_maps_as_a_library(voc, images, tmp_path):
    truth = written(tmp_path / "maps", images, write_clip_es)
    with open_maps(str(tmp_path / "maps"), dataset=open_dataset(str(voc), "train")) as source:
        assert (source.format, source.class_names, source.ids) == ("clip-es", CLASSES, TRAIN)
        assert [record.id for record in source.records()] == list(truth)
