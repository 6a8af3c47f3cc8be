"""``cam``: localization maps from a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from torch import Tensor

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.data.item import Item
from drstool.errors import UsageError
from drstool.formats.records import MapRecord
from drstool.inference import Execution, Network, fused_maps, grad_cam, localization_map, predicted_channels
from drstool.mapping import Loaded, load_square, map_records, output_size
from drstool.models.build import restore_network
from drstool.models.network import MapNetwork, without_suppression
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CamSettings

__all__ = ["METHODS", "cam", "usual_layer", "usual_method"]

METHODS = ("drs", "cam", "grad-cam")


def cam(
    items: Iterable[Item], classifier: Checkpoint, settings: CamSettings, *, method: str | None = None,
    layer: int | None = None, predict_tags: float | None = None, map_size: str = "square", dtype: str = "uint8",
    execution: Execution = Execution(), on_error: OnError | None = None, track: Track = untracked,
    total: int | None = None,
) -> Iterator[MapRecord]:
    """Localization maps of the present classes of each image, in order.

    Parameters
    ----------
    items
        Images with their tags; consumed one by one.
    classifier
    settings
        Input sizes, mirroring and batch size.
    method
        ``drs``: the maps of the network as it was trained. ``cam``: with its suppression switched
        off. ``grad-cam``: from the gradients at a layer. None: see :func:`usual_method`.
    layer
        Of Grad-CAM, from 1; None: see :func:`usual_layer`.
    predict_tags
        Probability from which a class counts as present; None: the given tags are used.
    map_size
        ``square`` (``settings.image_size``), ``image``, or a number of pixels.
    dtype
        ``uint8`` or ``float16``.
    execution
        Where and how the network runs.
    on_error
        Called with the error of each image that fails and is then left out; None: the error is raised.
    track, total
        Progress display, and the number of images if it is known.

    Raises
    ------
    UsageError
        The method is unknown or needs suppression that the network lacks, or there is no such layer.
    InputError
        An image is unreadable or has no tag.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.2; Zhou et al., CVPR 2016 (CAM); Selvaraju et al., ICCV 2017.
    """
    model: MapNetwork = restore_network(
        "classifier", classifier.architecture, classifier.class_names, classifier.weights, "classifier")
    network = _network(
        model, classifier.architecture["suppression"], method or usual_method(classifier),
        model.trunk_layers if layer is None else layer, execution)
    # Tags are predicted by the network as it was trained.
    execution.prepared(model)
    if method == "grad-cam" and execution.precision == "float16":
        raise UsageError(
            "--precision float16", "Grad-CAM's gradients are too small for it", "give float32 or bfloat16")
    settings = settings.for_network(classifier.recipe, classifier.architecture, model.output_stride)
    output_size(map_size, settings.image_size, (1, 1))
    load = partial(
        load_square, side=settings.image_size, class_names=None if predict_tags is not None else classifier.class_names)
    loaded = track(map_items(load, items, execution.workers, on_error, gaps=True), "cam", total)

    def compute(batch: list[Loaded], images: Tensor) -> tuple[list[list[int]], list[Tensor]]:
        if predict_tags is None:
            channels = [image.channels for image in batch]
        else:
            channels = predicted_channels(model, images, predict_tags)
        outputs = [output_size(map_size, settings.image_size, image.size) for image in batch]
        return channels, fused_maps(
            network, images, channels, localization_map, outputs, sizes=settings.sizes, flip=settings.flip,
            fusion=settings.fusion, normalization=settings.normalization)

    return map_records(loaded, compute, execution, batch_size=settings.batch_size, dtype=dtype)


def usual_method(checkpoint: Checkpoint) -> str:
    """The method that fits a classifier: ``drs``, or ``cam`` if it has no suppression."""
    return "cam" if checkpoint.architecture.get("suppression") == "none" else "drs"


def usual_layer(checkpoint: Checkpoint) -> int:
    """The last layer of a classifier's backbone, counted from 1, without building the network."""
    layers = {name.split(".")[1] for name in checkpoint.weights if name.startswith("layers.")}
    return len(layers) - (3 if checkpoint.architecture.get("head", "paper") == "paper" else 0)


def _network(model: MapNetwork, suppression: str, method: str, layer: int, execution: Execution) -> Network:
    if method not in METHODS:
        raise UsageError("--method", f"{method!r} is not one of {', '.join(METHODS)}")
    if method == "drs" and suppression == "none":
        raise UsageError(
            "--method drs", "this classifier was trained without suppression",
            "give --method cam, or train with --suppression fixed or learnable")
    if method == "grad-cam":
        if not 1 <= layer <= len(model.layers):
            raise UsageError("--layer", f"there is no layer {layer}", f"give a number from 1 to {len(model.layers)}")
        return grad_cam(execution.prepared(model), layer - 1)
    if method == "cam" and suppression != "none":
        model = without_suppression(model)
    execution.prepared(model)
    return lambda images, channels: model(images)
