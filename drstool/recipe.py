"""All hyperparameters, in one place.

Each dataclass holds the settings of one stage, and each of its fields becomes a command-line
option with the field's help text. ``RECIPES`` holds the named sets: ``default``, for one small
GPU, ``paper``, the authors' code (qjadud1994/DRS), and ``light``, for few images or no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, TypeVar

from drstool.errors import UsageError

__all__ = [
    "AUTO_BATCH",
    "BACKBONES",
    "CRF_PRESETS",
    "FEW_IMAGES",
    "NORMALIZE_MEAN",
    "NORMALIZE_STD",
    "RECIPES",
    "RECIPE_USES",
    "CamSettings",
    "ClassifierRecipe",
    "CrfSettings",
    "CueSettings",
    "FigureSettings",
    "Jitter",
    "Optimization",
    "OverlaySettings",
    "PseudoLabelSettings",
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

# Input sizes whose maps are fused, relative to the image size: 256, 320 and 384 for 320 (authors' code).
_MAP_SCALES = (0.8, 1.0, 1.2)

# The exponent of a map's maximum, relative to the largest one of its image, by which its values are multiplied: an
# image's maps are divided by each one's own maximum (as in the paper), by the largest of all, or by the geometric mean.
NORMALIZATIONS = {"class": 0.0, "geometric": 0.5, "image": 1.0}

# Smaller inputs vanish in the pooling layers; larger ones exceed any memory.
_MIN_SIDE, _MAX_SIDE = 8, 10_000
_MAX_BATCH, _MAX_SCALE = 100_000, 16.0

_BATCH_HELP = (
    "Images per step, summed over torchrun processes. auto: start with the recipe's number and halve it until it fits "
    "in GPU memory; learning rates stay."
)
_EPOCHS_HELP = "Number of training epochs; 0 writes the initialised network."
_WEIGHT_DECAY_HELP = "Weight decay: an L2 penalty; with adamw, decoupled from the gradients."
_FLIP_HELP = "Probability of a random horizontal flip."

# The rows of the table in drstool/models/trunks.py.
BACKBONES = (
    "vgg16", "vgg16_bn", "resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0",
    "convnext_tiny", "tf_mobilenet_v2", "tf_efficientnet_b0", "vgg16-small")

# Default batch size for inference by device type, large enough to keep it busy.
AUTO_BATCH = {"cpu": 8, "cuda": 32}

Settings = TypeVar("Settings", bound="_MapSettings")


def _option(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Jitter:
    """Random colour changes, as in torchvision's ``ColorJitter``."""

    brightness: float = _option(0.3, "Brightness jitter: random factor in 1 ± this value.", min=0.0)
    contrast: float = _option(0.3, "Contrast jitter: random factor in 1 ± this value.", min=0.0)
    saturation: float = _option(0.3, "Saturation jitter: random factor in 1 ± this value.", min=0.0)
    hue: float = _option(0.1, "Hue jitter: random shift within ± this fraction of the colour circle.", min=0.0, max=0.5)


@dataclass(frozen=True)
class MapArchitecture:
    """What a classifier and a refiner are built from; see :class:`drstool.models.network.MapNetwork`."""

    backbone: str = _option("vgg16", "Backbone network.", choices=BACKBONES)
    output_stride: int = _option(
        0, "Ratio of input size to map size, 8 or 16; 0: 8 for VGG, 16 for the others.", choices=(0, 8, 16))
    head: str = _option(
        "auto",
        "Layers after the backbone: the paper's three 3x3 convolutions, or none (plain); auto: the paper's for VGG, "
        "none for the others.",
        choices=("auto", "paper", "plain"))
    extra_init: str = _option(
        "random",
        "Initial kernels of the paper's three layers: random, or identity plus a little noise, so that features pass "
        "through them.",
        choices=("random", "identity"))
    freeze_norm: bool = _option(
        False, "Freeze the batch norm layers that --init provides: keep their statistics and parameters.")


