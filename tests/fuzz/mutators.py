"""What happens to files: each mutator makes a damaged or hostile copy of the bytes of a valid one."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]


def truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    count = min(draw.choice([1, 8, 64, 1000]), len(content) - start)
    return content[:start] + bytes(count) + content[start + count :]


def with_garbage(content: bytes, draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.choice([1, 16, 1000, 100_000]))


def overwritten(content: bytes, draw: random.Random) -> bytes:
    start, garbage = draw.randrange(len(content)), draw.randbytes(draw.choice([1, 4, 16, 64]))
    return content[:start] + garbage + content[start + len(garbage) :]


def emptied(content: bytes, draw: random.Random) -> bytes:
    return b""


def replaced(content: bytes, draw: random.Random) -> bytes:
    other = ["null", "[]", "{}", "1", '"a"', "a,b\n1,2\n", "a: [", "\0" * 100, "NaN", "\ufeff{}", "<a/>"]
    return draw.choice([*(text.encode() for text in other), b"\xff\xfe\x00", draw.randbytes(300)])


def nested(content: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"[" * 10**6, b'{"a":' * 10**6, b"- " * 10**5, b"<a>" * 10**5, b"[" * 500 + b"]" * 500])


def other_number(content: bytes, draw: random.Random) -> bytes:
    """One number of a text is another."""
    places = [found.span() for found in re.finditer(rb"-?\d+(\.\d+)?", content)]
    if not places:
        return flipped(content, draw)
    start, end = draw.choice(places)
    others = ["-1", "0", "1e9", "9" * 12, "9" * 30, "1e400", "NaN", "-Infinity", "0.5", "", "null", '"x"']
    return content[:start] + draw.choice(others).encode() + content[end:]


def other_line(content: bytes, draw: random.Random) -> bytes:
    """A line of a text is gone, there twice, or at another place."""
    lines = content.split(b"\n")
    line = lines.pop(draw.randrange(len(lines)))
    for _ in range(draw.choice([0, 1, 2])):
        lines.insert(draw.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def other_value(content: bytes, draw: random.Random) -> bytes:
    """One value of a JSON document is of another type, gone, or there twice; of another file see `other_number`."""
    try:
        document = json.loads(content)
    except ValueError:
        return other_number(content, draw)
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        value = pending.pop()
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        places += [(value, key) for key in keys]
        pending += [value[key] for key in keys if isinstance(value[key], dict | list)]
    if not places:
        return replaced(content, draw)
    parent, key = draw.choice(places)
    action = draw.random()
    if action < 0.2:
        del parent[key]
    elif action < 0.3:
        if isinstance(parent, dict):
            parent[draw.choice(["more", "__class__", "", "\x1b", "../x"])] = parent[key]
        else:
            parent.insert(key, parent[key])
    else:
        odd: list[Any] = [
            None,
            True,
            -1,
            0,
            1.5,
            10**6,
            10**12,
            10**40,
            1e308,
            "",
            "x",
            "../../x",
            "[[]]",
            "\0",
            "\x1b[2J",
        ]
        odd += [[], {}, [[]], [[[]]], {"a": {}}, "9" * 5000, [None], ["x"] * 5, [1, 2, 3], float("nan"), "\ud800"]
        parent[key] = draw.choice(odd)
    return json.dumps(document).encode()


def grown(content: bytes, draw: random.Random) -> bytes:
    """YAML whose aliases stand for 10^12 values, behind what was there."""
    laughs = "\nl0: &l0 [x, x]\n" + "".join(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]\n" for i in range(1, 40))
    return content + laughs.encode()


def within_zip(content: bytes, draw: random.Random) -> bytes:
    """One member of an archive is another text, with a right checksum: a workbook that says something else."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice([one for one in members if "sheet1" in one] * 4 + list(members))
    mutate = draw.choice([truncated, replaced, nested, other_number, other_number, emptied])
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, text in members.items():
            archive.writestr(one, mutate(text, draw) if one == name else text)
    return changed.getvalue()


OF_BYTES: tuple[Mutator, ...] = (truncated, flipped, zeroed, with_garbage, overwritten, emptied, replaced)
OF_TEXT: tuple[Mutator, ...] = (
    *OF_BYTES,
    nested,
    other_number,
    other_line,
    other_value,
    other_value,
    other_value,
    grown,
)
