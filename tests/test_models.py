"""Networks against plain references built from torchvision's parts."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from drstool.errors import InputError, UsageError
from drstool.models.build import build_network, load_pretrained, parse_layers, restore_network
from drstool.models.deeplab import build_segmenter
from drstool.models.drs import FixedDRS, LearnableDRS
from drstool.models.network import MapNetwork, build_classifier, build_refiner, image_scores, without_suppression

CLASSES = ("cat", "dog", "cow")


def torchvision_features():
    """The convolutional part of torchvision's VGG-16, without the memory its classifier takes."""
    vgg = torchvision.models.vgg
    return vgg.make_layers(vgg.cfgs["D"], batch_norm=False)


def named(features):
    """Its state dict under the names of the whole network."""
    return {f"features.{name}": value for name, value in features.state_dict().items()}


def slow_vgg(features, model, images, rectify):
    """Our network in plain functions: torchvision's layers, then the extra ones of ``model``."""
    x, index = images, 0
    for position, layer in enumerate(features):
        if isinstance(layer, torch.nn.Conv2d):
            dilation = 2 if position >= 24 else 1
            x = F.conv2d(x, layer.weight, layer.bias, padding=dilation, dilation=dilation)
        elif isinstance(layer, torch.nn.ReLU):
            x, index = rectify(x, index), index + 1
        elif position == 23:
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        elif position < 23:
            x = F.max_pool2d(x, 2, stride=2)
    for layer in model.layers[13:]:
        x = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
        x, index = rectify(x, index), index + 1
    assert index == 16
    return F.conv2d(x, model.output.weight, model.output.bias)


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(1)
    made = torchvision_features()
    for layer in made:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.normal_(layer.bias, std=0.1)
    return made.requires_grad_(False)


def rectify_fixed(delta, chosen):
    def rectify(x, index):
        r = F.relu(x)
        if index not in chosen:
            return r
        return torch.minimum(r, delta * r.amax(dim=(2, 3), keepdim=True))

    return rectify


@pytest.mark.parametrize("chosen", [range(16), (0, 6, 12, 15), ()], ids=["all", "some", "none"])
def test_classifier_is_the_slow_one(features, chosen):
    model = build_classifier("vgg16", 3, "fixed", 0.55, tuple(chosen))
    load_pretrained(model, named(features), "weights")
    images = torch.randn(2, 3, 56, 40)
    with torch.no_grad():
        maps = model(images)
        expected = slow_vgg(features, model, images, rectify_fixed(0.55, chosen))
    assert maps.shape == (2, 3, 7, 5)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_learnable_classifier_is_the_slow_one(features):
    model = build_classifier("vgg16", 3, "learnable")
    load_pretrained(model, named(features), "weights")
    controllers = [layer.rectifier.controller.weight for layer in model.layers]

    def rectify(x, index):
        r = F.relu(x)
        k = torch.sigmoid(F.linear(r.mean(dim=(2, 3)), controllers[index]))
        return torch.minimum(r, k[..., None, None] * r.amax(dim=(2, 3), keepdim=True))

    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = slow_vgg(features, model, images, rectify)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_refiner_is_the_slow_one_without_suppression(features):
    model = build_refiner("vgg16", 3)
    load_pretrained(model, named(features), "weights")
    images = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = slow_vgg(features, model, images, lambda x, index: F.relu(x))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert all(0.009 < layer.conv.weight.std() < 0.011 for layer in model.layers[13:])
    assert not any(layer.conv.bias.any() for layer in model.layers[13:])


@pytest.mark.parametrize(("suppression", "kind"), [("fixed", FixedDRS), ("learnable", LearnableDRS)])
def test_rectifiers_stand_where_they_are_asked_for(suppression, kind):
    model = build_classifier("vgg16-small", 3, suppression, 0.4, (1, 14))
    found = [index for index, layer in enumerate(model.layers) if isinstance(layer.rectifier, kind)]
    assert len(model.layers) == 16
    assert found == [1, 14]
    assert all(isinstance(model.layers[index].rectifier, torch.nn.ReLU) for index in set(range(16)) - {1, 14})
    plain = build_classifier("vgg16-small", 3, "none", 0.4)
    assert all(isinstance(layer.rectifier, torch.nn.ReLU) for layer in plain.layers)


