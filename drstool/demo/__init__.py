"""The demo dataset's pictures, drawn from a seed."""

from drstool.demo.creatures import CLASS_NAMES
from drstool.demo.scenes import Picture, render_picture

__all__ = ["CLASS_NAMES", "Picture", "render_picture"]
