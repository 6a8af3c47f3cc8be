"""The same numbers on a GPU as on the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from drstool.data.item import Dataset, Item
from drstool.formats.checkpoint import Checkpoint
from drstool.models.build import build_network
from drstool.models.drs import LearnableDRS, suppress
from drstool.recipe import CamSettings, ClassifierRecipe
from drstool.stages.cam import cam
from drstool.stages.train_cls import train_cls

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CLASSES = ("cat", "dog", "cow")
ARCHITECTURE = {
    "backbone": "vgg16-small", "suppression": "learnable", "delta": 0.55, "drs_layers": list(range(16))}


@pytest.fixture(autouse=True)
def exact_products():
    """Products in float32 proper, not in the GPU's shorter formats."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def dataset(tmp_path):
    random = np.random.default_rng(0)
    items = []
    for i, tags in enumerate((("cat",), ("dog", "cow"), CLASSES)):
        path = tmp_path / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (50 + i, 64, 3), dtype=np.uint8)).save(path)
        items.append(Item(str(i), path, tags=tags))
    return Dataset(tuple(items), CLASSES, "data", "manifest")


@pytest.mark.parametrize("channels_last", [False, True])
def test_suppression(channels_last):
    torch.manual_seed(0)
    x, ahead = torch.randn(2, 2, 5, 9, 11, dtype=torch.float64)
    k = torch.rand(2, 5, dtype=torch.float64)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found = []
    for device in ("cpu", "cuda"):
        moved = x.to(device).contiguous(memory_format=layout).requires_grad_()
        bound = k.to(device).requires_grad_()
        y = suppress(moved, bound)
        grads = torch.autograd.grad(y, (moved, bound), ahead.to(device))
        found.append([value.detach().cpu() for value in (y, *grads)])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


def test_learnable_suppression():
    torch.manual_seed(0)
    x, ahead = torch.randn(2, 2, 6, 9, 11)
    module = LearnableDRS(6)
    found = []
    for device in ("cpu", "cuda"):
        module.to(device)
        moved = x.to(device).requires_grad_()
        y = module(moved)
        grads = torch.autograd.grad(y, (moved, module.controller.weight), ahead.to(device))
        found.append([value.detach().cpu() for value in (y, *grads)])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["drs", "cam", "grad-cam"])
def test_maps(dataset, method):
    torch.manual_seed(0)
    model, _ = build_network("classifier", ARCHITECTURE, CLASSES)
    checkpoint = Checkpoint("classifier", CLASSES, ARCHITECTURE, {"image_size": 48}, model.state_dict())
    on_cpu, on_gpu = (
        list(cam(dataset.items, checkpoint, CamSettings(), method=method, dtype="float16", device=torch.device(name)))
        for name in ("cpu", "cuda"))
    for left, right in zip(on_cpu, on_gpu, strict=True):
        assert left.labels == right.labels
        np.testing.assert_allclose(left.values.astype(float), right.values.astype(float), atol=5e-3)


def test_training_step(dataset):
    recipe = ClassifierRecipe(backbone="vgg16-small", image_size=48, batch_size=3, epochs=1)
    losses, weights = [], []
    for name in ("cpu", "cuda"):
        found = train_cls(
            dataset, CLASSES, recipe, device=torch.device(name), on_epoch=lambda report: losses.append(report.loss))
        weights.append({key: value.cpu().float() for key, value in found.weights.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for key, left in weights[0].items():
        torch.testing.assert_close(left, weights[1][key], rtol=1e-3, atol=1e-4, msg=key)
