"""``refine``: refined maps from a refiner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.data.item import Item
from drstool.data.value_range import ValueRange
from drstool.errors import InputError
from drstool.formats.records import LazyRecord, MapRecord, load
from drstool.inference import Execution, fused_maps, refined_map
from drstool.labels import label_names
from drstool.mapping import Loaded, load_square, map_records, output_size
from drstool.models.build import restore_network
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import RefineSettings

__all__ = ["items_of_maps", "refine"]


def items_of_maps(
    records: Iterable[MapRecord | LazyRecord], class_names: tuple[str, ...], value_range: ValueRange | None = None,
) -> Iterator[Item]:
    """The images of map records, with the classes of their maps as tags.

    Parameters
    ----------
    records
        Consumed one by one.
    class_names
        Of the records' file or stream.
    value_range
        With which the images are read.

    Raises
    ------
    InputError
        A record does not name its image.
    """
    names = label_names(class_names)
    for record in map(load, records):
        if not record.image:
            raise InputError(f"image {record.id!r}", "its maps do not name the image file", "give --data")
        tags = tuple(names[label] for label in record.labels)
        yield Item(record.id, Path(record.image), tags=tags, value_range=value_range)


def refine(
    items: Iterable[Item], refiner: Checkpoint, settings: RefineSettings, *, map_size: str = "image",
    dtype: str = "float16", execution: Execution = Execution(), on_error: OnError | None = None,
    track: Track = untracked, total: int | None = None,
) -> Iterator[MapRecord]:
    """Refined maps of the tagged classes of each image, in order.

    Parameters
    ----------
    items
        Images with their tags, which may be empty; consumed one by one.
    refiner
    settings, map_size, dtype, execution, on_error, track, total
        As in :func:`drstool.stages.cam.cam`.

    Raises
    ------
    InputError
        An image is unreadable, or its tags are unknown.

    Notes
    -----
    Refined maps may exceed 1, and there they win over a background cue of 1. uint8 cannot represent
    that, so float16 is the default: at least 99.98 % of the labels then equal those of unrounded maps,
    against as few as 93 % with uint8 and a refiner that overshoots.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.3.
    """
    model = execution.prepared(restore_network(
        "refiner", refiner.architecture, refiner.class_names, refiner.weights, "refiner"))
    settings = settings.for_network(refiner.recipe, refiner.architecture, model.output_stride)
    output_size(map_size, settings.image_size, (1, 1))
    load = partial(load_square, side=settings.image_size, class_names=refiner.class_names)
    loaded = track(map_items(load, items, execution.workers, on_error, gaps=True), "refine", total)

    def compute(batch: list[Loaded], images: Tensor) -> tuple[list[list[int]], list[Tensor]]:
        channels = [image.channels for image in batch]
        outputs = [output_size(map_size, settings.image_size, image.size) for image in batch]
        return channels, fused_maps(
            lambda seen, _: model(seen), images, channels, refined_map, outputs,
            sizes=settings.sizes, flip=settings.flip, fusion=settings.fusion)

    return map_records(loaded, compute, execution, batch_size=settings.batch_size, dtype=dtype)
