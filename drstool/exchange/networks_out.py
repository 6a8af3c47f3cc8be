"""Networks for other programs: ONNX, torch.export and safetensors."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drstool.artifacts.atomic import new_file
from drstool.checkpoints.checkpoint import Checkpoint, checkpoint_metadata, load_checkpoint
from drstool.checkpoints.safetensors import safetensors_bytes
from drstool.errors import InputError, UsageError
from drstool.exchange.exports import Export
from drstool.inference import localization_map, refined_map
from drstool.labels import label_names
from drstool.models.build import restore_network
from drstool.models.folding import fold_batch_norm
from drstool.models.network import image_scores
from drstool.recipe import NORMALIZE_MEAN, NORMALIZE_STD

__all__ = ["INPUT", "LEAST_SIDE", "OUTPUTS", "NetworkToExport", "export_onnx", "export_safetensors", "export_torch",
           "network_metadata"]

INPUT = "images"
# What each kind of network gives.
OUTPUTS = {"classifier": ("maps", "scores"), "refiner": ("maps",), "segmenter": ("probabilities",)}
# Of an exported network's images: the largest output stride.
LEAST_SIDE = 32


class NetworkToExport(nn.Module):
    """A checkpoint's network with what ``cam``, ``refine`` and ``segment`` do to its output, for one input size.

    Parameters
    ----------
    checkpoint
    where
        Named in errors.
    """

    def __init__(self, checkpoint: Checkpoint, where: object = "checkpoint") -> None:
        super().__init__()
        self.kind = checkpoint.kind
        self.network = restore_network(
            checkpoint.kind, checkpoint.architecture, checkpoint.class_names, checkpoint.weights, where)
        fold_batch_norm(self.network)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the command that uses such a network computes.

        Parameters
        ----------
        images : (N, 3, H, W) float32
            RGB in [0, 1], normalised by ImageNet's mean and standard deviation.

        Returns
        -------
        tuple of Tensor
            Of a classifier, localization maps of all classes, ``(N, C, H, W)`` in [0, 1), and the probability
            of each class, ``(N, C)``. Of a refiner, refined maps, ``(N, C, H, W)`` in [0, inf). Of a segmenter,
            probabilities of all labels, ``(N, C + 1, H, W)``.
        """
        found, (height, width) = self.network(images), images.shape[2:]
        if self.kind == "segmenter":
            return (found.softmax(dim=1),)
        if self.kind == "refiner":
            return (refined_map(found, (height, width)),)
        return localization_map(found, (height, width)), torch.sigmoid(image_scores(found))


def network_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What the user of an exported network must know, as texts; lists are JSON.

    ``channels`` names the channels of the first output.
    """
    names = list(checkpoint.class_names)
    channels = label_names(names) if checkpoint.kind == "segmenter" else names
    return checkpoint_metadata(checkpoint) | {
        "channels": json.dumps(channels, ensure_ascii=False), "color": "RGB", "input_range": "[0, 1]",
        "mean": json.dumps(NORMALIZE_MEAN), "std": json.dumps(NORMALIZE_STD)}


def export_onnx(export: Export) -> str:
    """The network as ONNX, for any batch and image size; see :class:`NetworkToExport`.

    Raises
    ------
    UsageError
        The packages that write ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--to onnx", "needs the packages onnx and onnxscript",
            "install them: pip install 'drstool[onnx]'") from error
    return _export(export, _write_onnx)


def export_torch(export: Export) -> str:
    """The network as a program of torch.export, for any batch and image size; see :class:`NetworkToExport`."""
    return _export(export, _write_torch_export)


def export_safetensors(export: Export) -> str:
    """The checkpoint's weights under their names in it, and the rest as texts; drstool reads it as a checkpoint."""
    return _export(export, _write_safetensors)


def _export(export: Export, write: Callable[[Checkpoint, nn.Module, dict[str, str], Path], None]) -> str:
    if export.source is None:
        raise UsageError("INPUT", "is missing", "name the checkpoint to export")
    checkpoint = load_checkpoint(export.source)
    if export.class_names not in (None, checkpoint.class_names):
        raise InputError(export.source, "its classes are not those of --classes", "omit --classes")
    checkpoint = replace(checkpoint, provenance=export.history(checkpoint.provenance))
    # Built in any case: weights that fit no network are of no use to others either.
    network = NetworkToExport(checkpoint, export.source)
    with new_file(export.output, export.overwrite) as temporary:
        write(checkpoint, network, network_metadata(checkpoint), temporary)
    return f"a {checkpoint.kind} of {len(checkpoint.class_names)} object classes"


def _write_safetensors(checkpoint: Checkpoint, network: nn.Module, metadata: dict[str, str], path: Path) -> None:
    # "pt" is what other readers expect of tensors from torch.
    path.write_bytes(safetensors_bytes(checkpoint.weights, metadata | {"format": "pt"}))


def _write_torch_export(checkpoint: Checkpoint, network: nn.Module, metadata: dict[str, str], path: Path) -> None:
    program = _traced(network)
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files=metadata)


def _write_onnx(checkpoint: Checkpoint, network: nn.Module, metadata: dict[str, str], path: Path) -> None:
    with _quiet():
        found = torch.onnx.export(
            _traced(network), dynamo=True, input_names=[INPUT], output_names=OUTPUTS[checkpoint.kind],
            dynamic_shapes=_any_size(), verbose=False)
        assert found is not None
        found.model.metadata_props.update(metadata)
        # In one file: it is short of the 2 GB from which the format demands a second one.
        found.save(str(path), external_data=False)


def _any_size() -> dict[str, dict[int, Any]]:
    sides = {axis: torch.export.Dim(name, min=LEAST_SIDE) for axis, name in ((2, "height"), (3, "width"))}
    return {INPUT: {0: torch.export.Dim("batch", min=1), **sides}}


def _traced(network: nn.Module) -> torch.export.ExportedProgram:
    # Of an odd size, so that no side is taken for a multiple of something.
    example = torch.zeros(2, 3, 97, 130)
    # NNPACK's convolutions are not part of any format.
    with torch.no_grad(), torch.backends.nnpack.flags(enabled=False), _quiet():
        # Otherwise ConvNeXt's layer norm is taken for one of certain widths only.
        return torch.export.export(
            network, (example,), dynamic_shapes=_any_size(), prefer_deferred_runtime_asserts_over_guards=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' talk about their own parts from the user, and all of it from stdout."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
