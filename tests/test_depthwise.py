"""Depthwise convolutions with fast gradients equal PyTorch's own."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from drstool.models.depthwise import DepthwiseConv2d, use_fast_gradients


def pair(channels=6, **how):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, groups=channels, **how)
    fast = nn.Conv2d(channels, channels, groups=channels, **how)
    fast.load_state_dict(plain.state_dict())
    use_fast_gradients(fast)
    assert type(fast) is DepthwiseConv2d
    return plain, fast


def gradients(conv, x, grad):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    y.backward(grad)
    return y.detach(), x.grad, conv.weight.grad, *([] if conv.bias is None else [conv.bias.grad])


@pytest.mark.parametrize("size", [(16, 16), (17, 14), (3, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("how", [
    {"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "padding": 2, "dilation": 2, "bias": False},
    {"kernel_size": 5, "padding": 8, "dilation": 4}, {"kernel_size": (3, 5), "padding": (2, 4), "dilation": 2},
    {"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": 5, "padding": 2, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "stride": 2, "dilation": 2}, {"kernel_size": 3, "padding": 1, "dilation": 2},
    {"kernel_size": 2, "padding": 2, "dilation": 2}, {"kernel_size": 3, "padding": (2, 3), "dilation": (2, 3)},
])
def test_gradients(how, channels_last, size):
    plain, fast = (conv.double() for conv in pair(**how))
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(plain(x))
    for expected, found in zip(gradients(plain, x, grad), gradients(fast, x, grad), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("how", [
    {"kernel_size": 3, "padding": 2, "dilation": 2}, {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 5, "padding": 4, "dilation": 2},
])
def test_in_bfloat16(how):
    plain, fast = pair(**how)
    x = torch.randn(2, 6, 16, 16)
    grad = torch.randn_like(plain(x))
    expected = gradients(plain, x, grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fast(x.requires_grad_())
    assert y.dtype == torch.bfloat16
    y.backward(grad.bfloat16())
    for found, value in zip((y.float(), x.grad, fast.weight.grad, fast.bias.grad), expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, value, rtol=0.05, atol=0.05 * value.abs().max().item())


def test_frozen_weights_get_no_gradient():
    _, fast = pair(kernel_size=3, padding=2, dilation=2)
    fast.requires_grad_(False)
    x = torch.randn(1, 6, 8, 8, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None and fast.weight.grad is None


def test_which_convolutions():
    network = mobilenet_v2(weights=None)
    names = set(network.state_dict())
    use_fast_gradients(network)
    changed = [module for module in network.modules() if isinstance(module, DepthwiseConv2d)]
    assert len(changed) == 17 and all(conv.groups == conv.in_channels for conv in changed)
    assert set(network.state_dict()) == names
    for other in (nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(1, 1, 3),
                  nn.Conv2d(4, 4, 3, groups=4, padding="same"), nn.Conv2d(4, 4, 3, groups=4, padding_mode="reflect")):
        use_fast_gradients(other)
        assert type(other) is nn.Conv2d
