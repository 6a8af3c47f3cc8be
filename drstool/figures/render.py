"""Drawing a figure with matplotlib, into PNG, JPEG, PDF or SVG; the same figure gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from drstool.artifacts.ownership import PICTURE_MARK
from drstool.errors import UsageError
from drstool.figures.cells import HATCH_POINTS, Cell, Layer, blended
from drstool.figures.colors import IGNORED, hatching
from drstool.figures.fonts import Fonts
from drstool.figures.layout import LINE, Box, Layout, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "Outline", "Placed", "check_format", "check_installed", "draw", "file_of", "placed",
           "quiet_matplotlib"]

# By ending; those of pixels, and those in which text remains text.
FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "pdf": "PDF", "svg": "SVG"}
_VECTOR = ("PDF", "SVG")
_QUALITY, _COMPRESSION = 95, 3
# A JPEG's comment has 16 bits for its length.
_MOST_COMMENT = 65_000
# The baseline within a line, from its top.
_BASELINE = 0.76
_EDGE, _EDGE_WIDTH = (110, 110, 110), 0.3
# More would be no figure, and no renderer takes it.
_MOST_SIDE, _MOST_AREA = 60_000, 400_000_000


@dataclass(frozen=True, eq=False)
class Placed:
    """A picture and the box that it fills; layers over it are drawn apart only where pixels are not final."""

    box: Box
    picture: np.ndarray
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Outline:
    """A rectangle's edge, or with ``diagonal`` a line from its lower left to its upper right corner.

    ``width`` is in points.
    """

    box: Box
    color: tuple[int, int, int]
    width: float
    diagonal: bool = False


def check_installed(option: str = "--figure") -> None:
    """Check that matplotlib is installed.

    Raises
    ------
    UsageError
        It is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(option, "needs matplotlib", "install it: pip install 'drstool[figures]'") from error


def check_format(path: str, option: str = "--figure") -> str:
    """The format that a file's ending means.

    Raises
    ------
    UsageError
        It means none.
    """
    ending = path.rpartition(".")[2].lower()
    if ending not in FORMATS:
        raise UsageError(option, f"'{path}' has no ending of a figure", f"expected .{', .'.join(FORMATS)}")
    return FORMATS[ending]


def placed(cell: Cell, box: Box, format_: str) -> Placed:
    """A cell as it is drawn: of its box's size where pixels are final, else with its masks as they are.

    Photographs and heat larger than the box are reduced to it in any format; a mask never is in PDF and SVG.
    """
    size = (int(box.width), int(box.height))
    larger = cell.picture.shape[1] > size[0]
    if format_ in _VECTOR:
        smooth = all(layer.smooth for layer in cell.layers)
        picture = blended(cell.picture, cell.layers) if smooth else cell.picture
        return Placed(box, _resized(picture, size) if larger else picture, () if smooth else cell.layers)
    if larger:
        return Placed(box, _resized(blended(cell.picture, cell.layers), size))
    layers = [Layer(_repeated(layer.colors, size), _repeated(layer.weight, size)) for layer in cell.layers]
    return Placed(box, blended(_resized(cell.picture, size), layers))


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of another size; areas of one colour keep it up to their edges."""
    if picture.shape[1::-1] == size:
        return picture
    method = Image.Resampling.HAMMING if picture.shape[1] > size[0] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, method))


def _repeated(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values of another size, each as it was."""
    y, x = (np.arange(new) * old // new for new, old in zip(size[::-1], values.shape))
    return values[y][:, x]


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's own settings are, and without its warnings."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "pdf.fonttype": 42, "pdf.compression": _COMPRESSION, "svg.fonttype": "none", "svg.hashsalt": "drstool",
            "text.hinting": "none", "text.parse_math": False})
        # What letters are missing is said in a line of ours.
        warnings.simplefilter("ignore")
        yield


