"""Class maps and class probabilities of images, fused over several input sizes and mirroring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drstool.models.convolution import layout
from drstool.models.folding import fold_batch_norm
from drstool.models.network import MapNetwork, image_scores
from drstool.recipe import NORMALIZATIONS, NORMALIZE_MEAN, NORMALIZE_STD

__all__ = [
    "Execution", "fused_maps", "grad_cam", "localization_map", "normalize", "on_device",
    "predicted_channels", "refined_map", "segment_probabilities",
]

Prepared = TypeVar("Prepared", bound=nn.Module)

# Gives class maps (N, C, h, w) of normalised images, and of the channels wanted of each.
Network = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
# Resizes class maps (1, P, h, w), of one image or several, to (H, W).
Finish = Callable[[Tensor, tuple[int, int]], Tensor]

# Avoids a division by zero where a class map is zero everywhere (authors' code).
_EPSILON = 1e-5

# Smaller inputs vanish in the pooling layers.
_LEAST_SIDE = 8


def normalize(images: Tensor) -> Tensor:
    """Images normalised by ImageNet's mean and standard deviation, as networks take them.

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
    """Mean and standard deviation on a device, copied once, as a copy would wait for the device's other work."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values)[:, None, None] for values in (NORMALIZE_MEAN, NORMALIZE_STD))
        return mean.to(device), std.to(device)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device; copied to a GPU asynchronously."""
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
        False: matrix products in full float32, also on GPUs that would round factors to TF32.
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

    def prepared(self, network: Prepared) -> Prepared:
        """A network in evaluation mode, changed in place into what computes the same fastest, on the device."""
        fold_batch_norm(network)
        return network.to(  # type: ignore[call-overload]
            self.device, memory_format=layout(network, self.device, self.precision, self.winograd))

    @contextmanager
    def computing(self, *, same_size: bool = False) -> Iterator[None]:
        """Run a block without gradients, with these settings in force.

        Parameters
        ----------
        same_size
            Whether most batches have the size of this one, so that autotuning pays.
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
    """The positive part of class maps, upsampled and divided by each class's maximum.

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
    """The refiner's regression, upsampled, with negative values set to 0.

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
    network: Network, images: Tensor, channels: Sequence[Sequence[int]], finish: Finish,
    outputs: Sequence[tuple[int, int]], *, sizes: Sequence[int], flip: bool = False, fusion: str = "max",
    normalization: str = "class",
) -> list[Tensor]:
    """Maps of a batch: the element-wise maximum or mean over the input sizes, and over the mirrored images if asked.

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
        Sides in pixels of the network's inputs.
    flip
        Also use the mirrored images.
    fusion
        ``max`` or ``mean``; a mean is finished once more, so that the largest value of a localization map is 1 again.
    normalization
        Of localization maps, a key of :data:`drstool.recipe.NORMALIZATIONS`; all but ``class`` keep a part of
        the difference between the classes of an image.

    Returns
    -------
    list of (K, H, W) float32
        On the images' device.
    """
    # Only the wanted maps are processed, all those of one output size together: a few large steps
    # instead of many small ones, and one copy of indices to the device instead of one per image.
    by_output: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for n, (wanted, output) in enumerate(zip(channels, outputs, strict=True)):
        by_output.setdefault((output[0], output[1]), []).extend((n, channel) for channel in wanted)
    pairs = [pair for group in by_output.values() for pair in group]
    if not pairs:
        return [images.new_zeros((0, *output)) for output in outputs]
    rows, columns = on_device(torch.tensor(pairs).T.contiguous(), images.device)
    places, end = {}, 0
    for output, group in by_output.items():
        start, end = end, end + len(group)
        if group:
            places[output] = slice(start, end)
    share = NORMALIZATIONS[normalization]
    fused: dict[tuple[int, int], Tensor] = {}
    combine = torch.maximum if fusion == "max" else torch.add
    for size in sizes:
        seen = images
        if images.shape[2:] != (size, size):
            seen = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            maps = network(seen.flip(3) if mirrored else seen, channels)
            if mirrored:
                maps = maps.flip(3)
            picked = maps[rows, columns]
            for output, here in places.items():
                part = finish(picked[None, here], output)[0]
                if share:
                    part = part * _relative_maximum(picked[here], rows[here], len(images)) ** share
                fused[output] = part if output not in fused else combine(fused[output], part)
    if fusion == "mean":
        count = len(sizes) * (2 if flip else 1)
        for output, total in fused.items():
            fused[output] = finish(total[None] / count, output)[0]
            if share:
                fused[output] *= _relative_maximum(total, rows[places[output]], len(images))
    return _by_image(fused, channels, outputs, images)


def _relative_maximum(maps: Tensor, images: Tensor, count: int) -> Tensor:
    """The maximum of each map over the largest one of its image, (P, 1, 1) float32 in [0, 1].

    Parameters
    ----------
    maps : (P, h, w) float
    images : (P,) int64
        Number of each map's image, below ``count``.
    count
    """
    own = maps.float().amax(dim=(1, 2)).clamp_min(0)
    largest = own.new_zeros(count).scatter_reduce(0, images, own, "amax")
    return (own / largest[images].clamp_min(_EPSILON))[:, None, None]


def _by_image(
    fused: dict[tuple[int, int], Tensor], channels: Sequence[Sequence[int]],
    outputs: Sequence[tuple[int, int]], images: Tensor,
) -> list[Tensor]:
    """One tensor per image, from maps that are concatenated in the images' order."""
    taken = dict.fromkeys(fused, 0)
    maps = []
    for wanted, output in zip(channels, ((height, width) for height, width in outputs), strict=True):
        if not wanted:
            maps.append(images.new_zeros((0, *output)))
            continue
        start = taken[output]
        maps.append(fused[output][start:start + len(wanted)])
        taken[output] += len(wanted)
    return maps


