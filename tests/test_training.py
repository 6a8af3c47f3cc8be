"""Schedules, parameter groups, losses and the loop."""

import math
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from drstool.artifacts.header import Header
from drstool.data.item import Dataset, Item
from drstool.data.transforms import ClassifierSamples, RefinerSamples, SegmenterSamples
from drstool.errors import DrstoolError, UsageError
from drstool.formats.label_png import encode_label_png
from drstool.formats.map_file import MapFileWriter
from drstool.formats.records import MapRecord
from drstool.models.build import build_network
from drstool.models.network import build_classifier, build_refiner
from drstool.recipe import ClassifierRecipe, RefinerRecipe, SegmenterRecipe, named_recipe
from drstool.stages import refine_train as refining, train_cls as classifying, train_seg as segmenting
from drstool.training.loop import RunConfig, fit
from drstool.training.reports import Observer
from drstool.training.schedule import Plan, poly_factor, step_factor
from drstool.training.stop import Stop

CLASSES = ("cat", "dog")


# --- schedules -----------------------------------------------------------------------------------


def test_step_schedule():
    """15 epochs: the rate falls at the start of the 5th and of the 10th."""
    factor = step_factor((5, 10), 0.1)
    expected = [1.0] * 4 + [0.1] * 5 + [0.01] * 6
    assert [factor(10 * epoch, epoch) for epoch in range(15)] == pytest.approx(expected)
    assert step_factor((), 0.1)(1000, 99) == 1.0
    assert step_factor((1,), 0.5)(0, 0) == 0.5


def test_poly_schedule():
    factor = poly_factor(10, 0.9, 0.0)
    # (1 - s / 10) ^ 0.9, by hand.
    assert [factor(step, 0) for step in (0, 1, 5, 9)] == pytest.approx([1.0, 0.909533, 0.535887, 0.125893], abs=1e-6)
    assert poly_factor(10, 0.9, 0.2)(9, 0) == 0.2
    assert poly_factor(4, 1.0, 0.0)(3, 0) == 0.25


def test_plans():
    assert Plan(7, 2, 3, 0).total_steps == 6
    assert Plan(7, 2, 3, 0, drop_last=True).total_steps == 4
    assert Plan(2, 2, 3, 0, drop_last=True).total_steps == 2
    assert Plan(7, 2, 3, 0, steps=5).total_steps == 5
    assert Plan(7, 0, 3, 0).total_steps == 0
    plan = Plan(7, 1, 3, 0, steps=5)
    assert plan.total_epochs == 2
    assert [plan.epoch_of(step) for step in range(1, 6)] == [1, 1, 1, 2, 2]
    assert [plan.ends_epoch(step) for step in range(1, 6)] == [False, False, True, False, True]


# --- parameter groups ----------------------------------------------------------------------------