def draw(
    layout: Layout, pictures: Sequence[Placed], outlines: Sequence[Outline], texts: Sequence[Text], *, fonts: Fonts,
    dpi: int, format_: str, ignored: str, history: Sequence[dict],
) -> bytes:
    """The file of a figure.

    Parameters
    ----------
    layout
        Its legend and colour bars are drawn too.
    pictures, outlines, texts
        From the lowest up.
    fonts
    dpi
    format_
        A value of ``FORMATS``.
    ignored
        ``hatched`` or ``white``, for the legend.
    history
        Put into the file's metadata, unless it is empty.

    Raises
    ------
    UsageError
        It would be too large.
    """
    width, height = layout.width, layout.height
    if height > _MOST_SIDE or width * height > _MOST_AREA:
        raise UsageError(
            "--figure", f"would have {width} × {height} pixels", "choose fewer rows, or a smaller --width or --dpi")
    figure, axes = _sheet(width, height, dpi)
    pictures = [*pictures, *_legend_pictures(layout, dpi, ignored)]
    if format_ in _VECTOR:
        _add_images(axes, pictures)
    edges = [Outline(box, _EDGE, _EDGE_WIDTH) for box, _ in (*layout.swatches, *layout.bars)]
    for outline in (*outlines, *edges):
        _add_outline(axes, outline, dpi)
    for text in texts:
        _add_text(axes, text, fonts, dpi)
    told = json.dumps(list(history)) if history else ""
    if format_ in _VECTOR:
        return _saved(figure, format_, dpi, told)
    return _encoded(_drawn_over(figure, _canvas(width, height, pictures)), format_, dpi, told)


