"""Networks for other programs: equal to the originals where those programs run them."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from typer.testing import CliRunner

from drstool.checkpoints.checkpoint import Checkpoint, save_checkpoint
from drstool.cli.app import app
from drstool.cli.commands import register
from drstool.demo import render_picture
from drstool.exchange.networks_out import INPUT, OUTPUTS
from drstool.inference import localization_map, normalize, refined_map, segment_probabilities
from drstool.models.build import build_network, restore_network
from drstool.models.drs import FixedDRS, LearnableDRS

register()
CLASSES = ("cat", "dog ß")
ALL = {"suppression": "learnable", "delta": 0.4, "drs_layers": list(range(16))}
NETWORKS = {
    "learnable": ("classifier", {"backbone": "vgg16-small", "head": "paper", "output_stride": 8} | ALL),
    "fixed": ("classifier", {
        "backbone": "resnet18", "head": "plain", "output_stride": 8, "suppression": "fixed", "delta": 0.4,
        "drs_layers": [3, 8]}),
    "refiner": ("refiner", {"backbone": "vgg16-small", "head": "plain", "output_stride": 8}),
    "convnext": ("refiner", {"backbone": "convnext_tiny", "head": "plain", "output_stride": 16}),
    "segmenter": ("segmenter", {"backbone": "vgg16-small", "output_stride": 8}),
}


def checkpoint_of(name):
    """A network with random weights and batch statistics."""
    kind, architecture = NETWORKS[name]
    torch.manual_seed(0)
    network, _ = build_network(kind, architecture, CLASSES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return Checkpoint(kind, CLASSES, architecture, {"epochs": 3}, network.state_dict(), ({"command": "train-cls"},))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports a network once: it takes seconds."""
    folder = tmp_path_factory.mktemp("exported")

    def export(name, to):
        path = folder / f"{name}.{to}"
        if not path.exists():
            save_checkpoint(folder / "net.pt", checkpoint_of(name), overwrite=True)
            found = CliRunner().invoke(app, ["export", "--to", to, str(folder / "net.pt"), "-o", str(path)])
            assert found.exit_code == 0, found.output
            assert found.stdout == ""
        return path

    return export


