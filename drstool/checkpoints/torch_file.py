"""What a torch file holds, looked at before torch reads it: nothing in it is built or run.

torch's own reader for weights runs no code, but believes what a file says of itself: a few bytes
may ask for gigabytes, and damaged weights pass, since it does not look at the checksums. So the
archive is checked first, and the pickle in it is followed opcode by opcode with counts in place of
objects.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from drstool.errors import ForeignError, InputError
from drstool.files import unreadable

__all__ = ["check_torch_file"]

_ZIP_START, _ZIP_END, _ZIP_END_BYTES = b"PK\3\4", b"PK\5\6", 22
_ENCRYPTED = 0x1
_READ_BYTES = 1 << 20
# Of pickles only: weights lie beside them. A training's state of a thousand tensors takes 200 KB.
_MAX_PICKLE_BYTES = 64 << 20
_MAX_MEMBERS = 100_000
# Objects that may be hashed as keys, each as often as it is one, and objects within one object.
_MAX_WORK = 5_000_000
# Old files: a magic number, a version, a description of the machine, the content, storage names.
_LEGACY_PICKLES = 5

# What state dicts name. Not in it though harmless to torch: what allocates a size that is asked for.
_NAMES = frozenset((
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter", "torch.nn.parameter Parameter", "torch Size", "torch device",
    "torch.serialization _get_layout", "_codecs encode", "builtins set", "__builtin__ set",
))
_AGAIN = "copy or make it again"
_CODE = ("holds more than tensors and plain values, and could run code when read", "save a state dict")


def check_torch_file(path: str | Path, allowed: Collection[str] = ()) -> None:
    """Check that a ``.pt``/``.pth`` file is whole, and that reading it takes no more than its size.

    Parameters
    ----------
    path
    allowed
        Further types that its pickle may name, each ``module name``.

    Raises
    ------
    InputError
        It is no torch file, cut short or changed (a checksum does not fit), compressed, or holds
        code or a structure made to exhaust its reader.
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
                raise ForeignError(path, "is no torch file, or a damaged one", _AGAIN)
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error


