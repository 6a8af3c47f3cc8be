"""How long and with what steps trainings learn, what is measured meanwhile, and what is said of it."""

import json
import math
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional as F

from drstool.data.item import Dataset, Item
from drstool.errors import InputError
from drstool.metrics import above_chance, average_precision, chance_precision
from drstool.models.drs import FixedDRS
from drstool.recipe import FEW_IMAGES, ClassifierRecipe, Optimization, RefinerRecipe, SegmenterRecipe, named_recipe
from drstool.reports.learning import about_length, about_tags, classifier_verdict, regression_verdict
from drstool.stages import refine_train as refining, train_cls as classifying, train_seg as segmenting
from drstool.training.loop import RunConfig, fit
from drstool.training.meters import Meter, SumMeter, TagMeter, tag_loss, tag_metrics
from drstool.training.optimizer import build_optimizer
from drstool.training.reports import Observer
from drstool.training.schedule import Plan, learning_rate_schedule, ramp, recorded, stretched

CLASSES = ("cat", "dog", "owl")
# Three classes in six images: the last is rare.
PRESENT = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)


# --- average precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_average_precision_is_that_of_scikit_learn(levels):
    """Few levels: most scores are equal to others."""
    random = np.random.default_rng(levels)
    scores = random.integers(0, levels, (60, 7)) / 8 - 3
    present = random.random((60, 7)) < np.array([0.02, 0.1, 0.3, 0.5, 0.9, 1.0, 0.5])
    present[0, 0] = True
    expected = [average_precision_score(present[:, c], scores[:, c]) for c in range(7)]
    assert average_precision(scores, present) == pytest.approx(expected, rel=1e-12)


def test_average_precision_of_nothing():
    scores = np.random.default_rng(0).random((4, 2))
    precision = average_precision(scores, np.array([[0, 1]] * 4))
    assert math.isnan(precision[0]) and precision[1] == 1
    assert tag_metrics(torch.from_numpy(scores), torch.tensor([[0, 1]] * 4)) == {
        "ap": [None, 1.0], "map": 1.0, "positives": [0, 4], "images": 4}


def test_chance_is_the_mean_over_random_orders():
    random = np.random.default_rng(0)
    for positives, images in ((1, 6), (2, 6), (5, 30), (1, 1), (3, 3)):
        present = (np.arange(images) < positives)[:, None]
        drawn = [average_precision(random.random((images, 1)), present)[0] for _ in range(4000)]
        error = np.std(drawn) / math.sqrt(len(drawn))
        assert abs(np.mean(drawn) - chance_precision(np.array([positives]), images)[0]) <= 5 * error + 1e-12


def test_scale_from_chance_to_perfect():
    positives = np.array([0, 2, 2, 6])
    chance = chance_precision(positives, 6)
    found = above_chance(np.array([np.nan, chance[1], 1.0, 1.0]), positives, 6)
    assert found[1:3].tolist() == [0, 1]
    # Of what no image has, and of what all have, nothing can be said.
    assert np.isnan(found[[0, 3]]).all()


# --- length, schedules, optimizers ---------------------------------------------------------------


def test_at_least_so_many_steps():
    plan = Plan(7, 2, 3, 0)  # 3 steps an epoch
    assert plan.at_least(0) == plan.at_least(6) == plan
    assert [plan.at_least(steps).epochs for steps in (7, 9, 10)] == [3, 3, 4]
    assert plan.at_least(10).total_steps == 12
    assert Plan(7, 2, 3, 0, drop_last=True).at_least(5).epochs == 3
    stopping = Plan(7, 1, 3, 0, steps=5)
    assert stopping.at_least(4) == stopping
    assert stopping.at_least(8).total_steps == 8
    # The network as it is initialised is asked for.
    assert Plan(7, 0, 3, 0).at_least(100).total_steps == 0