@dataclass(frozen=True)
class Optimization:
    """How the weights move, in all trainings.

    References
    ----------
    Loshchilov, Hutter: Decoupled weight decay regularization (AdamW), ICLR 2019.
    """

    optimizer: str = _option("sgd", "Optimizer.", choices=("sgd", "adam", "adamw"))
    momentum: float = _option(0.9, "Momentum of SGD.", min=0.0, max=1.0)
    schedule: str = _option(
        "step", "Learning-rate schedule: step (falls at --decay-epochs) or poly (falls towards 0 at every step).",
        choices=("step", "poly"))
    decay_epochs: tuple[int, ...] = _option(
        (5, 10),
        "For the step schedule: epochs, counted from 1, at whose start the learning rate is multiplied by "
        "--decay-factor; if --min-steps adds epochs, they come later in proportion.")
    decay_factor: float = _option(
        0.1, "Factor by which the learning rate is multiplied at each of --decay-epochs.", min=0.0)
    poly_power: float = _option(0.9, "Exponent of the poly schedule.", min=0.0)
    warmup: float = _option(
        0.0, "Fraction of the training during which the learning rate rises linearly to its value.", min=0.0, max=1.0)
    clip_norm: float = _option(
        0.0, "Maximum norm of all gradients together; larger ones are scaled down to it; 0: no limit.", min=0.0)
    min_steps: int = _option(
        0,
        "Minimum number of training steps: with few images, the number of epochs is raised to reach it. With --epochs, "
        "the recipe's minimum does not apply.",
        min=0)


@dataclass(frozen=True)
class ClassifierRecipe(Optimization, Jitter, MapArchitecture):
    """``train-cls``: a classifier with DRS, multi-label soft margin loss, SGD (paper, section 4.1)."""

    suppression: str = _option(
        "learnable",
        "Bound that DRS puts on the responses after a ReLU: fixed, learnable, or none for a plain CAM classifier.",
        choices=("fixed", "learnable", "none"))
    delta: float = _option(0.55, "Bound of fixed DRS, as a fraction of each channel's maximum.", min=0.0, max=1.0)
    drs_layers: str = _option(
        "all",
        "Layers whose ReLUs are followed by DRS: all, or a list of numbers, such as 1-10,13, and stages, such as "
        "stage3-4,extra or stage5- (stage 5 and what follows).")
    suppression_ramp: float = _option(
        0.0,
        "Fraction of the training during which DRS's suppression rises linearly from none (a plain ReLU) to full. "
        "Checkpoints and scores before that use full suppression.",
        min=0.0, max=1.0)
    epochs: int = _option(15, _EPOCHS_HELP, min=0)
    batch_size: int = _option(3, _BATCH_HELP, min=1, max=_MAX_BATCH, auto=True)
    image_size: int = _option(320, "Side of the square training crop, in pixels.", min=32, max=_MAX_SIDE)
    resize_size: int = _option(
        0, "Side of the square that images are warped to before cropping, in pixels; 0: 1.2 × --image-size.", min=0,
        max=_MAX_SIDE)
    lr: float = _option(1e-3, "Base learning rate, used for pretrained weights.", min=0.0)
    bias_lr_factor: float = _option(2.0, "Learning-rate multiplier for biases, relative to weights.", min=0.0)
    new_lr_factor: float = _option(10.0, "Learning-rate multiplier for new layers and DRS controllers.", min=0.0)
    momentum: float = _option(0.9, "Nesterov momentum of SGD.", min=0.0, max=1.0)
    weight_decay: float = _option(5e-4, _WEIGHT_DECAY_HELP, min=0.0)
    flip: float = _option(0.5, _FLIP_HELP, min=0.0, max=1.0)

    @property
    def warp_size(self) -> int:
        """Side of the warped image before cropping, in pixels: 384 for a crop of 320."""
        return self.resize_size or round(1.2 * self.image_size)


@dataclass(frozen=True)
class RefinerRecipe(Optimization, Jitter, MapArchitecture):
    """``refine-train``: a network without DRS regresses the maps, MSE loss, Adam (paper, section 3.3)."""

    epochs: int = _option(15, _EPOCHS_HELP, min=0)
    batch_size: int = _option(3, _BATCH_HELP, min=1, max=_MAX_BATCH, auto=True)
    image_size: int = _option(
        320, "Side of the square that images and maps are warped to, in pixels.", min=32, max=_MAX_SIDE)
    optimizer: str = _option("adam", "Optimizer.", choices=("sgd", "adam", "adamw"))
    lr: float = _option(1e-4, "Base learning rate, used for pretrained weights.", min=0.0)
    # Authors' code: one rate for all layers. Starting from a classifier, only the output layer is new; starting
    # from ImageNet weights, so are the three layers before it.
    new_lr_factor: float = _option(1.0, "Learning-rate multiplier for layers that --init does not initialise.", min=0.0)
    weight_decay: float = _option(0.0, _WEIGHT_DECAY_HELP, min=0.0)
    flip: float = _option(0.5, _FLIP_HELP, min=0.0, max=1.0)


