"""The trunks against torchvision's own networks, and DRS in each against the written-out formula."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from drstool.checkpoints.pretrained import initial_weights
from drstool.errors import InputError, UsageError
from drstool.inference import Execution
from drstool.models.build import build_network, classifier_architecture, load_pretrained, parse_layers, restore_network
from drstool.models.deeplab import build_segmenter
from drstool.models.drs import FixedDRS, LearnableDRS
from drstool.models.network import MapNetwork, build_classifier, build_refiner, without_suppression
from drstool.models.trunks import TRUNKS, activations
from drstool.recipe import BACKBONES, ClassifierRecipe
from drstool.stages.train_cls import parameter_groups

CLASSES = ("cat", "dog", "cow")
PUBLISHED = [name for name in TRUNKS if not name.startswith(("vgg16", "tf_"))]
VGG = ["vgg16", "vgg16_bn"]
# Without squeeze-and-excitation, whose means are of all cells.
LOCAL = [name for name in PUBLISHED if name not in ("mobilenet_v3_large", "efficientnet_b0")]
SUPPRESSIBLE = {
    "vgg16": 16, "vgg16_bn": 16, "vgg16-small": 16, "resnet18": 17, "resnet50": 49, "resnet101": 100,
    "mobilenet_v2": 35, "mobilenet_v3_large": 11, "efficientnet_b0": 0, "convnext_tiny": 0}


def torchvision_network(name):
    """torchvision's network; of VGG-16 the convolutional part, without the memory its classifier takes."""
    if name in VGG:
        vgg = torchvision.models.vgg
        network = nn.Module()
        network.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=name == "vgg16_bn")
        return network
    return getattr(torchvision.models, name)(weights=None)


def torchvision_features(name, network, images):
    """What torchvision's network pools and classifies; of VGG-16, before the last pooling."""
    if name.startswith("resnet"):
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        return network.layer4(network.layer3(network.layer2(network.layer1(x))))
    return network.features[:-1](images) if name in VGG else network.features(images)


@pytest.fixture(scope="module")
def originals():
    """Gives torchvision's network of a name, as if it were trained, in evaluation mode."""
    made = {}

    def of(name):
        if name not in made:
            torch.manual_seed(len(name))
            made[name] = torchvision_network(name).eval().requires_grad_(False)
            for module in made[name].modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.7, 1.3)
                    nn.init.normal_(module.bias, std=0.1)
                    nn.init.normal_(module.running_mean, std=0.1)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
                if hasattr(module, "layer_scale"):
                    # Of ConvNeXt, which begins at 1e-6, where blocks would do nothing.
                    nn.init.uniform_(module.layer_scale, 0.2, 0.5)
        return made[name]

    return of


def ours(name, originals, stride):
    model = MapNetwork(name, 3, "plain", stride)
    load_pretrained(model, originals(name).state_dict(), "weights")
    return model.eval()


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert expected.abs().max() > 0


def test_the_table_is_what_options_offer():
    assert set(BACKBONES) == set(TRUNKS)


@pytest.mark.parametrize("name", [*VGG, *PUBLISHED])
def test_features_are_torchvisions(name, originals):
    """At the published stride: 32, or 16 for VGG-16 without its last pooling."""
    model, images = ours(name, originals, 16 if name in VGG else 32), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same(model.features(images), torchvision_features(name, originals(name), images))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", LOCAL)
def test_dilated_features_are_the_published_ones_more_densely(name, stride, originals):
    model, images, every = ours(name, originals, stride), torch.randn(1, 3, 64, 96), 32 // stride
    with torch.no_grad():
        found, expected = model.features(images), torchvision_features(name, originals(name), images)
    assert found.shape[2:] == (64 // stride, 96 // stride)
    assert_same(found[:, :, ::every, ::every], expected)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "efficientnet_b0"])
