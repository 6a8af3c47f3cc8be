"""Maps from networks against plain loops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.data.item import Item
from drstool.errors import InputError, UsageError
from drstool.formats.records import MapRecord
from drstool.inference import (
    Execution, fused_maps, grad_cam, localization_map, normalize, predicted_channels, refined_map,
    segment_probabilities,
)
from drstool.models.build import build_network
from drstool.models.network import build_classifier, build_refiner, without_suppression
from drstool.recipe import CamSettings, RefineSettings
from drstool.stages.cam import cam
from drstool.stages.refine import items_of_maps, refine

CLASSES = ("cat", "dog", "cow")


def resized(grid, size):
    """A (h, w) map at another size, corner on corner, one pixel after another."""
    height, width = grid.shape
    result = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = i * (height - 1) / (size[0] - 1) if size[0] > 1 else 0.0
            x = j * (width - 1) / (size[1] - 1) if size[1] > 1 else 0.0
            top, left = min(int(y), height - 1), min(int(x), width - 1)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            v, u = y - top, x - left
            result[i, j] = ((1 - v) * ((1 - u) * grid[top, left] + u * grid[top, right])
                            + v * ((1 - u) * grid[bottom, left] + u * grid[bottom, right]))
    return result


def small(suppression="learnable", seed=0):
    """A small classifier whose batch norm has seen something, in evaluation mode."""
    torch.manual_seed(seed)
    model = build_classifier("vgg16-small", len(CLASSES), suppression)
    for layer in model.layers:
        nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
        nn.init.normal_(layer.norm.bias, std=0.2)
    nn.init.normal_(model.output.bias, std=0.5)
    return model.eval()


def test_normalisation():
    pixels = torch.tensor([[[[0]], [[128]], [[255]]]], dtype=torch.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalize(pixels).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(9, 13), (4, 5), (1, 3)])
def test_localization_map(size):
    maps = torch.randn(1, 2, 4, 5)
    maps[0, 1] = -maps[0, 1].abs()
    found = localization_map(maps, size)
    plain = resized(maps[0, 0].clamp_min(0).numpy(), size)
    np.testing.assert_allclose(found[0, 0], plain / (plain.max() + 1e-5), atol=1e-5)
    assert not found[0, 1].any()
    assert found.dtype == torch.float32 and found.max() < 1


def test_division_by_a_maximum_of_nothing():
    """Authors' code: 1e-5 is added to the maximum."""
    assert localization_map(torch.full((1, 1, 2, 2), 1e-5), (3, 3)).flatten().tolist() == pytest.approx([0.5] * 9)
    assert not localization_map(torch.zeros(1, 1, 2, 2), (3, 3)).any()


def test_refined_map_is_cut_after_the_resizing():
    maps = torch.tensor([[[[-1.0, 1.0, 3.0]]]])
    assert refined_map(maps, (1, 5)).flatten().tolist() == pytest.approx([0, 0, 1, 2, 3])


class Edges(nn.Module):
    """A stand-in network that is not symmetric: pooled differences along the rows."""

    def forward(self, images, channels=None):
        pooled = F.avg_pool2d(images, 4)
        return torch.stack([
            pooled[:, 0] - pooled[:, 1].roll(1, dims=2), pooled[:, 1] * 2, pooled[:, 2].cumsum(dim=2)], dim=1)


