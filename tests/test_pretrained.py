"""Weights to start from."""

import urllib.error

import pytest
import torch
from torchvision.models import _api, get_model_weights

from drstool.checkpoints.checkpoint import Checkpoint, save_checkpoint
from drstool.checkpoints.pretrained import initial_weights
from drstool.errors import InputError


def test_none():
    assert initial_weights("none", "vgg16") is None


@pytest.mark.parametrize("error", [
    urllib.error.URLError("no route to host"), TimeoutError("timed\nout"), RuntimeError("invalid hash value")])
@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "resnet101", "mobilenet_v2"])
def test_download_that_fails(monkeypatch, capsys, tmp_path, backbone, error):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(_api, "load_state_dict_from_url", fail)
    with pytest.raises(InputError) as caught:
        initial_weights("imagenet", backbone)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--init imagenet: ")
    assert backbone in message and "--init FILE" in message and "--init none" in message
    # What to get, and where torchvision looks for it.
    url = get_model_weights(backbone)["IMAGENET1K_V1"].url
    assert f" {url} " in message and f" {tmp_path}/hub/checkpoints, " in message
    assert capsys.readouterr().out == ""


def test_downloaded_weights_are_handed_on(monkeypatch):
    asked = []

    def give(url, *arguments, **more):
        asked.append((url, more.get("check_hash")))
        return {"features.0.weight": torch.ones(1)}

    monkeypatch.setattr(_api, "load_state_dict_from_url", give)
    assert list(initial_weights("imagenet", "vgg16")) == ["features.0.weight"]
    ((url, checked),) = asked
    assert "vgg16-" in url and checked


def test_backbone_without_published_weights():
    with pytest.raises(InputError, match="vgg16-small.*--init none"):
        initial_weights("imagenet", "vgg16-small")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="gone.pth.*imagenet, none"):
        initial_weights(str(tmp_path / "gone.pth"), "vgg16")


def test_files(tmp_path):
    weights = {"features.0.weight": torch.ones(2)}
    torch.save(weights, tmp_path / "state.pth")
    save_checkpoint(tmp_path / "ours.pt", Checkpoint("classifier", ("cat",), {}, {}, weights))
    prefixed = {f"module.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": prefixed, "epoch": 90, "optimizer": {"state": {0: torch.ones(1)}}, "best": torch.ones(1)},
               tmp_path / "training.pth")
    torch.save({"model": weights, "name": "vgg16"}, tmp_path / "model.pth")
    for name in ("state.pth", "ours.pt", "training.pth", "model.pth"):
        found = initial_weights(str(tmp_path / name), "vgg16")
        assert list(found) == ["features.0.weight"]
        assert torch.equal(found["features.0.weight"], weights["features.0.weight"])


@pytest.mark.parametrize("content", [
    {}, [torch.ones(1)], {"model": {"a": 1.0}}, {1: torch.ones(1)}, {"a": 1.0},
    {"format": "drstool", "weights": {}}, {"format": "drstool"}])
def test_files_that_cannot_serve(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match="x.pth: is not a state dict"):
        initial_weights(str(tmp_path / "x.pth"), "vgg16")


def test_a_file_of_several_state_dicts(tmp_path):
    torch.save(dict.fromkeys(("model", "ema"), {"a": torch.ones(1)}), tmp_path / "x.pth")
    with pytest.raises(InputError, match="x.pth: holds 2 state dicts: model, ema; save the one you want in a file of"):
        initial_weights(str(tmp_path / "x.pth"), "vgg16")