def test_schedules_follow_the_whole_length():
    planned = Plan(20, 15, 2, 0)
    plan = planned.at_least(600)
    assert (planned.total_steps, plan.epochs) == (150, 60)
    # After 4/15 and 9/15 of 60 epochs.
    assert stretched((5, 10), plan) == (17, 37) and stretched((5, 10), planned) == (5, 10)
    step = learning_rate_schedule(Optimization(), plan)
    assert [step(0, epoch) for epoch in (15, 16, 35, 36, 59)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert [learning_rate_schedule(Optimization(), planned)(0, e) for e in (3, 4, 9)] == pytest.approx(
        [1, 0.1, 0.01])
    poly = learning_rate_schedule(Optimization(schedule="poly"), plan)
    assert [poly(step, 0) for step in (0, 300, 599)] == pytest.approx([1, 0.5**0.9, (1 / 600)**0.9])
    assert learning_rate_schedule(Optimization(schedule="poly"), plan, 0.25)(599, 0) == 0.25


@pytest.mark.parametrize("schedule", ["step", "poly"])
def test_warm_up_rises_to_the_schedule(schedule):
    plan = Plan(100, 1, 1, 0)
    cold = learning_rate_schedule(Optimization(schedule=schedule), plan)
    warm = learning_rate_schedule(Optimization(schedule=schedule, warmup=0.1), plan)
    expected = [cold(step, 0) * min(1, (step + 1) / 10) for step in range(100)]
    assert [warm(step, 0) for step in range(100)] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "kind"), [
    ("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
@pytest.mark.parametrize("recipe", [ClassifierRecipe, RefinerRecipe, SegmenterRecipe])
def test_optimizers(name, kind, recipe):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.25}]
    optimizer = build_optimizer(groups, recipe(optimizer=name, lr=0.5, weight_decay=0.125), nesterov=True)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], optimizer.defaults["lr"]) == (0.25, 0.125, 0.5)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.9, True)
        assert not build_optimizer(groups, recipe(optimizer=name)).defaults["nesterov"]


def test_decoupled_weight_decay():
    """A weight without a gradient shrinks by rate times decay, however large it is."""
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = build_optimizer([{"params": [weight]}], ClassifierRecipe(optimizer="adamw", lr=0.1, weight_decay=0.5))
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(3 * (1 - 0.1 * 0.5))


class Ones:
    def __init__(self, count):
        self.count = count

    def __getitem__(self, key):
        return self.id_of(key[1]), torch.ones(1)

    def id_of(self, index):
        return str(index)