@dataclass(frozen=True)
class SegmenterRecipe(Optimization):
    """``train-seg``: DeepLabV3+, cross-entropy over pseudo labels, SGD with the poly schedule."""

    backbone: str = _option(
        "resnet50", "Backbone network.", choices=BACKBONES)
    output_stride: int = _option(16, "Ratio of input size to feature size before ASPP.", choices=(16, 8))
    epochs: int = _option(1, _EPOCHS_HELP, min=0)
    steps: int = _option(0, "Number of training steps, overriding --epochs; 0: use --epochs.", min=0)
    batch_size: int = _option(2, _BATCH_HELP, min=2, max=_MAX_BATCH, auto=True)
    image_size: int = _option(320, "Side of the square training crop, in pixels.", min=32, max=_MAX_SIDE)
    # Paper recipe: 0.05 at batch size 32; the default is scaled down to batch size 2.
    lr: float = _option(0.003, "Base learning rate, used for the segmentation head.", min=0.0)
    backbone_lr_factor: float = _option(0.1, "Learning-rate multiplier for the backbone.", min=0.0)
    weight_decay: float = _option(1e-4, _WEIGHT_DECAY_HELP, min=0.0)
    schedule: str = _option(
        "poly",
        "Learning-rate schedule: step (falls at --decay-epochs) or poly (falls towards --min-lr at every step).",
        choices=("step", "poly"))
    min_lr: float = _option(1e-6, "Minimum learning rate of the poly schedule.", min=0.0)
    scale_min: float = _option(0.5, "Minimum of the random scale factor.", min=0.05, max=_MAX_SCALE)
    scale_max: float = _option(2.0, "Maximum of the random scale factor.", min=0.05, max=_MAX_SCALE)
    flip: float = _option(0.5, _FLIP_HELP, min=0.0, max=1.0)


@dataclass(frozen=True)
class _MapSettings:
    """How images are fed to a network that makes maps."""

    image_size: int = _option(
        0, "Side of the square that images are warped to first, in pixels; 0: the size used in training.", min=0)
    sizes: tuple[int, ...] = _option(
        (), "Input sizes in pixels whose maps are fused. [default: 0.8, 1 and 1.2 × image size]")
    flip: bool = _option(False, "Also process the horizontally flipped image and fuse the maps.")
    fusion: str = _option(
        "auto",
        "Fusion of the maps of several sizes: max (the largest value, as in the paper) or mean; auto: max for the "
        "paper's head, mean for a plain one.",
        choices=("auto", "max", "mean"))
    batch_size: int = _option(
        0,
        f"Images per batch. auto: {AUTO_BATCH['cpu']} on a CPU; {AUTO_BATCH['cuda']} on a GPU, halved until they fit "
        "in its memory.",
        min=0, max=_MAX_BATCH, auto=True)

    @property
    def together(self) -> int:
        """Number of images that shards and interruptions never split: one batch on the CPU."""
        return self.batch_size or AUTO_BATCH["cpu"]

    def for_network(
        self: Settings, recipe: Mapping[str, Any], architecture: Mapping[str, Any], output_stride: int = _MIN_SIDE,
    ) -> Settings:
        """The same settings, with what is missing filled in from the network and its training.

        Parameters
        ----------
        recipe
            The checkpoint's recipe; where it has no image size (an imported network), 320 is used.
        architecture
            The checkpoint's; where it names no head (an earlier version's network), it has the paper's.
        output_stride
            The network's, which no size may be below.

        Raises
        ------
        UsageError
            A size is out of range.
        """
        side = self.image_size or recipe.get("image_size") or ClassifierRecipe.image_size
        sizes = self.sizes or tuple(round(scale * side) for scale in _MAP_SCALES)
        for option, size in (("--image-size", side), *(("--sizes", size) for size in sizes)):
            if not output_stride <= size <= _MAX_SIDE:
                raise UsageError(
                    option, f"{size} pixels is out of range", f"must be between {output_stride} and {_MAX_SIDE:,}")
        usual = "mean" if architecture.get("head") == "plain" else "max"
        return replace(self, image_size=side, sizes=sizes, fusion=usual if self.fusion == "auto" else self.fusion)


