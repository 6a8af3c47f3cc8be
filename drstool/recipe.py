"""Every number of the method, in one place.

Each dataclass is one stage's settings; each field is an option of its command, with the field's
help text. ``RECIPES`` holds the named sets: ``default``, the small single-GPU setting, and
``paper``, the authors' code (qjadud1994/DRS).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, TypeVar

from drstool.errors import UsageError

__all__ = [
    "AUTO_BATCH",
    "CRF_PRESETS",
    "NORMALIZE_MEAN",
    "NORMALIZE_STD",
    "RECIPES",
    "CamSettings",
    "ClassifierRecipe",
    "CrfSettings",
    "CueSettings",
    "Jitter",
    "OverlaySettings",
    "RefineSettings",
    "RefinerRecipe",
    "SegmentSettings",
    "SegmenterRecipe",
    "named_recipe",
    "override",
]

# ImageNet statistics of RGB in [0, 1], as torchvision's pretrained weights expect.
NORMALIZE_MEAN = (0.485, 0.456, 0.406)
NORMALIZE_STD = (0.229, 0.224, 0.225)

# Sizes over which maps are fused, as shares of the image size: 256, 320, 384 for 320 (authors' code).
_MAP_SCALES = (0.8, 1.0, 1.2)

# Below, nothing is left behind the pooling layers; above, memory would not do.
_LEAST_SIDE, _MOST_SIDE = 8, 10_000
_MOST_IMAGES, _MOST_SCALE = 100_000, 16.0

_BATCH = (
    "Images a step, of all processes of torchrun together; auto: the recipe's, or half and half again until the GPU's "
    "memory does, with the rates as they are."
)

# Images that a network looks at together, where the user does not say: enough to fill the device.
AUTO_BATCH = {"cpu": 8, "cuda": 32}


Settings = TypeVar("Settings", bound="_MapSettings")


def _number(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Jitter:
    """Widths of the random colour changes, as torchvision's ``ColorJitter`` counts them."""

    brightness: float = _number(0.3, "Brightness factor in 1 ± this.", min=0.0)
    contrast: float = _number(0.3, "Contrast factor in 1 ± this.", min=0.0)
    saturation: float = _number(0.3, "Saturation factor in 1 ± this.", min=0.0)
    hue: float = _number(0.1, "Hue shift in ± this, of a full turn.", min=0.0, max=0.5)


@dataclass(frozen=True)
class ClassifierRecipe(Jitter):
    """``train-cls``: VGG-16 with DRS, multi-label soft margin loss, SGD (paper, section 4.1)."""

    backbone: str = _number("vgg16", "Trunk.", choices=("vgg16", "vgg16-small"))
    suppression: str = _number(
        "learnable", "DRS after each ReLU, or none for a plain CAM classifier.", choices=("fixed", "learnable", "none")
    )
    delta: float = _number(0.55, "Fixed DRS: upper bound as a share of the maximum.", min=0.0, max=1.0)
    drs_layers: str = _number("all", "ReLUs that suppress: all, or numbers 1-16 like 1-10,13.")
    epochs: int = _number(15, "Passes over the images; 0 writes the initialised network.", min=0)
    batch_size: int = _number(3, _BATCH, min=1, max=_MOST_IMAGES, auto=True)
    image_size: int = _number(320, "Side of the square crop, pixels.", min=32, max=_MOST_SIDE)
    resize_size: int = _number(
        0, "Side to which the image is warped before the crop; 0: 1.2 × image size.", min=0, max=_MOST_SIDE
    )
    optimizer: str = _number("sgd", "sgd is the method's; adam serves training from scratch.", choices=("sgd", "adam"))
    lr: float = _number(1e-3, "Learning rate of pretrained weights.", min=0.0)
    bias_lr_factor: float = _number(2.0, "Learning rate of biases over that of weights.", min=0.0)
    new_lr_factor: float = _number(10.0, "Learning rate of new layers and DRS controllers over --lr.", min=0.0)
    momentum: float = _number(0.9, "SGD momentum (Nesterov).", min=0.0, max=1.0)
    weight_decay: float = _number(5e-4, "L2 penalty.", min=0.0)
    decay_epochs: tuple[int, ...] = _number((5, 10), "Epochs, from 1, at whose start the rate falls.")
    decay_factor: float = _number(0.1, "What the rate is multiplied by there.", min=0.0)
    flip: float = _number(0.5, "Probability of a mirrored image.", min=0.0, max=1.0)

    @property
    def warp_size(self) -> int:
        """Side of the warped image before the crop, pixels: 384 for a crop of 320."""
        return self.resize_size or round(1.2 * self.image_size)