def _check_archive(file: BinaryIO, path: object, allowed: Collection[str]) -> None:
    try:
        length = _length_of_plain_zip(file, path)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, length, path)
            for member in members:
                # The whole of each: zipfile compares checksums at the end.
                for _ in _parts(archive, member):
                    pass
            pickles = [member for member in members if member.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ForeignError(path, "is a zip file, but none of torch's", _AGAIN)
            if any(member.filename.endswith("/constants.pkl") for member in members):
                raise ForeignError(path, "is a TorchScript archive", "save a state dict")
            if pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise InputError(path, f"has a description of {pickles[0].file_size:,} bytes",
                                 f"at most {_MAX_PICKLE_BYTES:,}; tensors lie beside it")
            with archive.open(pickles[0]) as content:
                _check_pickle(content, path, allowed)  # type: ignore[arg-type]
    # zipfile raises nearly anything on damaged archives.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise InputError(path, "is a damaged torch file, or cut short", _AGAIN) from error


def _length_of_plain_zip(file: BinaryIO, path: object) -> int:
    """Bytes of the file; a zip in it begins at its first byte and ends with its last.

    Otherwise two readers may see two archives in one file.
    """
    length = file.seek(0, 2)
    file.seek(max(0, length - _ZIP_END_BYTES))
    end = file.read()
    file.seek(0)
    if not end.startswith(_ZIP_END) or end[-2:] != b"\0\0":
        raise InputError(path, "is a damaged torch file, or cut short", _AGAIN)
    return length


def _check_members(members: list[zipfile.ZipInfo], length: int, path: object) -> None:
    names = {member.filename for member in members}
    folders = {name.partition("/")[0] for name in names}
    if len(members) > _MAX_MEMBERS or len(names) < len(members) or len(folders) != 1:
        raise ForeignError(path, "is a zip file, but none of torch's", _AGAIN)
    stored = all(member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED
                 and member.file_size == member.compress_size for member in members)
    if not stored:
        raise InputError(path, "holds compressed or encrypted members", "torch writes neither: save it again")
    if min(member.header_offset for member in members) or sum(member.file_size for member in members) > length:
        raise InputError(path, "claims more than it holds", _AGAIN)


def _parts(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as content:
        while part := content.read(_READ_BYTES):
            yield part


class _Counts:
    """The pickle machine with counts for objects: how many objects each one is made of.

    An object that is met several times counts each time, as it does for whoever walks through.
    """

    def __init__(self) -> None:
        self.stack: list[list[int] | None] = []
        self.memo: dict[int, list[int]] = {}
        self.work = 0

    def push(self, count: int = 1) -> None:
        self.stack.append([count])

    def pop(self) -> int:
        top = self.stack.pop()
        if top is None:
            raise ValueError("a mark where an object should be")
        return top[0]

    def pop_to_mark(self) -> list[int]:
        items: list[int] = []
        while (top := self.stack.pop()) is not None:
            items.append(top[0])
        return items[::-1]

    def grow(self, items: list[int]) -> None:
        """Put items into the container on top."""
        self.pop_nothing()[0] += sum(items)

    def pop_nothing(self) -> list[int]:
        top = self.stack[-1]
        if top is None:
            raise ValueError("a mark where an object should be")
        return top

    def keys(self, items: list[int]) -> None:
        """Keys are hashed, which walks through all of them."""
        self.work += sum(items[::2])
        self.grow(items)


_CONSTANTS = frozenset((
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "SHORT_BINSTRING", "BINSTRING", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET", "GLOBAL",
))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")


def _check_pickle(file: BinaryIO, path: object, allowed: Collection[str]) -> None:
    """Follow one pickle to its end."""
    counts = _Counts()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST") and not _may_name(str(argument), allowed):
                raise InputError(path, *_CODE)
            if not _step(counts, opcode.name, argument):
                # Such as objects with code of their own, which torch's reader knows nothing of either.
                raise InputError(path, *_CODE)
            largest = counts.stack[-1] if counts.stack else None
            if counts.work > _MAX_WORK or (largest is not None and largest[0] > _MAX_WORK):
                raise InputError(path, "holds a structure made to exhaust its reader", "save a state dict")
    except InputError:
        raise
    except Exception as error:  # pickletools raises nearly anything on damaged pickles.
        raise InputError(path, "is no torch file, or a damaged one", _AGAIN) from error


def _may_name(argument: str, allowed: Collection[str]) -> bool:
    module, _, name = argument.partition(" ")
    storage_or_type = module == "torch" and name.isidentifier() and (name.endswith("Storage") or name[0].islower())
    return argument in _NAMES or argument in allowed or storage_or_type


def _step(counts: _Counts, name: str, argument: object) -> bool:
    """Do one opcode; False for one that state dicts have no use for."""
    if name in _CONSTANTS:
        counts.push()
    elif name == "MARK":
        counts.stack.append(None)
    elif name == "TUPLE":
        counts.push(1 + sum(counts.pop_to_mark()))
    elif name in _TUPLES:
        counts.push(1 + sum(counts.pop() for _ in range(_TUPLES[name])))
    elif name == "APPEND":
        counts.grow([counts.pop()])
    elif name == "APPENDS":
        counts.grow(counts.pop_to_mark())
    elif name == "SETITEM":
        value, key = counts.pop(), counts.pop()
        counts.keys([key, value])
    elif name == "SETITEMS":
        counts.keys(counts.pop_to_mark())
    elif name == "BUILD":
        counts.grow([counts.pop()])
    elif name in ("REDUCE", "NEWOBJ"):
        # A set or an ordered dictionary hashes what it is given.
        arguments = counts.pop()
        counts.work += arguments
        counts.pop()
        counts.push(1 + arguments)
    elif name == "BINPERSID":
        counts.work += counts.pop()
        counts.push()
    elif name in _PUTS:
        counts.memo[argument] = counts.pop_nothing()  # type: ignore[index]
    elif name in _GETS:
        counts.stack.append(counts.memo[argument])  # type: ignore[index]
    elif name == "POP":
        counts.stack.pop()
    else:
        return name in ("PROTO", "STOP")
    return True
