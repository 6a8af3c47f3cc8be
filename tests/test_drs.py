"""Suppression against its written-out formula."""

import pytest
import torch
from torch import nn

from drstool.models.drs import FixedDRS, LearnableDRS, _peaks, _peaks_by_reduction, set_strength, suppress


def written_out(x, k):
    """``min(relu(x), k * max_spatial(relu(x)))`` in as many words."""
    r = torch.relu(x)
    maximum = r.flatten(2).max(dim=2).values
    return torch.minimum(r, (k * maximum)[..., None, None])


def responses(seed, shape=(2, 5, 6, 7), dtype=torch.float64):
    """Random responses without equal values."""
    torch.manual_seed(seed)
    count = torch.Size(shape).numel()
    values = torch.randperm(count).to(dtype) / count * 6 - 3
    return (values + 0.3 / count).reshape(shape)


def learnable_reference(x, weight):
    mean = torch.relu(x).mean(dim=(2, 3))
    return written_out(x, torch.sigmoid(mean @ weight.T))


@pytest.mark.parametrize("k", [0.0, 0.3, 0.55, 1.0])
def test_forward_is_the_formula(k):
    x = responses(1)
    bounds = torch.full((2, 5), k, dtype=torch.float64)
    torch.testing.assert_close(suppress(x, bounds), written_out(x, bounds), rtol=0, atol=1e-12)


def test_bounds_are_per_image_and_channel():
    x = responses(2)
    k = torch.rand(2, 5, dtype=torch.float64)
    y = suppress(x, k)
    torch.testing.assert_close(y, written_out(x, k))
    torch.testing.assert_close(y.amax(dim=(2, 3)), k * x.amax(dim=(2, 3)))


def test_fixed_module():
    x = responses(3, dtype=torch.float32)
    torch.testing.assert_close(FixedDRS(0.55)(x), written_out(x, torch.full((2, 5), 0.55)))


def test_delta_one_is_a_plain_relu():
    x = responses(4, dtype=torch.float32).requires_grad_()
    ahead = torch.randn(x.shape)
    y = FixedDRS(1.0)(x)
    torch.testing.assert_close(y, torch.relu(x), rtol=0, atol=0)
    (found,) = torch.autograd.grad(y, x, ahead)
    torch.testing.assert_close(found, ahead * (x > 0))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_of_x_and_k(channels_last):
    x = responses(5)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    k = torch.rand(2, 5, dtype=torch.float64).requires_grad_()
    ahead = torch.randn(x.shape, dtype=torch.float64)
    found = torch.autograd.grad(suppress(x, k), (x, k), ahead)
    expected = torch.autograd.grad(written_out(x, k), (x, k), ahead)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)
    assert found[0].abs().sum() > 0 and found[1].abs().sum() > 0


