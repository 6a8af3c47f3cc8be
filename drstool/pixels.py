"""How large a picture may be."""

__all__ = ["MAX_PIXELS"]

# More than any photograph or scan of the field; a header that claims more is a mistake or an
# attack, and one such picture as float maps would not fit into memory.
MAX_PIXELS = 100_000_000