@pytest.mark.parametrize("fusion", ["max", "mean"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("finish", [localization_map, refined_map])
def test_fusion_over_sizes_and_mirroring(finish, flip, fusion):
    torch.manual_seed(1)
    images = torch.randn(3, 3, 20, 20)
    channels, outputs = [[0, 2], [1], [0, 1, 2]], [(11, 7), (20, 20), (5, 30)]
    sizes = (16, 20, 28)
    found = fused_maps(Edges(), images, channels, finish, outputs, sizes=sizes, flip=flip, fusion=fusion)
    for n in range(3):
        for slot, channel in enumerate(channels[n]):
            parts = []
            for size in sizes:
                for mirrored in (False, True) if flip else (False,):
                    one = F.interpolate(images[n:n + 1], (size, size), mode="bilinear", align_corners=False)
                    one = one.flip(3) if mirrored else one
                    plain = Edges()(one)[0, channel]
                    plain = plain.flip(1) if mirrored else plain
                    parts.append(finish(plain[None, None], outputs[n])[0, 0])
            expected = torch.stack(parts).amax(dim=0)
            if fusion == "mean":
                expected = torch.stack(parts).mean(dim=0)
                expected = expected / (expected.max() + 1e-5) if finish is localization_map else expected
            torch.testing.assert_close(found[n][slot], expected)


@pytest.mark.parametrize("fusion", ["max", "mean"])
@pytest.mark.parametrize(("normalization", "share"), [("class", 0), ("geometric", 0.5), ("image", 1)])
def test_normalization_between_the_classes_of_an_image(normalization, share, fusion):
    """By hand: divided by own ** (1 - share) * largest ** share at each size, a mean again by its largest value."""
    torch.manual_seed(1)
    images, sizes, output = torch.randn(4, 3, 20, 20), (16, 20, 28), (9, 12)
    channels = [[0, 2], [1], [], [0, 1, 2]]
    outputs = [output, (5, 5), output, output]
    found = fused_maps(
        Edges(), images, channels, localization_map, outputs, sizes=sizes, fusion=fusion, normalization=normalization)
    for n in (0, 1, 3):
        raw = [
            Edges()(F.interpolate(images[n:n + 1], (size, size), mode="bilinear", align_corners=False))[0, channels[n]]
            for size in sizes]
        own = [maps.amax(dim=(1, 2)).clamp_min(0) for maps in raw]
        full = [localization_map(maps[None], outputs[n])[0] for maps in raw]
        parts = torch.stack([
            maps * (peak / peak.max()).pow(share)[:, None, None] for maps, peak in zip(full, own, strict=True)])
        expected = parts.amax(dim=0)
        if fusion == "mean":
            mean = parts.mean(dim=0)
            expected = mean / (mean.amax(dim=(1, 2), keepdim=True) if share == 0 else mean.max())
        torch.testing.assert_close(found[n], expected, rtol=1e-3, atol=1e-4)
    assert float(found[3].amax(dim=(1, 2)).min()) < 0.95 or share == 0


def test_image_without_class_has_no_map():
    found = fused_maps(
        Edges(), torch.randn(2, 3, 8, 8), [[], [1]], refined_map, [(5, 6), (7, 8)], sizes=(8, 12), flip=True)
    assert found[0].shape == (0, 5, 6)
    assert found[1].shape == (1, 7, 8)


# --- Grad-CAM ------------------------------------------------------------------------------------


def plain_grad_cam(model, image, layer, channel):
    """Equations 1 and 2 for one image and class, times the number of cells, by a backward pass of its own."""
    x = image
    for block in model.layers[:layer + 1]:
        x = block(x)
    activations = x.detach().requires_grad_()
    x = activations
    for block in model.layers[layer + 1:]:
        x = block(x)
    score = model.output(x)[0, channel].mean()
    score.backward()
    result = torch.zeros(activations.shape[2:])
    for k in range(activations.shape[1]):
        result += activations.grad[0, k].sum() * activations[0, k].detach()
    return result


@pytest.mark.parametrize("layer", [3, 12, 14])
@pytest.mark.parametrize("suppression", ["learnable", "fixed", "none"])
def test_grad_cam_is_the_plain_one(suppression, layer):
    model = small(suppression)
    images = torch.randn(3, 3, 32, 32)
    channels = [[0, 2], [1], []]
    expected = {
        (n, c): plain_grad_cam(model, images[n:n + 1], layer, c) for n, wanted in enumerate(channels) for c in wanted}
    with torch.no_grad():
        maps = grad_cam(model, layer)(images, channels)
    for (n, c), plain in expected.items():
        assert plain.abs().max() > 0
        torch.testing.assert_close(maps[n, c], plain, rtol=1e-3, atol=1e-5 * plain.abs().max().item())
    assert not maps.requires_grad


def test_grad_cam_at_the_last_layer_is_the_map_without_its_bias():
    model = small("fixed")
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        plain = model(images) - model.output.bias[:, None, None]
        maps = grad_cam(model, 15)(images, [[0, 1, 2]] * 2)
    torch.testing.assert_close(maps, plain, rtol=1e-4, atol=1e-5)


# --- tags and segmentation -----------------------------------------------------------------------


class Constant(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, images):
        return self.scores[:, :, None, None].expand(-1, -1, 2, 2)


def test_predicted_channels():
    model = Constant([[3.0, -3.0, 0.5], [-4.0, -2.0, -3.0], [0.0, 0.1, -0.1]])
    images = torch.zeros(3, 3, 8, 8)
    assert predicted_channels(model, images, 0.5) == [[0, 2], [1], [0, 1]]
    assert predicted_channels(model, images, 0.9) == [[0], [1], [1]]
    assert predicted_channels(model, images, 0.0) == [[0, 1, 2]] * 3


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((1.0,), True), ((0.5, 1.0, 1.5), True)])
def test_segment_probabilities(scales, flip):
    torch.manual_seed(2)
    image = torch.randn(1, 3, 24, 36)

    class Network(nn.Module):
        def forward(self, images):
            return F.interpolate(Edges()(images), size=images.shape[2:], mode="bilinear", align_corners=False)

    parts = []
    for scale in scales:
        size = [int(24 * scale), int(36 * scale)]
        seen = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            logits = Network()(seen.flip(3) if mirrored else seen)
            logits = logits.flip(3) if mirrored else logits
            logits = F.interpolate(logits, size=(24, 36), mode="bilinear", align_corners=False)
            parts.append(torch.softmax(logits, dim=1)[0])
    found = segment_probabilities(Network(), image, scales, flip)
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(24, 36))


