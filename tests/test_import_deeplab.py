"""DeepLabV3+ checkpoints of the authors' code, from a network built here as theirs is described.

Theirs: a ResNet whose last stages are dilated; ASPP of a 1×1 convolution, three atrous 3×3 convolutions and the
image's mean, 256 channels each, then a 1×1 convolution; low-level features of the first stage reduced to 48 channels;
a 3×3 and a 1×1 convolution over both; bilinear interpolation without aligned corners.
"""

from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from drstool.checkpoints.checkpoint import load_checkpoint
from drstool.cli.app import app
from drstool.cli.commands import register
from drstool.errors import InputError, UsageError
from drstool.models.build import restore_network
from drstool.stages.import_ import import_drs

register()


def conv(inputs, outputs, kernel=1, rate=0):
    return [nn.Conv2d(inputs, outputs, kernel, padding=rate or kernel // 2, dilation=rate or 1, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU()]


class Theirs(nn.Module):
    """Their network, with their names."""

    def __init__(self, depth, stride, labels):
        super().__init__()
        build = {50: torchvision.models.resnet50, 101: torchvision.models.resnet101}[depth]
        self.backbone = build(weights=None, replace_stride_with_dilation=(False, stride == 8, True))
        del self.backbone.fc
        rates = (12, 24, 36) if stride == 8 else (6, 12, 18)
        aspp = nn.Module()
        aspp.convs = nn.ModuleList([
            nn.Sequential(*conv(2048, 256)), *(nn.Sequential(*conv(2048, 256, 3, rate)) for rate in rates),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv(2048, 256))])
        aspp.project = nn.Sequential(*conv(5 * 256, 256), nn.Dropout(0.1))
        self.classifier = nn.Module()
        self.classifier.project, self.classifier.aspp = nn.Sequential(*conv(256, 48)), aspp
        self.classifier.classifier = nn.Sequential(*conv(304, 256, 3), nn.Conv2d(256, labels, 1))

    def forward(self, images):
        trunk, head = self.backbone, self.classifier
        low = trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images)))))
        high = trunk.layer4(trunk.layer3(trunk.layer2(low)))

        def to(x, like):
            return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

        context = head.aspp.project(torch.cat([to(branch(high), high) for branch in head.aspp.convs], 1))
        return to(head.classifier(torch.cat([head.project(low), to(context, low)], 1)), images)


@cache
def theirs(depth=50, stride=16, labels=21):
    torch.manual_seed(0)
    network = Theirs(depth, stride, labels).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return network


def saved(path, state):
    torch.save({
        "cur_itrs": 20000, "model_state": state, "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "scheduler_state": {"max_iters": 20000, "base_lrs": [0.1]}, "best_score": np.float64(0.7)}, path)
    return str(path)


@pytest.mark.parametrize(("depth", "stride"), [(50, 8), (101, 16)])
def test_it_computes_the_same(tmp_path, depth, stride):
    network = theirs(depth, stride)
    path = saved(tmp_path / f"best_deeplabv3plus_resnet{depth}_voc_os{stride}.pth", network.state_dict())
    out = str(tmp_path / "seg.pt")
    found = CliRunner().invoke(app, ["import", "--from", "drs", path, "-o", out])
    assert found.exit_code == 0 and f"with output stride {stride}" in found.stderr
    checkpoint = load_checkpoint(out, "segmenter")
    assert checkpoint.architecture == {"backbone": f"resnet{depth}", "output_stride": stride}
    assert checkpoint.class_names[14] == "person"
    ours = restore_network("segmenter", checkpoint.architecture, checkpoint.class_names, checkpoint.weights, out)
    images = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        want = network(images)
        torch.testing.assert_close(ours(images), want, rtol=1e-4, atol=1e-5)
        assert want.std() > 0.01


def test_the_output_stride_is_not_guessed(tmp_path):
    path = saved(tmp_path / "best_os32.pth", theirs().state_dict())
    with pytest.raises(UsageError, match="--output-stride: is missing.*16 or 8"):
        import_drs(path)
    assert import_drs(path, output_stride=8).architecture["output_stride"] == 8
    with pytest.raises(UsageError, match="--kind: .* is a segmenter"):
        import_drs(path, kind="classifier")


def test_other_classes(tmp_path):
    path = saved(tmp_path / "x_os16.pth", theirs(labels=3).state_dict())
    assert import_drs(path, class_names=("cat", "dog")).class_names == ("cat", "dog")
    with pytest.raises(InputError, match="has 3 labels"):
        import_drs(path)


def spoiled(**changes):
    state = theirs().state_dict()
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


NO = torch.zeros(1)


@pytest.mark.parametrize(("state", "words"), [
    (lambda: {"backbone.low_level_features.0.0.weight": NO}, "MobileNetV2 that pads"),
    (lambda: spoiled(**{"classifier.aspp.convs.1.0.body.0.weight": NO}), "--separable_conv"),
    (lambda: spoiled(**{"classifier.classifier.3.weight": None}), "is not a DeepLabV3"),
    (lambda: {"backbone.layer3.0.conv1.weight": NO}, "is not a DeepLabV3"),
    (lambda: spoiled(**{"backbone.layer1.0.conv1.weight": None}), "are not those of DeepLabV3"),
    (lambda: spoiled(**{"backbone.conv1.weight": NO}), "are not those of DeepLabV3")])
def test_other_networks_of_theirs(tmp_path, state, words):
    path = saved(tmp_path / "best_os16.pth", state())
    found = CliRunner().invoke(app, ["import", path, "-o", str(tmp_path / "seg.pt")])
    assert found.exit_code == 3 and words in found.stderr and len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "seg.pt").exists()


def test_the_others_have_one_output_stride(tmp_path):
    torch.save({"model": {"layer1_conv1.weight": NO}}, tmp_path / "x.pth")
    with pytest.raises(UsageError, match="--output-stride"):
        import_drs(str(tmp_path / "x.pth"), output_stride=8)
    with pytest.raises(UsageError, match="not a segmenter"):
        import_drs(str(tmp_path / "x.pth"), kind="segmenter")
    found = CliRunner().invoke(
        app, ["import", str(tmp_path / "x.pth"), "--output-stride", "4", "-o", str(tmp_path / "y.pt")])
    assert found.exit_code == 2 and "--output-stride" in found.stderr