def test_dilation_of_trunks_that_pool(name, stride, originals):
    """With squeeze-and-excitation switched off in both: its means differ where there are more cells."""
    original, model = copy.deepcopy(originals(name)), ours(name, originals, stride)
    for network in (original, model):
        for module in list(network.modules()):
            for key, child in module.named_children():
                if isinstance(child, torchvision.ops.SqueezeExcitation):
                    setattr(module, key, nn.Identity())
    images, every = torch.randn(1, 3, 64, 96), 32 // stride
    with torch.no_grad():
        found, expected = model.features(images), original.features(images)
    assert found.shape[2:] == (64 // stride, 96 // stride)
    assert_same(found[:, :, ::every, ::every], expected)


@pytest.mark.parametrize(("name", "layers", "low", "channels"), [
    ("vgg16", 13, 256, 512), ("vgg16_bn", 13, 256, 512), ("vgg16-small", 13, 64, 64), ("resnet18", 9, 64, 512),
    ("resnet50", 17, 256, 2048), ("resnet101", 34, 256, 2048), ("mobilenet_v2", 19, 24, 1280),
    ("mobilenet_v3_large", 17, 24, 960), ("efficientnet_b0", 18, 24, 1280), ("convnext_tiny", 22, 96, 768),
    ("tf_mobilenet_v2", 19, 24, 1280), ("tf_efficientnet_b0", 18, 24, 1280)])
def test_strides_and_sizes(name, layers, low, channels):
    """By default the paper's stride and head for VGG-16, and stride 16 with a plain output for the others."""
    with torch.device("meta"):
        for asked, stride in ((0, 8 if name.startswith("vgg16") else 16), (8, 8), (16, 16)):
            model, images = MapNetwork(name, 3, output_stride=asked).eval(), torch.zeros(1, 3, 64, 96)
            assert model.trunk_layers == layers
            assert model.features(images, 0, layers).shape == (1, channels, 64 // stride, 96 // stride)
            assert model.features(images, 0, model.low_layers).shape == (1, low, 16, 24)
            assert model(images).shape == (1, 3, 64 // stride, 96 // stride)
            assert len(model.layers) - layers == (3 if name.startswith("vgg16") else 0)
        for head, more in (("paper", 3), ("plain", 0)):
            model = MapNetwork(name, 3, head)
            assert len(model.layers) == layers + more
            assert model(images).shape[:2] == (1, 3)
            assert model.output.in_channels == (channels if head == "plain" or name == "vgg16-small" else 512)


def test_stages_end_where_strides_do():
    """Stage s of all trunks but VGG-16, whose first block has stride 1, ends at stride 2 ** s."""
    for name in TRUNKS:
        with torch.device("meta"):
            model, x = MapNetwork(name, 3, "plain", 32).eval(), torch.zeros(1, 3, 64, 64)
            for index, (layer, stage) in enumerate(zip(model.layers, model.stages, strict=True)):
                x = layer(x)
                if index + 1 == len(model.layers) or model.stages[index + 1] != stage:
                    # A ResNet's first layer includes the pooling.
                    stride = 4 if name.startswith("resnet") and stage == 1 else 2 ** stage
                    assert x.shape[2] == 64 // stride * (2 if name.startswith("vgg16") else 1)


# --- suppression ---------------------------------------------------------------------------------


def written_out(module, x):
    """min(r, k * max r) of r = relu(x) or relu6(x), in plain operations."""
    r = F.relu6(x) if module.ceiling == 6 else F.relu(x)
    if isinstance(module, FixedDRS):
        k = torch.full(r.shape[:2], module.delta)
    else:
        k = torch.sigmoid(r.mean(dim=(2, 3)) @ module.controller.weight.T)
    return torch.minimum(r, k[..., None, None] * r.amax(dim=(2, 3), keepdim=True))


def with_written_out(model):
    """The same network with the formula in the place of each DRS module."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, (FixedDRS, LearnableDRS)):
            module.forward = lambda x, module=module: written_out(module, x)
    return plain


def suppressing(name, suppression, originals=None):
    """A classifier that suppresses wherever it is possible."""
    torch.manual_seed(0)
    with torch.device("meta"):
        layers = MapNetwork(name, 3).suppressible()
    model = build_classifier(name, 3, suppression, 0.55, layers)
    if originals is not None:
        load_pretrained(model, originals(name).state_dict(), "weights")
    for module in model.modules():
        if isinstance(module, LearnableDRS):
            # Different bounds for different channels, clearly.
            nn.init.normal_(module.controller.weight, std=0.3)
    # In double precision, in which responses that are nearly at the bound are cut alike.
    return model.double().eval()


@pytest.mark.parametrize(("name", "suppression"), [
    *((name, "learnable") for name in TRUNKS if SUPPRESSIBLE.get(name) and name not in ("resnet101", "vgg16")),
    *((name, "fixed") for name in ("vgg16-small", "resnet18", "mobilenet_v2", "mobilenet_v3_large"))])
def test_suppression_is_the_formula(name, suppression, originals):
    """Values and gradients of the whole network; ResNet-101 has ResNet-50's blocks; of VGG-16 see test_models."""
    model = suppressing(name, suppression, None if name == "vgg16-small" else originals)
    modules = [module for module in model.modules() if isinstance(module, (FixedDRS, LearnableDRS))]
    assert len(modules) == SUPPRESSIBLE[name]
    plain, images = with_written_out(model), torch.randn(1, 3, 64, 64).double()
    maps, expected = model(images), plain(images)
    assert_same(maps, expected)
    weight = torch.randn_like(maps)
    (maps * weight).sum().backward()
    (expected * weight).sum().backward()
    for (key, found), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (found.grad - other.grad).norm() <= 1e-6 * other.grad.norm(), key
    # In place, without gradients.
    with torch.no_grad():
        assert_same(model(images), expected.detach())


def test_responses_above_six_are_cut_before_they_are_suppressed():
    """Of ReLU6, the maximum is at most 6, and so is the bound at most 6 k."""
    x = torch.tensor([[[[-1.0, 2.0], [7.0, 20.0]]]])
    for module in (FixedDRS(0.5, 6.0), LearnableDRS(1, 6.0)):
        assert module(x.clone())[0, 0, 1, 1].item() == pytest.approx(3.0, abs=0.2)
        with torch.no_grad():
            torch.testing.assert_close(module(x.clone()), written_out(module, x))
        leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        (module(leaf) * torch.arange(1.0, 5.0).view(1, 1, 2, 2)).sum().backward()
        (written_out(module, other) * torch.arange(1.0, 5.0).view(1, 1, 2, 2)).sum().backward()
        torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "vgg16-small"])
def test_without_suppression(name):
    model = suppressing(name, "learnable")
    plain, images = without_suppression(model), torch.randn(1, 3, 64, 64).double()
    reference = build_classifier(name, 3, "none").double().eval()
    reference.load_state_dict(
        {key: value for key, value in model.state_dict().items() if ".controller." not in key})
    with torch.no_grad():
        torch.testing.assert_close(plain(images), reference(images), rtol=0, atol=0)
        assert (model(images) - plain(images)).abs().max() > 1e-3 * plain(images).abs().max()
    assert sum(isinstance(module, nn.ReLU6) for module in plain.modules()) == (35 if name == "mobilenet_v2" else 0)


def test_suppression_only_where_it_is_asked_for():
    model = build_classifier("resnet18", 3, "fixed", 0.4, (0, 5))
    found = [
        index for index, layer in enumerate(model.layers) for parent, name, _ in activations(layer)
        if isinstance(getattr(parent, name), FixedDRS)]
    assert found == [0, 5, 5]


@pytest.mark.parametrize(("name", "head", "text", "layers"), [
    ("vgg16", "paper", "stage1,stage4-5", [0, 1, *range(7, 13)]), ("vgg16", "paper", "extra", [13, 14, 15]),
    ("resnet50", "plain", "stage1", [0]), ("resnet50", "plain", "stage2-3", list(range(1, 8))),
    ("resnet50", "paper", "17,extra", [16, 17, 18, 19]), ("mobilenet_v2", "plain", "stage5", [14, 15, 16, 17, 18]),
    ("mobilenet_v3_large", "plain", "stage3, 2", [1, 4, 5, 6]), ("convnext_tiny", "paper", "extra", [22, 23, 24]),
    ("resnet18", "plain", "stage5-", [7, 8]), ("resnet18", "paper", "stage5-", [7, 8, 9, 10, 11])])
def test_layers_by_stage(name, head, text, layers):
    assert classifier_architecture(name, head, 0, "fixed", 0.5, text)["drs_layers"] == layers


@pytest.mark.parametrize(("name", "text", "words"), [
    ("vgg16", "17", "numbered 1 to 16"), ("resnet50", "40", "resnet50 are numbered 1 to 17"),
    ("resnet50", "extra", "--head paper"), ("convnext_tiny", "stage1", "numbered 2 to 5"),
    ("resnet50", "stage6", "numbered 1 to 5"), ("vgg16", "stage6", "numbered 1 to 5"),
    ("resnet50", "stage0", "numbered 1 to 5"), ("resnet50", "stage3-2", "stage3-2 is not"),
    ("resnet50", "stage", "stage3-4,extra"), ("resnet50", "extra-1", "stage3-4,extra"),
    ("resnet50", "stages3", "stage3-4,extra"), ("resnet50", "stage-4", "stage3-4,extra"),
    ("resnet50", "stage6-", "numbered 1 to 5"),
    ("resnet50", "stage4-7", "numbered 1 to 5"), ("resnet50", "5-", "stage3-4,extra"),
    ("resnet50", "all,1", "stage3-4,extra")])
def test_wrong_layer_lists(name, text, words):
    with torch.device("meta"):
        network = MapNetwork(name, 1)
    with pytest.raises(UsageError, match=f"^--drs-layers: .*{words}"):
        parse_layers(text, network)


@pytest.mark.parametrize(("name", "head", "text", "words"), [
    ("mobilenet_v3_large", "plain", "all", "layers 1,8-17 can be.*among 2-7, --head paper --drs-layers extra, or"),
    ("efficientnet_b0", "plain", "all", "1-18 can be negative.*give --head paper --drs-layers extra, or --suppress"),
    ("convnext_tiny", "paper", "stage5,extra", "19-22 can be negative.*among 23-25, or --suppression none")])
def test_suppression_where_activations_can_be_negative(name, head, text, words):
    with pytest.raises(UsageError, match=f"^--drs-layers: .*{words}"):
        classifier_architecture(name, head, 0, "learnable", 0.5, text)
    assert classifier_architecture(name, head, 0, "none", 0.5, text)["suppression"] == "none"


# --- initialisation and training -----------------------------------------------------------------


def test_identity_passes_features_on():
    torch.manual_seed(0)
    for build in (lambda **how: build_classifier("resnet18", 3, "none", **how), lambda **how: build_refiner(
            "vgg16", 3, **how)):
        model = build(head="paper", extra_init="identity").eval()
        features = torch.rand(1, 512, 12, 12)
        with torch.no_grad():
            passed = model.features(features, model.trunk_layers)
        assert 1e-3 < (passed - features).norm() / features.norm() < 0.5
        assert 0.009 < model.output.weight.std() < 0.011


def test_identity_projects_where_channels_differ():
    model = build_classifier("resnet50", 3, "none", head="paper", extra_init="identity")
    first, second, _ = (layer.conv for layer in model.layers[model.trunk_layers:])
    assert first.weight.shape == (512, 2048, 3, 3)
    assert first.weight[:, :, 1, 1].std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.05)
    assert first.weight[:, :, 0, 0].std() < 2e-3
    assert second.weight[:, :, 1, 1].diagonal().mean().item() == pytest.approx(1, abs=1e-3)


def norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def test_frozen_batch_norm(originals):
    """Statistics and parameters of the trunk stay, through training and by conversion; those of new layers do not."""
    model = build_classifier("resnet18", 3, "none", head="paper")
    loaded = load_pretrained(model, originals("resnet18").state_dict(), "weights")
    model.freeze_norm(loaded)
    before = copy.deepcopy(model.state_dict())
    network = nn.Sequential(model).train()
    assert {name for name, norm in norms(model).items() if norm.training} == {
        f"layers.{index}.norm" for index in (9, 10, 11)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        frozen = name.rpartition(".")[0] in norms(model) and int(name.split(".")[1]) < 9
        assert torch.equal(value, before[name]) == frozen, name
    model.freeze_norm(())
    assert all(norm.training for norm in norms(model.train()).values())


@pytest.mark.parametrize("init", ["published", "classifier"])
def test_learning_rates(init, originals):
    """The output and controllers are new, and the head's layers unless they are pretrained; what is frozen has none."""
    model = build_classifier("resnet18", 3, "learnable", head="paper", drs_layers=[2])
    other = build_classifier("resnet18", 3, "none", head="paper")
    weights = originals("resnet18").state_dict() if init == "published" else other.state_dict()
    pretrained = load_pretrained(model, weights, "weights")
    model.freeze_norm(pretrained)
    recipe = ClassifierRecipe(lr=1.0, new_lr_factor=10.0, bias_lr_factor=1.0)
    rates = {id(parameter): group["lr"] for group in parameter_groups(model, recipe, pretrained)
             for parameter in group["params"]}
    found = {name: rates.get(id(parameter)) for name, parameter in model.named_parameters()}
    new_head = 10.0 if init == "published" else 1.0
    assert found["layers.2.relu1.controller.weight"] == found["output.weight"] == found["output.bias"] == 10.0
    assert found["layers.0.conv1.weight"] == found["layers.8.conv2.weight"] == 1.0
    assert found["layers.9.conv.weight"] == new_head
    assert found["layers.0.bn1.weight"] is found["layers.8.bn2.bias"] is None
    assert found["layers.11.norm.bias"] == (10.0 if init == "published" else None)


def test_layer_norm_is_not_frozen():
    model = MapNetwork("convnext_tiny", 3)
    model.freeze_norm(model.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- weights -------------------------------------------------------------------------------------


def test_what_is_loaded_is_told(originals):
    """All of the trunk; not the head and the controllers."""
    model = suppressing("resnet18", "learnable")
    loaded = load_pretrained(model, originals("resnet18").state_dict(), "weights")
    new = {name for name in model.state_dict() if name not in loaded and "num_batches_tracked" not in name}
    assert new == {name for name in model.state_dict() if name.startswith("output.") or "controller" in name}


def test_biases_before_batch_norm_are_folded(originals):
    """VGG-16-BN's convolutions have biases, ours have none; half precision is read too."""
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in originals("vgg16_bn").state_dict().items()}
    model = MapNetwork("vgg16_bn", 3, "plain", 16).eval()
    load_pretrained(model, weights, "weights")
    mean = weights["features.41.running_mean"].float() - weights["features.40.bias"].float()
    assert torch.equal(model.layers[12].norm.running_mean, mean)
    assert model.layers[12].conv.weight.dtype == torch.float32


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "convnext_tiny", "vgg16_bn"])
def test_classifier_starts_the_other_stages(backbone):
    torch.manual_seed(0)
    classifier = build_classifier(backbone, 3, "none")
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    architecture = {"backbone": backbone, "head": classifier.head, "output_stride": classifier.output_stride}
    refiner, trunk = build_network("refiner", architecture, CLASSES)
    load_pretrained(trunk, classifier.state_dict(), "cls.pt")
    for ours, theirs in zip(refiner.layers.parameters(), classifier.layers.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    segmenter, trunk = build_network("segmenter", {"backbone": backbone, "output_stride": 16}, CLASSES)
    load_pretrained(trunk, classifier.state_dict(), "cls.pt", any_head=True)
    theirs = list(classifier.layers[:classifier.trunk_layers - classifier.last_layers].parameters())
    for ours, other in zip(segmenter.backbone.parameters(), theirs, strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize(("given", "to"), [
    ("resnet101", "resnet50"), ("resnet50", "resnet101"), ("resnet18", "resnet50"), ("vgg16_bn", "vgg16"),
    ("vgg16", "vgg16_bn"), ("mobilenet_v3_large", "mobilenet_v2"), ("mobilenet_v2", "efficientnet_b0")])
def test_weights_of_another_trunk(given, to, originals):
    with pytest.raises(InputError, match=f"^w.pth: .*look like those of {given}.*--init none"):
        load_pretrained(MapNetwork(to, 3), originals(given).state_dict(), "w.pth")


@pytest.mark.parametrize(("given", "to"), [("paper", "plain"), ("plain", "paper")])
def test_weights_of_another_head(given, to):
    weights = build_classifier("vgg16-small", 3, "none", head=given).state_dict()
    model = build_refiner("vgg16-small", 3, head=to)
    with pytest.raises(InputError, match=f"^cls.pt: .*--head {given}"):
        load_pretrained(model, weights, "cls.pt")
    loaded = load_pretrained(model, weights, "cls.pt", any_head=True)
    assert {name.split(".")[1] for name in loaded} == {str(index) for index in range(13)}


def test_checkpoint_of_another_trunk():
    weights = build_classifier("resnet18", 3, "none").state_dict()
    with pytest.raises(InputError, match="^cls.pt: "):
        load_pretrained(MapNetwork("mobilenet_v2", 3), weights, "cls.pt")


def test_imagenet_weights_of_every_trunk(monkeypatch):
    from torchvision.models import _api

    asked = []
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda url, *arguments, **more: asked.append(url) or {})
    for name in [*VGG, *PUBLISHED]:
        initial_weights("imagenet", name)
        assert asked[-1].rpartition("/")[2].startswith(name)


# --- checkpoints ---------------------------------------------------------------------------------


def test_checkpoint_from_before_there_were_heads():
    """It has the paper's head and stride, and 16 layers under these names."""
    old = {"backbone": "vgg16-small", "suppression": "learnable", "delta": 0.55, "drs_layers": [0, 14]}
    names = [f"layers.{index}.{part}" for index in range(16) for part in (
        "conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.num_batches_tracked", *(("rectifier.controller.weight",) if index in (0, 14) else ()))]
    weights = build_classifier("vgg16-small", 3, "learnable", 0.55, [0, 14]).state_dict()
    assert list(weights) == [*names, "output.weight", "output.bias"]
    model = restore_network("classifier", old, CLASSES, weights, "cls.pt")
    assert (model.head, model.output_stride) == ("paper", 8)


@pytest.mark.parametrize("change", [
    {"head": "plain"}, {"head": "round"}, {"head": "paper"}, {"output_stride": 5}, {"drs_layers": [99]},
    {"drs_layers": [-1]}, {"backbone": "convnext_tiny"}, {"output_stride": "8"}])
def test_description_that_does_not_fit(change):
    described = classifier_architecture("resnet18", "plain", 16, "fixed", 0.5, "all")
    weights = build_network("classifier", described, CLASSES)[0].state_dict()
    restore_network("classifier", described, CLASSES, weights, "cls.pt")
    if change == {"head": "plain"}:
        described, change = described | {"head": "paper"}, {}
    with pytest.raises(InputError, match=r"^cls\.pt: "):
        restore_network("classifier", described | change, CLASSES, weights, "cls.pt")


def earlier_halves(name):
    """The halves of segmenters' backbones as they were first put together, from torchvision's modules."""
    network = torchvision_network(name)
    if name == "mobilenet_v2":
        return network.features[:4], network.features[4:18]
    return (
        nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, network.layer1),
        nn.Sequential(network.layer2, network.layer3, network.layer4))


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "mobilenet_v2"])
def test_segmenters_have_the_names_of_earlier_checkpoints(name):
    with torch.device("meta"):
        found, halves = build_segmenter(name, 4)[0].backbone.state_dict(), earlier_halves(name)
    expected = {
        f"{half}.{key}": value.shape for half, network in zip(("low", "high"), halves, strict=True)
        for key, value in network.state_dict().items()}
    assert {key: value.shape for key, value in found.items()} == expected


