"""Convolutions by Winograd's way: the same numbers but for the last digits, and only where they serve."""

import pytest
import torch
from torch import nn

from drstool.inference import Execution
from drstool.models.convolution import convolved, layout, training_layout
from drstool.models.deeplab import build_segmenter
from drstool.models.network import build_classifier

CPU = torch.device("cpu")
needs_nnpack = pytest.mark.skipif(not torch.backends.nnpack.is_available(), reason="this PyTorch has no NNPACK")


@pytest.fixture
def calls(monkeypatch):
    """How often NNPACK is called."""
    if not hasattr(torch, "_nnpack_spatial_convolution"):
        pytest.skip("this PyTorch has no NNPACK")
    true, seen = torch._nnpack_spatial_convolution, []

    def counted(*arguments, **more):
        seen.append(arguments[0].shape)
        return true(*arguments, **more)

    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", counted)
    return seen


@needs_nnpack
@pytest.mark.parametrize("size", [(20, 20), (21, 64), (33, 20)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_numbers(calls, size, bias, channels_last):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 40, 3, padding=1, bias=bias)
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(3, 32, *size).contiguous(memory_format=form)
    expected = conv.double()(x.double()).float().detach()
    conv.float()
    with torch.no_grad():
        torch.testing.assert_close(convolved(conv, x), expected, rtol=1e-4, atol=1e-4)
    assert calls == [(1, 32, *size)] * 3


@pytest.mark.parametrize("conv", [
    nn.Conv2d(31, 32, 3, padding=1), nn.Conv2d(32, 31, 3, padding=1), nn.Conv2d(32, 32, 3, padding=2, dilation=2),
    nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.Conv2d(32, 32, 3),
    nn.Conv2d(64, 64, 3, padding=1, groups=2), nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(32, 32, 3, padding=1).double()])
def test_what_it_is_not_for(calls, conv):
    x = torch.randn(1, conv.in_channels, 24, 24, dtype=conv.weight.dtype)
    with torch.no_grad():
        assert torch.equal(convolved(conv, x), conv(x))
    assert calls == []


@needs_nnpack
@pytest.mark.parametrize(("size", "times"), [((20, 20), 1), ((19, 64), 0), ((64, 19), 0), ((1, 1), 0)])
def test_not_where_it_costs_more_than_it_saves(calls, size, times):
    conv, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(1, 32, *size)
    with torch.no_grad():
        convolved(conv, x)
    assert len(calls) == times


def test_not_while_training(calls):
    conv = nn.Conv2d(32, 32, 3, padding=1)
    convolved(conv, torch.randn(1, 32, 24, 24)).sum().backward()
    assert calls == []
    assert conv.weight.grad is not None


def test_switched_off(calls):
    conv, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(1, 32, 24, 24)
    with Execution(winograd=False).computing():
        convolved(conv, x)
    assert calls == []
    with Execution().computing():
        convolved(conv, x)
    assert len(calls) == 1


def test_not_for_weights_in_the_other_layout(calls):
    conv, x = nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last), torch.randn(1, 32, 24, 24)
    with torch.no_grad():
        assert torch.equal(convolved(conv, x), conv(x))
    assert calls == []


@needs_nnpack
def test_layouts(monkeypatch):
    network = build_classifier("vgg16-small", 2)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert layout(network, CPU) is torch.channels_last
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert layout(network, CPU) is torch.contiguous_format
    assert layout(network, CPU, winograd=False) is torch.channels_last
    assert layout(network, CPU, "bfloat16") is torch.channels_last
    assert layout(network, torch.device("cuda")) is torch.channels_last
    assert layout(build_segmenter("mobilenet_v2", 3)[0], CPU) is torch.channels_last
    with torch.backends.nnpack.flags(enabled=False):
        assert layout(network, CPU) is torch.channels_last


@needs_nnpack
def test_maps_of_a_network(calls):
    torch.manual_seed(0)
    model = build_classifier("vgg16-small", 3).eval()
    images = torch.randn(2, 3, 40, 40)
    with Execution(winograd=False).computing():
        expected = model(images)
    assert calls == []
    with Execution().computing():
        found = model(images)
    # The one layer wide enough whose input is 20 pixels a side, for each image.
    assert calls == [(1, 32, 20, 20)] * 2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("batch_norm", "device", "precision", "wanted"), [
    (False, "cpu", "float32", torch.contiguous_format),
    (False, "cpu", "bfloat16", torch.channels_last),
    (True, "cpu", "float32", torch.channels_last),
    (False, "cuda", "float32", torch.contiguous_format),
    (False, "cuda", "bfloat16", torch.channels_last),
    (True, "cuda", "float32", torch.contiguous_format),
])
def test_layout_of_training(batch_norm, device, precision, wanted):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *([nn.BatchNorm2d(4)] if batch_norm else []))
    assert training_layout(network, torch.device(device), precision) is wanted


def test_networks_of_depthwise_convolutions_train_channels_last():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.GELU())
    assert training_layout(network, CPU, "float32") is torch.channels_last