@pytest.mark.parametrize(("limit", "moved"), [(0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_gradients_are_clipped_to_a_norm(limit, moved):
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    fit(model, lambda m, batch: (m.weight * torch.tensor([[3.0, 4.0]])).sum() * batch[0].mean(), Ones(1),
        torch.optim.SGD(model.parameters(), lr=1.0), lambda step, epoch: 1.0, Plan(1, 1, 1, 0), RunConfig(),
        clip_norm=limit)
    assert model.weight[0].tolist() == pytest.approx([-value for value in moved], rel=1e-5)


def test_what_is_done_before_each_step():
    model, seen = nn.Linear(1, 1), []
    fit(model, lambda m, batch: m(batch[0]).sum(), Ones(4), torch.optim.SGD(model.parameters(), lr=0.0),
        lambda step, epoch: 1.0, Plan(4, 2, 2, 0), RunConfig(), before_step=seen.append)
    assert seen == [0, 1, 2, 3]


class Drawing(Meter):
    def measure(self, model):
        return {"drawn": torch.rand(3).sum().item()}


def test_measuring_draws_none_of_the_random_numbers_of_training():
    def losses(meter):
        torch.manual_seed(0)
        model, listener = nn.Linear(1, 1), Listener()
        fit(model, lambda m, batch: m(batch[0]).sum() * 0 + torch.rand(()), Ones(2),
            torch.optim.SGD(model.parameters(), lr=0.0), lambda step, epoch: 1.0, Plan(2, 3, 1, 0),
            RunConfig(observer=listener), meter=meter)
        return [report.loss for report in listener.epochs], [report.metrics for report in listener.epochs]

    plain, _ = losses(None)
    found, metrics = losses(Drawing())
    assert found == plain and len(set(plain)) == 3
    assert [list(each) for each in metrics] == [["drawn"]] * 3


def test_recipes_record_what_ran():
    planned = Plan(7, 2, 3, 0)
    recipe = ClassifierRecipe(epochs=2, min_steps=7)
    assert recorded(recipe, planned) == vars(recipe)
    assert recorded(recipe, planned.at_least(7)) == vars(recipe) | {"trained_epochs": 3, "trained_steps": 9}


def test_light_is_for_few_images():
    light = {kind: named_recipe("light", kind) for kind in (ClassifierRecipe, RefinerRecipe, SegmenterRecipe)}
    assert {recipe.backbone for recipe in light.values()} == {"mobilenet_v2"}
    assert about_tags(PRESENT, CLASSES, light[ClassifierRecipe])[1:] == []
    told = about_tags(PRESENT, CLASSES, ClassifierRecipe())[-1]
    assert told == f"these settings are meant for more images; for fewer than {FEW_IMAGES:,}, try --recipe light"
    many = np.tile(PRESENT, (FEW_IMAGES // 6 + 1, 1))
    assert about_tags(many, CLASSES, ClassifierRecipe()) == []


# --- the order of the images ----------------------------------------------------------------------


def test_each_image_comes_once():
    assert sorted(Plan(6, 1, 2, 0).order(5)) == [(5, i) for i in range(6)]


def test_an_image_drawn_twice_is_augmented_twice(world):
    samples = classifying.ClassifierSamples(world, CLASSES, ClassifierRecipe(image_size=32), 0)
    first, again, second = samples[1, 2], samples[1, 2], samples[1, 2, 1]
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


# --- what is measured ----------------------------------------------------------------------------


def test_loss_of_frequencies_is_the_lowest_constant_one():
    tags = torch.from_numpy(PRESENT).float()
    frequencies = PRESENT.mean(axis=0)
    logits = torch.from_numpy(frequencies).logit().float().expand(6, 3)
    assert tag_loss(frequencies) == pytest.approx(F.multilabel_soft_margin_loss(logits, tags).item(), rel=1e-6)
    for shift in (-0.1, 0.1):
        assert F.multilabel_soft_margin_loss(logits + shift, tags).item() > tag_loss(frequencies)


def test_the_meter_of_tags_continues_where_it_was():
    torch.manual_seed(0)
    scores, tags = torch.randn(6, 3), torch.from_numpy(PRESENT).float()
    whole, first, second = TagMeter(0.5), TagMeter(0.5), TagMeter(0.5)
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        whole.add(scores[part], tags[part])
    first.add(scores[:2], tags[:2])
    state = first.state_dict()
    second.load_state_dict(state)
    assert torch.equal(first.state_dict()["scores"], scores[:2])
    for part in (slice(2, 4), slice(4, 6)):
        second.add(scores[part], tags[part])
    assert second.measure(None) == whole.measure(None) == {"baseline": 0.5} | tag_metrics(scores, tags)
    whole.reset()
    assert whole.measure(None) == {"baseline": 0.5} and whole.state_dict() == {}


def test_baseline_of_a_refiner_is_the_loss_of_the_mean_of_each_class():
    torch.manual_seed(0)
    targets = torch.randint(0, 256, (6, 2, 4, 5), dtype=torch.uint8)
    images = torch.zeros(6, 3, 4, 5, dtype=torch.uint8)
    meter = refining._MapLoss(refining._loss_of_means)
    for part in (slice(0, 4), slice(4, 6)):
        meter(lambda seen: torch.zeros(len(seen), 2, 4, 5), [images[part], targets[part]])
    values = targets.float() / 255
    expected = F.mse_loss(values.mean(dim=(0, 2, 3), keepdim=True).expand_as(values), values).item()
    assert meter.measure(None) == {"baseline": pytest.approx(expected, rel=1e-5)}
    other = SumMeter(refining._loss_of_means)
    other.load_state_dict(meter.state_dict())
    assert other.measure(None) == meter.measure(None)


def test_baseline_of_a_segmenter_is_the_entropy_of_labels():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[torch.rand(2, 4, 5) < 0.3] = 255
    meter = segmenting._LabelLoss(2)
    images = torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    for part in (labels[:1], labels[1:]):
        meter(lambda seen: torch.zeros(1, 3, 4, 5), [images, part])
    counts = [(labels == label).sum().item() for label in range(3)]
    expected = -sum(count / sum(counts) * math.log(count / sum(counts)) for count in counts)
    assert meter.measure(None) == {"baseline": pytest.approx(expected)}
    assert sum(counts) < labels.numel()


# --- what is said --------------------------------------------------------------------------------


def test_length_is_told():
    plan = Plan(311, 15, 3, 0)
    assert about_length(plan, ClassifierRecipe(), 20) == "311 images of 20 classes, 1,560 steps in 15 epochs"
    recipe = ClassifierRecipe(min_steps=5000)
    assert about_length(plan.at_least(5000), recipe, 20) == (
        "311 images of 20 classes, 5,096 steps in 49 epochs (raised from 1,560 in 15 by --min-steps 5000; "
        "--decay-epochs become 14,30)")


def test_classes_of_which_little_can_be_learned_are_named():
    present = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 0, 0, 0]], dtype=bool)
    told = about_tags(present, ("all", "none", "one", "some"), ClassifierRecipe(optimizer="adam"))
    assert [re.fullmatch(r"warning: (\w+): in (.*), so that .*", line).groups() for line in told] == [
        ("none", "no image"), ("one", "only one image"), ("all", "every image")]
    names = [f"c{i}" for i in range(13)]
    (line,) = about_tags(np.zeros((2, 13), dtype=bool), names, ClassifierRecipe(optimizer="adam"))
    assert "c9 and 3 more: in no image" in line


def told(scores, loss, recipe=ClassifierRecipe(), val=None):
    tags = torch.from_numpy(np.tile(PRESENT, (20, 1)))
    metrics = {"baseline": 0.5} | tag_metrics(scores, tags)
    if val is not None:
        metrics |= {f"val_{name}": value for name, value in tag_metrics(val, tags).items()}
    return classifier_verdict(loss, metrics, CLASSES, recipe)


def test_verdicts():
    torch.manual_seed(0)
    tags = torch.from_numpy(np.tile(PRESENT, (20, 1))).float()
    noise = torch.randn(120, 3)
    assert told(tags + 0.01 * noise, 0.1)[0].startswith(
        "learned: loss 0.1000, 0.20 × that of predicting the tag frequencies; mAP 1.000, 1.00 on a scale from chance")
    assert len(told(tags + 0.01 * noise, 0.1)) == 1
    nothing = told(noise, 0.499)
    assert nothing[0].startswith("learned nothing: loss 0.4990, 1.00 ×")
    assert nothing[1] == "not told apart from the other images: cat, dog, owl"
    # Half of the way by rank or by loss.
    assert told(0.7 * tags + noise, 0.45)[0].startswith("learned little: ")
    assert told(tags + 0.01 * noise, 0.5)[0].startswith("learned little: ")
    # One class of three: the others are named.
    half = noise.clone()
    half[:, 1] = tags[:, 1]
    assert told(half, 0.45)[1] == "not told apart from the other images: cat, owl"
    by_heart = told(tags + 0.01 * noise, 0.1, val=noise)[0]
    assert by_heart.startswith("learned its own images, and nothing that holds for those of --val-split: ")
    assert by_heart.endswith("more images, or fewer classes")
    assert told(tags + 0.01 * noise, 0.1, val=tags)[0].startswith("learned: ")


@pytest.mark.parametrize(("recipe", "advice"), [
    (ClassifierRecipe(), ("--recipe light", "--suppression none", "--suppression-ramp", "--min-steps")),
    (ClassifierRecipe(suppression_ramp=0.5), ("--recipe light", "--suppression none", "--min-steps")),
    (ClassifierRecipe(optimizer="adamw", suppression="none"), ("--epochs", "more images, or fewer classes")),
])
def test_advice_names_what_was_not_done(recipe, advice):
    (line, _) = told(torch.zeros(120, 3), 0.5, recipe)
    tried = line.partition("; try ")[2]
    for word in ("--recipe light", "--suppression none", "--suppression-ramp", "--min-steps", *advice):
        assert (word in tried) == (word in advice or word == "--min-steps"), (word, tried)


def test_chance_is_rarely_taken_for_learning():
    """At random, classes of thirty in three hundred images are named as not told apart, and nothing was learned."""
    random = torch.Generator().manual_seed(0)
    names = [f"c{i}" for i in range(100)]
    tags = torch.arange(300)[:, None].lt(30).expand(300, 100)
    metrics = {"baseline": 0.3} | tag_metrics(torch.rand(300, 100, generator=random), tags)
    verdict, confused = classifier_verdict(0.29, metrics, names, ClassifierRecipe())
    assert verdict.startswith("learned nothing: ")
    assert int(re.search(r"and (\d+) more$", confused)[1]) >= 85


def test_verdict_of_a_regression():
    assert regression_verdict(0.03, 0.03, "the mean", "more") == (
        "learned nothing: loss 0.0300, 1.00 × that of predicting the mean; try more")
    assert regression_verdict(0.02, 0.04, "the mean", "more") == (
        "learned: loss 0.0200, 0.50 × that of predicting the mean")
    assert regression_verdict(0.0, 0.0, "the mean", "more").startswith("learned nothing")


# --- the classifier ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six pictures with the tags of PRESENT."""
    root, random = tmp_path_factory.mktemp("learning"), np.random.default_rng(0)
    items = []
    for i, row in enumerate(PRESENT):
        path = root / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (40, 44 + i, 3), dtype=np.uint8)).save(path)
        items.append(Item(str(i), path, tags=tuple(np.array(CLASSES)[row].tolist())))
    return Dataset(tuple(items), CLASSES, "data", "manifest")


