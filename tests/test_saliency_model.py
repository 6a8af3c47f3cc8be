"""Saliency by ONNX models, which are made here of a few operations."""

import json
import os
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from drstool.cli.app import app
from drstool.cli.commands import register
from drstool.errors import InputError, UsageError
from drstool.exchange.saliency_model import PRESETS, ModelSettings, SaliencyModel
from drstool.stages.info import describe

register()
PLAIN = ModelSettings(0, (0, 0, 0), (1, 1, 1))
RED = [1, 0, 0]


def model(path, *, weights=RED, shape=(1, 3, "h", "w"), nodes=None, outputs=("map",), kind=TensorProto.FLOAT,
          inputs=("image",)):
    """An ONNX file; by default its only output is a weighted sum of the channels, (1, 1, H, W)."""
    kernel = helper.make_tensor("kernel", kind, (1, 3, 1, 1), weights)
    nodes = nodes or [helper.make_node("Conv", ["image", "kernel"], ["map"])]
    graph = helper.make_graph(
        nodes, "saliency", [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def image(height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_the_output_is_the_map(tmp_path):
    found = SaliencyModel(model(tmp_path / "m.onnx"), PLAIN)(image())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image()[..., 0])


@pytest.mark.parametrize(("settings", "expected"), [
    ({"mean": (0.1, 0, 0), "std": (2, 1, 1), "stretch": False}, lambda red, blue, _: (red - 0.1) / 2),
    ({"channels": "bgr"}, lambda red, blue, _: blue),
    ({"range": "max"}, lambda red, blue, most: red / most),
    ({"range": "255", "std": (510, 1, 1)}, lambda red, blue, _: red / 2),
    ({"sigmoid": True}, lambda red, blue, _: 1 / (1 + np.exp(-red))),
    ({"stretch": True}, lambda red, blue, _: (red - red.min()) / (red.max() - red.min())),
])
def test_settings(tmp_path, settings, expected):
    picture = image() // 2 + 30
    values = ModelSettings(**(vars(PLAIN) | settings))
    found = SaliencyModel(model(tmp_path / "m.onnx"), values)(picture)
    scaled = picture / 255
    np.testing.assert_allclose(found, 255 * expected(scaled[..., 0], scaled[..., 2], scaled.max()), atol=0.51)


def test_images_are_resized_and_maps_back(tmp_path):
    path = model(tmp_path / "m.onnx", shape=(1, 3, 32, 32))
    loaded = SaliencyModel(path, ModelSettings(None, (0, 0, 0), (1, 1, 1)))
    assert loaded.settings.size == 32
    picture = np.zeros((50, 70, 3), np.uint8)
    picture[:, 35:] = 255
    found = loaded(picture)
    assert found.shape == (50, 70) and found[25, 5] == 0 and found[25, 65] == 255
    with pytest.raises(UsageError, match="--model-size: the size is 64, but the model takes 32; give --model-size 32"):
        SaliencyModel(path, ModelSettings(64, (0, 0, 0), (1, 1, 1)))


def test_outputs_by_name_and_number(tmp_path):
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["first"]), helper.make_node("Neg", ["first"], ["second"]),
             helper.make_node("Squeeze", ["first"], ["third"])]
    path = model(tmp_path / "m.onnx", nodes=nodes, outputs=("first", "second", "third"))
    for output, sign in (("0", 1), ("first", 1), ("1", -1), ("second", -1), ("third", 1)):
        found = SaliencyModel(path, ModelSettings(0, (0, 0, 0), (1, 1, 1), output=output, stretch=True))(image())
        assert np.corrcoef(found.ravel(), image()[..., 0].ravel())[0, 1] == pytest.approx(sign, abs=1e-3)
    with pytest.raises(UsageError, match="no output '3'; its outputs are first, second, third"):
        SaliencyModel(path, ModelSettings(0, (0, 0, 0), (1, 1, 1), output="3"))


def test_half_precision(tmp_path):
    found = SaliencyModel(model(tmp_path / "m.onnx", kind=TensorProto.FLOAT16), PLAIN)(image())
    np.testing.assert_allclose(found, image()[..., 0], atol=1)


