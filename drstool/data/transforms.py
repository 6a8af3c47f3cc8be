"""Training samples: images, read and augmented at random, with their training targets.

A sample's key is (epoch, index), and its random numbers come from a generator seeded by
(seed, epoch, index): the same key gives the same sample in any process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from drstool.data.decoding import load_pil
from drstool.data.item import Dataset, Item
from drstool.errors import InputError
from drstool.formats.label_png import read_label_png
from drstool.formats.map_file import MapFileReader
from drstool.labels import as_label_type, channel_of, check_label_values, ignore_label, label_type
from drstool.pixels import shown_size
from drstool.recipe import NORMALIZE_MEAN, ClassifierRecipe, Jitter, RefinerRecipe, SegmenterRecipe

__all__ = [
    "ClassifierSamples", "RefinerSamples", "SegmenterSamples", "image_tensor", "strongest_only",
    "tag_vector", "warp",
]


def image_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as ``(3, H, W) uint8``."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def warp(image: Image.Image, size: int) -> Image.Image:
    """The image resized to ``size`` × ``size``, bilinear, whatever its aspect ratio."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def tag_vector(item: Item, class_names: Sequence[str]) -> Tensor:
    """The image's tags as ``(C,) float32``, 1 where the class is present."""
    vector = torch.zeros(len(class_names))
    for tag in item.tags or ():
        vector[class_names.index(tag)] = 1.0
    return vector


def strongest_only(maps: np.ndarray) -> np.ndarray:
    """Maps with, at each pixel, all but the strongest class set to 0; of equal ones all are kept.

    Parameters
    ----------
    maps : (K, H, W)

    Returns
    -------
    (K, H, W), the same dtype
    """
    if not len(maps):
        return maps
    return np.where(maps == maps.max(axis=0), maps, 0)


def _generator(seed: int, key: tuple[int, int]) -> np.random.Generator:
    return np.random.default_rng([seed, *key, 1])


