"""Initial weights of other projects' state dicts: the trunk computes what their own network computes."""

import re

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch.nn import functional as F

from drstool.checkpoints.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from drstool.checkpoints.pretrained import history_of_weights, initial_weights
from drstool.errors import InputError
from drstool.inference import normalize
from drstool.models.build import build_network, load_pretrained
from drstool.models.network import MapNetwork

# timm's names.
TIMM = {
    "vgg16": "vgg16", "vgg16_bn": "vgg16_bn", "resnet18": "resnet18", "resnet50": "resnet50",
    "mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0", "tf_efficientnet_b0": "tf_efficientnet_b0", "convnext_tiny": "convnext_tiny"}


def shaken(network):
    """The network with weights and batch statistics that leave nothing out."""
    torch.manual_seed(0)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.01, 2)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.1)
        elif name.endswith(("gamma", "layer_scale")) or value.ndim == 1 and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return network.eval()


def trunk_with(path, backbone, stride=None):
    network = MapNetwork(backbone, 2, "plain", stride or (32 if "vgg" not in backbone else 16))
    taken = load_pretrained(network, initial_weights(str(path), backbone), str(path))
    assert {name for name in network.state_dict() if name.startswith("layers.")} - taken == {
        name for name in network.state_dict() if "num_batches" in name}
    return network.eval()


@pytest.mark.parametrize("backbone", TIMM)
def test_timm(tmp_path, backbone):
    # VGG-16's large layers are behind the trunk.
    more = {"mlp_ratio": 0.001} if "vgg" in backbone else {}
    theirs = shaken(timm.create_model(TIMM[backbone], pretrained=False, **more))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    network = trunk_with(tmp_path / "model.safetensors", backbone)
    # TensorFlow pads odd sides, such as of 65 and 45 pixels, otherwise than even ones.
    images = torch.randn(1, 3, *(65, 90) if backbone.startswith("tf_") else (64, 96))
    with torch.no_grad():
        found = network.features(images)
        if backbone == "mobilenet_v3_large":
            # The widening convolution is timm's last block.
            want = theirs.blocks(theirs.bn1(theirs.conv_stem(images)))
        elif "vgg" in backbone:
            # Without the fifth pooling.
            want = theirs.features[:-1](images)
        elif backbone == "convnext_tiny":
            want = theirs.stages(theirs.stem(images))
        else:
            want = theirs.forward_features(images)
    assert want.std() > 1e-3
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


def renamed(state, rules):
    """A state dict with each name rewritten by the first rule that fits it."""
    found = {}
    for name, value in state.items():
        for pattern, new in rules:
            if match := re.fullmatch(pattern, name):
                name = new(*match.groups())
                break
        found[name] = value
    return found


def test_hugging_face_resnet(tmp_path):
    """The names that transformers.ResNetForImageClassification documents and writes."""
    def below(*parts):
        return "resnet.encoder.stages." + ".".join(map(str, parts))

    rules = [
        (r"conv1\.(.*)", lambda rest: f"resnet.embedder.embedder.convolution.{rest}"),
        (r"bn1\.(.*)", lambda rest: f"resnet.embedder.embedder.normalization.{rest}"),
        (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", lambda s, b, c, rest: below(
            int(s) - 1, "layers", b, "layer", int(c) - 1, "convolution", rest)),
        (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", lambda s, b, c, rest: below(
            int(s) - 1, "layers", b, "layer", int(c) - 1, "normalization", rest)),
        (r"layer(\d)\.(\d+)\.downsample\.0\.(.*)", lambda s, b, rest: below(
            int(s) - 1, "layers", b, "shortcut.convolution", rest)),
        (r"layer(\d)\.(\d+)\.downsample\.1\.(.*)", lambda s, b, rest: below(
            int(s) - 1, "layers", b, "shortcut.normalization", rest)),
        (r"fc\.(.*)", lambda rest: f"classifier.1.{rest}")]
    theirs = shaken(torchvision.models.resnet50(weights=None))
    state = renamed(theirs.state_dict(), rules)
    assert not set(state) & set(theirs.state_dict())
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    network = trunk_with(tmp_path / "model.safetensors", "resnet50")
    theirs.avgpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network.features(images).flatten(1), theirs(images))