def grad_cam(model: MapNetwork, layer: int) -> Network:
    """A network that gives the Grad-CAM maps at the activations of one layer.

    The map of class c is ``sum_k w_k A_k`` with ``w_k`` the spatial sum of ``d score_c / d A_k``;
    its positive part is taken later. At the network's last layer this is the plain map without its bias.

    Parameters
    ----------
    model
    layer
        Index in ``model.layers``.

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
            scores = image_scores(model.output(model.features(activations, layer + 1)))
            maps = activations.new_zeros(
                (len(images), model.output.out_channels, *activations.shape[2:]), dtype=torch.float32)
            # Images do not influence each other in evaluation mode, so that one backward pass is
            # enough for one class of every image.
            for slot in range(max(map(len, channels), default=0)):
                chosen = [(n, wanted[slot]) for n, wanted in enumerate(channels) if slot < len(wanted)]
                total = torch.stack([scores[n, c] for n, c in chosen]).sum()
                (gradient,) = torch.autograd.grad(total, activations, retain_graph=True)
                # Paper: the mean / here: the sum, as the epsilon of the later division would visibly
                # lower maps as small as the mean makes them.
                weights = gradient.sum(dim=(2, 3), keepdim=True)
                weighted = (weights * activations).sum(dim=1).detach()
                for n, c in chosen:
                    maps[n, c] = weighted[n]
        return maps

    return network


def predicted_channels(model: MapNetwork, images: Tensor, threshold: float) -> list[list[int]]:
    """Object channels that the classifier finds in each image; the most probable one always counts.

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
        Factors by which the image is resized.
    flip
        Also use the mirrored image.

    Returns
    -------
    (num_classes, H, W) float32 in [0, 1]
    """
    size = tuple(image.shape[2:])
    least = max(_LEAST_SIDE, getattr(model, "output_stride", 0))
    total: Any = None
    for scale in scales:
        scaled = tuple(max(least, round(side * scale)) for side in size)
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
