"""``pseudo-label``: label images from maps and a background cue.

The rule itself is :mod:`drstool.cues`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from drstool import cues
from drstool.data.decoding import load_saliency
from drstool.errors import InputError
from drstool.formats.label_png import LabelRecord
from drstool.formats.maps import MapRecord
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.recipe import CueSettings

__all__ = ["label_record", "pseudo_label"]


def pseudo_label(
    records: Iterable[MapRecord], settings: CueSettings, *,
    saliency_of: Callable[[str], Path] | None = None, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked, total: int | None = None,
) -> Iterator[LabelRecord]:
    """Pseudo labels of the records, in their order and at the images' own size.

    Parameters
    ----------
    records
        Maps of the present classes; taken as they come.
    settings
    saliency_of
        Path of an image id's saliency map, such as :func:`drstool.cues.saliency_folder` gives;
        needed for ``background="saliency"``, otherwise not used.
    workers
        Number of threads; the labels do not depend on it.
    on_error
        Told of each image that fails, which is then left out; None: the error is raised.
    track, total
        Progress display, and the number of records if it is known.

    Raises
    ------
    InputError
        A saliency map is missing, unreadable or not of the image's size; a record is no map.
    UsageError
        No ``saliency_of`` where the background cue needs one.

    References
    ----------
    Kim, Han, Kim, AAAI 2021, section 3.4.
    """
    # Checked here and not at the first record: a generator would start late.
    cues.check_saliency_given(settings, saliency_of is not None)
    work = partial(label_record, settings=settings, saliency_of=saliency_of)
    return iter(track(map_items(work, records, workers, on_error), "pseudo-label", total))


def label_record(
    record: MapRecord, settings: CueSettings, saliency_of: Callable[[str], Path] | None = None,
) -> LabelRecord:
    """The pseudo label of one image; see :func:`pseudo_label`."""
    if not isinstance(record, MapRecord):
        raise InputError(f"image '{record.id}'", "comes as a label image",
                         "give maps, such as 'drstool cam' or 'drstool refine' writes")
    saliency = None
    if settings.uses_saliency and saliency_of is not None:
        saliency = load_saliency(saliency_of(record.id), record.image_size)
    maps = cues.resize_maps(record.as_float(), record.image_size)
    labels = cues.pseudo_label(maps, record.labels, settings, saliency)
    return LabelRecord(id=record.id, labels=labels, image=record.image)