def test_hugging_face_convnext(tmp_path):
    """The names that transformers.ConvNextForImageClassification documents and writes."""
    parts = {"block.0": "dwconv", "block.2": "layernorm", "block.3": "pwconv1", "block.5": "pwconv2"}
    rules = [
        (r"features\.0\.0\.(.*)", lambda rest: f"convnext.embeddings.patch_embeddings.{rest}"),
        (r"features\.0\.1\.(.*)", lambda rest: f"convnext.embeddings.layernorm.{rest}"),
        (r"features\.([246])\.(\d)\.(.*)", lambda s, d, rest:
            f"convnext.encoder.stages.{int(s) // 2}.downsampling_layer.{d}.{rest}"),
        (r"features\.([1357])\.(\d)\.layer_scale", lambda s, b:
            f"convnext.encoder.stages.{int(s) // 2}.layers.{b}.layer_scale_parameter"),
        (r"features\.([1357])\.(\d)\.(block\.\d)\.(.*)", lambda s, b, part, rest:
            f"convnext.encoder.stages.{int(s) // 2}.layers.{b}.{parts[part]}.{rest}"),
        (r"classifier\.0\.(.*)", lambda rest: f"convnext.layernorm.{rest}"),
        (r"classifier\.2\.(.*)", lambda rest: f"classifier.{rest}")]
    theirs = shaken(torchvision.models.convnext_tiny(weights=None))
    state = renamed(theirs.state_dict(), rules)
    assert not set(state) & set(theirs.state_dict())
    state |= {name: value.flatten() for name, value in state.items() if name.endswith("layer_scale_parameter")}
    torch.save(state, tmp_path / "pytorch_model.bin")
    network = trunk_with(tmp_path / "pytorch_model.bin", "convnext_tiny")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), theirs.features(images))


@pytest.mark.parametrize(("name", "backbone", "words"), [
    ("efficientnet_b0", "mobilenet_v2", "look like those of efficientnet_b0"),
    ("mobilenetv3_large_100", "efficientnet_b0", "look like those of mobilenet_v3_large"),
    ("convnext_tiny", "resnet18", "look like those of convnext_tiny"),
    ("convnext_atto", "convnext_tiny", "another backbone"), ("resnet34", "resnet18", "another backbone"),
    ("efficientnet_b1", "efficientnet_b0", "another backbone"), ("regnetx_002", "resnet18", "is missing")])
def test_another_backbone(tmp_path, name, backbone, words):
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=words) as caught:
        trunk_with(tmp_path / "x.pth", backbone)
    assert "\n" not in str(caught.value)


class Written(dict):
    """A network written out, whose state dict this is: its tensors are drawn where they are first used."""

    def conv(self, name, x, outputs, kernel=1, stride=1, groups=1, bias=False):
        """Pads ``same``, for even sides where there is a stride."""
        inputs = x.shape[1] // groups
        weight = self.setdefault(f"{name}.weight", torch.randn(outputs, inputs, kernel, kernel) / (
            inputs * kernel * kernel) ** 0.5)
        more = self.setdefault(f"{name}.bias", torch.randn(outputs)) if bias else None
        first, last = (kernel - stride) // 2, kernel - stride - (kernel - stride) // 2
        return F.conv2d(F.pad(x, (first, last, first, last)), weight, more, stride, groups=groups)

    def norm(self, name, x):
        mean, variance, weight, bias = (
            self.setdefault(f"{name}.{key}", torch.rand(x.shape[1]) + 0.2)
            for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)


def mobilenet_v2(state, x):
    """As transformers' modeling_mobilenet_v2.py names and computes it, of images in [-1, 1]."""
    def layer(name, x, outputs, *how, act=True):
        name = f"mobilenet_v2.{name}"
        x = state.norm(f"{name}.normalization", state.conv(f"{name}.convolution", x, outputs, *how))
        return x.clamp(0, 6) if act else x

    x = layer("conv_stem.first_conv", x, 32, 3, 2)
    x = layer("conv_stem.reduce_1x1", layer("conv_stem.conv_3x3", x, 32, 3, 1, 32), 16, act=False)
    blocks = [(24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)]
    plan = [(outputs, 1 if again else stride) for outputs, times, stride in blocks for again in range(times)]
    for number, (outputs, stride) in enumerate(plan):
        name, wide = f"layer.{number}", 6 * x.shape[1]
        y = layer(f"{name}.conv_3x3", layer(f"{name}.expand_1x1", x, wide), wide, 3, stride, wide)
        y = layer(f"{name}.reduce_1x1", y, outputs, act=False)
        x = x + y if stride == 1 and x.shape == y.shape else y
    return layer("conv_1x1", x, 1280)


