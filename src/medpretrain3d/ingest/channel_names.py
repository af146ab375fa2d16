"""Names of channels: what they say of the unit of intensities, and whether several data sets mean the same by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.documents import Name, checked
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import RawDataset
from medpretrain3d.store.file_names import words_of
from medpretrain3d.store.unit import Unit

MODALITIES = frozenset(("ct", "mr", "mri", "t1", "t1c", "t1ce", "t2", "flair", "adc", "dwi", "pet"))
"""Words of a scan's name that say whether its values are HU."""
_OTHERS = (MODALITIES - {"ct"}) | {"pt", "nm", "us"}
_UNNAMED = "channel "


def common_channel_names(raws: Sequence[Path], datasets: Sequence[RawDataset]) -> tuple[str, ...]:
    """Return the channel names of the data sets that give some, else a number for each channel.

    Raises:
        UserError: data sets give different ones, or the same in another order, or one that is no name.
    """
    named: dict[tuple[tuple[str, ...], ...], tuple[Path, tuple[str, ...]]] = {}
    for raw, dataset in zip(raws, datasets, strict=True):
        if dataset.channel_names:
            checked(list(dataset.channel_names), list[Name], f"{raw}: names of channels", "correct them")
            named.setdefault(_alike(dataset.channel_names), (raw, dataset.channel_names))
    if len(named) > 1:
        message = "; ".join(f"{raw}: {', '.join(names)}" for raw, names in named.values())
        raise UserError(f"data sets of different channels ({message}); prepare them into different stores")
    for _, names in named.values():
        return names
    most = max((len(case.images) for dataset in datasets for case in dataset.cases if not case.problem), default=1)
    return tuple(f"{_UNNAMED}{number}" for number in range(max(most, 1)))


def unit_of(channel_names: Sequence[str]) -> Unit:
    """Return the unit of channels: HU where all are CT, and where nobody names them, since CT can be told by its values
    and MR cannot. Beside CT, values of others would be rounded to whole numbers, so that a mixture has no unit."""
    return "hu" if not are_named(channel_names) or all(map(is_ct, channel_names)) else "any"


def are_named(channel_names: Sequence[str]) -> bool:
    """Return whether a data set names its channels."""
    return not channel_names[0].startswith(_UNNAMED)


def is_ct(name: str) -> bool:
    """Return whether a channel is called CT and nothing else, as `CT_portal_venous` is and `CT/PT` is not."""
    words = set(words_of(name))
    return "ct" in words and not words & _OTHERS


def told_channels(channel_names: Sequence[str], unit: Unit) -> str:
    """Return channels and their unit in words."""
    in_words = "in HU" if unit == "hu" else "without a unit"
    if are_named(channel_names):
        mixed = len({is_ct(name) for name in channel_names}) > 1
        return f"{', '.join(channel_names)}; {in_words}{', since not all are CT' if mixed and unit == 'any' else ''}"
    others = "; say --intensity any where they are not" if unit == "hu" else ""
    return f"{len(channel_names)}, not named; taken as {in_words}{others}"


def _alike(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the names without case and what parts their words; a single channel of CT is one, whatever its phase."""
    return (("ct",),) if len(names) == 1 and is_ct(names[0]) else tuple(words_of(name) for name in names)