def test_without_suppression():
    torch.manual_seed(2)
    model = build_classifier("vgg16-small", 3, "learnable")
    model.train()(torch.randn(4, 3, 32, 32))
    model.eval()
    images = torch.randn(2, 3, 32, 32)
    reference = build_classifier("vgg16-small", 3, "none").eval()
    reference.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "controller" not in name})
    with torch.no_grad():
        before = model(images)
        plain = without_suppression(model)
        torch.testing.assert_close(plain(images), reference(images), rtol=0, atol=0)
        torch.testing.assert_close(model(images), before, rtol=0, atol=0)
        assert (plain(images) - before).abs().max() > 1e-3
    assert not plain.training


def test_scores_are_the_spatial_mean():
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert image_scores(maps).tolist() == [[5.5, 17.5]]
    assert image_scores(maps.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", list(range(16))), ("1", [0]), ("16,1-2", [0, 1, 15]), ("3-5, 4-6", [2, 3, 4, 5])])
def test_layer_lists(text, layers):
    assert parse_layers(text, MapNetwork("vgg16-small", 1)) == layers


@pytest.mark.parametrize("text", ["", "0", "17", "5-3", "1-", "a", "1,,2", "-3"])
def test_wrong_layer_lists(text):
    with pytest.raises(UsageError, match="--drs-layers"):
        parse_layers(text, MapNetwork("vgg16-small", 1))


def test_networks_are_as_wide_as_published():
    """VGG-16, configuration D, with three more layers of 512 channels; the small one is ours."""
    with torch.device("meta"):
        large, little = build_classifier("vgg16", 20), build_classifier("vgg16-small", 20)
    assert [layer.conv.out_channels for layer in large.layers] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 9
    assert [layer.conv.out_channels for layer in little.layers] == [16] * 2 + [32] * 2 + [64] * 12
    assert [layer.norm is not None for layer in (*large.layers, *little.layers)] == [False] * 16 + [True] * 16
    assert large.output.weight.shape == (20, 512, 1, 1)


def test_classifiers_suppress_as_published():
    """Paper, sections 3.1 and 4.1: learnable at every ReLU; the fixed bound is 0.55."""
    with torch.device("meta"):
        model, fixed = build_classifier("vgg16-small", 3), build_classifier("vgg16-small", 3, "fixed")
    assert all(isinstance(layer.rectifier, LearnableDRS) for layer in model.layers)
    assert [layer.rectifier.delta for layer in fixed.layers] == [0.55] * 16


def test_convolutions_start_by_their_outputs():
    """He et al. with fan-out: in a wide layer that doubles the channels it differs from fan-in by sqrt(2)."""
    torch.manual_seed(0)
    conv = build_classifier("vgg16-small", 3).layers[4].conv
    assert conv.weight.shape == (64, 32, 3, 3)
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


# --- segmenters ----------------------------------------------------------------------------------

ARCHITECTURES = [
    ("resnet50", 16, 16), ("resnet50", 8, 8), ("mobilenet_v2", 16, 16), ("mobilenet_v2", 8, 8),
    ("vgg16-small", 16, 8)]


@pytest.mark.parametrize(("backbone", "asked", "stride"), ARCHITECTURES)
def test_segmenter_strides_and_shapes(backbone, asked, stride):
    model, _ = build_segmenter(backbone, 4, asked)
    model.eval()
    with torch.no_grad():
        low, high = model.backbone(torch.randn(1, 3, 64, 96))
        assert low.shape == (1, model.backbone.low_channels, 16, 24)
        assert high.shape == (1, model.backbone.high_channels, 64 // stride, 96 // stride)
        assert model(torch.randn(1, 3, 50, 71)).shape == (1, 4, 50, 71)


def plain_torchvision(backbone):
    """torchvision's network: its stride-4 part and the rest of its features, of stride 32."""
    network = getattr(torchvision.models, backbone)(weights=None).eval()
    if backbone == "mobilenet_v2":
        return network, network.features[:4], network.features[4:18]
    low = torch.nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, network.layer1)
    return network, low, torch.nn.Sequential(network.layer2, network.layer3, network.layer4)


@pytest.mark.parametrize(("backbone", "stride"), [("resnet50", 16), ("mobilenet_v2", 16), ("mobilenet_v2", 8)])
def test_dilated_features_are_the_published_ones_more_densely(backbone, stride):
    """Every (32 / stride)-th feature is the feature of torchvision's own network of stride 32."""
    torch.manual_seed(3)
    network, low, high = plain_torchvision(backbone)
    model, trunk = build_segmenter(backbone, 4, stride)
    load_pretrained(trunk, network.state_dict(), "weights")
    model.eval()
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        found_low, found_high = model.backbone(images)
        expected_low = low(images)
        expected_high = high(expected_low)
    torch.testing.assert_close(found_low, expected_low)
    every = 32 // stride
    scale = expected_high.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found_high[:, :, ::every, ::every], expected_high, rtol=1e-3, atol=1e-4 * scale)


