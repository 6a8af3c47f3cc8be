"""The exact mode against brute force: in float32, and in the float16 parts that a GPU multiplies.

On the CPU torch computes the same float16 attention as on a GPU: weights and results are rounded to
float16, sums are float32's.
"""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from drstool.crf import mean_field, probability_unary
from drstool.crf.exact import AttentionKernel, GridKernel
from drstool.crf.meanfield import _bilateral_features
from drstool.errors import UsageError
from drstool.recipe import CRF_PRESETS

CPU = torch.device("cpu")

# Preset, picture, size, classes, iterations; then the most that probabilities may differ by in
# float32 and in float16 parts, and the share of labels that are equal in parts (in float32 all are).
# Where pixels see hardly any like them, as in noise, mean field has two minds about some, and makes
# much of float32's last digits as well. Instruction sets round differently, and these differences with
# them by up to a half, for which the bounds leave room.
AGREEMENT = [
    ("irn", "scene", (80, 100), 3, 3, 2e-4, 0.01, 0.9996),
    ("deeplab", "scene", (80, 100), 2, 3, 2e-4, 0.005, 0.9996),
    ("psa", "scene", (80, 100), 5, 3, 2e-4, 0.005, 0.9996),
    ("irn", "scene", (48, 60), 3, 10, 5e-4, 0.01, 0.9996),
    ("deeplab", "scene", (48, 60), 5, 10, 5e-4, 0.01, 0.9996),
    ("psa", "scene", (48, 60), 21, 10, 5e-4, 0.01, 0.9996),
    ("irn", "noise", (48, 60), 2, 10, 2e-3, 0.02, 0.999),
    ("deeplab", "flat", (48, 60), 3, 10, 5e-4, 0.01, 0.9996),
]


def picture(kind, height, width):
    """A flat one, noise, or what has a photograph's statistics: texture of all scales, shade and edges."""
    random = np.random.default_rng(1)
    if kind == "flat":
        return np.full((height, width, 3), (90, 120, 60), np.uint8)
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    image = np.stack([90 + y, 150 - y / 2, 120 + x / 2], axis=2)
    image[(y - 0.5 * height) ** 2 + (x - 0.35 * width) ** 2 < 0.06 * height * width] = (200, 70, 50)
    image[(x > 0.65 * width) & (y > 0.25 * height) & (y < 0.9 * height)] = (20, 30, 90)
    for scale in (0.7, 2, 6):
        texture = gaussian_filter(random.standard_normal(image.shape), (scale, scale, 0.5))
        image += 12 * texture / texture.std()
    return np.clip(image, 0, 255).astype(np.uint8)


def energies(num_classes, height, width):
    """Energies of smooth probabilities with some noise, as maps have, ``(N, K) float32``."""
    random = np.random.default_rng(2)
    scores = gaussian_filter(random.standard_normal((num_classes, height, width)), (0, height / 10, width / 10))
    raised = np.exp(2 * scores / scores.std() + 0.3 * random.standard_normal(scores.shape))
    probabilities = (raised / raised.sum(axis=0)).astype(np.float32)
    return torch.from_numpy(probability_unary(probabilities)).flatten(1).t().contiguous()


def features_of(preset, kind="scene", size=(80, 100)):
    settings = CRF_PRESETS[preset]
    image = torch.from_numpy(picture(kind, *size))
    return _bilateral_features(image, settings.bilateral_sxy, settings.bilateral_srgb)


class BruteForce:
    """The kernel as the matrix of all pairs, in float64."""

    def __init__(self, features):
        points = features.double().t()
        points = points - points.mean(dim=0)
        half_square = points.square().sum(dim=1) / 2
        self.matrix = points @ points.t()
        self.matrix.sub_(half_square).sub_(half_square[:, None]).exp_()
        self.norm = self.matrix.sum(dim=1).rsqrt()[:, None]

    def __call__(self, values):
        return self.norm * (self.matrix @ (self.norm * values))