def test_gradcheck():
    x = responses(6, (2, 3, 3, 4)).requires_grad_()
    k = (0.2 + 0.6 * torch.rand(2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(suppress, (x, k))
    fixed = torch.full((2, 3), 0.55, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: suppress(values, fixed), (x,))


def test_gradcheck_of_the_learnable_module():
    module = LearnableDRS(3).double()
    nn.init.normal_(module.controller.weight, std=0.7)
    x = responses(7, (2, 3, 3, 4)).requires_grad_()

    def forward(values, weight):
        return torch.func.functional_call(module, {"controller.weight": weight}, (values,))

    assert torch.autograd.gradcheck(forward, (x, module.controller.weight))


@pytest.mark.parametrize("channels_last", [False, True])
def test_learnable_module(channels_last):
    module = LearnableDRS(5).double()
    nn.init.normal_(module.controller.weight, std=0.7)
    weight = module.controller.weight
    x = responses(8)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y, expected = module(x), learnable_reference(x, weight)
    torch.testing.assert_close(y, expected)
    ahead = torch.randn(x.shape, dtype=torch.float64)
    found = torch.autograd.grad(y, (x, weight), ahead)
    for left, right in zip(found, torch.autograd.grad(expected, (x, weight), ahead), strict=True):
        torch.testing.assert_close(left, right)


def modules():
    learnable = LearnableDRS(5).double()
    nn.init.normal_(learnable.controller.weight, std=0.7)
    return [FixedDRS(0.55), learnable]


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_strength_eases_the_bound(strength):
    """``1 - strength (1 - k)`` in place of k, forward and backward, as autograd differentiates it."""
    for module in modules():
        set_strength(nn.Sequential(module), strength)
        x, parameters = responses(11).requires_grad_(), list(module.parameters())
        if parameters:
            k = torch.sigmoid(torch.relu(x).mean(dim=(2, 3)) @ parameters[0].T)
        else:
            k = torch.full((2, 5), 0.55, dtype=torch.float64)
        expected, y = written_out(x, 1 - strength * (1 - k)), module(x)
        # The bound of fixed suppression is a float32.
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        ahead = torch.randn(x.shape, dtype=torch.float64)
        found = torch.autograd.grad(y, (x, *parameters), ahead)
        for left, right in zip(found, torch.autograd.grad(expected, (x, *parameters), ahead), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(module(x.clone()), y)


def test_without_strength_it_is_a_plain_relu():
    for module in modules():
        set_strength(module, 0.0)
        x = responses(12).requires_grad_()
        y = module(x)
        torch.testing.assert_close(y, torch.relu(x), rtol=0, atol=0)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], (x > 0).double(), rtol=0, atol=0)


def test_evaluation_is_at_full_strength_which_is_no_part_of_the_state():
    for module in modules():
        x, names = responses(13), list(module.state_dict())
        full = module(x)
        set_strength(module, 0.5)
        assert not torch.equal(module(x), full)
        assert torch.equal(module.eval()(x), full)
        with torch.no_grad():
            assert torch.equal(module(x.clone()), full)
        assert list(module.state_dict()) == names


def test_controller_starts_small_and_square():
    torch.manual_seed(0)
    controller = LearnableDRS(128).controller
    assert controller.weight.shape == (128, 128)
    assert controller.bias is None
    assert 0.0095 < controller.weight.std() < 0.0105


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_maximum_by_reduction_is_the_one_by_pooling(channels_last, dtype):
    """What a GPU does, here on the CPU: of several places the first, and a NaN wins."""
    x = torch.randint(-3, 3, (2, 5, 7, 9), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 1] = -1
    x[1, 2, 3, 4] = torch.nan
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for found, expected in zip(_peaks_by_reduction(x), _peaks(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_memory_layout_is_kept():
    x = responses(9, dtype=torch.float32).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = FixedDRS(0.55)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, FixedDRS(0.55)(x.contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize("make", [lambda: FixedDRS(0.55), lambda: LearnableDRS(2)], ids=["fixed", "learnable"])
def test_dead_channels(make):
    """A channel that never responds gives zeros, and no gradient to anything."""
    module = make()
    x = responses(10, (2, 2, 4, 4), torch.float32)
    x[:, 0] = -x[:, 0].abs()
    x[0, 0, 1, 1] = 0.0
    x.requires_grad_()
    y = module(x)
    assert not y[:, 0].any() and y[:, 1].any()
    y.sum().backward()
    assert not x.grad[:, 0].any()
    for parameter in module.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert not parameter.grad[0].any()


def test_ties_of_the_maximum():
    """Equal maxima may share the bound's gradient in any way, and the whole of it is the formula's."""
    x = torch.tensor([[[[1.0, 4.0, -1.0], [4.0, 3.0, 0.5]]]], dtype=torch.float64).requires_grad_()
    k = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    ahead = torch.tensor([[[[1.0, 10.0, 100.0], [1000.0, 10000.0, 100000.0]]]], dtype=torch.float64)
    y = suppress(x, k)
    torch.testing.assert_close(y, torch.tensor([[[[1.0, 2, 0], [2, 2, 0.5]]]], dtype=torch.float64))
    grad_x, grad_k = torch.autograd.grad(y, (x, k), ahead)
    # The three that were cut: 10 + 1000 + 10000; the bound is k times the maximum 4.
    assert grad_k.item() == pytest.approx(4 * 11010)
    assert grad_x[0, 0, 0, 1] + grad_x[0, 0, 1, 0] == pytest.approx(0.5 * 11010)
    assert grad_x[0, 0, [0, 0, 1, 1], [0, 2, 1, 2]].tolist() == [1, 0, 0, 100000]


@pytest.mark.parametrize("make", [lambda: FixedDRS(0.55), lambda: LearnableDRS(4)], ids=["fixed", "learnable"])
def test_bfloat16(make):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), make())
    x = torch.randn(2, 3, 12, 12)

    def run():
        network.zero_grad()
        y = network(x)
        (y.float() ** 2).mean().backward()
        return y, [parameter.grad.clone() for parameter in network.parameters()]

    exact, exact_grads = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse, coarse_grads = run()
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), exact, rtol=0.02, atol=0.02)
    for left, right in zip(coarse_grads, exact_grads, strict=True):
        assert left.dtype == torch.float32
        assert (left - right).norm() < 0.15 * right.norm()
