"""Names of files with scans: which case and channel they say, and whether they name a label map."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.store.readers import volume_ending, volume_stem
from medpretrain3d.store.readers.scan import MAX_CHANNELS

LABEL_MAP = re.compile(r"(seg|segmentation|mask|label|labelmap|instance|annotation|gt)s?\d*(tr|ts)?")
"""A word, in lower case, that says of a file or of the files in a folder that they are no scans."""


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan: one for each channel, or one that holds all of them."""

    id: str
    """Name of the file without its ending and, where that numbers channels, without the number."""
    files: tuple[Path, ...]
    problem: str = ""
    """Why nobody can tell whether the files are channels of one scan or scans of their own."""


def channel_files(files: Iterable[Path], num_channels: int | None = None, ids: Collection[str] = ()) -> list[ScanFiles]:
    """Return scans of the files of one or several folders, by folder and name.

    `<id>_0000` alone is the scan `<id>`. `<id>_0000`, `<id>_0001`, ... of one folder are channels of the scan `<id>`,
    or scans of their own: what is called as they are tells, else the number of channels; else they are channels where
    several ids have the same numbers, counted from 0, and scans where a number is more than a scan may have channels.

    Args:
        files: volumes; those that differ in their endings alone, as `a.nii` and `a.mha`, keep them in their ids.
        num_channels: of every scan; None where nobody says.
        ids: names of cases, as those of label maps, in any case and whatever parts their words.
    """
    called = {_plain(name) for name in ids}
    groups = _numbered(files)
    alike = Counter(tuple(one) for one in groups.values() if len(one) > 1)
    scans: list[ScanFiles] = []
    for (_, name), by_number in groups.items():
        paths = tuple(by_number.values())
        are_channels = len(paths) == 1 or _are_channels(name, list(by_number), alike, num_channels, called)
        if are_channels is False:
            scans += [ScanFiles(volume_stem(path), (path,)) for path in paths]
            continue
        first, last = volume_stem(paths[0]), volume_stem(paths[-1])
        problem = (
            f"{len(paths)} files, {first} to {last}, may be channels of one scan or scans of their own; name the "
            f"channels in nnU-Net's dataset.json, or rename scans of their own, as {name}-0000"
        )
        scans.append(ScanFiles(name, paths, "" if are_channels else problem))
    return scans


def _numbered(files: Iterable[Path]) -> dict[tuple[Path, str], dict[str, Path]]:
    """Return files by folder and id, those of one id by their numbers, "" for one without."""
    files = list(files)
    count = Counter((path.parent, volume_stem(path)) for path in files)
    names = {
        (path.parent, volume_stem(path) if count[path.parent, volume_stem(path)] == 1 else path.name): path
        for path in files
    }
    groups: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for (folder, name), path in sorted(names.items()):
        channel = re.fullmatch(r"(.+)_(\d{4})", name)
        # A year at the end of a name is no channel: channels are counted from 0000 on.
        if channel and (folder, f"{channel[1]}_0000") in names:
            groups[folder, channel[1]][channel[2]] = path
        else:
            groups[folder, name][""] = path
    return groups


def _are_channels(
    name: str,
    numbers: Sequence[str],
    alike: Counter[tuple[str, ...]],
    num_channels: int | None,
    called: Collection[str],
) -> bool | None:
    """Return whether several files of one id are its channels; None where nobody can tell."""
    are_called = [_plain(f"{name}_{number}") in called for number in numbers]
    if _plain(name) in called:
        return None if any(are_called) else True
    if any(are_called):
        # What is called as the first channel may be of the whole scan.
        return False if any(are_called[1:]) else None
    if num_channels is not None:
        return num_channels > 1
    if any(number and int(number) >= MAX_CHANNELS for number in numbers):
        return False
    is_counted = list(numbers) == [f"{number:04d}" for number in range(len(numbers))]
    return True if is_counted and alike[tuple(numbers)] > 1 else None


def _plain(name: str) -> str:
    return " ".join(words_of(name))


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, at whatever else than letters and digits it is parted."""
    # An accent of its own, as macOS writes it, is no letter and would part a word.
    return tuple(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", name).lower()))


def scan_words(name: str) -> tuple[str, ...]:
    """Return the words of a name without the first or last one where that says that it is a label map."""
    words = words_of(name)
    for end, rest in ((0, words[1:]), (-1, words[:-1])):
        if words and LABEL_MAP.fullmatch(words[end]):
            return rest
    return words


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
