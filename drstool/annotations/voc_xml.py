"""PASCAL VOC's XML annotations, which labelImg and others write, too: the class names of an image's objects."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from drstool.errors import InputError
from drstool.files import read_bytes

__all__ = ["image_of_xml", "object_names"]

# Room for thousands of objects; a tree takes many times the memory of its text.
_MAX_XML_BYTES = 4 << 20


def object_names(path: str | Path) -> tuple[str, ...]:
    """Class names of the objects of one XML annotation, in the file's order.

    Raises
    ------
    InputError
        It cannot be read, is not well-formed XML, or declares a document type, which annotations
        do not need and through which XML can attack its reader.
    """
    return tuple((entry.findtext("name") or "").strip() for entry in _tree(path).iterfind("object"))


def image_of_xml(path: Path) -> str:
    """The file name of the image that an XML annotation says it is of; empty where it does not say or is damaged."""
    try:
        return (_tree(path).findtext("filename") or "").strip()
    except InputError:
        return ""


def _tree(path: str | Path) -> ElementTree.Element:
    content = read_bytes(path, most=_MAX_XML_BYTES, pipes=True)
    try:
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_PlainTree()))
    except _DocumentTypeError:
        raise InputError(path, "declares a document type", "expected plain XML") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(
            path, f"is not an XML annotation: {error}", "the file may be damaged or truncated") from None


class _DocumentTypeError(Exception):
    pass


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses a document that declares a type, in any encoding."""

    def doctype(self, *_: object) -> None:
        raise _DocumentTypeError
