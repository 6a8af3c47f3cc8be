"""Checkpoints of the authors' code, made here in their format."""

import numpy as np
import pytest
import torch
import torchvision

from drstool.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from drstool.errors import InputError, UsageError
from drstool.models.build import restore_network
from drstool.models.drs import FixedDRS, LearnableDRS
from drstool.models.vgg import torchvision_positions
from drstool.stages.import_ import import_drs

TORCHVISION_POSITIONS = torchvision_positions(batch_norm=False)
# Their names of the 16 layers, block by block, and their outputs.
BLOCKS = [("layer1_", 2, 64), ("layer2_", 2, 128), ("layer3_", 3, 256), ("layer4_", 3, 512), ("layer5_", 3, 512),
          ("extra_", 3, 512)]
LAYERS = [(prefix, number, outputs) for prefix, count, outputs in BLOCKS for number in range(1, count + 1)]


def filled(value, *shape):
    """A tensor of one value, which takes next to no room in a file."""
    return torch.full((1,), float(value)).expand(shape)


def their_state(learnable, classes=20):
    """A state dict as theirs, in which every tensor holds a value of its own."""
    state, inputs = {}, 3
    for index, (prefix, number, outputs) in enumerate(LAYERS):
        weight, bias = filled(index + 1, outputs, inputs, 3, 3), filled(-index - 1, outputs)
        if index < 13:
            state[f"features.{TORCHVISION_POSITIONS[index]}.weight"] = weight
            state[f"features.{TORCHVISION_POSITIONS[index]}.bias"] = bias
        state[f"{prefix}conv{number}.weight"], state[f"{prefix}conv{number}.bias"] = weight, bias
        if learnable:
            state[f"{prefix}relu{number}.fc.0.weight"] = filled(index + 0.5, outputs, outputs)
        inputs = outputs
    state["extra_conv4.weight"], state["extra_conv4.bias"] = filled(100, classes, 512, 1, 1), filled(101, classes)
    return state


def their_file(path, state, *, parallel=False, bare=False):
    if parallel:
        state = {f"module.{name}": value for name, value in state.items()}
    content = {"model": state, "optimizer": {"lr": 0.001}, "epoch": 7, "miou": np.float64(0.593)}
    torch.save(state if bare else content, path)
    return str(path)


@pytest.mark.parametrize("form", ["plain", "parallel", "bare"])
@pytest.mark.parametrize("kind", ["learnable", "fixed", "refiner"])
def test_every_tensor_finds_its_place(tmp_path, kind, form):
    path = their_file(
        tmp_path / "best.pth", their_state(kind == "learnable"), parallel=form == "parallel", bare=form == "bare")
    more = {"learnable": {}, "fixed": {"kind": "classifier", "delta": 0.4}, "refiner": {"kind": "refiner"}}[kind]
    found = import_drs(path, **more)
    assert found.kind == ("refiner" if kind == "refiner" else "classifier")
    assert len(found.class_names) == 20 and found.class_names[14] == "person"
    assert found.architecture["backbone"] == "vgg16"
    save_checkpoint(tmp_path / "ours.pt", found)
    ours = load_checkpoint(tmp_path / "ours.pt", found.kind)
    model = restore_network(ours.kind, ours.architecture, ours.class_names, ours.weights, "ours.pt")
    for index, layer in enumerate(model.layers):
        assert (layer.conv.weight == index + 1).all()
        assert (layer.conv.bias == -index - 1).all()
        if kind == "learnable":
            assert isinstance(layer.rectifier, LearnableDRS)
            assert (layer.rectifier.controller.weight == index + 0.5).all()
        elif kind == "fixed":
            assert isinstance(layer.rectifier, FixedDRS)
            assert layer.rectifier.delta == 0.4
        else:
            assert isinstance(layer.rectifier, torch.nn.ReLU)
    assert (model.output.weight == 100).all() and (model.output.bias == 101).all()


def test_layers_are_those_of_torchvision():
    """Their trunk is torchvision's, so an imported layer is the layer at torchvision's position."""
    vgg = torchvision.models.vgg
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
    state = their_state(learnable=False)
    for position, layer in enumerate(features):
        if isinstance(layer, torch.nn.Conv2d):
            assert state[f"features.{position}.weight"].shape == layer.weight.shape


def test_other_classes(tmp_path):
    path = their_file(tmp_path / "best.pth", their_state(learnable=True, classes=2))
    assert import_drs(path, class_names=("cat", "dog")).class_names == ("cat", "dog")
    with pytest.raises(InputError, match="2 object classes"):
        import_drs(path)


def test_kind_that_cannot_be_seen(tmp_path):
    path = their_file(tmp_path / "best.pth", their_state(learnable=False))
    with pytest.raises(UsageError, match="--kind refiner"):
        import_drs(path)
    with pytest.raises(UsageError, match="is not a segmenter"):
        import_drs(path, kind="segmenter")
    with pytest.raises(UsageError, match="'maps' is not one of classifier, refiner, segmenter"):
        import_drs(path, kind="maps")


def test_refiner_has_no_controllers(tmp_path):
    path = their_file(tmp_path / "best.pth", their_state(learnable=True))
    with pytest.raises(UsageError, match="not a refiner"):
        import_drs(path, kind="refiner")


def without(name):
    state = their_state(learnable=True)
    del state[name]
    return state


@pytest.mark.parametrize(("state", "words"), [
    (lambda: without("layer3_conv2.bias"), "'layer3_conv2.bias'"),
    (lambda: without("extra_relu1.fc.0.weight"), "'extra_relu1.fc.0.weight'"),
    (lambda: without("extra_conv4.weight"), "'extra_conv4.weight'"),
    (lambda: their_state(True) | {"layer1_conv1.weight": filled(1, 64, 4, 3, 3)}, "shapes of VGG-16"),
    (lambda: their_state(True) | {"extra_conv4.bias": filled(1, 21)}, "shapes of VGG-16"),
    (lambda: {"a": 1}, "is not a checkpoint of qjadud1994/DRS"),
    (lambda: {1: torch.ones(1)}, "is not a checkpoint of qjadud1994/DRS"),
    (dict, "is not a checkpoint of qjadud1994/DRS"),
])
def test_other_contents(tmp_path, state, words):
    path = their_file(tmp_path / "best.pth", state())
    with pytest.raises(InputError, match=words):
        import_drs(path, kind="classifier")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), "text"])
def test_other_torch_files(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match="is not a checkpoint of qjadud1994/DRS"):
        import_drs(str(tmp_path / "x.pth"), kind="classifier")