def test_sizes_at_which_a_segmenter_sees_an_image():
    """The nearest whole number of pixels, and at least 8, of which the pooling layers leave something."""
    seen = []

    def network(images):
        seen.append(tuple(images.shape[2:]))
        return images[:, :2]

    image = torch.randn(1, 3, 31, 90)
    segment_probabilities(network, image)
    segment_probabilities(network, image, (0.5, 0.05, 1.25))
    assert seen == [(31, 90), (16, 45), (8, 8), (39, 112)]


def test_execution_is_on_the_cpu_in_float32_if_nothing_is_said():
    assert Execution() == Execution(
        torch.device("cpu"), "float32", tf32=True, autotune=True, winograd=True, workers=1)


# --- the stages ----------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of different sizes, with tags."""
    random = np.random.default_rng(0)
    items = []
    for i, (tags, size) in enumerate([
            (("dog",), (40, 30)), (("cat", "cow"), (64, 64)), (CLASSES, (20, 70)), (("cow", "cat"), (48, 31))]):
        path = tmp_path / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        items.append(Item(f"p/{i}", path, tags=tags))
    return items


def classifier_checkpoint(suppression="learnable"):
    model = small(suppression)
    architecture = {
        "backbone": "vgg16-small", "suppression": suppression, "delta": 0.55, "drs_layers": list(range(16))}
    return model, Checkpoint("classifier", CLASSES, architecture, {"image_size": 40}, model.state_dict())


def plain_maps(model, item, size=None):
    """The localization maps of one picture in as many words, at sizes 32, 40, 48."""
    image = Image.open(item.image).convert("RGB")
    square = np.asarray(image.resize((40, 40), Image.Resampling.BILINEAR))
    x = normalize(torch.from_numpy(square.copy()).permute(2, 0, 1)[None])
    channels = sorted(CLASSES.index(tag) for tag in item.tags)
    best = torch.zeros(())
    for side in (32, 40, 48):
        with torch.no_grad():
            maps = model(F.interpolate(x, (side, side), mode="bilinear", align_corners=False))
        maps = F.interpolate(F.relu(maps), size or (40, 40), mode="bilinear", align_corners=True)
        maps = maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)
        best = torch.maximum(best, maps[0, channels])
    return channels, best


@pytest.mark.parametrize("map_size", ["square", "image"])
@pytest.mark.parametrize("suppression", ["learnable", "none"])
def test_cam_stage(pictures, suppression, map_size):
    model, checkpoint = classifier_checkpoint(suppression)
    records = list(cam(pictures, checkpoint, CamSettings(batch_size=3), map_size=map_size, dtype="float16"))
    assert [record.id for record in records] == [item.id for item in pictures]
    for record, item in zip(records, pictures, strict=True):
        size = Image.open(item.image).size[::-1]
        channels, expected = plain_maps(model, item, size if map_size == "image" else None)
        assert record.labels == tuple(channel + 1 for channel in channels)
        assert record.image_size == size
        assert record.image == str(item.image)
        np.testing.assert_allclose(record.values, expected, atol=2e-3)