@dataclass(frozen=True)
class CamSettings(_MapSettings):
    """``cam``: localization maps from a classifier (paper, section 3.2)."""

    normalization: str = _option(
        "auto",
        "What an image's maps are divided by: class (each by its own maximum, as in the paper), image (all by the "
        "largest of all), or geometric (the geometric mean of the two, so that weaker classes stay lower); auto: class "
        "for the paper's head, geometric for a plain one.",
        choices=("auto", *NORMALIZATIONS))

    def for_network(
        self, recipe: Mapping[str, Any], architecture: Mapping[str, Any], output_stride: int = _MIN_SIDE,
    ) -> CamSettings:
        found = super().for_network(recipe, architecture, output_stride)
        usual = "geometric" if architecture.get("head") == "plain" else "class"
        return found if found.normalization != "auto" else replace(found, normalization=usual)


@dataclass(frozen=True)
class RefineSettings(_MapSettings):
    """``refine``: refined maps from a refiner (paper, section 3.3)."""


@dataclass(frozen=True)
class CueSettings:
    """``pseudo-label``: object cues versus the background cue (paper, section 3.4)."""

    alpha: float = _option(0.20, "Lowest map value that counts as an object cue.", min=0.0, max=1.0)
    background: str = _option(
        "saliency",
        "Background cue: saliency (1 - saliency), constant, power ((1 - largest map value) ^ --power) or rest (1 - sum "
        "of the maps, for probabilities); join several with +.",
        terms=("saliency", "constant", "power", "rest"))
    combine: str = _option(
        "max",
        "How several background cues combine: max (an object must beat all of them) or min (beating any one is "
        "enough).",
        choices=("max", "min"))
    saliency_threshold: int = _option(50, "Grey value (0 to 255) above which a pixel is salient.", min=0, max=255)
    saliency_range: tuple[int, ...] = _option(
        (),
        "MIN,MAX: pixel values of saliency maps that mean not salient and salient, such as 0,1; by default 0 and 255, "
        "or 65535 in 16 bits.",
        pair=True)
    soft: bool = _option(False, "Use the grey values of saliency maps instead of thresholding them.")
    saliency_scale: float = _option(
        1.0, "Factor applied to soft saliency, with the result clipped at 1; 0: stretch each map to a maximum of 1.",
        min=0.0)
    constant: float = _option(0.20, "Value of the constant background cue.", min=0.0, max=1.0)
    power: float = _option(4.0, "Exponent of the power background cue.", min=0.0)
    background_below: float = _option(
        1.0,
        "Lower of two thresholds: pixels that no object claims are ignored where a map value is above it; 1 ignores "
        "none.",
        min=0.0, max=1.0)
    conflict: float = _option(
        0.9,
        "Threshold of confident cues: pixels with more than two cues above it are ignored; soft saliency above it "
        "counts as certain.",
        min=0.0, max=1.0)

    @property
    def backgrounds(self) -> tuple[str, ...]:
        """The kinds of background cue to combine; usually just one."""
        return tuple(self.background.split("+"))

    @property
    def uses_saliency(self) -> bool:
        """Whether the background cue depends on a saliency map."""
        return "saliency" in self.backgrounds


@dataclass(frozen=True)
class PseudoLabelSettings(CueSettings):
    """``pseudo-label``: the cues, and whether pixels at which they disagree are ignored."""

    ignore: bool = _option(
        True, "Ignore pixels at which the cues disagree; without it each has the label of its strongest cue, as EPS "
        "and L2G do.")


@dataclass(frozen=True)
class SegmentSettings:
    """``segment``: full-size label images from a segmenter."""

    scales: tuple[float, ...] = _option(
        (1.0,), "Scale factors of the image; the predictions are averaged.", min=0.05, max=_MAX_SCALE)
    flip: bool = _option(False, "Also process the horizontally flipped image and average the predictions.")


@dataclass(frozen=True)
class OverlaySettings:
    """``overlay``: pictures of labels and maps over their images."""

    opacity: float = _option(0.7, "Opacity of the colours drawn over the image.", min=0.0, max=1.0)
    ignored_pixels: str = _option(
        "hatched", "How pixels with the ignore label are drawn.", choices=("hatched", "white"))
    by_kind: bool = _option(False, "With -o: sort the pictures into subfolders by kind, such as overlay/ID.png.")


