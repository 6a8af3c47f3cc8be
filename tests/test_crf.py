"""The dense CRF: against pydensecrf2's recorded results, textbook loops, and brute force."""

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drstool.crf import (
    DenseCRF, label_unary, mean_field, one_thread, probability_unary, smooth_labels, smooth_probabilities,
)
from drstool.crf.exact import AttentionKernel, GridKernel
from drstool.crf.lattice import LatticeKernel, LatticeSum, _Packing, _corners
from drstool.crf.meanfield import _bilateral_features, _positions
from drstool.errors import InputError, UsageError
from drstool.recipe import CRF_PRESETS, CrfSettings

# What pydensecrf2 1.1 (DenseCRF2D, default kernels and normalisation) gives for CASES: probabilities
# times 65535, rounded.
RECORDED = Path(__file__).with_name("crf_recorded.npz")
CPU = torch.device("cpu")

PRESETS = {"irn": (3, 3, 50, 5, 10), "deeplab": (3, 3, 67, 3, 4), "psa": (3, 3, 80, 13, 10)}
# Name: height, width, classes, kind of image, (sxy, compat, sxy, srgb, compat), iterations.
CASES = {
    "irn": (24, 31, 3, "drawn", PRESETS["irn"], 10),
    "deeplab": (24, 31, 4, "drawn", PRESETS["deeplab"], 10),
    "psa": (24, 31, 2, "drawn", PRESETS["psa"], 10),
    "noise": (20, 28, 3, "noise", PRESETS["irn"], 5),
    "flat": (20, 28, 3, "flat", PRESETS["psa"], 5),
    # Not a multiple of four pixels: pydensecrf then fills up with points at 0.
    "odd": (13, 17, 5, "drawn", (2, 3, 10, 20, 4), 3),
    "pixel": (1, 1, 2, "noise", PRESETS["irn"], 2),
    "line": (1, 37, 3, "noise", (3, 3, 20, 30, 5), 4),
    "many": (9, 12, 21, "drawn", PRESETS["deeplab"], 4),
    "narrow": (16, 16, 3, "noise", (0.5, 2, 4, 1, 3), 3),
}


def picture(height, width, kind, random):
    """A picture: a disc and a bar on a ramp, noise, or one colour; (H, W, 3) uint8."""
    if kind == "flat":
        return np.full((height, width, 3), (90, 120, 60), np.uint8)
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + 3 * y, 150 + 2 * x, 100 + y + x], axis=2)
    image[(y - height / 2) ** 2 + (x - width / 3) ** 2 < height**2 / 10] = (200, 60, 60)
    image[(x > 0.7 * width) & (x < 0.85 * width)] = (30, 60, 190)
    return np.clip(image + random.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)


