"""The same numbers on a GPU as on the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.data.item import Dataset, Item
from drstool.inference import Execution
from drstool.mapping import OnHost, encoded
from drstool.models.build import build_network
from drstool.models.drs import LearnableDRS, suppress
from drstool.recipe import CamSettings, ClassifierRecipe, RefineSettings, SegmentSettings
from drstool.stages.cam import cam
from drstool.stages.refine import refine
from drstool.stages.segment import segment
from drstool.stages.train_cls import train_cls
from drstool.training.loop import RunConfig
from drstool.training.reports import Observer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CLASSES = ("cat", "dog", "cow")
ARCHITECTURE = {
    "backbone": "vgg16-small", "suppression": "learnable", "delta": 0.55, "drs_layers": list(range(16))}


def on(device, **more):
    return Execution(torch.device(device), **more)


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
        list(cam(dataset.items, checkpoint, CamSettings(), method=method, dtype="float16", execution=on(name)))
        for name in ("cpu", "cuda"))
    for left, right in zip(on_cpu, on_gpu, strict=True):
        assert left.labels == right.labels
        np.testing.assert_allclose(left.values.astype(float), right.values.astype(float), atol=5e-3)


class Losses(Observer):
    """Keeps the losses of the epochs."""

    def __init__(self):
        self.losses = []

    def epoch_ended(self, report):
        self.losses.append(report.loss)


def test_training_step(dataset):
    recipe = ClassifierRecipe(backbone="vgg16-small", image_size=48, batch_size=3, epochs=1)
    losses, weights = [], []
    for name in ("cpu", "cuda"):
        watch = Losses()
        found = train_cls(dataset, CLASSES, recipe, RunConfig(device=torch.device(name), observer=watch))
        losses += watch.losses
        weights.append({key: value.cpu().float() for key, value in found.weights.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for key, left in weights[0].items():
        torch.testing.assert_close(left, weights[1][key], rtol=1e-3, atol=1e-4, msg=key)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model, _ = build_network("classifier", ARCHITECTURE, CLASSES)
    return Checkpoint("classifier", CLASSES, ARCHITECTURE, {"image_size": 48}, model.state_dict())


def of(dataset, copies=7):
    """The images several times over, so that there are several batches."""
    from dataclasses import replace

    return [replace(item, id=f"{item.id}-{i}") for i in range(copies) for item in dataset.items]


def test_suppression_without_gradients():
    """What is overwritten in inference is what training gives."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 11, device="cuda")
    module = LearnableDRS(6).cuda()
    expected = module(x.clone()).detach()
    with torch.no_grad():
        torch.testing.assert_close(module(x.clone()), expected)


@pytest.mark.parametrize("batch_size", [0, 1, 4])
@pytest.mark.parametrize("map_size", ["square", "image"])
def test_batches_come_in_order(dataset, classifier, batch_size, map_size):
    """The pipeline is one batch behind: no record may be of another image, or be told too early."""
    items = of(dataset)
    settings = CamSettings(batch_size=batch_size)
    on_cpu, on_gpu = (
        list(cam(items, classifier, settings, map_size=map_size, execution=on(name, workers=4)))
        for name in ("cpu", "cuda"))
    assert [record.id for record in on_gpu] == [item.id for item in items]
    for left, right in zip(on_cpu, on_gpu, strict=True):
        assert (left.id, left.labels, left.image_size) == (right.id, right.labels, right.image_size)
        assert np.abs(left.values.astype(int) - right.values.astype(int)).max() <= 1


@pytest.mark.parametrize("precision, tolerance", [("float16", 0.05), ("bfloat16", 0.3)])
def test_shorter_precisions(dataset, classifier, precision, tolerance):
    exact, short = (
        list(cam(dataset.items, classifier, CamSettings(), dtype="float16", execution=on("cuda", precision=name)))
        for name in ("float32", precision))
    for left, right in zip(exact, short, strict=True):
        np.testing.assert_allclose(left.values.astype(float), right.values.astype(float), atol=tolerance)


def test_refiner_and_segmenter(dataset):
    torch.manual_seed(0)
    parts = {"backbone": "vgg16-small"}
    refiner, _ = build_network("refiner", parts, CLASSES)
    refiner = Checkpoint("refiner", CLASSES, parts, {"image_size": 48}, refiner.state_dict())
    parts = {"backbone": "vgg16-small", "output_stride": 16}
    segmenter, _ = build_network("segmenter", parts, CLASSES)
    segmenter = Checkpoint("segmenter", CLASSES, parts, {}, segmenter.state_dict())
    items = of(dataset, 2)
    found = []
    for name in ("cpu", "cuda"):
        found.append((
            list(refine(items, refiner, RefineSettings(batch_size=4), execution=on(name))),
            list(segment(items, segmenter, SegmentSettings(flip=True), scores=True, execution=on(name)))))
    for left, right in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(left.values.astype(float), right.values.astype(float), atol=5e-3)
    for (left, scores), (right, others) in zip(found[0][1], found[1][1], strict=True):
        assert left.id == right.id == others.id
        assert (left.labels == right.labels).mean() > 0.99
        assert scores.image_size == others.image_size


def test_encoding_on_the_device():
    torch.manual_seed(0)
    maps = torch.rand(3, 20, 30)
    for dtype in ("uint8", "float16"):
        values, finite = OnHost(encoded(maps.cuda(), dtype)).arrays()
        assert finite
        assert np.array_equal(values, encoded(maps, dtype)[0].numpy())


def test_memory_that_runs_short(dataset, classifier, monkeypatch):
    """The automatic batch goes down to what there is room for; the maps stay the same."""
    import drstool.stages.cam as stage

    true = stage.fused_maps
    tried = []

    def narrow(network, images, *rest, **more):
        tried.append(len(images))
        if len(images) > 5:
            torch.empty(1 << 60, dtype=torch.uint8, device="cuda")
        return true(network, images, *rest, **more)

    expected = list(cam(of(dataset), classifier, CamSettings(batch_size=5), execution=on("cuda")))
    monkeypatch.setattr(stage, "fused_maps", narrow)
    found = list(cam(of(dataset), classifier, CamSettings(), execution=on("cuda")))
    assert tried[:3] == [21, 10, 5]
    for left, right in zip(expected, found, strict=True):
        assert left.id == right.id
        assert np.abs(left.values.astype(int) - right.values.astype(int)).max() <= 1


def test_computing_restores_settings():
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    with on("cuda", tf32=False).computing(same_size=True):
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == (True, False)
    assert before == (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