def _sheet(width: int, height: int, dpi: int) -> tuple[Figure, Axes]:
    """An empty figure, and axes all over it whose coordinates are pixels from the top left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A hundredth of a pixel more, or rounding may lose one.
    figure = Figure(figsize=((width + 0.01) / dpi, (height + 0.01) / dpi), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes


def _canvas(width: int, height: int, pictures: Sequence[Placed]) -> np.ndarray:
    """All pictures in their places on white, (H, W, 3) uint8."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    for each in pictures:
        x, y = int(each.box.x), int(each.box.y)
        picture = each.picture[:height - y, :width - x]
        canvas[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
    return canvas


def _add_images(axes: Axes, pictures: Sequence[Placed]) -> None:
    """Add the pictures and their layers with the pixels that they have.

    matplotlib's own images are new arrays each time they are drawn. These are not, so that a photograph that several
    cells show is in a PDF once.
    """
    from matplotlib.artist import Artist
    from matplotlib.transforms import Affine2D

    class Pixels(Artist):
        def __init__(self, values: np.ndarray, box: Box) -> None:
            super().__init__()
            self._values, self._box = values, box

        def draw(self, renderer: Any) -> None:
            left, bottom = axes.transData.transform((self._box.x, self._box.bottom))
            right, top = axes.transData.transform((self._box.right, self._box.y))
            renderer.draw_image(
                renderer.new_gc(), left, bottom, self._values, Affine2D().scale(right - left, top - bottom))

    known: dict[bytes, np.ndarray] = {}
    for each in pictures:
        for pixels in (each.picture, *(layer.rgba() for layer in each.layers)):
            # Renderers take the lowest row first.
            values = np.ascontiguousarray(pixels[::-1])
            key = hashlib.sha256(repr(values.shape).encode() + values.tobytes()).digest()
            axes.add_artist(Pixels(known.setdefault(key, values), each.box))


def _legend_pictures(layout: Layout, dpi: int, ignored: str) -> Iterator[Placed]:
    """The colours of the legend and of the colour bars."""
    for box, key in layout.swatches:
        picture = np.full((int(box.height), int(box.width), 3), key.color, np.uint8)
        if key.hatched and ignored == "hatched":
            picture[~hatching(picture.shape[:2], HATCH_POINTS * dpi / 72)] = (150, 150, 150)
            picture[hatching(picture.shape[:2], HATCH_POINTS * dpi / 72)] = IGNORED
        yield Placed(box, picture)
    for box, bar in layout.bars:
        shades = bar.colors[np.arange(int(box.width)) * len(bar.colors) // int(box.width)]
        yield Placed(box, np.repeat(shades[np.newaxis], int(box.height), axis=0))


def _add_outline(axes: Axes, outline: Outline, dpi: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    box, color = outline.box, _rgb(outline.color)
    if outline.diagonal:
        axes.add_line(Line2D([box.x, box.right], [box.bottom, box.y], color=color, linewidth=outline.width,
                             solid_capstyle="butt"))
        return
    # Within the box, so that neighbours do not cover each other's.
    inset = outline.width * dpi / 72 / 2
    axes.add_patch(Rectangle(
        (box.x + inset, box.y + inset), box.width - 2 * inset, box.height - 2 * inset, fill=False, edgecolor=color,
        linewidth=outline.width, joinstyle="miter", snap=False))


def _add_text(axes: Axes, text: Text, fonts: Fonts, dpi: int) -> None:
    from matplotlib.patches import Rectangle

    box, line = text.box, text.size * LINE * dpi / 72
    if text.back is not None:
        axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, facecolor=_rgb(text.back), linewidth=0))
    upright: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor"} if text.upright else {}
    x, y = box.x + box.width / 2, box.y + _BASELINE * line
    if text.upright:
        x, y = box.x + _BASELINE * line, box.y + box.height / 2
    axes.text(x, y, text.text, fontproperties=fonts.properties(text.size, text.bold), color=_rgb(text.color),
              ha="center", va="baseline", parse_math=False, **upright)


def _rgb(color: Sequence[int]) -> tuple[float, float, float]:
    return color[0] / 255, color[1] / 255, color[2] / 255


def _drawn_over(figure: Figure, canvas: np.ndarray) -> Image.Image:
    """The pictures with everything else over them; matplotlib's own way of placing them takes seconds."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    renderer.clear()
    pixels = np.asarray(renderer.buffer_rgba())
    pixels[..., :3], pixels[..., 3] = canvas, np.iinfo(np.uint8).max
    figure.patch.set_visible(False)
    figure.draw(renderer)
    return Image.fromarray(pixels[..., :3])


def _saved(figure: Figure, format_: str, dpi: int, history: str) -> bytes:
    """The figure as a PDF's or SVG's bytes, with its history in the metadata, and no time."""
    file = io.BytesIO()
    metadata: dict[str, Any] = {"Creator": "drstool", "CreationDate" if format_ == "PDF" else "Date": None}
    if history:
        metadata["Keywords" if format_ == "PDF" else "Description"] = history
    figure.savefig(file, format=format_.lower(), dpi=dpi, metadata=metadata)
    return file.getvalue()


def _encoded(picture: Image.Image, format_: str, dpi: int, history: str) -> bytes:
    """A picture as a file's bytes, with its history in the metadata, and no time."""
    file = io.BytesIO()
    if format_ == "JPEG":
        comment = PICTURE_MARK + (b" " + history.encode() if 0 < len(history) < _MOST_COMMENT else b"")
        picture.save(file, "JPEG", quality=_QUALITY, subsampling=0, dpi=(dpi, dpi), comment=comment)
        return file.getvalue()
    info = PngInfo()
    info.add_text("Software", PICTURE_MARK.decode())
    if history:
        info.add_itxt("drstool", history)
    picture.save(file, "PNG", dpi=(dpi, dpi), pnginfo=info, compress_level=_COMPRESSION)
    return file.getvalue()


def file_of(figure: Figure, format_: str, dpi: int) -> bytes:
    """A figure of matplotlib's as a file's bytes; the same figure gives the same."""
    if format_ in _VECTOR:
        return _saved(figure, format_, dpi, "")
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    return _encoded(Image.fromarray(pixels), format_, dpi, "")
