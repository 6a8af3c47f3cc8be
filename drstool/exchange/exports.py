"""What ``drstool export`` writes: a table of formats, each of which is a function in a module of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from drstool.parallel import Track, untracked

if TYPE_CHECKING:
    from drstool.data import Dataset
    from drstool.data.value_range import ValueRange

__all__ = ["EXPORTS", "Export", "ExportFormat"]


@dataclass(frozen=True)
class Export:
    """One export: what is to be written where.

    Attributes
    ----------
    source
        File or folder to export; None: a stream on stdin.
    output
        File or folder to write.
    overwrite
        Whether an existing output is replaced.
    class_names
        Those of ``--classes``, for a source that does not record its own.
    dataset
        Opens the dataset of ``--data``, with keywords of :func:`drstool.data.open_dataset`; None where none is named.
    split
        That of ``--split``.
    history
        Gives the provenance of the output, from the source's.
    notify
        Takes lines for the user, such as what the format cannot keep.
    threads
        How many encode files.
    track
        Shows progress.
    value_range
        Pixel values of images that become black and white (``--range``), where a format holds images.
    """

    source: str | None
    output: str
    overwrite: bool = False
    class_names: tuple[str, ...] | None = None
    dataset: Callable[..., Dataset] | None = None
    split: str | None = None
    history: Callable[[tuple[dict, ...]], tuple[dict, ...]] = lambda upstream: upstream
    notify: Callable[[list[str]], None] = lambda lines: None
    threads: int = 1
    track: Track = untracked
    value_range: ValueRange | None = None


@dataclass(frozen=True)
class ExportFormat:
    """A row of the table.

    Attributes
    ----------
    takes
        What is exported: ``maps``, ``labels`` or ``network``.
    function
        ``module:name`` below this package: takes an :class:`Export`, writes the output whole or not at all, and
        returns what it wrote in words, such as ``maps of 12 images``. Imported when it is called.
    is_folder
        Whether the output is a folder; else it is a file.
    holds_images
        Whether images are decoded into it.
    """

    takes: str
    function: str
    is_folder: bool
    holds_images: bool = False

    def write(self, export: Export) -> str:
        """Write the output; what was written, in words."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(f"drstool.exchange.{module}"), name)(export)


# By what --to takes.
EXPORTS = {
    "irn": ExportFormat("maps", "maps_out:export_irn", is_folder=True),
    "psa": ExportFormat("maps", "maps_out:export_psa", is_folder=True),
    "drs": ExportFormat("maps", "maps_out:export_drs", is_folder=True),
    "png": ExportFormat("maps", "maps_out:export_png", is_folder=True),
    "npz": ExportFormat("maps", "maps_out:export_npz", is_folder=True),
    "mmseg": ExportFormat("labels", "mmseg_out:export_mmseg", is_folder=True, holds_images=True),
    "coco": ExportFormat("labels", "coco_out:export_coco", is_folder=False),
    "geojson": ExportFormat("labels", "geojson_out:export_geojson", is_folder=False),
    "cvat": ExportFormat("labels", "cvat_out:export_cvat", is_folder=True),
    "labelme": ExportFormat("labels", "labelme_out:export_labelme", is_folder=True),
    "voc-server": ExportFormat("labels", "voc_server_out:export_voc_server", is_folder=False),
    "onnx": ExportFormat("network", "networks_out:export_onnx", is_folder=False),
    "torch-export": ExportFormat("network", "networks_out:export_torch", is_folder=False),
    "safetensors": ExportFormat("network", "networks_out:export_safetensors", is_folder=False),
}
