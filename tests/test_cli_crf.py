"""``--crf`` of pseudo-label and segment, and the filter ``crf``: on files and pipes, and its errors."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drstool import cues
from drstool.crf import smooth_labels, smooth_probabilities
from drstool.data import load_image
from drstool.errors import UsageError
from drstool.formats import Header, open_records, open_sink
from drstool.formats.records import MapRecord, encode_values
from drstool.recipe import CRF_PRESETS, CueSettings
from drstool.stages.crf import crf
from drstool.stages.pseudo_label import Relabelling, pseudo_label

CLASSES = ("bar", "disc")
POWER = ("--background", "power")
SETTINGS = CueSettings(background="power")


def records(path):
    with open_records(path) as source:
        return {record.id: record for record in source.records()}, source.header


def write(path, kind, *made):
    with open_sink(str(path), Header(kind, CLASSES)) as sink:
        sink.write_all(made)
    return path


def record(identifier, image, values, labels, dtype="float16"):
    values = encode_values(np.asarray(values, np.float32), dtype)
    return MapRecord(identifier, values, tuple(labels), load_image(image).shape[:2], str(image))


@pytest.fixture
def photo(voc):
    return voc / "JPEGImages" / "p0.jpg"


@pytest.mark.parametrize("preset", CRF_PRESETS)
def test_pseudo_label_is_the_rule_with_the_crf_before_ignoring(drs, made, tmp_path, preset):
    line = ("pseudo-label", made.cams, *POWER, "--conflict", "0.3", "--crf", preset, "--crf-iterations", "3")
    outcome = drs(*line, "-o", tmp_path / "labels")
    assert outcome.code == 0, outcome.err
    maps, _ = records(made.cams)
    found, header = records(tmp_path / "labels")
    assert found.keys() == maps.keys()
    told = header.provenance[-1]["settings"]["crf"]
    assert (told["preset"], told["iterations"], told["bilateral_sxy"]) == (
        preset, 3, CRF_PRESETS[preset].bilateral_sxy)
    settings = CueSettings(background="power", conflict=0.3)
    changed = 0
    for identifier, given in maps.items():
        image, resized = load_image(given.image), cues.resize_maps(given.as_float(), given.image_size)
        present = (0, *given.labels)
        numbers = CRF_PRESETS[preset].__class__(**{**vars(CRF_PRESETS[preset]), "iterations": 3})
        plain = cues.pseudo_label(resized, given.labels, settings, ignore_rules=False)
        if preset == "irn":
            expected = smooth_labels(image, plain, present, numbers)
        else:
            shares = cues.cue_probabilities(resized, settings)
            expected = np.uint8(present)[smooth_probabilities(image, shares, numbers).argmax(axis=0)]
        changed += (expected != plain).sum()
        cue = np.concatenate([cues.background_cue(resized, settings)[None], cues.object_cue(resized, settings.alpha)])
        expected[(cue > 0.3).sum(axis=0) > 2] = 255
        np.testing.assert_array_equal(found[identifier].labels, expected)
    assert changed > 0


def test_unary_may_be_chosen(made):
    with open_records(made.cams) as source:
        given = list(source.records())
    by_labels, by_cues = (
        [each.labels for each in pseudo_label(
            given, SETTINGS, relabelling=Relabelling(replace(CRF_PRESETS[preset], unary=unary)))]
        for preset, unary in (("psa", "labels"), ("irn", "probabilities")))
    assert any((one != other).any() for one, other in zip(by_labels, by_cues, strict=True))


def test_certain_saliency_is_ignored_where_the_crf_says_background(voc, photo, tmp_path):
    """The rules see the labels that the CRF has left."""
    height, width = load_image(photo).shape[:2]
    values = np.zeros((1, height, width), np.float32)
    values[0, 3, 3] = 1
    saliency = np.zeros((height, width), np.uint8)
    saliency[3, 3] = 255
    Image.fromarray(saliency).save(tmp_path / "p0.png")
    given = record("p0", photo, values, [1])
    plain, smooth = (
        next(pseudo_label(
            [given], CueSettings(), saliency_of=cues.saliency_folder(tmp_path), relabelling=relabelling)).labels
        for relabelling in (None, Relabelling(CRF_PRESETS["irn"])))
    assert plain[3, 3] == 1 and smooth[3, 3] == 255
    assert (np.delete(smooth.ravel(), 3 * width + 3) == 0).all()


def test_workers_do_not_matter(drs, made, tmp_path):
    for workers in ("1", "3"):
        outcome = drs("pseudo-label", made.cams, *POWER, "--crf", "psa", "--workers", workers, "-o", tmp_path / workers)
        assert outcome.code == 0, outcome.err
    one, many = (records(tmp_path / workers)[0] for workers in ("1", "3"))
    for identifier in one:
        np.testing.assert_array_equal(one[identifier].labels, many[identifier].labels)


def test_filter_of_scores_equals_segment_with_crf(drs, voc, made, tmp_path):
    data = ("--data", voc, "--split", "val")
    for name, more in (("plain", ()), ("smooth", ("--crf", "deeplab"))):
        outputs = ("-o", tmp_path / name, "--scores", tmp_path / f"{name}.h5")
        line = ("segment", *data, "--weights", made.seg, *more, *outputs)
        outcome = drs(*line)
        assert outcome.code == 0, outcome.err
    outcome = drs("crf", tmp_path / "plain.h5", "-o", tmp_path / "filtered.h5")
    assert outcome.code == 0, outcome.err
    filtered, header = records(tmp_path / "filtered.h5")
    smooth, told = records(tmp_path / "smooth.h5")
    assert header.kind == told.kind == "score-maps"
    assert header.provenance[-1]["settings"]["crf"] == told.provenance[-1]["settings"]["crf"]
    for identifier, one in smooth.items():
        assert one.labels == filtered[identifier].labels
        assert np.abs(one.as_float() - filtered[identifier].as_float()).max() < 0.05
    labels, _ = records(tmp_path / "smooth")
    agreeing = []
    for identifier, one in filtered.items():
        strongest, _ = cues_label(one)
        agreeing.append((labels[identifier].labels == strongest).mean())
    assert np.mean(agreeing) > 0.98


def cues_label(scores):
    settings = cues.of_probabilities(CueSettings(), ())
    maps = scores.as_float()
    return cues.pseudo_label(maps, scores.labels, settings, ignore_rules=False), maps


def test_pipe_of_three_stages(program, voc, made, tmp_path):
    scored = program.shell(
        f"drstool segment --data {voc} --split val --weights {made.seg} -o {tmp_path}/plain --scores - -q |"
        f"drstool crf -q --crf-iterations 2 | drstool eval --data {voc} --split val --json", tmp_path)
    assert scored.returncode == 0, scored.stderr.decode()
    told = json.loads(scored.stdout)
    assert told["provenance"][-1]["settings"]["crf"]["iterations"] == 2


def test_stream_in_and_out(drs, made):
    stream = io.BytesIO()
    assert drs("crf", made.cams, *POWER, "-o", "-", stdout=stream).code == 0
    labels = io.BytesIO()
    assert drs("pseudo-label", "-o", "-", stdin=stream.getvalue(), stdout=labels).code == 0
    with tarfile.open(fileobj=io.BytesIO(labels.getvalue())) as tar:
        assert {"p0.png", "p3.png", "drstool.end.json"} <= set(tar.getnames())


def test_score_maps_need_no_background_and_count_every_value(drs, photo, tmp_path):
    """Background is what the objects leave; a given option is kept."""
    size = load_image(photo).shape[:2]
    values = np.stack([np.full(size, 0.15), np.full(size, 0.4)])
    values[:, : size[0] // 2] = [[[0.1]], [[0.05]]]
    scores = write(tmp_path / "s.h5", "score-maps", record("p0", photo, values, [1, 2], "uint8"))
    assert drs("pseudo-label", scores, "-o", tmp_path / "a").code == 0
    labels = records(tmp_path / "a")[0]["p0"].labels
    assert (labels[: size[0] // 2] == 0).all() and (labels[size[0] // 2 :] == 0).all()
    values[1, size[0] // 2 :] = 0.45
    scores = write(tmp_path / "t.h5", "score-maps", record("p0", photo, values, [1, 2], "uint8"))
    assert drs("pseudo-label", scores, "-o", tmp_path / "b").code == 0
    assert (records(tmp_path / "b")[0]["p0"].labels[size[0] // 2 :] == 2).all()
    assert drs("pseudo-label", scores, "--background", "constant", "--alpha", "0.5", "-o", tmp_path / "c").code == 0
    assert (records(tmp_path / "c")[0]["p0"].labels == 0).all()
    told = drs("pseudo-label", scores, "--background", "saliency", "-o", tmp_path / "d")
    assert told.code == 2 and "--saliency" in told.err


def test_image_without_class_and_all_zero_maps_are_background(drs, photo, tmp_path):
    size = load_image(photo).shape[:2]
    for kind, more in (("score-maps", ()), ("refined-maps", POWER)):
        maps = write(tmp_path / f"{kind}.h5", kind, record("none", photo, np.zeros((0, *size)), []),
                     record("zero", photo, np.zeros((2, *size)), [1, 2]))
        assert drs("crf", maps, *more, "-o", tmp_path / f"{kind}-out.h5").code == 0
        for one in records(tmp_path / f"{kind}-out.h5")[0].values():
            assert one.labels == () and one.image_size == size
        for preset in ("irn", "psa"):
            labels = tmp_path / f"{kind}-{preset}"
            assert drs("pseudo-label", maps, *more, "--crf", preset, "-o", labels).code == 0
            assert not any(one.labels.any() for one in records(labels)[0].values())


def test_data_names_the_images(drs, voc, made, tmp_path):
    """Maps whose images have moved away, with --data."""
    maps, header = records(made.cams)
    moved = [MapRecord(m.id, m.values, m.labels, m.image_size, "gone/" + m.id) for m in maps.values()]
    path = write(tmp_path / "moved.h5", "localization-maps", *moved)
    lost = drs("pseudo-label", path, *POWER, "--crf", "irn", "-o", tmp_path / "a")
    assert lost.code == 3 and lost.err.startswith("drstool: gone/p0: no such file")
    data = ("--data", voc, "--split", "train")
    assert drs("pseudo-label", path, *POWER, "--crf", "irn", *data, "-o", tmp_path / "b").code == 0
    assert drs("pseudo-label", made.cams, *POWER, "--crf", "irn", "-o", tmp_path / "c").code == 0
    for one, other in zip(records(tmp_path / "b")[0].values(), records(tmp_path / "c")[0].values(), strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
    other = drs("crf", path, *POWER, "--data", voc, "--split", "val", "-o", tmp_path / "d.h5")
    assert other.code == 3 and "image 'p0': is not one of the 2 images of" in other.err


def test_keep_going_leaves_out_what_has_no_photograph(drs, own_voc, made, tmp_path):
    (own_voc / "JPEGImages" / "p1.jpg").unlink()
    maps, _ = records(made.cams)
    path = write(tmp_path / "m.h5", "localization-maps", *(
        MapRecord(m.id, m.values, m.labels, m.image_size, str(own_voc / "JPEGImages" / f"{m.id}.jpg"))
        for m in maps.values()))
    outcome = drs("crf", path, *POWER, "--keep-going", "-o", tmp_path / "out.h5")
    assert outcome.code == 4
    assert "p1.jpg: no such file" in outcome.err
    assert list(records(tmp_path / "out.h5")[0]) == ["p0", "p2", "p3"]


def bad(folder, kind, photo):
    """Map files that the CRF cannot use, and what is said of them."""
    size = load_image(photo).shape[:2]
    half = np.full((2, *size), 0.5, np.float32)
    small = MapRecord("p0", encode_values(half[:, :8, :9]), (1, 2), (8, 9), str(photo))
    return {
        "small": (small, f"is {size[1]} × {size[0]} pixels, but 9 × 8 in its maps"),
        "nameless": (MapRecord("p0", encode_values(half), (1, 2), size, ""), "do not name its file; give --data"),
        "missing": (MapRecord("p0", encode_values(half), (1, 2), size, str(folder / "no.jpg")), "no.jpg: no such file"),
        "excess": (record("p0", photo, half + 0.2, [1, 2]), "scores sum to 1.4"),
    }[kind]


@pytest.mark.parametrize("kind", ["small", "nameless", "missing", "excess"])
def test_bad_input(drs, photo, tmp_path, kind):
    given, told = bad(tmp_path, kind, photo)
    scores = write(tmp_path / "s.h5", "score-maps", given)
    lines = [("crf", scores, "-o", tmp_path / "out.h5")]
    if kind != "excess":
        lines.append(("pseudo-label", scores, "--crf", "psa", "-o", tmp_path / "labels"))
    for line in lines:
        outcome = drs(*line)
        assert outcome.code == 3, outcome.err
        assert told in outcome.err and outcome.err.count("\n") == 1
        assert not (tmp_path / "out.h5").exists() and not (tmp_path / "labels").exists()


@pytest.mark.parametrize(("line", "told"), [
    (("crf", "MAPS", "--crf", "none"), "--crf: none leaves nothing to do"),
    (("crf", "MAPS", "--crf", "densenet"), "--crf: 'densenet' is not one of irn, deeplab, psa, none"),
    (("crf", "MAPS"), "--background: saliency needs saliency maps"),
    (("crf", "MAPS", "--split", "val", *POWER), "--split: needs --data"),
    (("crf", "MAPS", "--dtype", "int8"), "--dtype: 'int8' is not one of"),
    (("pseudo-label", "MAPS", *POWER, "--crf-iterations", "3"), "--crf-iterations: has no effect without a CRF"),
    (("pseudo-label", "MAPS", *POWER, "--data", "VOC"), "--data: is about the CRF's images"),
    (("pseudo-label", "MAPS", *POWER, "--crf", "irn", "--crf-confidence", "1"), "--crf-confidence: 1.0 is too large"),
    (("pseudo-label", "MAPS", *POWER, "--crf", "irn", "--crf-bilateral-srgb", "0"), "-srgb: 0.0 is too small"),
    (("pseudo-label", "MAPS", *POWER, "--crf", "irn", "--crf-bilateral-compat", "nan"), "nan is not a finite number"),
    (("pseudo-label", "MAPS", *POWER, "--crf", "irn", "--crf-gaussian-compat", "1e39"), "--crf-gaussian-compat"),
    (("pseudo-label", "MAPS", *POWER, "--crf", "irn", "--crf-mode", "fast"), "--crf-mode: 'fast' is not one of"),
])
def test_wrong_command_lines(drs, voc, made, tmp_path, line, told):
    words = [{"MAPS": made.cams, "VOC": voc}.get(word, word) for word in line]
    outcome = drs(*words, "-o", tmp_path / "out")
    assert outcome.code == 2, outcome.err
    assert told in outcome.err


def test_labels_are_no_maps(drs, made, tmp_path):
    outcome = drs("crf", made.labels, "-o", tmp_path / "out.h5")
    assert outcome.code == 3 and "holds labels; crf reads maps" in outcome.err


def test_saliency_is_asked_for_before_the_first_record():
    with pytest.raises(UsageError, match="--saliency"):
        crf([], CRF_PRESETS["irn"], CueSettings())


def test_exact_mode_by_option(drs, made, tmp_path):
    outcome = drs("crf", made.cams, *POWER, "--crf-mode", "exact", "-o", tmp_path / "exact.h5")
    assert outcome.code == 0, outcome.err
    assert drs("crf", made.cams, *POWER, "-o", tmp_path / "lattice.h5").code == 0
    exact, lattice = (records(tmp_path / f"{name}.h5")[0] for name in ("exact", "lattice"))
    differing = [one.values.shape != lattice[i].values.shape or (one.values != lattice[i].values).any()
                 for i, one in exact.items()]
    assert any(differing)


def test_without_provenance_the_bytes_are_the_same(drs, made, tmp_path):
    for name in ("a.h5", "b.h5"):
        assert drs("crf", made.cams, *POWER, "--no-provenance", "-o", tmp_path / name).code == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
