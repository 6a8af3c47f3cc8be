"""Build networks from their description, and load weights into them; nothing here reads files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drstool.errors import InputError, UsageError, is_shortage
from drstool.labels import num_classes
from drstool.models.deeplab import build_segmenter
from drstool.models.network import EXTRA_STAGE, MapNetwork, build_classifier, build_refiner
from drstool.models.trunks import TRUNKS
from drstool.models.vgg import Layer

__all__ = ["build_network", "classifier_architecture", "load_pretrained", "parse_layers", "restore_network"]

_EXAMPLES = "give all, numbers like 1-10,13, or stages like stage3-4,extra"


def parse_layers(text: str, network: MapNetwork, option: str = "--drs-layers") -> list[int]:
    """Indices of a network's layers, ascending, from a list of layers and stages.

    Parameters
    ----------
    text
        ``all``, or, separated by commas: numbers of layers, which count from 1, and ranges of them, as in
        ``1-10,13``; stages (VGG-16's blocks), as in ``stage3`` or ``stage4-5``; ``stage5-``, from stage 5 to
        the end of the head; ``extra``, the head's layers.
    network
    option
        Named in the error.

    Raises
    ------
    UsageError
        The text is not such a list, or the network has no such layers.

    Examples
    --------
    >>> network = MapNetwork("vgg16-small", 20)
    >>> parse_layers("1-3,16", network)
    [0, 1, 2, 15]
    >>> parse_layers("stage2,extra", network)
    [2, 3, 13, 14, 15]
    >>> parse_layers("stage5-", network)
    [10, 11, 12, 13, 14, 15]
    """
    if text == "all":
        return list(range(len(network.layers)))
    layers: set[int] = set()
    for part in map(str.strip, text.split(",")):
        staged = part.startswith("stage") or part == "extra"
        numbers = network.stages if staged else range(1, len(network.layers) + 1)
        limits = str(EXTRA_STAGE) if part == "extra" else part.removeprefix("stage")
        first, dash, last = limits.partition("-")
        from_here_on = part.startswith("stage") and dash and not last
        last = str(EXTRA_STAGE) if from_here_on else last
        if not first.isdecimal() or not (last.isdecimal() if dash else True):
            raise UsageError(option, f"{text!r} is not a list of layers", _EXAMPLES)
        low, high = int(first), int(last) if dash else int(first)
        if part == "extra" and network.head == "plain":
            raise UsageError(option, "the network has no extra layers", "give --head paper, or other layers")
        if not staged and not 1 <= low <= high <= len(network.layers):
            raise UsageError(
                option, f"{part} is not a range of layers",
                f"the layers of {network.backbone} are numbered 1 to {len(network.layers)}")
        found = [index for index, number in enumerate(numbers) if low <= number <= high]
        beyond = staged and part != "extra" and EXTRA_STAGE in (low, *(() if from_here_on else (high,)))
        if not found or low > high or beyond or staged and high > EXTRA_STAGE:
            stages = sorted(set(network.stages) - {EXTRA_STAGE})
            raise UsageError(
                option, f"{part} is not a range of stages",
                f"the stages of {network.backbone} are numbered {stages[0]} to {stages[-1]}")
        layers.update(found)
    return sorted(layers)


def classifier_architecture(
    backbone: str, head: str, output_stride: int, suppression: str, delta: float, drs_layers: str,
) -> dict[str, Any]:
    """The description of a classifier, as :func:`build_network` takes it, from its options.

    Raises
    ------
    UsageError
        DRS is not possible at the layers, or there are no such layers.
    """
    with torch.device("meta"):
        network = MapNetwork(backbone, 1, head, output_stride)
    layers = parse_layers(drs_layers, network)
    possible = network.suppressible()
    impossible = sorted(set(layers) - set(possible))
    if suppression != "none" and impossible:
        instead = f"layers among {_ranges(possible)}, " if possible else ""
        instead += "" if network.head == "paper" else "--head paper --drs-layers extra, "
        raise UsageError(
            "--drs-layers",
            f"the activations of {backbone}'s layers {_ranges(impossible)} can be negative, so that a fraction of "
            "their maximum is no bound", f"give {instead}or --suppression none")
    return {
        "backbone": backbone, "head": network.head, "output_stride": network.output_stride,
        "suppression": suppression, "delta": delta, "drs_layers": layers}


def _ranges(indices: Sequence[int]) -> str:
    """Layers, by their numbers from 1.

    Examples
    --------
    >>> _ranges([0, 1, 2, 4])
    '1-3,5'
    """
    parts: list[list[int]] = []
    for index in indices:
        if parts and parts[-1][1] == index:
            parts[-1][1] = index + 1
        else:
            parts.append([index + 1, index + 1])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def build_network(
    kind: str, architecture: Mapping[str, Any], class_names: Sequence[str], extra_init: str = "random",
) -> tuple[Any, Any]:
    """A randomly initialised network, and the module that takes pretrained weights.

    Parameters
    ----------
    kind
        ``classifier``, ``refiner`` or ``segmenter``.
    architecture
        ``backbone``; for a classifier also ``suppression``, ``delta`` and ``drs_layers`` (indices);
        for a segmenter also ``output_stride``. ``head`` and ``output_stride`` of the others are the
        paper's where they are missing, as in checkpoints from before there were any to choose from.
    class_names
        The C object classes.
    extra_init
        See :func:`drstool.models.network.build_classifier`.

    Raises
    ------
    IndexError, KeyError, TypeError, ValueError
        The description is incomplete or impossible.
    """
    backbone = architecture["backbone"]
    if kind == "segmenter":
        return build_segmenter(backbone, num_classes(class_names), architecture["output_stride"])
    more = {
        "head": architecture.get("head", "paper"), "output_stride": architecture.get("output_stride", 8),
        "extra_init": extra_init}
    if kind == "refiner":
        model = build_refiner(backbone, len(class_names), **more)
    else:
        model = build_classifier(
            backbone, len(class_names), architecture["suppression"], architecture["delta"],
            architecture["drs_layers"], **more)
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
    if architecture.get("backbone") not in list(TRUNKS):
        raise InputError(
            where, f"has an unknown backbone {architecture.get('backbone')!r}", "expected one of " + ", ".join(TRUNKS))
    try:
        model, _ = build_network(kind, architecture, class_names)
        model.load_state_dict(dict(weights))
    except (IndexError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if is_shortage(error):
            raise
        raise InputError(
            where, "its weights do not fit the architecture that it describes", "recreate it") from None
    return model.eval()


# Parts of published networks, and of our own, that are not taken over.
_UNUSED = ("classifier.", "fc.", "output.", "decoder.1.")


def load_pretrained(
    network: nn.Module, weights: Mapping[str, Tensor], where: object, *, any_head: bool = False,
) -> frozenset[str]:
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
    any_head
        Whether a checkpoint may have another head, of which nothing is then loaded.

    Returns
    -------
    frozenset of str
        Names, in the network's state dict, of the tensors that were loaded; the others are new.

    Raises
    ------
    InputError
        A tensor is missing, has the wrong shape, or is of a larger network or another head.
    """
    own = not isinstance(network, MapNetwork) or any(name.startswith("layers.") for name in weights)
    if own:
        names = {name: name for name in network.state_dict()}
        if isinstance(network, MapNetwork) and _has_extra_layers(network, weights) != (network.head == "paper"):
            if not any_head:
                raise _of_another_head(network, where)
            names = {name: name for name in names if not _is_extra(network, name)}
            weights = {name: value for name, value in weights.items() if not _is_extra(network, name)}
    else:
        assert isinstance(network, MapNetwork)
        names, weights = network.published, _without_biases(network, weights)
    names = {
        name: source for name, source in names.items()
        if not name.startswith(_UNUSED) and ".controller." not in name and "num_batches_tracked" not in name}
    problem = _difference(network, names, weights)
    if problem:
        twin = next((name for name in TRUNKS if _is_of(name, weights)), None) if not own else None
        problem += f" (they look like those of {twin})" if twin else ""
        raise InputError(
            where, problem, "give weights of this backbone, or --init none")
    state = network.state_dict()
    with torch.no_grad():
        for name, source in names.items():
            state[name].copy_(weights[source])
    return frozenset(names)


def _difference(network: nn.Module, names: Mapping[str, str], weights: Mapping[str, Tensor]) -> str:
    """What is wrong with pretrained weights; empty where they fit."""
    state = network.state_dict()
    for name, source in names.items():
        if source not in weights:
            return f"does not hold the weights of this backbone: {source!r} is missing"
        if weights[source].shape != state[name].shape:
            return (
                f"holds the weights of another backbone: {source!r} has shape {tuple(weights[source].shape)}, "
                f"not {tuple(state[name].shape)}")
    known, parts = set(names.values()), {source.split(".")[0] for source in names.values()}
    for source in weights:
        if (source.split(".")[0] in parts and source not in known and not source.startswith(_UNUSED)
                and ".controller." not in source and "num_batches_tracked" not in source):
            return f"holds the weights of another backbone: {source!r} has no place in this one"
    return ""


def _is_of(backbone: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights under torchvision's names are a backbone's."""
    with torch.device("meta"):
        network = MapNetwork(backbone, 1, "plain")
    names = {name: source for name, source in network.published.items() if "num_batches_tracked" not in name}
    return not _difference(network, names, _without_biases(network, weights))


def _has_extra_layers(network: MapNetwork, weights: Mapping[str, Tensor]) -> bool:
    return f"layers.{network.trunk_layers}.conv.weight" in weights


def _is_extra(network: MapNetwork, name: str) -> bool:
    """Whether a name is of a tensor of the head's extra layers."""
    list_name, _, rest = name.partition(".")
    index = rest.partition(".")[0]
    return list_name == "layers" and index.isdecimal() and int(index) >= network.trunk_layers


def _of_another_head(network: MapNetwork, where: object) -> InputError:
    has, other = ("no", "plain") if network.head == "paper" else ("the", "paper")
    return InputError(where, f"has {has} extra layers of the paper's head", f"give --head {other}")


def _without_biases(network: MapNetwork, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """torchvision's weights of VGG-16 with batch norm, with the biases before it taken into its means.

    Our convolutions have no bias before batch norm, which subtracts it again.
    """
    folded = dict(weights)
    for layer, paths in zip(network.layers, network.paths, strict=False):
        if not isinstance(layer, Layer) or layer.norm is None:
            continue
        bias, mean = f"{paths['conv']}.bias", f"{paths['norm']}.running_mean"
        if bias in folded and mean in folded and folded[bias].shape == folded[mean].shape:
            folded[mean] = folded[mean].float() - folded.pop(bias).float()
    return folded