def test_resnet101_takes_its_published_weights():
    torch.manual_seed(4)
    state = torchvision.models.resnet101(weights=None).state_dict()
    model, trunk = build_segmenter("resnet101", 4)
    load_pretrained(trunk, state, "weights")
    torch.testing.assert_close(model.backbone.low[0].weight, state["conv1.weight"])
    torch.testing.assert_close(model.backbone.high[1][22].conv3.weight, state["layer3.22.conv3.weight"])


@pytest.mark.parametrize(("backbone", "stride", "rates", "channels"), [
    ("resnet50", 16, (6, 12, 18), 256), ("resnet50", 8, (12, 24, 36), 256), ("resnet101", 16, (6, 12, 18), 256),
    ("mobilenet_v2", 16, (6, 12, 18), 256), ("mobilenet_v2", 8, (12, 24, 36), 256),
    ("vgg16-small", 16, (3, 6, 9), 64)])
def test_heads_are_as_published(backbone, stride, rates, channels):
    """DeepLabV3+ paper: rates 6, 12, 18 at stride 16 and twice that at 8; 256 channels, 48 of low-level features."""
    with torch.device("meta"):
        model, _ = build_segmenter(backbone, 21, stride)
    assert tuple(branch[0].dilation for branch in list(model.aspp.convs)[1:4]) == tuple((rate,) * 2 for rate in rates)
    assert tuple(branch[0].padding for branch in list(model.aspp.convs)[1:4]) == tuple((rate,) * 2 for rate in rates)
    assert [branch[0].out_channels for branch in list(model.aspp.convs)[:4]] == [channels] * 4
    assert model.low_projection[0].weight.shape == (48, model.backbone.low_channels, 1, 1)
    assert model.decoder[0][0].weight.shape == (channels, channels + 48, 3, 3)
    assert model.decoder[1].weight.shape == (21, channels, 1, 1)
    # Before batch norm there is no bias.
    assert model.low_projection[0].bias is None and model.decoder[0][0].bias is None
    # Authors' code.
    assert model.aspp.project[3].p == 0.1
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == ({0.1} if backbone == "vgg16-small" else {0.01})
    assert model.decoder[0][1].momentum == 0.1


def test_segmenter_has_stride_16_if_nothing_is_said():
    with torch.device("meta"):
        model, _ = build_segmenter("resnet50", 21)
    assert model.aspp.convs[1][0].dilation == (6, 6)
    assert model.backbone.high[1][0].conv2.stride == (2, 2)