@pytest.mark.parametrize(
    ("preset", "kind", "size", "num_classes", "iterations", "by_float32", "by_parts", "share"), AGREEMENT)
def test_agreement_with_brute_force(preset, kind, size, num_classes, iterations, by_float32, by_parts, share):
    settings = CRF_PRESETS[preset]
    features, unary = features_of(preset, kind, size), energies(num_classes, *size)

    def infer(kernel, dtype=torch.float32):
        place = GridKernel(size, settings.gaussian_sxy, CPU)
        terms = [(settings.gaussian_compat, place), (settings.bilateral_compat, kernel)]
        return mean_field(unary.to(dtype), terms, iterations)

    expected = infer(BruteForce(features), torch.float64)
    labels = expected.argmax(dim=1)
    plain = infer(AttentionKernel(features))
    assert (plain - expected).abs().max() < by_float32
    assert (plain.argmax(dim=1) == labels).all()
    parts = infer(AttentionKernel(features, split=True))
    assert (parts - expected).abs().max() < by_parts
    assert (parts.argmax(dim=1) == labels).double().mean() >= share
    # The CRF has something to do here.
    assert (labels != unary.argmin(dim=1)).double().mean() > 0.01


@pytest.mark.parametrize("preset", CRF_PRESETS)
def test_parts_keep_the_exponent(preset):
    """To float32's own error, where float16 alone is off by whole units."""
    features = features_of(preset)[:, ::4]
    kernel = AttentionKernel(features, split=True)
    queries, keys, scale = kernel._queries, kernel._keys, kernel._scale
    assert queries.dtype == torch.float16 and queries.shape == (2000, 32)
    assert not queries[:, 26:].any() and not keys[:, 26:].any()
    points = features.double().t()
    exponent = -torch.cdist(points, points).square() / 2
    largest = (points - points.mean(dim=0)).square().sum(dim=1).max()
    found = scale * (queries.double() @ keys.double().t())
    assert (found - exponent).abs().max() < 2.0**-23 * largest
    found = scale * (queries.float() @ keys.float().t())
    assert (found - exponent).abs().max() < 2.0**-21 * largest
    # Pairs that are so far apart say nothing.
    near = exponent > -20
    assert (found - exponent)[near].abs().max() < 1e-3
    plain = -torch.cdist(points.half().double(), points.half().double()).square() / 2
    assert (plain - exponent).abs().max() > 0.1


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_parts_suit_any_size_of_features_and_values(size):
    """Far beyond float16's range on both sides."""
    random = torch.Generator().manual_seed(0)
    features = size * torch.rand((5, 200), generator=random)
    values = size**2 * torch.rand((200, 3), generator=random) * torch.tensor([1.0, 1e-6, 0.0])
    found, expected = (AttentionKernel(features, split=split)(values) for split in (True, False))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("split", [False, True])
def test_what_is_too_far_apart_is_refused(split):
    line = torch.linspace(0, 1, 400)[None].expand(5, -1) / 5**0.5
    kernel = AttentionKernel(1990 * line, split=split)
    assert torch.isfinite(kernel(torch.ones(400, 1))).all()
    with pytest.raises(UsageError, match="1,005 standard deviations.*--crf-bilateral-srgb"):
        AttentionKernel(2010 * line, split=split)


def test_copies_of_values_lower_the_error():
    """Results of attention are rounded; the more copies of a class fit, the less is left of that."""
    random = torch.Generator().manual_seed(0)
    features, values = 6 * torch.rand((5, 2000), generator=random), torch.rand((2000, 1), generator=random)
    kernel, expected = AttentionKernel(features, split=True), AttentionKernel(features.double())(values.double())
    few, many = (
        float((kernel(values.expand(-1, count))[:, :1] / expected - 1).square().mean().sqrt()) for count in (1, 16))
    assert few < 0.7 * many < 2e-4