@dataclass(frozen=True)
class FigureSettings(OverlaySettings):
    """``overlay --figure``: how a figure of several images and methods looks."""

    width: str = _option("174mm", "Width of the figure, in mm, px or in, such as 174mm or 1200px.")
    dpi: int = _option(300, "Resolution of the figure, in dots per inch.", min=36, max=2400)
    fit: str = _option(
        "fit",
        "Size of the cells: fit (as high as each row's image), crop (all alike, images cut off at the edges) or pad "
        "(all alike, with margins around the images).",
        choices=("fit", "crop", "pad"))
    aspect: float = _option(
        0.0, "With --fit crop or pad: width of a cell over its height; 0: that of the median image.", min=0.0, max=20.0)
    style: str = _option(
        "blend",
        "How labels are drawn: blend (colours over the image), contour (outlines), dim (the image darkened outside the "
        "objects) or flat (colours alone).",
        choices=("blend", "contour", "dim", "flat"))
    contour_width: float = _option(1.0, "Width of contours, in points.", min=0.1, max=20.0)
    palette: str = _option(
        "voc",
        "Colours of the classes: voc (PASCAL VOC's) or distinct (generated, as far apart as possible); with more than "
        "254 classes always distinct.",
        choices=("voc", "distinct"))
    legend: str = _option(
        "below", "Names of the classes shown: below the figure, as names at the objects, or none.",
        choices=("below", "names", "none"))
    colormap: str = _option(
        "drstool",
        "Colours of maps: drstool (more opaque where the map is higher), jet, viridis or magma (all equally opaque).",
        choices=("drstool", "jet", "viridis", "magma"))
    normalize: str = _option(
        "own",
        "What map values are divided by: each map's own maximum, the maximum shared by all maps of the figure, or none "
        "(drawn from 0 to 1).",
        choices=("own", "shared", "none"))
    percentile: float = _option(
        100.0, "Percentile of the map values that is taken for the maximum; higher values are clipped.", min=50.0,
        max=100.0)
    colorbar: bool = _option(True, "Draw a colour bar where there are maps.")
    titles: bool = _option(True, "Draw the titles of the columns.")
    row_ids: bool = _option(False, "Draw the ids of the images beside the rows.")
    caption: bool = _option(False, "Draw a line that says how the images were chosen, and what the scores are.")
    score: bool = _option(False, "Draw each cell's mean IoU below it, as eval computes it, the best of a row in bold.")
    baseline: str = _option("", "Title or path of the column to which --score tells the difference.")
    gap: float = _option(0.7, "Gap between cells, in mm.", min=0.0, max=50.0)
    frame: float = _option(0.0, "Width of a frame around each cell, in points; 0: none.", min=0.0, max=10.0)
    font: str = _option("DejaVu Sans", "Font: the name of an installed one, or a file.")
    font_size: float = _option(7.0, "Size of the text, in points.", min=2.0, max=72.0)


@dataclass(frozen=True)
class CrfSettings:
    """``--crf`` and ``crf``: a fully connected CRF over an image's pixels (Krähenbühl and Koltun, NIPS 2011).

    All parameters have the same meaning as in pydensecrf. Their options begin with ``--crf-``.
    """

    gaussian_sxy: float = _option(3.0, "Spatial standard deviation of the smoothness kernel, in pixels.", min=0.05)
    gaussian_compat: float = _option(3.0, "Weight of the smoothness kernel.", min=0.0, max=1e6)
    bilateral_sxy: float = _option(
        50.0, "Spatial standard deviation of the bilateral (appearance) kernel, in pixels.", min=0.05)
    bilateral_srgb: float = _option(
        5.0, "Colour standard deviation of the bilateral (appearance) kernel, in grey levels (0 to 255).", min=0.05)
    bilateral_compat: float = _option(10.0, "Weight of the bilateral (appearance) kernel.", min=0.0, max=1e6)
    iterations: int = _option(10, "Number of mean-field iterations.", min=0, max=10_000)
    unary: str = _option(
        "probabilities",
        "Source of the unary potentials: probabilities, or labels that are each correct with --crf-confidence.",
        choices=("probabilities", "labels"))
    confidence: float = _option(
        0.7, "Probability that a label is correct, for --crf-unary labels.", min=0.01, max=0.9999)
    mode: str = _option(
        "lattice", "Evaluation of the kernels: lattice (approximate, as in pydensecrf) or exact (for GPUs).",
        choices=("lattice", "exact"))
    # Name of the preset that these settings started from; recorded in the provenance, not an option.
    preset: str = ""