@dataclass(frozen=True)
class RefinerRecipe(Jitter):
    """``refine-train``: VGG-16 without DRS regresses the maps, MSE loss, Adam (paper, section 3.3)."""

    backbone: str = _number("vgg16", "Trunk.", choices=("vgg16", "vgg16-small"))
    epochs: int = _number(15, "Passes over the images; 0 writes the initialised network.", min=0)
    batch_size: int = _number(3, _BATCH, min=1, max=_MOST_IMAGES, auto=True)
    image_size: int = _number(320, "Side to which image and maps are warped, pixels.", min=32, max=_MOST_SIDE)
    lr: float = _number(1e-4, "Learning rate (Adam).", min=0.0)
    # Authors' code: one rate for all. From a classifier's checkpoint the output alone is new; from
    # ImageNet's weights so are the three layers before it.
    new_lr_factor: float = _number(1.0, "Learning rate, over --lr, of the layers that --init does not fill.", min=0.0)
    decay_epochs: tuple[int, ...] = _number((5, 10), "Epochs, from 1, at whose start the rate falls.")
    decay_factor: float = _number(0.1, "What the rate is multiplied by there.", min=0.0)
    flip: float = _number(0.5, "Probability of a mirrored image.", min=0.0, max=1.0)


@dataclass(frozen=True)
class SegmenterRecipe:
    """``train-seg``: DeepLabV3+, cross-entropy over pseudo labels, SGD with the poly schedule."""

    backbone: str = _number(
        "resnet50", "Feature network.", choices=("resnet50", "resnet101", "mobilenet_v2", "vgg16-small")
    )
    output_stride: int = _number(16, "Input size over feature size before ASPP.", choices=(16, 8))
    epochs: int = _number(1, "Passes over the images; 0 writes the initialised network.", min=0)
    steps: int = _number(0, "Number of steps in place of --epochs; 0: as --epochs says.", min=0)
    batch_size: int = _number(2, _BATCH, min=2, max=_MOST_IMAGES, auto=True)
    image_size: int = _number(320, "Side of the square crop, pixels.", min=32, max=_MOST_SIDE)
    # Paper recipe: 0.05 at batch 32; the default keeps its rate per image at batch 2.
    lr: float = _number(0.003, "Learning rate of the head.", min=0.0)
    backbone_lr_factor: float = _number(0.1, "Learning rate of the backbone over --lr.", min=0.0)
    momentum: float = _number(0.9, "SGD momentum.", min=0.0, max=1.0)
    weight_decay: float = _number(1e-4, "L2 penalty.", min=0.0)
    poly_power: float = _number(0.9, "Exponent of the poly schedule.", min=0.0)
    min_lr: float = _number(1e-6, "Learning rate below which the schedule does not go.", min=0.0)
    scale_min: float = _number(0.5, "Smallest random scale.", min=0.05, max=_MOST_SCALE)
    scale_max: float = _number(2.0, "Largest random scale.", min=0.05, max=_MOST_SCALE)
    flip: float = _number(0.5, "Probability of a mirrored image.", min=0.0, max=1.0)