def test_segmenter_is_the_plain_decoder():
    """Low-level features beside the upsampled context, then logits at the image's size: pixel areas, not corners."""
    torch.manual_seed(7)
    model, trunk = build_segmenter("vgg16-small", 4)
    model.eval()
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        low, high = model.backbone(images)
        # Low-level features are the last of stride 4, the others the last of all.
        torch.testing.assert_close(low, trunk.features(images, 0, 7), rtol=0, atol=0)
        torch.testing.assert_close(high, trunk.features(images, 0, 16), rtol=0, atol=0)
        context = F.interpolate(model.aspp(high), (10, 14), mode="bilinear", align_corners=False)
        logits = model.decoder(torch.cat([model.low_projection(low), context], dim=1))
        expected = F.interpolate(logits, (40, 56), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


# --- weights -------------------------------------------------------------------------------------

SMALL = {"backbone": "vgg16-small", "suppression": "learnable", "delta": 0.55, "drs_layers": list(range(16))}


def test_published_vgg_weights_leave_what_is_new(features):
    model = build_classifier("vgg16", 3)
    kept = {
        name: value.clone() for name, value in model.state_dict().items() if name.startswith(("layers.13.", "output."))}
    load_pretrained(model, {name: value.half() for name, value in named(features).items()}, "weights")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
    last = model.layers[12].conv
    assert last.weight.dtype == torch.float32
    torch.testing.assert_close(last.weight, features[28].weight.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(last.bias, features[28].bias.half().float(), rtol=0, atol=0)


def test_own_checkpoint_starts_the_next_stage():
    torch.manual_seed(5)
    classifier, _ = build_network("classifier", SMALL, CLASSES)
    refiner, trunk = build_network("refiner", {"backbone": "vgg16-small"}, CLASSES[:2])
    output = refiner.output.weight.clone()
    load_pretrained(trunk, classifier.state_dict(), "weights")
    for ours, theirs in zip(refiner.layers, classifier.layers, strict=True):
        assert torch.equal(ours.conv.weight, theirs.conv.weight)
    assert torch.equal(refiner.output.weight, output)
    segmenter, trunk = build_network("segmenter", {"backbone": "vgg16-small", "output_stride": 16}, CLASSES)
    load_pretrained(trunk, refiner.state_dict(), "weights")
    assert torch.equal(segmenter.backbone.high.layers[-1].conv.weight, classifier.layers[15].conv.weight)


def wrong_weights(features):
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    cut = named(features)
    del cut["features.28.bias"]
    return {
        "another family": ("vgg16", resnet),
        "a tensor missing": ("vgg16", cut),
        "another width": ("vgg16-small", named(features)),
        "another depth": ("resnet50", resnet),
        "another family the other way": ("resnet50", named(features)),
        "mobilenet of vgg": ("mobilenet_v2", named(features)),
        "nothing": ("vgg16", {}),
    }


@pytest.mark.parametrize("name", [
    "another family", "a tensor missing", "another width", "another depth", "another family the other way",
    "mobilenet of vgg", "nothing"])
def test_wrong_weights(features, name):
    backbone, weights = wrong_weights(features)[name]
    if backbone.startswith("vgg"):
        _, trunk = build_network("classifier", SMALL | {"backbone": backbone}, CLASSES)
    else:
        _, trunk = build_network("segmenter", {"backbone": backbone, "output_stride": 16}, CLASSES)
    with pytest.raises(InputError, match=r"^some file: .*--init none"):
        load_pretrained(trunk, weights, "some file")


def test_restored_network_is_the_same():
    torch.manual_seed(6)
    model, _ = build_network("classifier", SMALL, CLASSES)
    model.train()(torch.randn(4, 3, 32, 32))
    restored = restore_network("classifier", SMALL, CLASSES, model.state_dict(), "cls.pt")
    assert not restored.training
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(restored(images), model.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize("change", [
    {"backbone": "vgg19"}, {"backbone": ["vgg16"]}, {"backbone": None}, {"suppression": "fixed"},
    {"backbone": "vgg16"}, {"drs_layers": 3}])
def test_description_that_does_not_fit_its_weights(change):
    model, _ = build_network("classifier", SMALL, CLASSES)
    with pytest.raises(InputError, match="^cls.pt: "):
        restore_network("classifier", SMALL | change, CLASSES, model.state_dict(), "cls.pt")


def test_weights_of_other_classes():
    model, _ = build_network("classifier", SMALL, CLASSES)
    with pytest.raises(InputError, match="^cls.pt: "):
        restore_network("classifier", SMALL, CLASSES[:2], model.state_dict(), "cls.pt")
