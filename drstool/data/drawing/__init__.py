"""The demo dataset's pictures, drawn from a seed."""

from drstool.data.drawing.creatures import CLASS_NAMES
from drstool.data.drawing.scenes import Picture, render_picture

__all__ = ["CLASS_NAMES", "Picture", "render_picture"]