def pictures(count, height, width):
    """Drawn images (N, 3, H, W) uint8."""
    drawn = [np.asarray(render_picture(seed, 0, 176).image)[:height, :width] for seed in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def expected(name, images):
    """What drstool's commands compute, image by image, with the network as it was trained."""
    kind, architecture = NETWORKS[name]
    model = restore_network(kind, architecture, CLASSES, checkpoint_of(name).weights, "net.pt")
    size = tuple(images.shape[2:])
    with torch.no_grad():
        if kind == "segmenter":
            return torch.stack([segment_probabilities(model, image[None]) for image in images])
        finish = localization_map if kind == "classifier" else refined_map
        return torch.cat([finish(model(image[None]), size) for image in images])


def check_equal(found, name, images):
    want = expected(name, images)
    assert found.shape == want.shape
    assert want.std() > 0.01
    np.testing.assert_allclose(found, want, atol=1e-4)
    assert (found.argmax(1) == want.argmax(1).numpy()).mean() > 0.9999


@pytest.mark.parametrize("name", ["learnable", "fixed", "refiner", "segmenter"])
def test_onnxruntime_computes_the_same(exported, name):
    path = exported(name, "onnx")
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == [INPUT]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert [each.name for each in session.get_outputs()] == list(OUTPUTS[NETWORKS[name][0]])
    for count, height, width in ((1, 96, 96), (3, 75, 101)):
        images = normalize(pictures(count, height, width))
        check_equal(session.run(None, {INPUT: images.numpy()})[0], name, images)


@pytest.mark.parametrize("name", ["learnable", "segmenter"])
def test_torch_computes_the_same(exported, name):
    path = exported(name, "torch-export")
    extra = {"class_names": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["class_names"]) == list(CLASSES)
    images = normalize(pictures(3, 75, 101))
    with torch.no_grad():
        check_equal(program.module()(images)[0].numpy(), name, images)


def test_drs_acts_in_what_is_exported():
    """Or the comparisons above would hold without it."""
    for name, kind in (("learnable", LearnableDRS), ("fixed", FixedDRS)):
        _, architecture = NETWORKS[name]
        model, _ = build_network("classifier", architecture, CLASSES)
        assert sum(isinstance(module, kind) for module in model.modules()) >= 2


def test_scores_are_the_classifiers_probabilities(exported):
    session = onnxruntime.InferenceSession(exported("learnable", "onnx"))
    images = normalize(pictures(2, 64, 80))
    kind, architecture = NETWORKS["learnable"]
    model = restore_network(kind, architecture, CLASSES, checkpoint_of("learnable").weights, "net.pt")
    with torch.no_grad():
        want = torch.sigmoid(model(images).mean((2, 3)))
    np.testing.assert_allclose(session.run(None, {INPUT: images.numpy()})[1], want, atol=1e-5)


def test_metadata_are_enough_to_use_it(exported):
    """The normalisation in the file gives what drstool's own gives."""
    session = onnxruntime.InferenceSession(exported("segmenter", "onnx"))
    told = session.get_modelmeta().custom_metadata_map
    assert told["kind"] == "segmenter" and told["color"] == "RGB" and told["input_range"] == "[0, 1]"
    assert json.loads(told["class_names"]) == list(CLASSES)
    assert json.loads(told["channels"]) == ["background", *CLASSES]
    first, last = json.loads(told["provenance"])
    assert first == {"command": "train-cls"} and last["settings"] == {"to": "onnx"}
    images = pictures(1, 64, 64)
    mean, std = (torch.tensor(json.loads(told[key]))[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close((images / 255 - mean) / std, normalize(images))


def test_a_trunk_with_layer_norm_has_any_size(exported):
    program = torch.export.load(exported("convnext", "torch-export"))
    images = normalize(pictures(1, 75, 101))
    with torch.no_grad():
        np.testing.assert_allclose(program.module()(images)[0], expected("convnext", images), atol=1e-4)


def test_safetensors_hold_every_tensor(exported):
    path = exported("learnable", "safetensors")
    theirs, ours = safetensors.torch.load_file(path), checkpoint_of("learnable").weights
    assert sorted(theirs) == sorted(ours)
    assert all(torch.equal(theirs[name], ours[name]) and theirs[name].dtype == ours[name].dtype for name in ours)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["class_names"]) == list(CLASSES)


@pytest.mark.parametrize("to", ["onnx", "torch-export", "safetensors"])
@pytest.mark.parametrize(("spoil", "words"), [
    (lambda found: (found.weights.pop("output.bias"), found)[1], "do not fit the architecture"),
    (lambda found: Checkpoint("classifier", CLASSES, {"backbone": "x"}, {}, found.weights), "unknown backbone 'x'")])
def test_checkpoints_that_cannot_be_exported(tmp_path, to, spoil, words):
    save_checkpoint(tmp_path / "net.pt", spoil(checkpoint_of("learnable")))
    found = CliRunner().invoke(app, ["export", "--to", to, str(tmp_path / "net.pt"), "-o", str(tmp_path / "x.out")])
    assert found.exit_code == 3
    assert words in found.stderr and len(found.stderr.splitlines()) == 1 and "net.pt" in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt"]


def test_other_files_cannot_be_exported(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"no network")
    found = CliRunner().invoke(app, ["export", "--to", "onnx", str(tmp_path / "net.pt"), "-o", str(tmp_path / "x")])
    assert found.exit_code == 3 and "is not a torch file" in found.stderr
    assert CliRunner().invoke(app, ["export", "--to", "onnx", "-o", str(tmp_path / "x")]).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt"]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "net.pt", checkpoint_of("refiner"))
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    found = CliRunner().invoke(app, ["export", "--to", "onnx", str(tmp_path / "net.pt"), "-o", str(tmp_path / "x")])
    assert found.exit_code == 2 and "pip install 'drstool[onnx]'" in found.stderr
    assert not (tmp_path / "x").exists()