@dataclass(frozen=True)
class _MapSettings:
    """How a network sees the images of which it makes maps."""

    image_size: int = _number(
        0, "Side of the square to which the image is warped first; 0: the one of training.", min=0
    )
    sizes: tuple[int, ...] = _number(
        (), "Sizes in pixels at which maps are made and fused; by default 0.8, 1 and 1.2 × the image size."
    )
    flip: bool = _number(False, "Also see the mirrored image, and fuse.")
    batch_size: int = _number(
        0, f"Images at a time; auto: {AUTO_BATCH['cpu']} on a CPU, {AUTO_BATCH['cuda']} on a GPU, and fewer where its "
        "memory is short.", min=0, max=_MOST_IMAGES, auto=True,
    )

    @property
    def together(self) -> int:
        """Images that are never parted: a batch on the CPU."""
        return self.batch_size or AUTO_BATCH["cpu"]

    def for_network(self: Settings, trained: dict[str, Any]) -> Settings:
        """The same settings with sizes filled in from those that the network was trained with.

        Parameters
        ----------
        trained
            The recipe of the checkpoint; without a size (an imported network), 320.

        Raises
        ------
        UsageError
            A size that no network can see.
        """
        side = self.image_size or trained.get("image_size") or ClassifierRecipe.image_size
        sizes = self.sizes or tuple(round(scale * side) for scale in _MAP_SCALES)
        for option, size in (("--image-size", side), *(("--sizes", size) for size in sizes)):
            if not _LEAST_SIDE <= size <= _MOST_SIDE:
                raise UsageError(option, f"{size} pixels a side", f"{_LEAST_SIDE} to {_MOST_SIDE}")
        return replace(self, image_size=side, sizes=sizes)


@dataclass(frozen=True)
class CamSettings(_MapSettings):
    """``cam``: localization maps from a classifier (paper, section 3.2)."""


@dataclass(frozen=True)
class RefineSettings(_MapSettings):
    """``refine``: refined maps from a refiner (paper, section 3.3)."""


@dataclass(frozen=True)
class CueSettings:
    """``pseudo-label``: object cues against the background cue (paper, section 3.4)."""

    alpha: float = _number(0.20, "Map values below this are no object cue.", min=0.0, max=1.0)
    background: str = _number(
        "saliency",
        "Where the background cue comes from: 1 - saliency, a constant, or (1 - strongest map value) ^ power; "
        "several are joined by +. Also rest: 1 - the sum of the maps, which is what probabilities leave.",
        parts=("saliency", "constant", "power", "rest"),
    )
    combine: str = _number(
        "max",
        "How several background cues become one: max, where an object must be stronger than each, or min, where "
        "one of them is enough.",
        choices=("max", "min"),
    )
    saliency_threshold: int = _number(50, "Grey value above which a pixel is salient.", min=0, max=255)
    soft: bool = _number(False, "Use the saliency's grey values instead of the threshold.")
    saliency_scale: float = _number(
        1.0,
        "Soft saliency is multiplied by this first, up to 1; 0: by what makes each image's most salient pixel 1.",
        min=0.0,
    )
    constant: float = _number(0.20, "The constant background cue.", min=0.0, max=1.0)
    power: float = _number(4.0, "Exponent of the power background cue.", min=0.0)
    background_below: float = _number(
        1.0,
        "A pixel that no object claims is background only if no map value there is above this, else ignored: the "
        "lower of two thresholds; 1 ignores none.",
        min=0.0,
        max=1.0,
    )
    conflict: float = _number(
        0.9,
        "A pixel with more than two cues above this is ignored; soft saliency above it is certain.",
        min=0.0,
        max=1.0,
    )

    @property
    def backgrounds(self) -> tuple[str, ...]:
        """The kinds of background cue that are combined; mostly one."""
        return tuple(self.background.split("+"))

    @property
    def uses_saliency(self) -> bool:
        """Whether a saliency map goes into the background cue."""
        return "saliency" in self.backgrounds


@dataclass(frozen=True)
class SegmentSettings:
    """``segment``: full-size label images from a segmenter."""

    scales: tuple[float, ...] = _number(
        (1.0,), "Factors at which the image is seen, averaged.", min=0.05, max=_MOST_SCALE
    )
    flip: bool = _number(False, "Also see the mirrored image, and average.")


@dataclass(frozen=True)
class OverlaySettings:
    """``overlay``: pictures of labels and maps over their images."""

    opacity: float = _number(0.7, "Of the colours over the image.", min=0.0, max=1.0)


