"""``saliency``: saliency maps of images, by a method without training or a model of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from drstool.data.decoding import load_image
from drstool.data.item import Item
from drstool.exchange.saliency_model import SaliencyModel
from drstool.parallel import OnError, Track, map_items, untracked
from drstool.saliency import check_method, saliency_map

__all__ = ["saliency"]


def saliency(
    items: Iterable[Item], *, method: str = "mbd", model: SaliencyModel | None = None, workers: int = 1,
    on_error: OnError | None = None, track: Track = untracked, total: int | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Ids and saliency maps of the items' images, in the items' order.

    Parameters
    ----------
    items
        Only their ids and images are used, never masks.
    method
        A key of ``drstool.saliency.METHODS``.
    model
        Computes the maps instead.
    workers
        Number of threads; the maps do not depend on it.
    on_error
        Called with the error of each image that fails, which is then left out; None: it is raised.
    track, total
        Progress display, and the number of items if it is known.

    Yields
    ------
    id : str
    map : (H, W) uint8
        At the image's own size; see :func:`drstool.saliency.saliency_map` and
        :class:`drstool.exchange.saliency_model.SaliencyModel`.

    Raises
    ------
    UsageError
        No such method.
    InputError
        An image cannot be read, or the model fails on it.
    """
    # Checked now, which in a generator would wait for the first item.
    check_method(method)
    work = partial(_item_map, measure=model or partial(saliency_map, method=method))
    return iter(track(map_items(work, items, workers, on_error), "saliency", total))


def _item_map(item: Item, measure: Callable[[np.ndarray], np.ndarray]) -> tuple[str, np.ndarray]:
    return item.id, measure(load_image(item.image, item.value_range))