def _jitter(image: Image.Image, widths: Jitter, random: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue changed at random, in random order."""
    changes = []
    for name in ("brightness", "contrast", "saturation"):
        width = getattr(widths, name)
        if width:
            factor = random.uniform(max(0.0, 1 - width), 1 + width)
            changes.append((getattr(tv, "adjust_" + name), factor))
    if widths.hue:
        changes.append((tv.adjust_hue, random.uniform(-widths.hue, widths.hue)))
    for i in random.permutation(len(changes)):
        change, amount = changes[i]
        image = change(image, amount)
    return image


class _Samples:
    """What the samples of all stages have in common: their images."""

    _items: Sequence[Item]

    def __len__(self) -> int:
        return len(self._items)

    def id_of(self, index: int) -> str:
        """The id of an image, without reading it."""
        return self._items[index].id


class ClassifierSamples(_Samples):
    """Samples of ``train-cls``: ``(id, (3, S, S) uint8 image, (C,) float32 tags)``.

    Parameters
    ----------
    dataset
        Every item has tags.
    class_names
        The C object classes.
    recipe
        Sizes and augmentation.
    seed
    """

    def __init__(
        self, dataset: Dataset, class_names: Sequence[str], recipe: ClassifierRecipe, seed: int
    ) -> None:
        self._items, self._class_names = dataset.items, tuple(class_names)
        self._recipe, self._seed = recipe, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, Tensor, Tensor]:
        item, recipe, random = self._items[key[1]], self._recipe, _generator(self._seed, key)
        image = warp(load_pil(item.image, item.value_range), recipe.warp_size)
        if random.random() < recipe.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        side = recipe.image_size
        left, top = random.integers(0, recipe.warp_size - side, size=2, endpoint=True).tolist()
        # Paper: not said / authors' code: jitter, then crop / here: crop, then jitter, because colours
        # change pixel by pixel and a third of the pixels can be saved. Contrast is then relative to
        # the mean of the crop, not of the image.
        image = _jitter(image.crop((left, top, left + side, top + side)), recipe, random)
        return item.id, image_tensor(image), tag_vector(item, self._class_names)


class RefinerSamples(_Samples):
    """Samples of ``refine-train``: ``(id, (3, S, S) uint8 image, (C, S, S) uint8 target)``.

    The target is the localization maps, value = round(255 x), with only the strongest class kept
    at each pixel.

    Parameters
    ----------
    dataset
    maps
        A map file with a map for every item.
    recipe
        Sizes and augmentation.
    seed

    Raises
    ------
    InputError
        An item has no map.
    """

    def __init__(self, dataset: Dataset, maps: str | Path, recipe: RefinerRecipe, seed: int) -> None:
        self._items, self._maps_path = dataset.items, maps
        self._recipe, self._seed = recipe, seed
        self._reader: tuple[int, MapFileReader] | None = None
        with MapFileReader(maps) as reader:
            self._classes = len(reader.header.class_names)
            present = set(reader.ids())
        for item in dataset.items:
            if item.id not in present:
                raise InputError(maps, f"has no map of image {item.id!r}", "make maps of the same split")

    def _maps(self) -> MapFileReader:
        # HDF5 handles do not survive a fork, so every process opens its own.
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = (os.getpid(), MapFileReader(self._maps_path))
        return self._reader[1]

    def present(self) -> np.ndarray:
        """Which of the C classes each of the M images has a map of, (M, C) bool."""
        with MapFileReader(self._maps_path) as reader:
            found = [[channel_of(label) for label in reader.labels(item.id)] for item in self._items]
        present = np.zeros((len(found), self._classes), bool)
        for row, channels in zip(present, found, strict=True):
            row[channels] = True
        return present

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, Tensor, Tensor]:
        item, recipe, random = self._items[key[1]], self._recipe, _generator(self._seed, key)
        side = recipe.image_size
        image = _jitter(warp(load_pil(item.image, item.value_range), side), recipe, random)
        record = self._maps().read(item.id)
        target = torch.zeros(self._classes, side, side, dtype=torch.uint8)
        channels = [channel_of(label) for label in record.labels]
        if channels:
            target[channels] = torch.from_numpy(strongest_only(_square(record.values, side)))
        pixels = image_tensor(image)
        if random.random() < recipe.flip:
            pixels, target = pixels.flip(2), target.flip(2)
        return item.id, pixels, target


def _square(values: np.ndarray, side: int) -> np.ndarray:
    """Stored maps as ``(K, side, side) uint8``."""
    if values.dtype == np.uint8 and values.shape[1:] == (side, side):
        return values
    scaled = values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)
    maps = torch.nn.functional.interpolate(
        torch.from_numpy(scaled)[None], size=(side, side), mode="bilinear", align_corners=True)[0]
    return (maps.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


# Value of padded pixels: the mean, which normalisation turns into about zero.
_FILL = tuple(round(255 * value) for value in NORMALIZE_MEAN)


class SegmenterSamples(_Samples):
    """Samples of ``train-seg``: ``(id, (3, S, S) uint8 image, (S, S) int64 label)``.

    Parameters
    ----------
    dataset
    labels
        Label PNG of each id.
    class_names
        The object classes, to check the label values.
    recipe
        Sizes and augmentation.
    seed

    Raises
    ------
    InputError
        An item has no label PNG.
    """

    def __init__(
        self, dataset: Dataset, labels: Mapping[str, Path], class_names: Sequence[str],
        recipe: SegmenterRecipe, seed: int,
    ) -> None:
        self._items, self._labels, self._class_names = dataset.items, labels, tuple(class_names)
        self._recipe, self._seed = recipe, seed
        self._ignored = ignore_label(label_type(len(class_names)))
        for item in dataset.items:
            if item.id not in labels:
                raise InputError("--labels", f"there is no label image for {item.id!r}", "use labels of the same split")

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, Tensor, Tensor]:
        item, recipe, random = self._items[key[1]], self._recipe, _generator(self._seed, key)
        image = load_pil(item.image, item.value_range)
        labels = self._load_labels(item, image.size[::-1])
        scale = random.uniform(recipe.scale_min, recipe.scale_max)
        width, height = (max(1, int(side * scale)) for side in image.size)
        size = width, height
        image = image.resize(size, Image.Resampling.BILINEAR)
        labels = labels.resize(size, Image.Resampling.NEAREST)
        window = _window(size, recipe.image_size, random)
        # Paper: not said / authors' code: padding is labelled background / here: ignored, because
        # nothing is seen there.
        image, labels = _cut(image, window, _FILL), _cut(labels, window, self._ignored)
        if random.random() < recipe.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            labels = labels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return item.id, image_tensor(image), torch.from_numpy(np.array(labels, dtype=np.int64))

    def _load_labels(self, item: Item, expected: tuple[int, int]) -> Image.Image:
        """The item's label image, checked against the image's ``(H, W)`` and the classes, mode ``L`` or ``I``."""
        path = self._labels[item.id]
        labels = as_label_type(read_label_png(path, path), len(self._class_names))
        check_label_values(labels, self._class_names, path)
        if labels.shape != expected:
            raise InputError(
                path, f"is {shown_size(labels.shape)} pixels, but image {item.id!r} is {shown_size(expected)}",
                "labels must have the size of their images")
        # Pillow cannot resize and paste every 16-bit picture; 32-bit ones it can.
        return Image.fromarray(labels if labels.dtype == np.uint8 else labels.astype(np.int32))


def _window(size: tuple[int, int], side: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A random square in a picture of ``size`` (width, height); larger than it where it is small."""
    corner = []
    for length in size:
        room = length - side
        low, high = (0, room) if room >= 0 else (room, 0)
        corner.append(int(random.integers(low, high, endpoint=True)))
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def _cut(image: Image.Image, window: tuple[int, int, int, int], fill: tuple[int, ...] | int) -> Image.Image:
    canvas = Image.new(image.mode, (window[2] - window[0], window[3] - window[1]), fill)
    canvas.paste(image, (-window[0], -window[1]))
    return canvas
