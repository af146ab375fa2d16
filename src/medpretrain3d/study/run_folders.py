"""Where runs are: every folder with a `run.json`, also behind links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medpretrain3d.study.record import RUN


def run_files(folder: Path) -> Iterator[Path]:
    """Yield every `run.json` in and below a folder, those behind links after all others; none is looked at twice.

    Links inside of a run are not followed: they lead to its data.
    """
    waiting, seen = [folder], set[Path]()
    while waiting:
        links, found = [], []
        for name, inner, files in os.walk(waiting.pop(0)):
            place = Path(name)
            if (real := place.resolve()) in seen:
                inner.clear()
                continue
            seen.add(real)
            if RUN in files:
                found.append(place / RUN)
            else:
                links += [place / one for one in inner if (place / one).is_symlink()]
        yield from sorted(found)
        waiting += sorted(links)
