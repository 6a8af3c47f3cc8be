"""Class maps of images: at several sizes, mirrored or not, fused into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.models.convolution import layout
from drstool.models.vgg import NUM_RECTIFIERS, VGG, image_scores
from drstool.recipe import NORMALIZE_MEAN, NORMALIZE_STD

__all__ = [
    "Execution", "fused_maps", "grad_cam", "localization_map", "normalize", "on_device",
    "predicted_channels", "refined_map", "segment_probabilities",
]

# Class maps (N, C, h, w) of normalised images, given the channels that are wanted of each.
Network = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
# Chosen class maps (1, P, h, w), of one image or several, brought to a size (H, W).
Finish = Callable[[Tensor, tuple[int, int]], Tensor]

# Keeps the division defined where a class map is zero everywhere (authors' code).
_EPSILON = 1e-5

# Pixels a side of which the pooling layers leave something.
_LEAST_SIDE = 8


def normalize(images: Tensor) -> Tensor:
    """Images as networks take them.

    Parameters
    ----------
    images : (N, 3, H, W) uint8

    Returns
    -------
    (N, 3, H, W) float32
    """
    mean, std = _statistics(images.device)
    return (images.float() / 255 - mean) / std


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation on a device, sent there once: sending would wait for the device's work."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values)[:, None, None] for values in (NORMALIZE_MEAN, NORMALIZE_STD))
        return mean.to(device), std.to(device)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; to a GPU it travels while the caller goes on."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Execution:
    """Where and how networks and CRFs run.

    Attributes
    ----------
    device
    precision
        ``float32``, ``float16`` or ``bfloat16``; the latter two by autocast, with float32 weights.
    tf32
        False: products in float32 proper, also on GPUs that would round their factors to TF32.
    autotune
        On a GPU, let cuDNN choose the fastest convolutions where image sizes stay the same.
    winograd
        On a CPU, use Winograd convolutions; see :mod:`drstool.models.convolution`.
    workers
        Threads that read images, or run the CRF on several images; results do not depend on it.
    """

    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    tf32: bool = True
    autotune: bool = True
    winograd: bool = True
    workers: int = 1

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout in which the device convolves fastest."""
        return layout(self.device, self.precision, self.winograd)

    @contextmanager
    def computing(self, *, same_size: bool = False) -> Iterator[None]:
        """A block without gradients, in which networks compute in this way.

        Parameters
        ----------
        same_size
            Whether the images have the size of most others, so that tuning for it pays.
        """
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(self.precision)
        casting = nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
        cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
        if self.device.type == "cuda":
            cudnn.benchmark = self.autotune and same_size
            if not self.tf32:
                cudnn.allow_tf32 = products.allow_tf32 = False
        try:
            with torch.no_grad(), casting, torch.backends.nnpack.flags(enabled=self.winograd):
                yield
        finally:
            if self.device.type == "cuda":
                cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before


def localization_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Positive part, upsampled, each class divided by its maximum.

    Parameters
    ----------
    maps : (1, K, h, w) float
    size
        (H, W).

    Returns
    -------
    (1, K, H, W) float32 in [0, 1)
    """
    full = _upsample(F.relu(maps), size)
    return full / (full.amax(dim=(2, 3), keepdim=True) + _EPSILON)


def refined_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The refiner's regression, upsampled; negative values are 0.

    Parameters
    ----------
    maps : (1, K, h, w) float
    size
        (H, W).

    Returns
    -------
    (1, K, H, W) float32 in [0, inf), about [0, 1]
    """
    return F.relu(_upsample(maps, size))


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=True)


def fused_maps(
    network: Network,
    images: Tensor,
    channels: Sequence[Sequence[int]],
    finish: Finish,
    outputs: Sequence[tuple[int, int]],
    *,
    sizes: Sequence[int],
    flip: bool = False,
) -> list[Tensor]:
    """Maps of a batch: the element-wise maximum over the sizes (and over the mirrored image).

    Parameters
    ----------
    network
    images : (N, 3, S, S) float32
        Normalised, warped to a square.
    channels
        Object channels wanted of each image.
    finish
        :func:`localization_map` or :func:`refined_map`.
    outputs
        (H, W) of each image's maps.
    sizes
        Sides in pixels at which the images are seen.
    flip
        Also see the mirrored images.

    Returns
    -------
    list of (K, H, W) float32
        On the images' device.
    """
    # Only the wanted maps go on, those of one output size side by side: a few large steps instead of
    # many small ones, and one transfer of numbers to the device, not one for each image.
    by_output: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for n, (wanted, output) in enumerate(zip(channels, outputs, strict=True)):
        by_output.setdefault(tuple(output), []).extend((n, channel) for channel in wanted)
    pairs = [pair for group in by_output.values() for pair in group]
    if not pairs:
        return [images.new_zeros((0, *output)) for output in outputs]
    rows, columns = on_device(torch.tensor(pairs).T.contiguous(), images.device)
    fused: dict[tuple[int, int], Tensor] = {}
    for size in sizes:
        seen = images
        if images.shape[2:] != (size, size):
            seen = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            maps = network(seen.flip(3) if mirrored else seen, channels)
            if mirrored:
                maps = maps.flip(3)
            start = 0
            picked = maps[rows, columns]
            for output, group in by_output.items():
                if not group:
                    continue
                part = finish(picked[None, start:start + len(group)], output)[0]
                fused[output] = part if output not in fused else torch.maximum(fused[output], part)
                start += len(group)
    return _by_image(fused, channels, outputs, images)