# Published settings, by project; irn's CRF starts from labels.
CRF_PRESETS: dict[str, CrfSettings] = {
    "irn": CrfSettings(unary="labels", preset="irn"),
    "deeplab": CrfSettings(bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0, preset="deeplab"),
    "psa": CrfSettings(bilateral_sxy=80.0, bilateral_srgb=13.0, bilateral_compat=10.0, preset="psa"),
}


Recipe = TypeVar("Recipe")

# Below so many images the steps of `default` and `paper` are too few for their learning rates.
FEW_IMAGES = 2000

# What each recipe is for, in the help.
RECIPE_USES = {"default": "one small GPU", "paper": "the authors' code", "light": "few images, or no GPU"}

# default: one small GPU. paper: the authors' published scripts and run.sh files. light: few images, or no GPU.
RECIPES: dict[str, dict[type, Any]] = {
    "default": {
        # The authors' settings learn nothing from a few hundred images: suppression at all layers of a network that
        # has only just lost ImageNet's classes, behind three random layers, needs many more steps.
        ClassifierRecipe: ClassifierRecipe(
            extra_init="identity", suppression="fixed", drs_layers="stage5-", suppression_ramp=0.5, optimizer="adamw",
            lr=3e-5, bias_lr_factor=1.0, weight_decay=0.01, schedule="poly", min_steps=1000),
        RefinerRecipe: RefinerRecipe(),
        SegmenterRecipe: SegmenterRecipe(),
    },
    "paper": {
        ClassifierRecipe: ClassifierRecipe(batch_size=5),
        RefinerRecipe: RefinerRecipe(batch_size=5, epochs=30, decay_epochs=(10, 20)),
        SegmenterRecipe: SegmenterRecipe(backbone="resnet101", steps=20_000, batch_size=32, image_size=513, lr=0.05),
    },
    "light": {
        ClassifierRecipe: ClassifierRecipe(
            backbone="mobilenet_v2", suppression="none", image_size=320, batch_size=8, epochs=10,
            optimizer="adamw", lr=5e-5, new_lr_factor=20.0, bias_lr_factor=1.0, weight_decay=0.01, schedule="poly",
            min_steps=400),
        RefinerRecipe: RefinerRecipe(
            backbone="mobilenet_v2", image_size=320, batch_size=8, epochs=10, optimizer="adamw", lr=5e-4,
            new_lr_factor=10.0, weight_decay=0.01, schedule="poly"),
        SegmenterRecipe: SegmenterRecipe(
            backbone="mobilenet_v2", image_size=320, batch_size=8, epochs=20, lr=0.02),
    },
}


def named_recipe(name: str, kind: type[Recipe]) -> Recipe:
    """The settings of one stage in a named recipe; stages without recipes have one set of settings.

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
        raise UsageError("--recipe", f"{name!r} is not one of {', '.join(RECIPES)}")
    return RECIPES[name].get(kind) or kind()


def override(recipe: Recipe, changes: dict[str, Any], prefix: str = "") -> Recipe:
    """The recipe with some fields changed, each checked against its limits.

    Parameters
    ----------
    recipe
    changes
        New values by field name.
    prefix
        What the names of the options begin with, after the dashes.

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
        if spec.name in changes:
            _check("--" + prefix + spec.name.replace("_", "-"), changes[spec.name], **spec.metadata)
    return replace(recipe, **changes)  # type: ignore[type-var]


def _check(
    option: str, value: Any, *, min: float | None = None, max: float | None = None,
    choices: tuple = (), terms: tuple[str, ...] = (), **_: Any,
) -> None:
    """Check one value, or each of several, against the limits in its field's metadata."""
    if choices and value not in choices:
        raise UsageError(option, f"{value!r} is not one of {', '.join(map(str, choices))}")
    if terms:
        words = value.split("+")
        if len(set(words)) < len(words) or not set(words) <= set(terms):
            raise UsageError(option, f"{value!r} is not one of {', '.join(terms)}, or several of them joined by +")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not isfinite(number):
            raise UsageError(option, f"{number} is not a finite number")
        if min is not None and number < min:
            raise UsageError(option, f"{number} is too small", f"must be at least {min}")
        if max is not None and number > max:
            raise UsageError(option, f"{number} is too large", f"must be at most {max}")