def test_presets_normalise_as_published(tmp_path):
    """By the formulas of the published test code, at images of the model's own size."""
    for name, side, formula in (
            ("u2net", 320, lambda x: (x[..., 0] / x.max() - 0.485) / 0.229),
            ("isnet", 1024, lambda x: x[..., 0] / 255 - 0.5),
            ("poolnet", 40, lambda x: x[..., 2] - 104.00699)):
        loaded = SaliencyModel(model(tmp_path / f"{name}.onnx"), PRESETS[name])
        picture = image(side, side) // 2
        np.testing.assert_allclose(loaded._computed(picture), formula(picture.astype(float)), atol=1e-4)
    assert PRESETS["u2net"].stretch and PRESETS["isnet"].stretch and not PRESETS["poolnet"].stretch
    assert PRESETS["poolnet"].sigmoid and not PRESETS["u2net"].sigmoid and not PRESETS["isnet"].sigmoid


def node(operation, *inputs, **more):
    return helper.make_node(operation, list(inputs), ["map"], **more)


@pytest.mark.parametrize(("how", "words"), [
    ({"shape": (1, 1, "h", "w"), "weights": RED}, "takes an input of shape"),
    ({"shape": (1, "h", "w", 3), "nodes": [node("ReduceMean", "image")]}, "takes an input of shape"),
    ({"shape": (1, 3, 16, 20)}, "expected a square"),
    ({"inputs": ("image", "mask"), "nodes": [node("Add", "image", "mask")]}, "image .*, mask"),
    ({"kind": TensorProto.UINT8, "weights": [1, 0, 0], "nodes": [node("Identity", "image")]}, "floating-point"),
    ({"nodes": [node("Identity", "image")]}, r"of shape \(1, 3, .*--model-output"),
    ({"nodes": [node("Shape", "image")]}, "int64 values"),
    ({"nodes": [node("Squeeze", "image")]}, "of shape"),
    # The scores of classifiers, as a list and as pictures of one pixel.
    ({"nodes": [helper.make_node("Flatten", ["image"], ["map"])]}, r"gives values of shape \(1, 196608\), no map"),
    ({"nodes": [helper.make_node("Conv", ["image", "kernel"], ["red"]), node("GlobalMaxPool", "red")]},
     r"gives values of shape \(1, 1\), no map; .* --model-output"),
    ({"nodes": [node("Concat", "image", "kernel", axis=0)]}, "fails on an image"),
])
def test_models_of_other_things(tmp_path, how, words):
    path = model(tmp_path / "m.onnx", **how)
    if "int64" in words:
        loaded = onnx.load(path)
        loaded.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
        onnx.save(loaded, path)
    with pytest.raises(InputError, match=words) as caught:
        SaliencyModel(path, PLAIN)(image())
    assert "m.onnx" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd"])
