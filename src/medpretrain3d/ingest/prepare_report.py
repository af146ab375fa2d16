"""Report of `prepare`: the layout and why, cases, objects per class and split, sizes, and what was not used and why.

It is printed at the end of a call and kept as STORE/report.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.errors import printable
from medpretrain3d.ingest.channel_names import told_channels
from medpretrain3d.ingest.importers import RawDataset
from medpretrain3d.ingest.importers.base import ANATOMY
from medpretrain3d.store.class_counts import count_objects, missing_objects
from medpretrain3d.store.store import Store
from medpretrain3d.store.unit import Unit

REPORT = "report.json"
NUM_EXAMPLES = 3
REMARKS = "remarks"
"""Key of a case's sidecar: how often something was done to its annotations that they do not say."""
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """One raw folder."""

    folder: str
    layout: str
    recognised_by: str
    num_cases: int
    anatomy: tuple[int, ...]
    """Label values that are no objects."""


@dataclass(frozen=True)
class Counted:
    """Things of one kind: how many, and the first of them."""

    reason: str
    count: int
    examples: tuple[str, ...]

    @staticmethod
    def of(pairs: Iterable[tuple[str, str]]) -> tuple[Counted, ...]:
        """Count things by reason, from pairs of reason and thing."""
        found: dict[str, list[str]] = {}
        for reason, what in pairs:
            found.setdefault(reason, []).append(what)
        return tuple(Counted(reason, len(all_), tuple(all_[:NUM_EXAMPLES])) for reason, all_ in found.items())

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.reason}: {self.count} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class PrepareReport:
    """Report of a store's content, and of what it leaves out of the raw folders."""

    sources: tuple[Source, ...]
    channels: tuple[str, ...]
    """Their names, or numbers where nobody names them."""
    unit: Unit
    """Of their values."""
    cases: Mapping[str, int]
    """Per split."""
    objects: Mapping[str, Mapping[str, int]]
    """Per class and split; empty without classes."""
    sizes_mm: Mapping[str, tuple[float, float, float]]
    """Longest edge of the boxes of each class: 5th percentile, median, 95th; points have none."""
    negatives: Mapping[str, int]
    """Labelled cases without an object, per split."""
    num_empty_masks: int
    """Of these, cases with a label map."""
    remarks: tuple[Counted, ...]
    """What was done to annotations that they do not say, with the cases."""
    unused: tuple[Counted, ...]
    skipped: tuple[Counted, ...]
    """Cases left out, by kind."""
    warnings: tuple[str, ...]

    @staticmethod
    def of(
        raws: Sequence[Path],
        datasets: Sequence[RawDataset],
        store: Store,
        skipped: Sequence[Mapping[str, str]],
        notes: Sequence[str] = (),
    ) -> PrepareReport:
        """Look into what was read and the index of the finished store; sidecars are read of cases with annotations."""
        cases_of = {name: ids for name, ids in store.splits.items() if ids}
        leftovers = [one for dataset in datasets for one in dataset.leftovers]
        sizes_mm, remarks = _annotations(store)
        remarks += [(one.reason, one.what) for one in leftovers if one.is_used]
        unlabeled = cases_of.get("unlabelled", ()) if store.classes else ()
        remarks += [("cases without annotations, taken as unlabelled and not as negatives", one) for one in unlabeled]
        labeled = {name: ids for name, ids in cases_of.items() if name in _SPLITS} if store.classes else {}
        entries = store.entries
        negatives = [(name, one) for name, ids in labeled.items() for one in ids if not entries[one]["num_objects"]]
        counts = {name: count_objects(store, ids) for name, ids in labeled.items()}
        return PrepareReport(
            tuple(map(_source, raws, datasets)),
            tuple(store.channel_names),
            store.unit,
            {name: len(ids) for name, ids in cases_of.items()},
            {name: {split: int(of[label]) for split, of in counts.items()} for label, name in enumerate(store.classes)},
            {store.classes[label]: _spread(edges) for label, edges in sorted(sizes_mm.items())},
            dict(Counter(name for name, _ in negatives)),
            sum(entries[one]["has_mask"] for _, one in negatives),
            Counted.of(remarks),
            Counted.of((one.reason, one.what) for one in leftovers if not one.is_used),
            Counted.of((one["kind"], one["case"]) for one in skipped),
            (*notes, *(missing_objects(store, cases_of) if store.classes else ())),
        )

    @property
    def is_without_objects(self) -> bool:
        """Whether there are labelled cases and none of them holds an object."""
        return bool(self.objects) and not any(count for counts in self.objects.values() for count in counts.values())

    def write(self, store: Path) -> None:
        """Keep it beside the store's index."""
        write_text(store / REPORT, json_text(asdict(self), indent=1))

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report as printed."""
        for line in self._lines():
            yield printable(line)

    def _lines(self) -> Iterator[str]:
        for source in self.sources:
            yield f"{source.folder}: layout {source.layout}, {source.recognised_by}; {source.num_cases} cases"
            if source.anatomy:
                yield f"  label values {', '.join(map(str, source.anatomy))} are anatomy around objects, not objects"
        yield f"channels: {told_channels(self.channels, self.unit)}"
        yield f"cases in the store: {', '.join(f'{name} {count}' for name, count in self.cases.items())}"
        if self.objects:
            yield from self._table()
            message = ", ".join(f"{name} {count}" for name, count in self.negatives.items()) or "none"
            empty = f" ({self.num_empty_masks} with an empty label map)" if self.num_empty_masks else ""
            yield f"labelled cases without objects: {message}{empty}"
        for title, counted in (
            ("left out", self.skipped),
            ("not used", self.unused),
            ("used otherwise than written", self.remarks),
        ):
            if counted:
                yield f"{title}:"
                yield from (f"  {one}" for one in counted)
        yield from (f"warning: {text}" for text in self.warnings)

    def _table(self) -> Iterator[str]:
        splits = [name for name in _SPLITS if name in self.cases]
        width = max(map(len, [*self.objects, "objects"]))
        head = [f"{'objects':<{width}}", *(f"{name:>7}" for name in splits)]
        yield "  ".join([*head, "longest edge, 5 / 50 / 95 % in mm"])
        for name, counts in self.objects.items():
            size = " / ".join(f"{edge:.1f}" for edge in self.sizes_mm[name]) if name in self.sizes_mm else "-"
            yield "  ".join([f"{name:<{width}}", *(f"{counts.get(split, 0):>7}" for split in splits), size])


def _source(raw: Path, dataset: RawDataset) -> Source:
    values = {
        value
        for case in dataset.cases
        if case.labels is not None
        for value, label in (case.class_of_value or {}).items()
        if label == ANATOMY
    }
    return Source(raw.resolve().name, dataset.layout, dataset.recognised_by, len(dataset.cases), tuple(sorted(values)))


def _annotations(store: Store) -> tuple[dict[int, list[float]], list[tuple[str, str]]]:
    """Return longest edges in mm by class, and the remarks of every case that has annotations."""
    edges_mm: dict[int, list[float]] = {}
    remarks: list[tuple[str, str]] = []
    if not store.classes:
        return edges_mm, remarks
    for case_id in store.case_ids:
        case = store.case(case_id)
        extents_mm = (case.boxes[:, 3:] - case.boxes[:, :3]) * case.grid.spacing_mm
        for label, edge_mm in zip(case.labels.tolist(), extents_mm.max(axis=1, initial=0).tolist(), strict=True):
            if edge_mm:
                edges_mm.setdefault(label, []).append(edge_mm)
        remarks += [(reason, case_id) for reason, count in case.sidecar.get(REMARKS, {}).items() for _ in range(count)]
    return edges_mm, remarks


def _spread(edges_mm: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = (round(float(edge), 1) for edge in np.percentile(edges_mm, (5, 50, 95)))
    return low, middle, high
