"""Build networks from their description, and load weights into them; nothing here reads files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drstool.errors import InputError, UsageError, is_shortage
from drstool.labels import num_classes
from drstool.models.deeplab import DEEPLAB_BACKBONES, build_segmenter
from drstool.models.vgg import (
    NUM_ACTIVATIONS, VGG, VGG_BACKBONES, build_classifier, build_refiner, load_torchvision_features,
)

__all__ = ["build_network", "load_pretrained", "parse_layers", "restore_network"]


def parse_layers(text: str, option: str = "--drs-layers") -> list[int]:
    """Layer indices 0..15, ascending, from a list such as ``1-10,13`` that counts from 1, or from ``all``.

    Raises
    ------
    UsageError
        The text is not such a list.

    Examples
    --------
    >>> parse_layers("1-3,16")
    [0, 1, 2, 15]
    """
    if text == "all":
        return list(range(NUM_ACTIVATIONS))
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not dash:
            last = first
        if not first.isdecimal() or not last.isdecimal():
            raise UsageError(
                option, f"{text!r} is not a list of layers", f"all, or 1 to {NUM_ACTIVATIONS} like 1-10,13")
        low, high = int(first), int(last)
        if not 1 <= low <= high <= NUM_ACTIVATIONS:
            raise UsageError(
                option, f"{part.strip()} is not a range of layers", f"layers are numbered 1 to {NUM_ACTIVATIONS}")
        layers.update(range(low - 1, high))
    return sorted(layers)


def build_network(
    kind: str, architecture: Mapping[str, Any], class_names: Sequence[str]
) -> tuple[nn.Module, nn.Module]:
    """A randomly initialised network, and the module that takes pretrained weights.

    Parameters
    ----------
    kind
        ``classifier``, ``refiner`` or ``segmenter``.
    architecture
        ``backbone``; for a classifier also ``suppression``, ``delta`` and ``drs_layers`` (indices
        0..15); for a segmenter also ``output_stride``.
    class_names
        The C object classes.

    Raises
    ------
    KeyError, TypeError
        The description is incomplete.
    """
    backbone = architecture["backbone"]
    if kind == "segmenter":
        return build_segmenter(backbone, num_classes(class_names), architecture["output_stride"])
    if kind == "refiner":
        model = build_refiner(backbone, len(class_names))
    else:
        model = build_classifier(
            backbone, len(class_names), architecture["suppression"], architecture["delta"],
            architecture["drs_layers"])
    return model, model


def restore_network(
    kind: str, architecture: Mapping[str, Any], class_names: Sequence[str],
    weights: Mapping[str, Tensor], where: object,
) -> Any:
    """The network of a checkpoint, in evaluation mode.

    Raises
    ------
    InputError
        The backbone is unknown, or the weights do not fit the description.
    """
    known = DEEPLAB_BACKBONES if kind == "segmenter" else VGG_BACKBONES
    if architecture.get("backbone") not in list(known):
        raise InputError(
            where, f"has an unknown backbone {architecture.get('backbone')!r}", "expected one of " + ", ".join(known))
    try:
        model, _ = build_network(kind, architecture, class_names)
        model.load_state_dict(dict(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if is_shortage(error):
            raise
        raise InputError(
            where, "its weights do not fit the architecture that it describes", "recreate it") from None
    return model.eval()


# Parts of published networks, and of our own, that are not taken over.
_UNUSED = ("classifier.", "fc.", "features.18.", "output.", "decoder.1.")


def load_pretrained(network: nn.Module, weights: Mapping[str, Tensor], where: object) -> frozenset[str]:
    """Load pretrained weights into a network's backbone; new layers keep their initial weights.

    Parameters
    ----------
    network
        Second result of :func:`build_network`.
    weights
        A state dict of torchvision's network of the same name, or of a drstool checkpoint with
        the same backbone.
    where
        Named in the error.

    Returns
    -------
    frozenset of str
        Names, in the network's state dict, of the tensors that were loaded.

    Raises
    ------
    InputError
        A tensor is missing or has the wrong shape.
    """
    filled: set[str] = set()
    try:
        if isinstance(network, VGG) and any(name.startswith("features.") for name in weights):
            return load_torchvision_features(network, weights)
        with torch.no_grad():
            for name, target in network.state_dict().items():
                if name.startswith(_UNUSED) or ".rectifier." in name or "num_batches_tracked" in name:
                    continue
                source = weights[name]
                if source.shape != target.shape:
                    raise ValueError(f"{name!r} has shape {tuple(source.shape)}, not {tuple(target.shape)}")
                target.copy_(source)
                filled.add(name)
        return frozenset(filled)
    except KeyError as error:
        problem = f"does not hold the weights of this backbone: {error} is missing"
    except ValueError as error:
        problem = f"holds the weights of another backbone: {error}"
    raise InputError(where, problem, "give the state dict of torchvision's network of that name, or --init none")