def rates_by_name(model, groups):
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rate) == len(list(model.parameters()))
    return {name: rate[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16-small"])
def test_classifier_learning_rates(backbone):
    recipe = ClassifierRecipe()
    assert (recipe.lr, recipe.bias_lr_factor, recipe.new_lr_factor) == (1e-3, 2, 10)
    with torch.device("meta"):
        model = build_classifier(backbone, 3, "learnable")
    rates = rates_by_name(model, classifying.parameter_groups(model, recipe))
    assert rates["layers.0.conv.weight"] == pytest.approx(1e-3)
    assert rates["layers.12.conv.weight"] == pytest.approx(1e-3)
    assert rates["layers.0.rectifier.controller.weight"] == pytest.approx(1e-2)
    assert rates["layers.13.conv.weight"] == pytest.approx(1e-2)
    assert rates["layers.15.rectifier.controller.weight"] == pytest.approx(1e-2)
    assert rates["output.weight"] == pytest.approx(1e-2)
    assert rates["output.bias"] == pytest.approx(2e-2)
    part = "conv" if backbone == "vgg16" else "norm"
    assert rates[f"layers.1.{part}.bias"] == rates[f"layers.12.{part}.bias"] == pytest.approx(2e-3)
    assert rates[f"layers.13.{part}.bias"] == pytest.approx(2e-2)


def vgg_weights(backbone):
    """A stand-in for torchvision's weights: the trunk's convolutions under its names, all zero."""
    with torch.device("meta"):
        model = build_refiner(backbone, 2)
    return {source: torch.zeros(model.state_dict()[name].shape) for name, source in model.published.items()}


@pytest.mark.parametrize(("start", "new"), [
    # What --init does not fill: with ImageNet's weights the three extra layers and the output, with a
    # classifier's checkpoint or another refiner's the output alone, with nothing everything.
    ("imagenet", ("layers.13.", "layers.14.", "layers.15.", "output.")),
    ("classifier", ("output.",)),
    ("refiner", ("output.",)),
    ("none", ("layers.", "output."))])
def test_refiner_learning_rates(start, new, monkeypatch):
    """As the optimizer gets them; by default one rate for all, as in the authors' code."""
    seen = {}

    def stop(model, loss, samples, optimizer, *arguments, **more):
        seen.update(rates_by_name(model, optimizer.param_groups))

    monkeypatch.setattr(refining, "fit", stop)
    monkeypatch.setattr(refining, "RefinerSamples", lambda *arguments: None)
    backbone = "vgg16" if start == "imagenet" else "vgg16-small"
    weights = {
        "imagenet": lambda: vgg_weights(backbone),
        "classifier": lambda: build_classifier(backbone, 5, "learnable").state_dict(),
        "refiner": lambda: build_refiner(backbone, 2).state_dict(),
        "none": lambda: None}[start]()
    for factor, recipe in ((1, RefinerRecipe()), (50, RefinerRecipe(new_lr_factor=50, lr=1e-5))):
        refining.refine_train([], CLASSES, "maps", replace(recipe, backbone=backbone), RunConfig(), weights=weights)
        assert {name for name, rate in seen.items() if rate == recipe.lr * factor} == {
            name for name in seen if factor == 1 or name.startswith(new)}
        assert set(seen.values()) <= {recipe.lr, recipe.lr * factor}


def test_segmenter_learning_rates():
    recipe = SegmenterRecipe()
    model, _ = build_network("segmenter", {"backbone": "vgg16-small", "output_stride": 16}, CLASSES)
    rates = rates_by_name(model, segmenting._parameter_groups(model, recipe))
    for name, rate in rates.items():
        assert rate == pytest.approx(recipe.lr * (0.1 if name.startswith("backbone.") else 1))
    assert len(set(rates.values())) == 2


def test_published_numbers():
    paper = {kind: named_recipe("paper", kind) for kind in (ClassifierRecipe, RefinerRecipe, SegmenterRecipe)}
    classifier, refiner, segmenter = paper.values()
    assert (classifier.warp_size, classifier.image_size, classifier.batch_size, classifier.epochs) == (384, 320, 5, 15)
    assert (classifier.momentum, classifier.weight_decay, classifier.decay_epochs) == (0.9, 5e-4, (5, 10))
    assert (refiner.lr, refiner.epochs, refiner.decay_epochs) == (1e-4, 30, (10, 20))
    assert (segmenter.steps, segmenter.batch_size, segmenter.image_size, segmenter.lr) == (20_000, 32, 513, 0.05)
    assert (segmenter.poly_power, segmenter.weight_decay, segmenter.backbone_lr_factor) == (0.9, 1e-4, 0.1)


# --- losses --------------------------------------------------------------------------------------


def test_multi_label_soft_margin_loss():
    maps, tags = torch.randn(2, 3, 4, 5), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    total = 0.0
    for n in range(2):
        for c in range(3):
            p = 1 / (1 + math.exp(-maps[n, c].mean().item()))
            total -= (math.log(p) if tags[n, c] else math.log(1 - p)) / (2 * 3)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert classifying._loss(lambda seen: maps, [images, tags]).item() == pytest.approx(total, rel=1e-5)


def test_regression_loss():
    """The maps are upsampled to the image, and the target's bytes are 255ths."""
    maps = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.5]]]])
    target = torch.tensor([[[[0, 255, 51, 255]], [[0, 0, 102, 0]]]], dtype=torch.uint8)
    errors = [0.0, 1 / 3 - 1, 2 / 3 - 0.2, 0.0, 0.5, 0.5, 0.5 - 0.4, 0.5]
    expected = sum(error ** 2 for error in errors) / 8
    images = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    assert refining._loss(lambda seen: maps, [images, target]).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_skips_ignored_pixels():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[torch.rand(2, 4, 5) < 0.4] = 255
    total, count = 0.0, 0
    for n in range(2):
        for y in range(4):
            for x in range(5):
                if labels[n, y, x] != 255:
                    powers = [math.exp(logit) for logit in logits[n, :, y, x].tolist()]
                    total -= math.log(powers[labels[n, y, x]] / sum(powers))
                    count += 1
    images = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    assert 0 < count < 40
    assert segmenting._loss(lambda seen: logits, [images, labels]).item() == pytest.approx(total / count, rel=1e-5)


