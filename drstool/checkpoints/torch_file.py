"""Check a torch file before torch reads it: whole, unchanged, and naming nothing but tensors and plain values.

torch's own reader of weights runs no code either, but it does not look at the archive's checksums, so
that damaged weights pass. Nothing is built or run here.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from drstool.errors import ForeignError, InputError, is_shortage
from drstool.files import unreadable

__all__ = ["AGAIN", "CODE", "check_torch_file", "raise_shortage"]

_ZIP_START, _ZIP_END, _ZIP_END_BYTES = b"PK\3\4", b"PK\5\6", 22
# Files of old versions: a magic number, a version, a description of the machine, the content, storage names.
_LEGACY_PICKLES = 5

# What state dicts name; short of what torch allows, which also holds what allocates any size that is asked for.
_NAMES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
    r"|torch (Size|device)|torch\.serialization _get_layout|_codecs encode|(builtins|__builtin__) set"
    r"|torch (\w+Storage|bool|half|double|short|long|strided|(b?float|c?float|complex|cdouble|q?u?int|bits)(\d\w*)?)")
AGAIN = "copy it again or recreate it"
CODE = ("holds more than tensors and plain values, and could run code when loaded", "save a state dict")


def check_torch_file(path: str | Path, allowed: Collection[str] = ()) -> None:
    """Check that a ``.pt``/``.pth`` file is whole, and that its pickle names only what state dicts are made of.

    Parameters
    ----------
    path
    allowed
        Further types that its pickle may name, each ``module name``.

    Raises
    ------
    InputError
        It is not a torch file, truncated, changed (a checksum does not fit) or compressed, or may run code.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_ZIP_START))
            file.seek(0)
            if start == _ZIP_START:
                _check_archive(file, path, allowed)
            elif start[:1] == b"\x80":
                for _ in range(_LEGACY_PICKLES):
                    _check_pickle(file, path, allowed)
            else:
                raise ForeignError(path, "is not a torch file, or is damaged", AGAIN)
    except InputError:
        raise
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error
    except Exception as error:  # zipfile and pickletools raise nearly anything on damaged files
        raise_shortage(path, error)
        raise InputError(path, "is a damaged torch file, or truncated", AGAIN) from error


def raise_shortage(path: object, error: Exception) -> None:
    """Raise again what came of a lack of memory or threads; a damaged file may ask for more memory than there is."""
    if is_shortage(error, "memory"):
        raise InputError(
            path, "needs more memory than there is, or is damaged", "raise the limit (ulimit -v)") from error
    if is_shortage(error):
        raise error


def _check_archive(file: BinaryIO, path: object, allowed: Collection[str]) -> None:
    length = file.seek(0, 2)
    file.seek(max(0, length - _ZIP_END_BYTES))
    ends = file.read().startswith(_ZIP_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # From the first byte to the last, or two readers may see two archives in one file.
        whole = ends and members and min(member.header_offset for member in members) == 0
        # Compressed members, which torch does not write, would inflate without end.
        if not whole or sum(member.file_size for member in members) > length or archive.testzip() is not None:
            raise InputError(path, "is a damaged torch file, or truncated", AGAIN)
        names = [member.filename for member in members]
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) < len(names):
            raise ForeignError(path, "is a zip file, but not a torch file", AGAIN)
        if any(name.endswith("/constants.pkl") for name in names):
            raise ForeignError(path, "is a TorchScript archive", "save a state dict")
        with archive.open(pickles[0]) as content:
            _check_pickle(content, path, allowed)  # type: ignore[arg-type]


def _check_pickle(file: BinaryIO, path: object, allowed: Collection[str]) -> None:
    """Look at all names in one pickle; torch knows no other opcodes that call anything."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ") or opcode.name.startswith("EXT") or (
                opcode.name == "GLOBAL" and not _NAMES.fullmatch(str(argument)) and argument not in allowed):
            raise InputError(path, *CODE)