def test_small_segmenter_has_the_names_of_earlier_checkpoints():
    """16 layers, those of the head's among them, which have the paper's stride, whatever the checkpoint says."""
    with torch.device("meta"):
        segmenter, _ = build_segmenter("vgg16-small", 4, 16)
    names = [key for key in segmenter.backbone.state_dict() if key.endswith("conv.weight")]
    assert names == [
        *(f"low.layers.{index}.conv.weight" for index in range(7)),
        *(f"high.layers.{index}.conv.weight" for index in range(9))]
    assert segmenter.output_stride == 8


# --- the commands --------------------------------------------------------------------------------


@pytest.mark.parametrize(("trunk", "more"), [
    (("--backbone", "resnet18"), ("--suppression", "none", "--output-stride", "8")),
    (("--backbone", "mobilenet_v3_large", "--head", "paper", "--extra-init", "identity"),
     ("--drs-layers", "stage2-3,extra"))], ids=lambda words: words[1])
def test_chain(must, voc, tmp_path, trunk, more):
    """Images to maps by every method, refined maps and a segmenter, with trunks as they are initialised."""
    data = ("--data", voc, "--split", "train", "--device", "cpu")
    how = ("--epochs", "0", "--image-size", "64")

    must("train-cls", *data, *trunk, *more, *how, "--init", "none", "-o", tmp_path / "cls.pt")
    for method in ("cam", "grad-cam", *(["drs"] if "none" not in more else [])):
        must("cam", *data, "--weights", tmp_path / "cls.pt", "--sizes", "64", "--method", method,
             "-o", tmp_path / f"{method}.h5")
    must("refine-train", *data, *trunk, *how, "--freeze-norm", "--init", tmp_path / "cls.pt",
         "--maps", tmp_path / "cam.h5", "-o", tmp_path / "refiner.pt")
    must("refine", tmp_path / "cam.h5", "--weights", tmp_path / "refiner.pt", "--sizes", "64", "-o", tmp_path / "r.h5")
    must("pseudo-label", tmp_path / "cam.h5", "--background", "constant", "-o", tmp_path / "labels")
    must("train-seg", *data, *trunk[:2], *how, "--init", tmp_path / "cls.pt", "--labels", tmp_path / "labels",
         "-o", tmp_path / "seg.pt")
    must("check", tmp_path / "seg.pt")