SMALL = {"backbone": "vgg16-small", "image_size": 32, "batch_size": 2, "optimizer": "adamw"}


class Listener(Observer):
    def __init__(self):
        self.told, self.epochs = [], []

    def notice(self, *messages):
        self.told += messages

    def epoch_ended(self, report):
        self.epochs.append(report)


def learn(world, *, observer=None, val=None, seed=0, **recipe):
    config = RunConfig(seed=seed, observer=observer or Observer())
    return classifying.train_cls(world, CLASSES, ClassifierRecipe(**SMALL | recipe), config, val=val)


def test_strength_follows_the_ramp_and_is_whole_in_evaluation(world, monkeypatch):
    seen = []
    monkeypatch.setattr(FixedDRS, "forward", lambda module, x: seen.append(module.strength) or torch.relu(x))
    learn(world, epochs=2, suppression="fixed", drs_layers="1", suppression_ramp=0.5)
    assert seen == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1])
    seen.clear()
    learn(world, epochs=1, suppression="fixed", drs_layers="1")
    assert seen == [1, 1, 1]
    assert [ramp(step, 0) for step in (0, 5)] == [1, 1]


def test_an_epoch_tells_map_and_baseline_of_its_own_scores(world, monkeypatch):
    kept = []
    add = TagMeter.add
    monkeypatch.setattr(TagMeter, "add", lambda meter, *seen: kept.append(seen) or add(meter, *seen))
    listener = Listener()
    learn(world, epochs=2, observer=listener)
    for report, steps in zip(listener.epochs, (kept[:3], kept[3:]), strict=True):
        scores, tags = (torch.cat(parts) for parts in zip(*steps))
        expected = [average_precision_score(tags[:, c], scores.detach()[:, c]) for c in range(3)]
        assert report.metrics["ap"] == pytest.approx(expected)
        assert report.metrics["map"] == pytest.approx(np.mean(expected))
        assert report.metrics["baseline"] == pytest.approx(tag_loss(PRESENT.mean(axis=0)))


