"""Names of files with scans: which case and channel they say, and whether they name a label map."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from medpretrain3d.store.readers import volume_ending, volume_stem

LABEL_MAP = re.compile(r"(seg|segmentation|mask|label|labelmap|instance|annotation|gt)s?\d*(tr|ts)?")
"""A word, in lower case, that says of a file or of the files in a folder that they are no scans."""


def channel_files(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Files of one folder by case: `<id>_0000`, `<id>_0001`, ... are channels, any other file is a case of its own.

    An id is a name without its ending; files that differ in nothing else, as `a.nii` and `a.mha`, keep it.
    """
    files = list(files)
    count = Counter(volume_stem(path) for path in files)
    by_stem = {volume_stem(path) if count[volume_stem(path)] == 1 else path.name: path for path in files}
    cases: dict[str, list[Path]] = defaultdict(list)
    for name, path in sorted(by_stem.items()):
        channel = re.fullmatch(r"(.+)_\d{4}", name)
        # A year at the end of a name is no channel: channels are counted from 0000 on.
        cases[channel[1] if channel and f"{channel[1]}_0000" in by_stem else name].append(path)
    return {case_id: tuple(paths) for case_id, paths in cases.items()}


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, at whatever else than letters and digits it is parted."""
    return tuple(re.findall(r"[^\W_]+", name.lower()))


def is_label_map(path: Path) -> bool:
    """Return whether a volume is called a label map by the first or last word of its name or the last of a folder's."""
    if not volume_ending(path):
        return False
    words = words_of(volume_stem(path))
    telling = [*words[:1], *words[-1:], *(word for folder in path.parts[:-1] for word in words_of(folder)[-1:])]
    return any(LABEL_MAP.fullmatch(word) for word in telling)


def case_id_of(path: Path, root: Path) -> str:
    """Return a file or folder below `root` as an id: `a/b/scan.nii.gz` becomes `a__b__scan`."""
    parts = path.relative_to(root).parts
    return "__".join([*parts[:-1], volume_stem(path)]) if parts else path.name
