"""Networks that make class maps: a trunk, a head and a 1×1 convolution; classifier and refiner are such."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from drstool.models.drs import FixedDRS, LearnableDRS
from drstool.models.trunks import TRUNKS, activations, build_trunk, output_channels
from drstool.models.vgg import Layer, VGGWidths

__all__ = ["EXTRA_STAGE", "MapNetwork", "build_classifier", "build_refiner", "image_scores", "without_suppression"]

_EXTRA_LAYERS = 3
# The head's extra layers are counted as a stage of their own, behind the trunk's five.
EXTRA_STAGE = 6
# Of the noise that identity kernels begin with: over 512 channels, 7 % of what passes through.
_NOISE = 1e-3


class MapNetwork(nn.Module):
    """Layers of a trunk, those of the head, and a 1×1 convolution; without suppression, randomly initialised.

    Parameters
    ----------
    backbone
        A key of ``TRUNKS``.
    outputs
        C, the number of object classes.
    head
        ``paper``: three 3×3 convolutions with ReLUs before the 1×1; with batch norm where the trunk has it.
        ``plain``: none. ``auto``: the paper's for VGG-16, otherwise plain.
    output_stride
        8 or 16; 0: 8 for VGG-16, as in the paper, otherwise 16.

    Attributes
    ----------
    layers
    trunk_layers
        Number of the layers that are the trunk's.
    low_layers, last_layers
        Number of the trunk's layers up to stride 4, and of those at its end that only widen the features for
        ImageNet's classes.
    stages
        Of each layer: 1 to 5, or ``EXTRA_STAGE``.
    paths
        Of each of the trunk's layers, names in torchvision's network by names in the layer.
    published
        Names of the trunk's tensors in torchvision's state dict, by their names in this one.
    backbone, head, output_stride
        As above, chosen where they were not given.

    Raises
    ------
    KeyError, ValueError
        The description is unknown.
    """

    def __init__(self, backbone: str, outputs: int, head: str = "auto", output_stride: int = 0) -> None:
        super().__init__()
        row = TRUNKS[backbone]
        is_vgg = isinstance(row, VGGWidths)
        if head not in ("auto", "paper", "plain") or output_stride not in (0, 8, 16, 32):
            raise ValueError("there is no such head or output stride")
        self.backbone, self.output_stride = backbone, output_stride or (8 if is_vgg else 16)
        self.head = head if head != "auto" else "paper" if is_vgg else "plain"
        trunk = build_trunk(backbone, self.output_stride)
        self.layers, self.stages, self.trunk_layers = nn.ModuleList(trunk.layers), trunk.stages, len(trunk.layers)
        self.low_layers, self.last_layers, self.paths = trunk.low, int(trunk.widens), trunk.paths
        channels = output_channels(self.layers[-1])
        if self.head == "paper":
            width = row.extra if isinstance(row, VGGWidths) else 512
            batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in self.layers.modules())
            for inputs in (channels, *[width] * (_EXTRA_LAYERS - 1)):
                self.layers.append(Layer(inputs, width, batch_norm))
            self.stages, channels = [*self.stages, *[EXTRA_STAGE] * _EXTRA_LAYERS], width
        self.output = nn.Conv2d(channels, outputs, 1)
        self._frozen: frozenset[str] = frozenset()

    def features(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Activations of layer ``last - 1`` (None: of the last), given the input of layer ``first``."""
        for layer in self.layers[first:last]:
            x = layer(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Class maps of normalised images.

        Parameters
        ----------
        images : (N, 3, H, W) float
            RGB, normalised by ImageNet's mean and standard deviation.

        Returns
        -------
        (N, C, h, w) float
            Of the output stride. Unbounded; channel c is object class c.
        """
        return self.output(self.features(images))

    @property
    def published(self) -> dict[str, str]:
        names = {}
        for name in self.state_dict():
            parts = name.split(".")
            if parts[0] == "layers" and int(parts[1]) < self.trunk_layers and "controller" not in parts:
                paths = self.paths[int(parts[1])]
                known = 3 if parts[2] in paths else 2
                names[name] = ".".join([paths[parts[2] if known == 3 else ""], *parts[known:]])
        return names

    def suppressible(self) -> list[int]:
        """Indices of the layers all of whose activations, or some, cannot be negative: there DRS is possible."""
        return [index for index, layer in enumerate(self.layers) if any(True for _ in activations(layer))]

    def suppress(self, suppression: str, delta: float, layers: Collection[int]) -> None:
        """Put DRS in the place of each ReLU and ReLU6 of the layers with these indices.

        Raises
        ------
        ValueError
            There is no such layer, or no such activation in it.
        """
        if not set(layers) <= set(self.suppressible()):
            raise ValueError("DRS is not possible there")
        for index in layers:
            for parent, name, channels in list(activations(self.layers[index])):
                ceiling = 6.0 if isinstance(getattr(parent, name), nn.ReLU6) else float("inf")
                setattr(parent, name, FixedDRS(delta, ceiling) if suppression == "fixed" else LearnableDRS(
                    channels, ceiling))

    def freeze_norm(self, pretrained: Iterable[str]) -> None:
        """Keep batch norm as it is, statistics and parameters, wherever these tensors include it.

        Parameters
        ----------
        pretrained
            Names in the state dict.
        """
        known = set(pretrained)
        self._frozen = frozenset(
            name for name, module in self.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.running_mean" in known)
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> MapNetwork:
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self


def image_scores(maps: Tensor) -> Tensor:
    """Classification logits of class maps: their spatial mean.

    Parameters
    ----------
    maps : (N, C, h, w) float

    Returns
    -------
    (N, C) float32
    """
    return maps.float().mean(dim=(2, 3))


def build_classifier(
    backbone: str, outputs: int, suppression: str = "learnable", delta: float = 0.55,
    drs_layers: Collection[int] | None = None, *, head: str = "auto", output_stride: int = 0,
    extra_init: str = "random",
) -> MapNetwork:
    """A classifier with DRS at the chosen layers, randomly initialised.

    Parameters
    ----------
    backbone, outputs, head, output_stride
        As for :class:`MapNetwork`.
    suppression
        ``fixed``, ``learnable`` or ``none``.
    delta
        Bound of the fixed suppression, in [0, 1].
    drs_layers
        Indices of the layers whose activations suppress; None: all layers.
    extra_init
        Of the head's three extra layers. ``random``: He et al. ``identity``: they pass on their input, plus a little
        noise; the first one, where it has another number of channels, projects at random.

    Raises
    ------
    ValueError
        As for :meth:`MapNetwork.suppress`.
    """
    model = MapNetwork(backbone, outputs, head, output_stride)
    if extra_init == "identity":
        for layer in model.layers[model.trunk_layers:]:
            assert isinstance(layer, Layer)
            _init_identity(layer.conv)
    if extra_init == "identity" or model.head == "plain":
        # Features that are trained already are strong: the scores are to begin near zero.
        nn.init.normal_(model.output.weight, std=0.01)
    else:
        nn.init.kaiming_normal_(model.output.weight, mode="fan_out", nonlinearity="relu")
    assert model.output.bias is not None
    nn.init.zeros_(model.output.bias)
    if suppression != "none":
        model.suppress(suppression, delta, range(len(model.layers)) if drs_layers is None else drs_layers)
    return model


def _init_identity(conv: nn.Conv2d) -> None:
    nn.init.normal_(conv.weight, std=_NOISE)
    with torch.no_grad():
        if conv.in_channels == conv.out_channels:
            conv.weight[:, :, 1, 1] += torch.eye(conv.in_channels, device=conv.weight.device)
        else:
            nn.init.kaiming_normal_(conv.weight[:, :, 1, 1], nonlinearity="relu")


def build_refiner(
    backbone: str, outputs: int, *, head: str = "auto", output_stride: int = 0, extra_init: str = "random",
) -> MapNetwork:
    """A refiner, randomly initialised: the same network without suppression.

    The new layers are drawn from a normal distribution with standard deviation 0.01, as in the
    authors' code, so that the regression begins near zero; before batch norm the scale does not
    matter, and they are initialised as in a classifier.
    """
    model = build_classifier(
        backbone, outputs, "none", head=head, output_stride=output_stride, extra_init=extra_init)
    new = [layer.conv for layer in model.layers[model.trunk_layers:] if layer.norm is None]
    for conv in [*(new if extra_init == "random" else ()), model.output]:
        nn.init.normal_(conv.weight, std=0.01)
    return model


def without_suppression(model: MapNetwork) -> MapNetwork:
    """The same weights with plain ReLUs: a DRS classifier as a plain CAM network."""
    plain = copy.deepcopy(model)
    for layer in plain.layers:
        for parent, name, _ in list(activations(layer)):
            if isinstance(drs := getattr(parent, name), (FixedDRS, LearnableDRS)):
                setattr(parent, name, nn.ReLU6(inplace=True) if drs.ceiling == 6 else nn.ReLU(inplace=True))
    return plain