def test_other_images_are_scored_and_change_nothing(world, monkeypatch):
    plain, watched = Listener(), Listener()
    val = replace(world, items=world.items[:5])
    expected = learn(world, epochs=2, observer=plain)
    modes = []
    validate = classifying._Validation.__call__
    monkeypatch.setattr(
        classifying._Validation, "__call__",
        lambda self, model: modes.append(model.training) or validate(self, model))
    found = learn(world, epochs=2, observer=watched, val=val)
    assert all(torch.equal(expected.weights[name], found.weights[name]) for name in expected.weights)
    assert modes == [False, False]
    assert [report.loss for report in plain.epochs] == [report.loss for report in watched.epochs]
    # Of the network as it ends, on the images as they are.
    model, _ = classifying.build_network("classifier", found.architecture, CLASSES)
    model.load_state_dict(found.weights)
    pixels = [np.array(Image.open(item.image).resize((32, 32), Image.Resampling.BILINEAR)) for item in val.items]
    images = classifying.normalize(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    with torch.no_grad():
        scores = classifying.image_scores(model.eval()(images))
    metrics = watched.epochs[-1].metrics
    ranked = [c for c in range(3) if PRESENT[:5, c].any()]
    expected = [average_precision_score(PRESENT[:5, c], scores[:, c]) for c in ranked]
    assert metrics["val_map"] == pytest.approx(np.mean(expected))
    assert metrics["val_ap"][2] is None and metrics["val_images"] == 5


def test_a_training_tells_its_length_and_its_verdict(world):
    listener = Listener()
    checkpoint = learn(world, epochs=1, min_steps=5, observer=listener)
    assert listener.told[0].startswith("6 images of 3 classes, 6 steps in 2 epochs (raised from 3 in 1 by --min-steps")
    assert listener.told[1].startswith("warning: owl: in only one image")
    assert any(line.startswith("learned") for line in listener.told[2:])
    assert (checkpoint.recipe["epochs"], checkpoint.recipe["trained_epochs"]) == (1, 2)
    listener.told.clear()
    learn(world, epochs=0, min_steps=5, observer=listener)
    assert listener.told == []


@pytest.mark.parametrize(("items", "what"), [
    (lambda items: items[:1], "there is only one image"),
    (lambda items: items[:2], "all 2 images have the same tags")])
def test_nothing_to_tell_apart(world, items, what):
    same = replace(world, items=items(world.items))
    advice = "add images with other tags, or without an object"
    with pytest.raises(InputError, match=f"^data: {what}: there is nothing to tell apart; {advice}$"):
        learn(same, epochs=1)
    assert learn(same, epochs=0).kind == "classifier"


# --- as users see it -----------------------------------------------------------------------------


EVERYTHING = (
    "--optimizer", "adamw", "--schedule", "poly", "--warmup", "0.2", "--clip-norm", "1", "--min-steps", "5",
    "--suppression-ramp", "0.7")
LINE = ("train-cls", "--split", "train", "--backbone", "vgg16-small", "--init", "none", "--image-size", "32",
        "--epochs", "2", "--batch-size", "2", "--device", "cpu", "--no-provenance", *EVERYTHING)


def test_interrupted_with_all_options_and_gone_on_with(drs, voc, tmp_path, at_step):
    def run(name, *more):
        return drs(*LINE, "--data", voc, "--val-split", "val", "-o", tmp_path / f"{name}.pt",
                   "--log", tmp_path / f"{name}.jsonl", *more)

    def logged(name):
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        return [{key: line[key] for key in line if key not in ("time", "images_per_second", "memory")}
                for line in lines]

    whole = run("whole")
    assert whole.code == 0, whole.err
    for step in (1, 3, 4):
        at_step(step, lambda: signal.raise_signal(signal.SIGTERM))
        assert run("cut", *["--resume"] * (step > 1)).code == 143
    last = run("cut", "--resume")
    assert last.code == 0, last.err
    assert (tmp_path / "cut.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()
    assert logged("cut") == logged("whole")
    verdict = [line for line in whole.err.splitlines() if re.match("train-cls: (learned|not told)", line)]
    assert verdict and verdict == [
        line for line in last.err.splitlines() if re.match("train-cls: (learned|not told)", line)]
    epoch = [line for line in logged("whole") if line["event"] == "epoch"][-1]
    assert (f"epoch 3/3  loss {epoch['loss']:.4f}  baseline {epoch['baseline']:.4f}  mAP {epoch['map']:.4f}  "
            f"val mAP {epoch['val_map']:.4f}") in whole.err
    assert run("cut", "--resume").err == f"train-cls: {tmp_path / 'cut.pt'} is finished already\n"
    assert drs("info", tmp_path / "cut.pt", "--json").json()["recipe"]["trained_epochs"] == 3


def test_val_split_reads_no_masks(must, own_voc, tmp_path):
    for mask in (own_voc / "SegmentationClass").iterdir():
        mask.write_bytes(b"not to be read")
    outcome = must(*LINE, "--data", own_voc, "--val-split", "val", "-o", tmp_path / "net.pt")
    assert outcome.err.count("val mAP") == 3


def test_a_val_split_that_is_not_there(drs, voc, tmp_path):
    outcome = drs(*LINE, "--data", voc, "--val-split", "none", "-o", tmp_path / "net.pt")
    assert outcome.code == 3 and len(outcome.err.splitlines()) == 1 and "none" in outcome.err


@pytest.mark.parametrize("option", ["--val-split", "--select-on"])
def test_stdin_has_no_other_split(drs, must, voc, tmp_path, option):
    manifest = must("ids", "--data", voc, "--split", "train").out
    outcome = drs(*LINE, "--data", "-", option, "val", "-o", tmp_path / "net.pt", stdin=manifest.encode())
    assert (outcome.code, outcome.err) == (
        2, f"drstool: {option}: the manifest on stdin can be read only once; give --data a file or folder\n")


@pytest.mark.parametrize("command", ["refine-train", "train-seg"])
def test_the_other_trainings_have_the_options_too(must, voc, made, tmp_path, command):
    inputs = {"refine-train": ("--maps", made.cams), "train-seg": ("--labels", made.labels)}[command]
    options = EVERYTHING[: EVERYTHING.index("--suppression-ramp")]
    outcome = must(command, "--data", voc, "--split", "train", *inputs, *LINE[3:LINE.index(EVERYTHING[0])], *options,
                   "-o", tmp_path / "net.pt")
    lines = outcome.err.splitlines()
    assert re.fullmatch(
        rf"{command}: 4 images of 2 classes, 6 steps in 3 epochs \(raised from 4 in 2 by --min-steps 5\): "
        r"bar \d, disc \d(; \d images without an object)?", lines[0])
    assert all("  baseline " in line for line in lines if " epoch " in line)
    assert re.match(rf"{command}: learned( nothing)?: loss ", lines[-2])