def efficientnet_b0(state, x):
    """As transformers' modeling_efficientnet.py names and computes it, for sides that are multiples of 32."""
    def layer(conv, norm, x, *how, act=F.silu):
        return act(state.norm(f"efficientnet.{norm}", state.conv(f"efficientnet.{conv}", x, *how)))

    x = layer("embeddings.convolution", "embeddings.batchnorm", x, 32, 3, 2)
    stages = [
        (16, 1, 1, 3, 1), (24, 6, 2, 3, 2), (40, 6, 2, 5, 2), (80, 6, 2, 3, 3), (112, 6, 1, 5, 3), (192, 6, 2, 5, 4),
        (320, 6, 1, 3, 1)]
    plan = [(outputs, expand, 1 if again else stride, kernel)
            for outputs, expand, stride, kernel, times in stages for again in range(times)]
    for number, (outputs, expand, stride, kernel) in enumerate(plan):
        name, wide, y = f"encoder.blocks.{number}", expand * x.shape[1], x
        if expand > 1:
            y = layer(f"{name}.expansion.expand_conv", f"{name}.expansion.expand_bn", y, wide)
        depthwise = f"{name}.depthwise_conv.depthwise"
        y = layer(f"{depthwise}_conv", f"{depthwise}_norm", y, wide, kernel, stride, wide)
        excite = f"efficientnet.{name}.squeeze_excite"
        squeezed = F.silu(state.conv(
            f"{excite}.reduce", y.mean(dim=(2, 3), keepdim=True), x.shape[1] // 4, 1, 1, 1, True))
        y = y * state.conv(f"{excite}.expand", squeezed, wide, 1, 1, 1, True).sigmoid()
        y = layer(f"{name}.projection.project_conv", f"{name}.projection.project_bn", y, outputs, act=lambda x: x)
        x = x + y if stride == 1 and x.shape == y.shape else y
    return layer("encoder.top_conv", "encoder.top_bn", x, 1280)


@pytest.mark.parametrize("theirs", [mobilenet_v2, efficientnet_b0])
def test_hugging_face_networks_of_tensorflow(tmp_path, theirs):
    torch.manual_seed(0)
    state, pixels = Written(), torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    images = normalize(pixels)
    want = theirs(state, pixels / 127.5 - 1 if theirs is mobilenet_v2 else images)
    torch.save(dict(state), tmp_path / "pytorch_model.bin")
    network = trunk_with(tmp_path / "pytorch_model.bin", f"tf_{theirs.__name__}")
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), want, rtol=1e-4, atol=1e-4)
    if theirs is mobilenet_v2:
        # Denser maps hold theirs, whose cells begin at the second pixel of each pair.
        network = trunk_with(tmp_path / "pytorch_model.bin", "tf_mobilenet_v2", stride=16)
        with torch.no_grad():
            torch.testing.assert_close(network.features(images)[:, :, 1::2, 1::2], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "backbone", "right"), [
    ("mobilenet_v2.conv_stem.first_conv.convolution.weight", "mobilenet_v2", "tf_mobilenet_v2"),
    ("efficientnet.embeddings.convolution.weight", "resnet18", "tf_efficientnet_b0"),
    ("features.0.0.weight", "tf_efficientnet_b0", "efficientnet_b0"),
    ("conv_stem.weight", "tf_mobilenet_v2", "mobilenet_v2")])
def test_networks_that_pad_otherwise(tmp_path, name, backbone, right):
    torch.save({name: torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"pads images as .* give --backbone {right}, or weights of"):
        initial_weights(str(tmp_path / "x.pth"), backbone)


ARCHITECTURE = {"backbone": "vgg16-small", "head": "plain", "output_stride": 8}


def test_an_exported_checkpoint_is_one(tmp_path):
    from test_export_networks import Checkpoint, CliRunner, app

    network, _ = build_network("refiner", ARCHITECTURE, ("cat", "dög"))
    saved = Checkpoint("refiner", ("cat", "dög"), ARCHITECTURE, {"epochs": 2}, network.state_dict(), ({"a": 1},))
    save_checkpoint(tmp_path / "a.pt", saved)
    out = str(tmp_path / "a.safetensors")
    assert CliRunner().invoke(
        app, ["export", "--to", "safetensors", str(tmp_path / "a.pt"), "-o", out, "--no-provenance"]).exit_code == 0
    found = load_checkpoint(out, "refiner")
    assert (found.class_names, found.architecture, found.recipe) == (saved.class_names, ARCHITECTURE, {"epochs": 2})
    assert all(torch.equal(value, saved.weights[name]) for name, value in found.weights.items())
    assert list(initial_weights(out, "vgg16-small")) == list(found.weights)
    assert history_of_weights(out) == found.provenance == ()
    with pytest.raises(InputError, match="backbone vgg16-small"):
        initial_weights(out, "vgg16")
    assert "refiner" in CliRunner().invoke(app, ["info", out]).stdout


def written(path, change):
    safetensors.torch.save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}, path)
    path.write_bytes(change(path.read_bytes()))
    return path


def test_safetensors_of_the_format_s_own_writer(tmp_path):
    state = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
            torch.int8, torch.uint8, torch.bool)} | {"empty": torch.zeros(0, 3), "one": torch.tensor(2.5)}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = load_tensors(tmp_path / "x.safetensors")
    assert sorted(found) == sorted(state)
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)


@pytest.mark.parametrize("change", [
    lambda content: content[:-1], lambda content: content + b"x", lambda content: content[:30],
    lambda content: content.replace(b"[2,3]", b"[2,9]"), lambda content: content.replace(b"[2,3]", b"[-2,-3]"[:5]),
    lambda content: content.replace(b'"F32"', b'"F99"'), lambda content: content.replace(b'"shape"', b'"shope"'),
    lambda content: content[:8] + b"{" * (len(content) - 8),
    lambda content: (2**20).to_bytes(8, "little") + content[8:]])
def test_damaged_safetensors(tmp_path, change):
    with pytest.raises(InputError, match="is not a safetensors file, or is damaged") as caught:
        load_tensors(written(tmp_path / "x.safetensors", change))
    assert "\n" not in str(caught.value)