def _by_image(
    fused: dict[tuple[int, int], Tensor], channels: Sequence[Sequence[int]],
    outputs: Sequence[tuple[int, int]], images: Tensor,
) -> list[Tensor]:
    """Maps that lie side by side in the images' order, as one tensor an image."""
    taken = dict.fromkeys(fused, 0)
    maps = []
    for wanted, output in zip(channels, map(tuple, outputs), strict=True):
        if not wanted:
            maps.append(images.new_zeros((0, *output)))
            continue
        start = taken[output]
        maps.append(fused[output][start:start + len(wanted)])
        taken[output] += len(wanted)
    return maps


def grad_cam(model: VGG, layer: int) -> Network:
    """Grad-CAM at the activations of one layer, as a network.

    The map of class c is ``sum_k w_k A_k`` with ``w_k`` the spatial sum of ``d score_c / d A_k``;
    its positive part is taken later. At the last layer this is the plain map but for the bias.

    Parameters
    ----------
    model
    layer
        Index 0..15.

    References
    ----------
    Selvaraju et al.: Grad-CAM: Visual explanations from deep networks via gradient-based
    localization, ICCV 2017, equations 1 and 2.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    def network(images: Tensor, channels: Sequence[Sequence[int]]) -> Tensor:
        with torch.enable_grad():
            activations = model.features(images, 0, layer + 1).detach().requires_grad_()
            scores = image_scores(model.output(model.features(activations, layer + 1, NUM_RECTIFIERS)))
            maps = activations.new_zeros(
                (len(images), model.output.out_channels, *activations.shape[2:]), dtype=torch.float32)
            # Images do not influence each other in evaluation mode, so one backward pass serves
            # one class of every image.
            for slot in range(max(map(len, channels), default=0)):
                chosen = [(n, wanted[slot]) for n, wanted in enumerate(channels) if slot < len(wanted)]
                total = sum(scores[n, c] for n, c in chosen)
                (gradient,) = torch.autograd.grad(total, activations, retain_graph=True)
                # Paper: the mean / here: the sum, because a map as small as the mean makes it would
                # be visibly lowered by the epsilon of the later division.
                weights = gradient.sum(dim=(2, 3), keepdim=True)
                weighted = (weights * activations).sum(dim=1).detach()
                for n, c in chosen:
                    maps[n, c] = weighted[n]
        return maps

    return network


def predicted_channels(model: VGG, images: Tensor, threshold: float) -> list[list[int]]:
    """Object channels that the classifier finds in each image, the strongest at least.

    Parameters
    ----------
    model
    images : (N, 3, S, S) float32
        Normalised.
    threshold
        Probability in [0, 1] from which a class counts as found.
    """
    scores = torch.sigmoid(image_scores(model(images)))
    found = (scores >= threshold) | (scores == scores.amax(dim=1, keepdim=True))
    return [[channel for channel, present in enumerate(row) if present] for row in found.tolist()]


def segment_probabilities(
    model: nn.Module, image: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Class probabilities of one image, averaged over scales and mirroring.

    Parameters
    ----------
    model
    image : (1, 3, H, W) float32
        Normalised.
    scales
        Factors at which the image is seen.
    flip
        Also see the mirrored image.

    Returns
    -------
    (num_classes, H, W) float32 in [0, 1]
    """
    size = tuple(image.shape[2:])
    total = None
    for scale in scales:
        scaled = tuple(max(_LEAST_SIDE, round(side * scale)) for side in size)
        seen = image
        if scaled != size:
            seen = F.interpolate(image, size=scaled, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            logits = model(seen.flip(3) if mirrored else seen).float()
            if mirrored:
                logits = logits.flip(3)
            if scaled != size:
                logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            probabilities = logits.softmax(dim=1)[0]
            total = probabilities if total is None else total + probabilities
    return total / (len(scales) * (2 if flip else 1))