@dataclass(frozen=True)
class CrfSettings:
    """``--crf`` and ``crf``: a fully connected CRF over an image's pixels (Krähenbühl and Koltun, NIPS 2011).

    The numbers mean what they mean to pydensecrf. Their options begin with ``--crf-``.
    """

    gaussian_sxy: float = _number(3.0, "Standard deviation of the kernel of place, pixels.", min=0.05)
    gaussian_compat: float = _number(3.0, "Weight of the kernel of place.", min=0.0, max=1e6)
    bilateral_sxy: float = _number(50.0, "Standard deviation of place in the kernel of place and colour.", min=0.05)
    bilateral_srgb: float = _number(
        5.0, "Standard deviation of colour in the kernel of place and colour, grey values.", min=0.05
    )
    bilateral_compat: float = _number(10.0, "Weight of the kernel of place and colour.", min=0.0, max=1e6)
    iterations: int = _number(10, "Mean-field updates.", min=0, max=10_000)
    unary: str = _number(
        "probabilities",
        "What the CRF starts from: probabilities, or labels that are right with --crf-confidence.",
        choices=("probabilities", "labels"),
    )
    confidence: float = _number(
        0.7, "Probability that a label is right, for --crf-unary labels.", min=0.01, max=0.9999
    )
    mode: str = _number(
        "lattice",
        "lattice: the approximation that pydensecrf computes; exact: the kernels themselves, for a GPU.",
        choices=("lattice", "exact"),
    )
    # Whose settings these were at first: told by provenance, and no option of its own.
    preset: str = ""


# By the projects whose published settings they are; irn's CRF looks at labels.
CRF_PRESETS: dict[str, CrfSettings] = {
    "irn": CrfSettings(unary="labels", preset="irn"),
    "deeplab": CrfSettings(bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0, preset="deeplab"),
    "psa": CrfSettings(bilateral_sxy=80.0, bilateral_srgb=13.0, bilateral_compat=10.0, preset="psa"),
}


Recipe = TypeVar("Recipe")

# default: one small GPU. paper: the authors' published scripts and run.sh files.
RECIPES: dict[str, dict[type, Any]] = {
    "default": {
        ClassifierRecipe: ClassifierRecipe(),
        RefinerRecipe: RefinerRecipe(),
        SegmenterRecipe: SegmenterRecipe(),
    },
    "paper": {
        ClassifierRecipe: ClassifierRecipe(batch_size=5),
        RefinerRecipe: RefinerRecipe(batch_size=5, epochs=30, decay_epochs=(10, 20)),
        SegmenterRecipe: SegmenterRecipe(backbone="resnet101", steps=20_000, batch_size=32, image_size=513, lr=0.05),
    },
}


def named_recipe(name: str, kind: type[Recipe]) -> Recipe:
    """The settings of one stage under a recipe's name; settings without recipes are the same in all.

    Raises
    ------
    UsageError
        There is no recipe of that name.

    Examples
    --------
    >>> named_recipe("paper", ClassifierRecipe).batch_size
    5
    """
    if name not in RECIPES:
        raise UsageError("--recipe", f"there is no recipe '{name}'", "take one of " + ", ".join(RECIPES))
    return RECIPES[name].get(kind) or kind()


def _check_parts(option: str, value: str, parts: tuple[str, ...]) -> None:
    """Check a value of one or more words joined by +, each at most once."""
    words = value.split("+")
    if len(set(words)) < len(words) or not set(words) <= set(parts):
        raise UsageError(option, f"{value} is no choice", f"take one of {', '.join(parts)}, or several joined by +")


def override(recipe: Recipe, changes: dict[str, Any], prefix: str = "") -> Recipe:
    """The recipe with the given fields changed, each checked against its limits.

    ``prefix`` is what their options begin with.

    Raises
    ------
    UsageError
        A value is outside its field's limits.

    Examples
    --------
    >>> override(RefinerRecipe(), {"epochs": 2}).epochs
    2
    """
    for spec in fields(recipe):  # type: ignore[arg-type]
        if spec.name not in changes:
            continue
        option, value = "--" + prefix + spec.name.replace("_", "-"), changes[spec.name]
        low, high = spec.metadata.get("min"), spec.metadata.get("max")
        choices = spec.metadata.get("choices")
        if choices and value not in choices:
            raise UsageError(option, f"{value} is no choice", "take one of " + ", ".join(map(str, choices)))
        if parts := spec.metadata.get("parts"):
            _check_parts(option, value, parts)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not isfinite(number):
                raise UsageError(option, f"{number} is no finite number", "give one")
            if low is not None and number < low:
                raise UsageError(option, f"{number} is too small", f"at least {low}")
            if high is not None and number > high:
                raise UsageError(option, f"{number} is too large", f"at most {high}")
    return replace(recipe, **changes)  # type: ignore[type-var]
