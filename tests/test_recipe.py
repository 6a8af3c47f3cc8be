"""The numbers of the method, against those of the papers and the published code."""

from dataclasses import fields, replace

import pytest

from drstool.errors import UsageError
from drstool.recipe import (
    AUTO_BATCH, CRF_PRESETS, NORMALIZE_MEAN, NORMALIZE_STD, RECIPES, CamSettings, ClassifierRecipe, CrfSettings,
    CueSettings, OverlaySettings, RefineSettings, RefinerRecipe, SegmentSettings, SegmenterRecipe, named_recipe,
    override,
)

# Neither the paper nor qjadud1994/DRS has these.
OFF = {"warmup": 0.0, "clip_norm": 0.0, "min_steps": 0}
# qjadud1994/DRS: transforms of all trainings of the classifier and the refiner.
JITTER = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}


def test_imagenet_statistics():
    """torchvision's, of its pretrained weights."""
    assert (NORMALIZE_MEAN, NORMALIZE_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_classifier():
    """Paper, section 4.1, and qjadud1994/DRS."""
    expected = JITTER | OFF | {
        "schedule": "step", "poly_power": 0.9, "suppression_ramp": 0.0,
        "backbone": "vgg16", "output_stride": 0, "head": "auto", "extra_init": "random", "freeze_norm": False,
        "suppression": "learnable", "delta": 0.55, "drs_layers": "all", "epochs": 15,
        "batch_size": 3, "image_size": 320, "resize_size": 0, "optimizer": "sgd", "lr": 1e-3, "bias_lr_factor": 2.0,
        "new_lr_factor": 10.0, "momentum": 0.9, "weight_decay": 5e-4, "decay_epochs": (5, 10), "decay_factor": 0.1,
        "flip": 0.5}
    assert vars(ClassifierRecipe()) == expected
    assert vars(named_recipe("paper", ClassifierRecipe)) == expected | {"batch_size": 5}
    default = named_recipe("default", ClassifierRecipe)
    assert (default.backbone, default.suppression, default.image_size, default.batch_size, default.epochs) == (
        "vgg16", "fixed", 320, 3, 15)


def test_warped_side():
    """qjadud1994/DRS: 384 pixels for a crop of 320."""
    assert ClassifierRecipe().warp_size == 384
    assert ClassifierRecipe(image_size=64).warp_size == 77
    assert ClassifierRecipe(resize_size=400).warp_size == 400


def test_refiner():
    expected = JITTER | OFF | {
        "optimizer": "adam", "momentum": 0.9, "weight_decay": 0.0, "schedule": "step", "poly_power": 0.9,
        "backbone": "vgg16", "output_stride": 0, "head": "auto", "extra_init": "random", "freeze_norm": False,
        "epochs": 15, "batch_size": 3, "image_size": 320, "lr": 1e-4, "new_lr_factor": 1.0,
        "decay_epochs": (5, 10), "decay_factor": 0.1, "flip": 0.5}
    assert vars(RefinerRecipe()) == vars(named_recipe("default", RefinerRecipe)) == expected
    assert vars(named_recipe("paper", RefinerRecipe)) == expected | {
        "batch_size": 5, "epochs": 30, "decay_epochs": (10, 20)}


def test_segmenter():
    """The paper's: DeepLabV3+ with ResNet-101, 20,000 steps of 32 crops of 513 pixels."""
    expected = OFF | {
        "optimizer": "sgd", "schedule": "poly", "decay_epochs": (5, 10), "decay_factor": 0.1,
        "backbone": "resnet50", "output_stride": 16, "epochs": 1, "steps": 0, "batch_size": 2, "image_size": 320,
        "lr": 0.003, "backbone_lr_factor": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "poly_power": 0.9,
        "min_lr": 1e-6, "scale_min": 0.5, "scale_max": 2.0, "flip": 0.5}
    assert vars(SegmenterRecipe()) == vars(named_recipe("default", SegmenterRecipe)) == expected
    assert vars(named_recipe("paper", SegmenterRecipe)) == expected | {
        "backbone": "resnet101", "steps": 20_000, "batch_size": 32, "image_size": 513, "lr": 0.05}


def test_cues():
    """Paper, section 3.4, and qjadud1994/DRS: alpha 0.2, conflicts above 0.9, saliency above 50 of 255."""
    assert vars(CueSettings()) == {
        "alpha": 0.20, "background": "saliency", "combine": "max", "saliency_threshold": 50, "saliency_range": (),
        "soft": False, "saliency_scale": 1.0, "constant": 0.20, "power": 4.0, "background_below": 1.0, "conflict": 0.9}


def test_inference():
    for settings in (CamSettings(), RefineSettings()):
        assert vars(settings) == {
            "image_size": 0, "sizes": (), "flip": False, "fusion": "auto", "batch_size": 0} | (
                {"normalization": "auto"} if isinstance(settings, CamSettings) else {})
    assert vars(SegmentSettings()) == {"scales": (1.0,), "flip": False}
    assert vars(OverlaySettings()) == {"opacity": 0.7, "ignored_pixels": "hatched", "by_kind": False}
    assert AUTO_BATCH == {"cpu": 8, "cuda": 32}


def test_presets_of_the_crf():
    """As in the code of IRN, of DeepLab and of PSA."""
    irn = {
        "gaussian_sxy": 3.0, "gaussian_compat": 3.0, "bilateral_sxy": 50.0, "bilateral_srgb": 5.0,
        "bilateral_compat": 10.0, "iterations": 10, "unary": "labels", "confidence": 0.7, "mode": "lattice",
        "preset": "irn"}
    assert {name: vars(preset) for name, preset in CRF_PRESETS.items()} == {
        "irn": irn,
        "deeplab": irn | {
            "bilateral_sxy": 67.0, "bilateral_srgb": 3.0, "bilateral_compat": 4.0, "unary": "probabilities",
            "preset": "deeplab"},
        "psa": irn | {"bilateral_sxy": 80.0, "bilateral_srgb": 13.0, "unary": "probabilities", "preset": "psa"}}
    assert vars(CrfSettings()) == irn | {"unary": "probabilities", "preset": ""}


def test_settings_without_recipe_are_the_same_in_all():
    assert {named_recipe(name, CueSettings) for name in RECIPES} == {CueSettings()}
    with pytest.raises(UsageError, match="--recipe"):
        named_recipe("cake", CueSettings)


@pytest.mark.parametrize("kind", [CamSettings, RefineSettings])
def test_sizes_of_maps(kind):
    """qjadud1994/DRS: 256, 320 and 384 pixels for a network trained at 320."""
    found = kind().for_network({}, {})
    assert (found.image_size, found.sizes) == (320, (256, 320, 384))
    assert kind().for_network({"image_size": 48}, {}).sizes == (38, 48, 58)
    assert kind().for_network({}, {}).fusion == kind().for_network({}, {"head": "paper"}).fusion == "max"
    assert kind().for_network({}, {"head": "plain"}).fusion == "mean"
    assert kind(fusion="max").for_network({}, {"head": "plain"}).fusion == "max"
    if kind is CamSettings:
        assert kind().for_network({}, {"head": "paper"}).normalization == "class"
        assert kind().for_network({}, {"head": "plain"}).normalization == "geometric"
        assert kind(normalization="image").for_network({}, {"head": "plain"}).normalization == "image"
    assert kind(image_size=100).for_network({"image_size": 48}, {}).sizes == (80, 100, 120)
    found = kind(sizes=(8, 10_000)).for_network({"image_size": 48}, {})
    assert (found.image_size, found.sizes) == (48, (8, 10_000))


@pytest.mark.parametrize("settings", [
    CamSettings(image_size=7), CamSettings(image_size=8), CamSettings(image_size=10_001), CamSettings(sizes=(320, 7)),
    CamSettings(sizes=(10_001,))])
def test_sizes_that_no_network_sees(settings):
    """8 pixels a side as a whole; 0.8 of it is too small."""
    with pytest.raises(UsageError, match="^--(sizes|image-size): "):
        settings.for_network({}, {})


def test_images_that_stay_together():
    assert CamSettings().together == 8
    assert CamSettings(batch_size=3).together == 3


KINDS = [
    ClassifierRecipe, RefinerRecipe, SegmenterRecipe, CamSettings, RefineSettings, CueSettings, SegmentSettings,
    OverlaySettings, CrfSettings]
LIMITS = [
    (kind, spec.name, spec.metadata[side], step) for kind in KINDS for spec in fields(kind)
    for side, step in (("min", -1), ("max", 1)) if side in spec.metadata]


@pytest.mark.parametrize(("kind", "name", "limit", "step"), LIMITS)
def test_limits_are_allowed_and_what_is_beyond_is_not(kind, name, limit, step):
    default = getattr(kind(), name)
    beyond = limit + (1e-6 * step if isinstance(limit, float) else step)
    values = [(value,) if isinstance(default, tuple) else value for value in (limit, beyond)]
    assert override(kind(), {name: values[0]}) == replace(kind(), **{name: values[0]})
    with pytest.raises(UsageError, match="^--" + name.replace("_", "-")):
        override(kind(), {name: values[1]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(value):
    with pytest.raises(UsageError, match="^--lr"):
        override(ClassifierRecipe(), {"lr": value})


def test_choices():
    assert override(SegmenterRecipe(), {"output_stride": 8}).output_stride == 8
    for kind, changes in ((SegmenterRecipe, {"output_stride": 4}), (ClassifierRecipe, {"backbone": "vgg19"})):
        with pytest.raises(UsageError):
            override(kind(), changes)


def test_options_of_the_crf_are_told_with_their_prefix():
    with pytest.raises(UsageError, match="^--crf-iterations: "):
        override(CrfSettings(), {"iterations": -1}, prefix="crf-")


@pytest.mark.parametrize(("given", "least"), [
    ({}, 400), ({"epochs": 3}, 0), ({"epochs": 3, "min_steps": 50}, 50), ({"min_steps": 50}, 50)])
def test_epochs_that_are_given_are_meant(given, least):
    from drstool.cli.numbers import chosen

    values = {f"number_{spec.name}": given.get(spec.name) for spec in fields(ClassifierRecipe)}
    assert chosen(ClassifierRecipe, {"recipe": "light", **values}).min_steps == least