def test_cross_entropy_of_ignored_pixels_only():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmenting._loss(
        lambda seen: logits, [torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 255)])
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


# --- the loop ------------------------------------------------------------------------------------


class Reports(Observer):
    """Keeps the reports of the epochs."""

    def __init__(self):
        self.epochs = []

    def epoch_ended(self, report):
        self.epochs.append(report)


class Numbers:
    """Sample i is the number i."""

    def __init__(self, count):
        self.count = count
        self.asked = []

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        self.asked.append(key)
        return self.id_of(key[1]), torch.tensor([float(key[1])])

    def id_of(self, index):
        return f"id {index}"


class Recorder(torch.optim.SGD):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.rates = []

    def step(self, closure=None):
        self.rates.append([group["lr"] for group in self.param_groups])
        return super().step(closure)


def run(samples, plan, *, loss=None, factor=lambda step, epoch: 1.0, groups=None, **more):
    model = nn.Linear(1, 1)
    optimizer = Recorder(groups(model) if groups else model.parameters(), lr=1e-3)
    loss = loss or (lambda model, batch: batch[0].mean() + 0 * model(batch[0]).sum())
    fit(model, loss, samples, optimizer, factor, plan, RunConfig(**more))
    return optimizer


def test_every_epoch_is_another_order_of_all_images():
    samples = Numbers(10)
    run(samples, Plan(10, 3, 4, seed=1))
    epochs = [[i for epoch, i in samples.asked if epoch == e] for e in range(3)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    again, other = Numbers(10), Numbers(10)
    run(again, Plan(10, 3, 4, seed=1))
    run(other, Plan(10, 3, 4, seed=2))
    assert again.asked == samples.asked != other.asked


def test_rates_follow_the_schedule():
    def groups(model):
        return [{"params": [model.weight], "lr": 1.0}, {"params": [model.bias], "lr": 0.5}]

    optimizer = run(
        Numbers(5), Plan(5, 3, 2, seed=0), groups=groups, factor=lambda step, epoch: 10.0 ** -epoch + step)
    assert optimizer.rates == [
        [pytest.approx(scale * (10.0 ** -(step // 3) + step)) for scale in (1.0, 0.5)] for step in range(9)]


def test_reported_loss_is_the_mean_over_images():
    reports = Reports()
    run(Numbers(7), Plan(7, 2, 3, seed=0), observer=reports)
    assert [report.loss for report in reports.epochs] == pytest.approx([3.0, 3.0])
    assert [(report.epoch, report.epochs, report.step) for report in reports.epochs] == [(1, 2, 3), (2, 2, 6)]


def test_run_that_ends_within_an_epoch():
    samples, reports = Numbers(6), Reports()
    optimizer = run(samples, Plan(6, 1, 2, seed=0, steps=4), observer=reports)
    assert len(optimizer.rates) == 4
    assert [(report.epoch, report.step) for report in reports.epochs] == [(1, 3), (2, 4)]
    assert [epoch for epoch, _ in samples.asked] == [0] * 6 + [1] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_run(bad):
    samples = Numbers(8)
    seen = []

    def loss(model, batch):
        seen.append(sorted(int(value) for value in batch[0].flatten()))
        return model(batch[0]).sum() * 0 + (bad if len(seen) == 3 else 1.0)

    with pytest.raises(DrstoolError) as caught:
        run(samples, Plan(8, 1, 2, seed=0), loss=loss)
    message = str(caught.value)
    assert "step 3" in message
    assert all(f"id {i}" in message for i in seen[2])
    assert not any(f"id {i}" in message for i in seen[1])
    assert str(bad) in message


@pytest.fixture
def handled():
    """Numbers of the signals that were handled, in their order; nothing else comes of them."""
    seen, numbers = [], (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda number, frame: seen.append(number)) for number in numbers}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_wait_for_where_they_may_act(handled):
    with Stop() as stop:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        assert handled == []
        with stop.interruptible():
            assert handled == [signal.SIGTERM, signal.SIGCHLD]
            signal.raise_signal(signal.SIGINT)
            assert handled.pop() == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        with stop.final_save():
            signal.raise_signal(signal.SIGTERM)
            assert len(handled) == 2
            signal.raise_signal(signal.SIGINT)
            assert handled.pop() == signal.SIGINT and len(handled) == 2
    # What still waits at the end.
    assert handled[2:] == [signal.SIGTERM]
    signal.raise_signal(signal.SIGINT)
    assert handled[3:] == [signal.SIGINT]


@pytest.mark.parametrize(("error", "expected"), [(ValueError, [signal.SIGTERM]), (KeyboardInterrupt, [])])
def test_a_signal_is_not_lost_with_an_error_and_replaces_no_other(handled, error, expected):
    with pytest.raises(error), Stop():
        signal.raise_signal(signal.SIGTERM)
        raise error
    assert handled == expected


def test_signals_that_come_while_another_is_handled():
    """Such as of several workers that end at once; each is handled, and none stands in another's way."""
    seen, numbers = [], (signal.SIGTERM, signal.SIGCHLD)

    def handle(number, frame):
        seen.append(number)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGCHLD)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        with Stop() as stop:
            for number in numbers:
                signal.raise_signal(number)
            with stop.interruptible():
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIGTERM, signal.SIGCHLD]


def test_model_is_trained_in_training_mode_and_left_in_evaluation_mode():
    modes = []
    model = nn.Sequential(nn.Linear(1, 1))

    def loss(model, batch):
        modes.append(model.training)
        return model(batch[0]).sum()

    fit(model.eval(), loss, Numbers(2), torch.optim.SGD(model.parameters(), lr=0.1),
        lambda step, epoch: 1.0, Plan(2, 1, 2, 0), RunConfig())
    assert modes == [True]
    assert not model.training


# --- the stages ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Five pictures with tags, maps and labels."""
    root = tmp_path_factory.mktemp("training")
    random = np.random.default_rng(0)
    items, labels = [], {}
    with MapFileWriter(root / "maps.h5", Header("localization-maps", CLASSES, ())) as writer:
        for i in range(5):
            size = (36 + 4 * i, 50 - 3 * i)
            path = root / f"{i}.png"
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
            items.append(Item(str(i), path, tags=(CLASSES[i % 2],)))
            labels[str(i)] = root / f"label{i}.png"
            labels[str(i)].write_bytes(encode_label_png(random.integers(0, 3, size, dtype=np.uint8)))
            values = random.integers(0, 256, (1, 20, 20), dtype=np.uint8)
            writer.write(MapRecord(str(i), values, (i % 2 + 1,), size, str(path)))
    return Dataset(tuple(items), CLASSES, "data", "manifest"), root / "maps.h5", labels


def train(stage, world, *, epochs=2, seed=0, workers=0, **more):
    dataset, maps, labels = world
    small = {"backbone": "vgg16-small", "image_size": 32, "epochs": epochs, "batch_size": 2}
    config = RunConfig(seed=seed, workers=workers)
    if stage == "classifier":
        return classifying.train_cls(dataset, CLASSES, ClassifierRecipe(**small), config, **more)
    if stage == "refiner":
        return refining.refine_train(dataset, CLASSES, maps, RefinerRecipe(**small), config, **more)
    return segmenting.train_seg(dataset, CLASSES, labels, SegmenterRecipe(**small), config, **more)


STAGES = ["classifier", "refiner", "segmenter"]


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("stage", STAGES)
def test_weights_do_not_depend_on_workers(world, stage):
    alone = train(stage, world, workers=0)
    helped = train(stage, world, workers=2)
    assert same(alone.weights, helped.weights)
    assert not same(alone.weights, train(stage, world, seed=1).weights)


def test_samples_can_be_sent_to_processes_that_are_no_copies(world):
    """As where processes are spawned; also when their HDF5 file is open already."""
    dataset, maps, labels = world
    small = {"backbone": "vgg16-small", "image_size": 32}
    for samples in (
        ClassifierSamples(dataset, CLASSES, ClassifierRecipe(**small), 0),
        RefinerSamples(dataset, maps, RefinerRecipe(**small), 0),
        SegmenterSamples(dataset, labels, CLASSES, SegmenterRecipe(**small), 0),
    ):
        here = samples[1, 2]
        there = pickle.loads(pickle.dumps(samples))[1, 2]
        assert here[0] == there[0]
        assert all(torch.equal(a, b) for a, b in zip(here[1:], there[1:]))


@pytest.mark.parametrize("stage", STAGES)
def test_no_epoch_gives_the_network_as_initialised(world, stage):
    found = train(stage, world, epochs=0, seed=5)
    torch.manual_seed(5)
    model, _ = build_network(stage, found.architecture, CLASSES)
    assert found.kind == stage
    assert same(found.weights, model.state_dict())


def test_training_starts_from_the_given_weights(world):
    first = train("classifier", world, epochs=1)
    found = train("refiner", world, epochs=0, weights=first.weights)
    for index in range(16):
        name = f"layers.{index}.conv.weight"
        assert torch.equal(found.weights[name], first.weights[name])


def test_refiner_of_a_trained_network_begins_with_empty_maps(world):
    """Its output is new, and at random would be noise over features that already are strong."""
    classifier = train("classifier", world, epochs=1)
    found = train("refiner", world, epochs=0, weights=classifier.weights)
    model, _ = build_network("refiner", found.architecture, CLASSES)
    model.load_state_dict(found.weights)
    with torch.no_grad():
        assert not model.eval()(torch.randn(1, 3, 32, 32)).any()
    dataset, maps, _ = world
    recipe = RefinerRecipe(epochs=0, image_size=32)
    published = refining.refine_train(
        dataset, CLASSES, maps, recipe, RunConfig(), weights=vgg_weights("vgg16")).weights
    assert not published["layers.12.conv.weight"].any()
    for name in ("layers.13.conv.weight", "layers.15.conv.weight", "output.weight"):
        assert published[name].std() == pytest.approx(0.01, rel=0.1)


def test_refiner_of_a_trained_network_learns(world):
    """The empty start is no dead one: the output moves first, then what lies before it."""
    start = train("classifier", world, epochs=1).weights
    found = train("refiner", world, epochs=2, weights=start).weights
    assert found["output.weight"].any()
    assert not torch.equal(found["layers.0.conv.weight"], start["layers.0.conv.weight"])


@pytest.fixture(scope="module")
def easy_world(tmp_path_factory):
    """Four pictures of one colour each, which says what is on all of their pixels: a red cat or a blue dog."""
    root = tmp_path_factory.mktemp("easy")
    size, items, labels = (40, 48), [], {}
    with MapFileWriter(root / "maps.h5", Header("localization-maps", CLASSES, ())) as writer:
        for i in range(4):
            path, label = root / f"{i}.png", i % 2 + 1
            Image.new("RGB", size[::-1], ((230, 30, 30), (30, 30, 230))[label - 1]).save(path)
            items.append(Item(str(i), path, tags=(CLASSES[label - 1],)))
            labels[str(i)] = root / f"label{i}.png"
            labels[str(i)].write_bytes(encode_label_png(np.full(size, label, np.uint8)))
            writer.write(MapRecord(str(i), np.full((1, 20, 20), 255, np.uint8), (label,), size, str(path)))
    return Dataset(tuple(items), CLASSES, "data", "manifest"), root / "maps.h5", labels


@pytest.mark.parametrize("stage", STAGES)
def test_training_lowers_the_loss(easy_world, stage):
    """To a small part of what it was, on whatever processor: what there is to learn is plain to see."""
    dataset, maps, labels = easy_world
    reports = Reports()
    config = RunConfig(observer=reports)
    small = {"backbone": "vgg16-small", "image_size": 32, "batch_size": 4, "epochs": 25}
    plain = small | {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "decay_epochs": (), "lr": 1e-3}
    if stage == "classifier":
        recipe = ClassifierRecipe(optimizer="adam", new_lr_factor=1, bias_lr_factor=1, **plain)
        classifying.train_cls(dataset, CLASSES, recipe, config)
    elif stage == "refiner":
        refining.refine_train(dataset, CLASSES, maps, RefinerRecipe(**plain), config)
    else:
        segmenting.train_seg(dataset, CLASSES, labels, SegmenterRecipe(lr=0.02, **small), config)
    losses = [report.loss for report in reports.epochs]
    assert len(losses) == 25
    assert losses[-1] < losses[0] / 4


def test_settings_that_cannot_be(world):
    dataset, _, labels = world
    small = {"backbone": "vgg16-small", "image_size": 32}
    with pytest.raises(UsageError, match="--resize-size"):
        classifying.train_cls(dataset, CLASSES, ClassifierRecipe(resize_size=20, **small), RunConfig())
    with pytest.raises(UsageError, match="--scale-min"):
        segmenting.train_seg(
            dataset, CLASSES, labels, SegmenterRecipe(scale_min=2.0, scale_max=1.0, **small), RunConfig())
    one = Dataset(dataset.items[:1], CLASSES, "data", "manifest")
    with pytest.raises(UsageError, match="one image"):
        segmenting.train_seg(one, CLASSES, labels, SegmenterRecipe(**small), RunConfig())