def test_plain_cam_and_grad_cam_stages(pictures):
    model, checkpoint = classifier_checkpoint()
    plain = without_suppression(model)
    found = list(cam(pictures, checkpoint, CamSettings(), method="cam", dtype="float16"))
    np.testing.assert_allclose(found[1].values, plain_maps(plain, pictures[1])[1], atol=2e-3)
    weighted = list(cam(pictures, checkpoint, CamSettings(), method="grad-cam", layer=16, dtype="float16"))
    with torch.no_grad():
        model.output.bias.zero_()
    np.testing.assert_allclose(weighted[1].values, plain_maps(model, pictures[1])[1], atol=2e-3)


@pytest.mark.parametrize("method", ["drs", "grad-cam"])
def test_maps_do_not_depend_on_batch_and_threads(pictures, method):
    _, checkpoint = classifier_checkpoint()

    def maps(batch, workers):
        settings = CamSettings(batch_size=batch, flip=True)
        return list(cam(
            pictures, checkpoint, settings, method=method, dtype="float16", execution=Execution(workers=workers)))

    for left, right in zip(maps(1, 1), maps(3, 3), strict=True):
        assert left.labels == right.labels
        np.testing.assert_allclose(left.values.astype(float), right.values.astype(float), atol=2e-3)


def test_predicted_tags_in_the_stage(pictures):
    model, checkpoint = classifier_checkpoint()
    untagged = [Item(item.id, item.image) for item in pictures]
    records = list(cam(untagged, checkpoint, CamSettings(), predict_tags=0.5))
    for record, item in zip(records, pictures, strict=True):
        square = np.array(Image.open(item.image).resize((40, 40), Image.Resampling.BILINEAR))
        with torch.no_grad():
            scores = model(normalize(torch.from_numpy(square).permute(2, 0, 1)[None])).mean(dim=(2, 3))[0]
        chances = [1 / (1 + math.exp(-score)) for score in scores.tolist()]
        expected = [c + 1 for c, chance in enumerate(chances) if chance >= 0.5 or chance == max(chances)]
        assert list(record.labels) == expected


def test_cam_needs_tags_that_it_knows(pictures):
    _, checkpoint = classifier_checkpoint()
    for tags, word in ((None, "no tags"), (("zebra",), "'zebra'")):
        with pytest.raises(InputError, match=word):
            list(cam([Item("a", pictures[0].image, tags=tags)], checkpoint, CamSettings()))


def test_suppressed_maps_need_suppression(pictures):
    _, checkpoint = classifier_checkpoint("none")
    with pytest.raises(UsageError, match="--method"):
        cam(pictures, checkpoint, CamSettings(), method="drs")


def test_refine_stage(pictures):
    torch.manual_seed(3)
    model = build_refiner("vgg16-small", 3).eval()
    with torch.no_grad():
        model.output.weight.mul_(50)
    checkpoint = Checkpoint("refiner", CLASSES, {"backbone": "vgg16-small"}, {"image_size": 40}, model.state_dict())
    maps = [
        MapRecord("a", np.zeros((2, 3, 3), np.uint8), (1, 3), (64, 64), str(pictures[1].image)),
        MapRecord("b", np.zeros((0, 3, 3), np.uint8), (), (20, 70), str(pictures[2].image))]
    found, none = refine(items_of_maps(maps, CLASSES), checkpoint, RefineSettings(sizes=(32, 40)), dtype="float16")
    assert (found.labels, none.labels) == ((1, 3), ())
    assert none.values.shape == (0, 20, 70)
    square = np.array(Image.open(pictures[1].image).resize((40, 40), Image.Resampling.BILINEAR))
    x = normalize(torch.from_numpy(square).permute(2, 0, 1)[None])
    best = torch.zeros(())
    for side in (32, 40):
        with torch.no_grad():
            out = model(F.interpolate(x, (side, side), mode="bilinear", align_corners=False))
        best = torch.maximum(best, F.interpolate(out, (64, 64), mode="bilinear", align_corners=True)[0, [0, 2]])
    assert best.max() > 0.05
    np.testing.assert_allclose(found.values, best, atol=2e-3 * best.max().item())


def test_refine_needs_known_tags(pictures):
    _, trunk = build_network("refiner", {"backbone": "vgg16-small"}, CLASSES)
    checkpoint = Checkpoint("refiner", CLASSES, {"backbone": "vgg16-small"}, {"image_size": 40}, trunk.state_dict())
    with pytest.raises(InputError, match="'a'.*no tag"):
        list(refine([Item("a", pictures[0].image)], checkpoint, RefineSettings()))
