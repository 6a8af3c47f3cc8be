"""``refine``: refined maps of images from a refiner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from drstool.checkpoints.checkpoint import Checkpoint
from drstool.data.item import Item
from drstool.errors import InputError
from drstool.formats.records import LazyRecord, MapRecord, load
from drstool.inference import Execution, fused_maps, refined_map
from drstool.labels import label_names
from drstool.mapping import Loaded, load_square, map_records, output_size
from drstool.models.build import restore_network
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import RefineSettings

__all__ = ["items_of_maps", "refine"]


def items_of_maps(records: Iterable[MapRecord | LazyRecord], class_names: tuple[str, ...]) -> Iterator[Item]:
    """The images that map records are about, with the classes present in them as tags.

    Parameters
    ----------
    records
        Read or not; taken as they come.
    class_names
        Of the records' file or stream.

    Raises
    ------
    InputError
        A record does not name its image.
    """
    names = label_names(class_names)
    for record in map(load, records):
        if not record.image:
            raise InputError(f"image {record.id!r}", "has maps that do not say where it lies", "give --data")
        yield Item(record.id, Path(record.image), tags=tuple(names[label] for label in record.labels))


def refine(
    items: Iterable[Item],
    refiner: Checkpoint,
    settings: RefineSettings,
    *,
    map_size: str = "image",
    dtype: str = "float16",
    execution: Execution = Execution(),
    on_error: OnError | None = None,
    track: Track = untracked,
    total: int | None = None,
) -> Iterator[MapRecord]:
    """Refined maps of the tagged classes of each image, in order.

    Parameters
    ----------
    items
        Images with their tags; taken as they come. One known to have none gets an empty record.
    refiner
    settings, map_size, dtype, execution, on_error, track, total
        As in :func:`drstool.stages.cam.cam`.

    Raises
    ------
    InputError
        An image is unreadable, or nothing is known of its tags.

    Notes
    -----
    Refined maps may exceed 1, and beat a background cue of 1 where they do. uint8 cannot hold that,
    so float16 is the default: labels then equal those of unrounded maps on 99.98 % of pixels and
    more, and on as few as 93 % with uint8 and a refiner that overshoots.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.3.
    """
    model = restore_network(
        "refiner", refiner.architecture, refiner.class_names, refiner.weights, "refiner")
    model.to(execution.device, memory_format=execution.layout)
    settings = settings.for_network(refiner.recipe)
    output_size(map_size, settings.image_size, (1, 1))
    load = partial(load_square, side=settings.image_size, class_names=refiner.class_names, empty=True)
    loaded = track(map_items(load, items, execution.workers, on_error), "refine", total)

    def compute(batch: list[Loaded], images: Tensor) -> tuple[list[list[int]], list[Tensor]]:
        channels = [image.channels for image in batch]
        outputs = [output_size(map_size, settings.image_size, image.size) for image in batch]
        return channels, fused_maps(
            lambda seen, _: model(seen), images, channels, refined_map, outputs,
            sizes=settings.sizes, flip=settings.flip)

    return map_records(loaded, compute, execution, batch_size=settings.batch_size, dtype=dtype)
