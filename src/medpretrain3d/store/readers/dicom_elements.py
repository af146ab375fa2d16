"""The lengths that the elements of a DICOM file claim, measured against the file before a library makes room for them.

Garbage behind the last element reads as one more, of any length up to 4 GB (PS3.5 7.1 has how elements are written).
"""

from __future__ import annotations

import mmap
from pathlib import Path

from medpretrain3d.store.skipped_cases import InvalidCaseError

_BIG_ENDIAN, _DEFLATED = b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
_IMPLICIT = b"1.2.840.10008.1.2"
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}
_SYNTAX = 0x00020010
_UNDEFINED = 0xFFFFFFFF
_ITEM_END, _SEQUENCE_END = 0xFFFEE00D, 0xFFFEE0DD


def check_elements(path: Path) -> None:
    """Walk over the elements of a file without reading their values.

    Raises:
        InvalidCaseError: one claims more bytes than the file has.
    """
    size = path.stat().st_size
    if size < 140:
        return  # whoever reads it says that it is none
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place, syntax, is_explicit, depth = 132, b"", True, 0
        while place + 8 <= size:
            group, number = (int.from_bytes(content[at : at + 2], "little") for at in (place, place + 2))
            tag = group << 16 | number
            if group != 2 and syntax in (_BIG_ENDIAN, _DEFLATED):
                return
            if group == 0 and number == 0 and not depth:
                return  # zeros that fill up the file
            if group != 2:
                is_explicit = syntax != _IMPLICIT
            start, length = _value(content, place, tag, is_explicit or group == 2)
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
                place = start
                continue
            if length == _UNDEFINED:
                depth += 1  # its parts follow as elements of their own
                place = start
                continue
            if length > size:  # a value that is merely cut off is the library's to name
                raise InvalidCaseError(
                    f"{path}: element ({group:04x},{number:04x}) claims {length:,} bytes, the file has {size:,}; "
                    "copy or export it again",
                    "claim",
                )
            if tag == _SYNTAX:
                syntax = bytes(content[start : start + length]).rstrip(b"\0 ")
            place = start + length  # what an item of known length holds lies within it


def _value(content: mmap.mmap, place: int, tag: int, is_explicit: bool) -> tuple[int, int]:
    """Return the offset and the length of an element's value."""
    kind = bytes(content[place + 4 : place + 6])
    if is_explicit and tag >> 16 != 0xFFFE and kind in _SHORT:
        return place + 8, int.from_bytes(content[place + 6 : place + 8], "little")
    if is_explicit and tag >> 16 != 0xFFFE and kind in _LONG:
        return place + 12, int.from_bytes(content[place + 8 : place + 12], "little")
    return place + 8, int.from_bytes(content[place + 4 : place + 8], "little")