@pytest.mark.parametrize(("more", "words"), [
    (("--backbone", "vgg16-small", "--init", "imagenet"), ["vgg16-small", "--init none"]),
    (("--backbone", "vgg19", "--init", "none"), ["--backbone", "convnext_tiny"]),
    (("--backbone", "resnet18", "--init", "CLS"), ["vgg16-small", "--backbone"]),
    (("--backbone", "vgg16-small", "--init", "CLS", "--head", "plain"), ["--head paper"]),
    (("--backbone", "resnet18", "--init", "none", "--drs-layers", "40"), ["--drs-layers", "1 to 9"]),
    (("--backbone", "convnext_tiny", "--init", "none"), ["--drs-layers", "--suppression none"]),
    (("--backbone", "vgg16-small", "--init", "none", "--output-stride", "32"), ["--output-stride"]),
    (("--backbone", "vgg16-small", "--init", "none", "--head", "round"), ["--head"]),
    (("--backbone", "vgg16-small", "--init", "none", "--extra-init", "zero"), ["--extra-init"])],
    ids=lambda value: "-".join(map(str, value)))
def test_command_lines_that_do_not_go_together(drs, voc, made, tmp_path, more, words):
    more = [made.cls if word == "CLS" else word for word in more]
    outcome = drs("train-cls", "--data", voc, "--split", "train", *more, "--image-size", "32", "-o", tmp_path / "x.pt")
    assert outcome.code in (2, 3)
    assert outcome.err.count("\n") == 1
    assert all(word in outcome.err for word in words), outcome.err
    assert not (tmp_path / "x.pt").exists()


def test_sizes_below_the_stride(drs, voc, tmp_path):
    cls = tmp_path / "cls.pt"
    train = ("--data", voc, "--split", "train", "--device", "cpu")
    assert drs("train-cls", *train, "--backbone", "resnet18", "--init", "none", "--epochs", "0", "-o", cls).code == 0
    outcome = drs("cam", *train, "--weights", cls, "--sizes", "12,64", "-o", tmp_path / "c.h5")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "--sizes: 12 pixels" in outcome.err and "between 16" in outcome.err
    outcome = drs("cam", *train, "--weights", cls, "--method", "grad-cam", "--layer", "10", "-o", tmp_path / "c.h5")
    assert "--layer" in outcome.err and "1 to 9" in outcome.err


@pytest.mark.parametrize("name", ["vgg16", "convnext_tiny"])
def test_segmenter_of_tiny_images(name):
    """They are enlarged to the stride first: smaller ones would vanish."""
    from drstool.inference import segment_probabilities

    model = build_segmenter(name, 4)[0].eval()
    with Execution().computing():
        assert segment_probabilities(model, torch.randn(1, 3, 5, 9)).shape == (4, 5, 9)