def test_models_cannot_read_other_files(tmp_path, place):
    loaded = onnx.load(model(tmp_path / "m.onnx"))
    kernel = loaded.graph.initializer[0]
    kernel.ClearField("float_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value=place)
    (tmp_path / "m.onnx").write_bytes(loaded.SerializeToString())
    with pytest.raises(InputError, match="m.onnx: is not an ONNX model, or is damaged: .*[Ee]xternal data"):
        SaliencyModel(tmp_path / "m.onnx", PLAIN)


def test_models_cannot_bring_operations(tmp_path):
    path = model(tmp_path / "m.onnx", nodes=[node("Run", "image", domain="of.theirs")])
    with pytest.raises(InputError, match="m.onnx: is not an ONNX model, or is damaged"):
        SaliencyModel(path, PLAIN)


@pytest.mark.parametrize(("weights", "words"), [
    ([9, 0, 0], "values from .* to .*, not from 0 to 1; give --model-sigmoid"), ([np.inf, 0, 0], "not numbers")])
def test_values_that_are_no_saliency(tmp_path, weights, words):
    with pytest.raises(InputError, match=words):
        SaliencyModel(model(tmp_path / "m.onnx", weights=weights), PLAIN)(image())


def torchscript(path):
    """The parts of such an archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"m/{name}", b"")


@pytest.mark.parametrize(("write", "words"), [
    (lambda path: path.write_bytes(b""), "is not an ONNX model"),
    (lambda path: path.write_bytes(b"\x08\x07nonsense" * 50), "is not an ONNX model"),
    (lambda path: path.write_bytes(model(path).read_bytes()[:90]), "is not an ONNX model"),
    (torchscript, "is a file of torch"),
    (lambda path: torch.save({}, path), "is a file of torch"),
    (lambda path: path.mkdir(), "m.onnx: is not a file"),
    (os.mkfifo, "m.onnx: is not a file"),
    (lambda path: None, "m.onnx: cannot be read: No such file"),
])
def test_files_that_are_no_model(tmp_path, write, words):
    write(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=words) as caught:
        SaliencyModel(tmp_path / "m.onnx", PLAIN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "words"), [
    ({"mean": None}, "--model-mean: is missing.*--preset u2net"), ({"std": None}, "--model-std: is missing"),
    ({"std": (1, 0, 1)}, "--model-std: is 0"), ({"mean": (1, 1)}, "three numbers"),
    ({"mean": (1, 1, float("nan"))}, "three numbers"), ({"range": "2"}, "--model-range: '2'"),
    ({"channels": "lab"}, "--model-channels: 'lab'"), ({"size": None}, "--model-size: is missing")])
def test_settings_that_are_missing_or_impossible(tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        SaliencyModel(model(tmp_path / "m.onnx"), ModelSettings(**(vars(PLAIN) | settings)))


def run(*words):
    return CliRunner().invoke(app, ["saliency", *map(str, words)])


def test_the_command(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "ab":
        Image.fromarray(image(20, 30)).save(folder / f"{name}.png")
    path = model(tmp_path / "m.onnx")
    basic = ["--data", folder, "--model", path, "--preset", "poolnet"]
    found = run(*basic, "--model-mean", "0,0,0", "-o", tmp_path / "out", "--model-channels", "rgb")
    assert found.exit_code == 0, found.stderr
    want = 255 / (1 + np.exp(-image(20, 30)[..., 0].astype(float)))
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out" / "a.png")), want, atol=1)
    step = json.loads(json.dumps(describe(str(tmp_path / "out"))))["provenance"][-1]
    assert step["settings"]["model"] == vars(PRESETS["poolnet"]) | {
        "mean": [0, 0, 0], "std": [1, 1, 1], "channels": "rgb"}
    assert step["inputs"]["model"].startswith("sha256:")


@pytest.mark.parametrize(("words", "code", "told"), [
    (["--preset", "u2net"], 2, "--model: is missing"), (["--model-size", "8"], 2, "--model: is missing"),
    (["--model", "m.onnx", "--preset", "x"], 2, "'x' is not one of u2net, isnet, poolnet"),
    (["--model", "m.onnx", "--model-mean", "a"], 2, "--model-mean: 'a' is not a list of numbers"),
    (["--model", "m.onnx", "--preset", "poolnet", "--model-size", "32", "--method", "rbd"], 2, "--method"),
    (["--model", "m.onnx", "--preset", "isnet"], 2, "--preset isnet: the size is 1024, but the model takes 32; give "),
    (["--model", "m.onnx", "--preset", "isnet", "--model-size", "64"], 2, "--model-size: the size is 64, but"),
    (["--model", "no.onnx", "--preset", "isnet"], 3, "no.onnx: cannot be read"),
    (["--model", "a.png", "--preset", "isnet"], 3, "a.png: is not an ONNX model"),
])
def test_bad_command_lines_write_nothing(tmp_path, monkeypatch, words, code, told):
    monkeypatch.chdir(tmp_path)
    model("m.onnx", shape=(1, 3, 32, 32))
    Image.fromarray(image()).save("a.png")
    found = run("--data", "a.png", "-o", "out", *words)
    assert found.exit_code == code and told in found.stderr and len(found.stderr.splitlines()) == 1
    assert sorted(os.listdir()) == ["a.png", "m.onnx"]


def test_without_onnxruntime(tmp_path, monkeypatch):
    path = model(tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"needs onnxruntime; install it: pip install 'drstool\[onnx\]'"):
        SaliencyModel(path, PLAIN)