def energies(num_classes, height, width, random):
    """Energies of rough probabilities, (K, H, W) float32."""
    coarse = random.random((num_classes, -(-height // 4), -(-width // 4)))
    scores = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    scores = (scores + random.random((num_classes, height, width))) ** 3
    probabilities = (scores / scores.sum(axis=0)).astype(np.float32)
    return -np.log(np.clip(probabilities, np.float32(1e-5), 1))


def case(name):
    """Image, energies, kernel settings and number of iterations of a case."""
    height, width, num_classes, kind, settings, iterations = CASES[name]
    random = np.random.default_rng(list(CASES).index(name))
    return (
        picture(height, width, kind, random), energies(num_classes, height, width, random), settings, iterations)


def settings_of(numbers, iterations, **more):
    gaussian_sxy, gaussian_compat, sxy, srgb, compat = numbers
    return CrfSettings(
        gaussian_sxy=gaussian_sxy, gaussian_compat=gaussian_compat, bilateral_sxy=sxy, bilateral_srgb=srgb,
        bilateral_compat=compat, iterations=iterations, **more)


def drawn(height=20, width=26, num_classes=3, kind="drawn", seed=0):
    random = np.random.default_rng(seed)
    return picture(height, width, kind, random), energies(num_classes, height, width, random)


def softmax(energy):
    raised = np.exp(energy - energy.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def operator(kernel, count):
    """A kernel as the matrix that it is."""
    return kernel(torch.eye(count)).double().numpy()


def gaussian(features):
    """The normalised kernel of points (d, N), as a dense float64 matrix."""
    points = features.double().numpy().T
    matrix = np.exp(-((points[:, None] - points) ** 2).sum(axis=2) / 2)
    norm = 1 / np.sqrt(matrix.sum(axis=1))
    return norm[:, None] * matrix * norm


def textbook(unary, terms, iterations):
    """Mean field as the paper's algorithm 1 writes it, pixel by pixel; unary (N, K)."""
    marginals = softmax(-unary)
    count, num_classes = unary.shape
    for _ in range(iterations):
        updated = np.empty_like(marginals)
        for i in range(count):
            energy = unary[i].copy()
            for weight, matrix in terms:
                message = matrix[i] @ marginals
                for label in range(num_classes):
                    # Potts: what the other labels say against it, but for what all share.
                    energy[label] += weight * sum(message[other] for other in range(num_classes) if other != label)
            updated[i] = softmax(-energy)
        marginals = updated
    return marginals


@pytest.mark.parametrize("name", CASES)
def test_equals_recorded_pydensecrf(name):
    image, unary, numbers, iterations = case(name)
    found = DenseCRF(image, settings_of(numbers, iterations))(unary)
    with np.load(RECORDED) as recorded:
        expected = recorded[name] / 65535
    assert found.dtype == np.float32 and found.shape == unary.shape
    np.testing.assert_allclose(found, expected, atol=2e-4)
    # Where two classes are level the recorded rounding decides.
    ordered = np.sort(expected, axis=0)
    clear = ordered[-1] - ordered[-2] > 4e-4
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(found.argmax(axis=0)[clear], expected.argmax(axis=0)[clear])


def test_mean_field_equals_textbook_loops_on_the_expanded_operator():
    image, unary = drawn(8, 9)
    features = _bilateral_features(torch.from_numpy(image), 20, 30)
    kernels = [LatticeKernel(torch.stack(_positions((8, 9), 2, CPU))), LatticeKernel(features)]
    rows = torch.from_numpy(unary).flatten(1).t().contiguous()
    found = mean_field(rows, [(2.0, kernels[0]), (4.0, kernels[1])], 5)
    matrices = [(weight, operator(kernel, 72)) for weight, kernel in zip((2, 4), kernels, strict=True)]
    np.testing.assert_allclose(found.numpy(), textbook(rows.double().numpy(), matrices, 5), atol=1e-5)


def test_lattice_is_near_the_gaussian_it_approximates():
    torch.manual_seed(0)
    features = 2 * torch.rand(2, 150)
    values = torch.rand(150, 2)
    exact = gaussian(features) @ values.double().numpy()
    assert np.abs(LatticeKernel(features)(values).numpy() - exact).max() < 0.1 * exact.max()


@pytest.mark.parametrize("preset", CRF_PRESETS)
@pytest.mark.parametrize("kind", ["drawn", "noise", "flat"])
def test_exact_mode_equals_brute_force(preset, kind):
    image, unary = drawn(24, 30, kind=kind)
    settings = replace(CRF_PRESETS[preset], mode="exact", iterations=5)
    found = DenseCRF(image, settings)(unary)
    features = _bilateral_features(torch.from_numpy(image), settings.bilateral_sxy, settings.bilateral_srgb)
    matrices = [(settings.gaussian_compat, gaussian(torch.stack(_positions((24, 30), settings.gaussian_sxy, CPU)))),
                (settings.bilateral_compat, gaussian(features))]
    rows = unary.reshape(3, -1).T.astype(np.float64)
    marginals = softmax(-rows)
    for _ in range(5):
        marginals = softmax(-rows + sum(weight * matrix @ marginals for weight, matrix in matrices))
    expected = marginals.T.reshape(unary.shape)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert (found.argmax(axis=0) != expected.argmax(axis=0)).mean() <= 0.002


def test_a_sum_of_lattices_is_the_sum_of_what_they_make():
    image, _ = drawn(9, 13)
    kernels = [LatticeKernel(torch.stack(_positions((9, 13), 2, CPU))),
               LatticeKernel(_bilateral_features(torch.from_numpy(image), 20, 30))]
    values = torch.rand(9 * 13, 3)
    found = LatticeSum([(2.0, kernels[0]), (0.5, kernels[1])])(values)
    torch.testing.assert_close(found, 2 * kernels[0](values) + 0.5 * kernels[1](values), rtol=1e-5, atol=1e-6)
    for one in (0, 1):
        torch.testing.assert_close(LatticeSum([(3.0, kernels[one])])(values), 3 * kernels[one](values))


def test_attention_in_float64_is_exact():
    image, unary = drawn(12, 15)
    features = _bilateral_features(torch.from_numpy(image), 50, 5).double()
    values = torch.rand(180, 11, dtype=torch.float64)
    np.testing.assert_allclose(
        AttentionKernel(features)(values).numpy(), gaussian(features) @ values.numpy(), rtol=1e-9, atol=1e-12)


def test_grid_kernel_is_exact_where_sides_differ():
    values = torch.rand(6 * 11, 4, dtype=torch.float64)
    expected = gaussian(torch.stack(_positions((6, 11), 2, CPU))) @ values.numpy()
    found = GridKernel((6, 11), 2, CPU)(values)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_more_classes_than_the_width_of_attention():
    features = torch.rand(5, 40)
    values = torch.rand(40, 81)
    for split, tolerance in ((False, 1e-5), (True, 1e-3)):
        found = AttentionKernel(features, split=split)(values)
        np.testing.assert_allclose(found.numpy(), gaussian(features) @ values.numpy(), atol=tolerance)


@pytest.mark.parametrize("mode", ["lattice", "exact"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (11, 13)])
@pytest.mark.parametrize(
    ("num_classes", "kind"), [(1, "noise"), (2, "flat"), (7, "noise"), (81, "noise"), (81, "flat")])
def test_probabilities_sum_to_one_and_repeat(mode, size, num_classes, kind):
    image, unary = drawn(*size, num_classes, kind)
    settings = replace(CRF_PRESETS["irn"], mode=mode, iterations=3)
    found = DenseCRF(image, settings)(unary)
    assert found.shape == unary.shape
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(DenseCRF(image, settings)(unary), found)


@pytest.mark.parametrize("mode", ["lattice", "exact"])
def test_zero_weights_or_no_iterations_are_the_softmax(mode):
    image, unary = drawn()
    expected = softmax(-unary.transpose(1, 2, 0)).transpose(2, 0, 1)
    for neutral in ({"gaussian_compat": 0, "bilateral_compat": 0}, {"iterations": 0}):
        np.testing.assert_allclose(DenseCRF(image, CrfSettings(**neutral, mode=mode))(unary), expected, atol=1e-6)


@pytest.mark.parametrize("num_classes", [5, 12])
def test_classes_may_come_in_any_order(num_classes):
    image, unary = drawn(num_classes=num_classes)
    order = np.random.default_rng(1).permutation(num_classes)
    found = DenseCRF(image, CrfSettings())(unary)
    np.testing.assert_allclose(DenseCRF(image, CrfSettings())(unary[order]), found[order], atol=1e-5)


@pytest.mark.parametrize("mode", ["lattice", "exact"])
@pytest.mark.parametrize("num_classes", [3, 10])
def test_huge_weights_stay_finite(mode, num_classes):
    image, unary = drawn(num_classes=num_classes)
    found = DenseCRF(image, CrfSettings(gaussian_compat=1e6, bilateral_compat=1e8, mode=mode))(unary)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    energy = 1e30 * unary
    found = DenseCRF(image, CrfSettings(mode=mode))(energy)
    np.testing.assert_array_equal(found.argmax(axis=0), energy.argmin(axis=0))


@pytest.mark.parametrize("energy", [50.0, 79.0, 81.0, 90.0, 200.0, 1e4])
def test_large_energies_neither_overflow_nor_vanish(energy):
    """exp overflows float32 above 88, and is 0 below -104."""
    unary = np.float32([[[-energy, energy, energy]], [[energy, energy, energy - 1]]])
    found = DenseCRF(np.zeros((1, 3, 3), np.uint8), CrfSettings(iterations=0))(unary)
    np.testing.assert_allclose(found[0, 0], [1, 0.5, 1 / (1 + np.e)], atol=1e-5)


def test_any_number_of_threads_gives_the_same():
    image, unary = drawn(60, 80)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(DenseCRF(image, CrfSettings())(unary))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_it_follows_edges():
    image, _ = drawn(24, 30, kind="flat")
    image[:, 15:] = (20, 30, 200)
    probabilities = np.full((2, 24, 30), 0.5, np.float32)
    probabilities[0, :, :11], probabilities[1, :, 19:] = 0.8, 0.8
    probabilities[1, :, :11], probabilities[0, :, 19:] = 0.2, 0.2
    labels = smooth_probabilities(image, probabilities, CRF_PRESETS["psa"]).argmax(axis=0)
    assert (labels[:, :15] == 0).all() and (labels[:, 15:] == 1).all()


def test_tiny_deviations_are_an_error_where_the_lattice_cannot_be_numbered():
    image, unary = drawn(64, 64, kind="noise")
    wide = CrfSettings(bilateral_sxy=0.05, bilateral_srgb=0.05)
    np.testing.assert_allclose(DenseCRF(image, wide)(unary).sum(axis=0), 1, atol=1e-5)
    with pytest.raises(UsageError, match="too small"):
        LatticeKernel(torch.tensor([[0.0, 1e6]] * 5))


# --- what it starts from -----------------------------------------------------------------------


def test_label_unary_is_the_fields():
    """p for the label, (1 - p) / (K - 1) for the others, 1 / K where nothing is known."""
    unary = label_unary(np.array([[0, 2, -1]]), 3, 0.7)
    np.testing.assert_allclose(np.exp(-unary)[:, 0].T, [[0.7, 0.15, 0.15], [0.15, 0.15, 0.7], [1 / 3] * 3], rtol=1e-6)
    assert not label_unary(np.zeros((2, 2), int), 1, 0.7).any()


def test_probability_unary_is_the_negative_logarithm_with_a_floor():
    unary = probability_unary(np.float32([[[1.0, 0.25]], [[0.0, 0.75]]]))
    np.testing.assert_allclose(unary[:, 0], -np.log([[1, 0.25], [1e-5, 0.75]]), rtol=1e-5)


@pytest.mark.parametrize(("values", "told"), [
    ([0.5, 0.6], "sum to 1.1"), ([0.0, 0.0], "sum to 0"), ([np.nan, 1.0], "not finite"), ([np.inf, 1.0], "not finite"),
    ([-0.5, 1.5], "from -0.5 to 1.5"), ([0.5], "sum to 0.5")])
def test_what_are_no_probabilities(values, told):
    probabilities = np.tile(np.float32(values)[:, None, None], (1, 2, 2))
    with pytest.raises(InputError, match=f"image 'a': .*{told}"):
        smooth_probabilities(np.zeros((2, 2, 3), np.uint8), probabilities, CrfSettings(), where="image 'a'")


def test_photograph_of_another_size():
    image = np.zeros((3, 5, 3), np.uint8)
    with pytest.raises(InputError, match="photograph is 5 × 3 pixels, but the maps describe one of 3 × 5"):
        smooth_probabilities(image, np.ones((1, 5, 3), np.float32), CrfSettings())
    with pytest.raises(InputError, match="photograph"):
        smooth_labels(image, np.zeros((5, 3), np.uint8), [0], CrfSettings())


def test_labels_keep_their_values_and_unknown_ones_are_filled():
    image, _ = drawn(12, 15, kind="flat")
    labels = np.full((12, 15), 20, np.uint16)
    labels[4:6, 4:6] = 65535
    found = smooth_labels(image, labels, [0, 20], CRF_PRESETS["irn"])
    assert found.dtype == np.uint16
    assert (found == 20).all()


def test_starting_from_labels_is_starting_from_their_probabilities():
    image, unary = drawn()
    probabilities = np.exp(-unary)
    probabilities /= probabilities.sum(axis=0)
    settings = CRF_PRESETS["irn"]
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    by_labels = smooth_labels(image, labels, [0, 1, 2], settings)
    np.testing.assert_array_equal(smooth_probabilities(image, probabilities, settings).argmax(axis=0), by_labels)


@pytest.mark.parametrize("total", [0.9995, 1.0005])
def test_sums_may_be_off_by_rounding(total):
    probabilities = np.float32([total - 0.25, 0.25]).reshape(2, 1, 1)
    assert np.isfinite(probability_unary(probabilities)).all()
    assert probability_unary(np.full((1, 1, 1), total, np.float32)).item() == pytest.approx(max(0, 1 - total), abs=1e-5)


@pytest.mark.parametrize("total", [0.995, 1.005])
def test_sums_may_not_be_off_by_more(total):
    with pytest.raises(InputError, match=f"sum to {total}"):
        probability_unary(np.float32([total - 0.25, 0.25]).reshape(2, 1, 1))


def test_one_thread_is_for_a_block():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("count", "vertices"), [(4, 3), (8, 3), (5, 6), (6, 6), (7, 6)])
def test_points_come_in_fours(count, vertices):
    """pydensecrf fills the last four up with points at 0, whose three vertices then exist as well."""
    assert LatticeKernel(torch.full((2, count), 100.0)).num_vertices == vertices


@pytest.mark.parametrize("dimensions", [2, 5])
def test_vertices_are_numbered_within_their_type(dimensions):
    """Packed coordinates, and those of neighbours, which are a step away, do not overflow."""
    dtypes = set()
    for extent in (1, 10, 30, 100, 1000, 10_000, 50_000):
        if extent > 1000 and dimensions == 5:
            continue
        features = extent * torch.rand(dimensions, 500, generator=torch.Generator().manual_seed(0))
        features[:, :2] = torch.tensor([0.0, extent])
        packing = _Packing(features)
        dtypes.add(packing.dtype)
        wide = copy(packing)
        wide.dtype = torch.int64
        keys, _ = _corners(features, wide)
        step = sum(packing.strides)
        assert keys.min() - step >= 0
        assert keys.max() + step <= torch.iinfo(packing.dtype).max // 2
        # The coordinates are in the keys: no two vertices share one.
        digits = [keys // stride for stride in packing.strides]
        for digit, (coarser, stride) in zip(digits[1:], zip(packing.strides, packing.strides[1:])):
            rest = digit % (coarser // stride)
            assert rest.min() >= 1 and rest.max() <= coarser // stride - 2
    assert dtypes == {torch.int32, torch.int64}


# --- on a GPU ----------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_lattice_on_cuda_equals_cpu(name):
    image, unary, numbers, iterations = case(name)
    settings = settings_of(numbers, iterations)
    on_gpu = DenseCRF(image, settings, torch.device("cuda"))
    found = on_gpu(unary)
    np.testing.assert_allclose(found, DenseCRF(image, settings)(unary), atol=1e-4)
    np.testing.assert_array_equal(on_gpu(unary), found)


@needs_cuda
@pytest.mark.parametrize("preset", CRF_PRESETS)
@pytest.mark.parametrize("num_classes", [3, 81])
def test_exact_on_cuda_equals_cpu(preset, num_classes):
    image, unary = drawn(40, 50, num_classes)
    settings = replace(CRF_PRESETS[preset], mode="exact")
    found, expected = (DenseCRF(image, settings, torch.device(name))(unary) for name in ("cuda", "cpu"))
    assert (np.abs(found - expected) < 0.01).mean() > 0.999
    assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() > 0.999
