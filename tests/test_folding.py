"""Networks whose batch norm is folded into convolutions compute the same."""

import copy

import pytest
import torch
from torch import nn
from torchvision import models

from drstool.inference import Execution
from drstool.models.deeplab import build_segmenter
from drstool.models.depthwise import use_fast_gradients
from drstool.models.folding import fold_batch_norm, fold_frozen_norm
from drstool.models.network import build_classifier, build_refiner


def lived_in(network):
    """The network with statistics and affine parameters that a training might leave."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


def check(network, size=64, fold=fold_batch_norm):
    network = lived_in(network)
    images = torch.randn(1, 3, size, size)
    with torch.no_grad(), torch.backends.nnpack.flags(enabled=False):
        expected = copy.deepcopy(network)(images)
        fold(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        found = network(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert not torch.equal(expected, torch.zeros_like(expected))


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2", "efficientnet_b0", "vgg16-small"])
def test_segmenters(backbone):
    check(build_segmenter(backbone, 4)[0])


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0"])
def test_networks_of_torchvision(name):
    check(getattr(models, name)(weights=None, num_classes=4))


@pytest.mark.parametrize("build", [build_classifier, build_refiner])
def test_map_networks_as_commands_prepare_them(build):
    check(build("vgg16-small", 4), fold=Execution(winograd=False).prepared)


def test_folding_twice_changes_nothing():
    network = lived_in(build_classifier("vgg16-small", 4))
    fold_batch_norm(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold_batch_norm(network)
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("modules", [
    (nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
    (nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
])
def test_what_cannot_be_folded_stays(modules):
    network = lived_in(nn.Sequential(*modules))
    fold_batch_norm(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network) == 1


def frozen(network):
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    return network


def learned(network, images):
    """Output and gradients of a training step, in double precision."""
    output = network.double()(images.double())
    output.square().sum().backward()
    gradients = {name: each.grad for name, each in network.named_parameters() if each.requires_grad}
    return {"output": output.detach()} | gradients


@pytest.mark.parametrize("build", [
    lambda: models.mobilenet_v2(weights=None).features[:6], lambda: build_classifier("vgg16-small", 3, "none"),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU())])
def test_frozen_norm_in_training(build):
    plain = frozen(lived_in(build()))
    folded = copy.deepcopy(plain)
    use_fast_gradients(folded)
    fold_frozen_norm(folded)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 32, 32)
    expected, found = learned(plain, images), learned(folded, images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8 * value.abs().max().item(), msg=name)


def test_frozen_norm_is_folded_only_while_it_is_not_training():
    network = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).requires_grad_(False)
    other = copy.deepcopy(network)
    fold_frozen_norm(network)
    images = torch.randn(2, 3, 8, 8)
    for training in (True, False, True):
        torch.testing.assert_close(network.train(training)(images), other.train(training)(images))
    assert torch.equal(network[1].running_mean, other[1].running_mean)


def test_norm_that_learns_is_left_alone():
    network = build_classifier("vgg16-small", 3)
    fold_frozen_norm(network)
    assert all(type(layer.conv) is nn.Conv2d and type(layer.norm) is nn.BatchNorm2d for layer in network.layers)


def test_winograd_does_not_pass_the_folded_norm_by():
    """NNPACK takes the weights as they are."""
    network = lived_in(build_classifier("vgg16-small", 3, "none")).requires_grad_(False)
    images = torch.randn(1, 3, 96, 96)
    with Execution().computing():
        expected = network(images)
        fold_frozen_norm(network)
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
