"""How the cases of a store lie on disk: a folder each, or many in one container."""

from __future__ import annotations

import functools
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import finished_folder, write_text
from medpretrain3d.store.case_data import CaseData, case_contents
from medpretrain3d.store.case_files import CASES, IMAGE, NAMES, SIDECAR, CaseFiles, case_folder
from medpretrain3d.store.container import MAX_BYTES, SUFFIX, ContainerWriter, scan_container
from medpretrain3d.store.sidecar import index_row

CONTAINERS = "containers"


class Layout(ABC):
    """The cases that are complete in a store, found on disk without its index, and where others are written.

    Args:
        store: the store's folder.
    """

    def __init__(self, store: Path) -> None:
        self.store = Path(store)

    @abstractmethod
    def cases(self) -> dict[str, CaseFiles]:
        """Return the files of every case that is there."""

    @abstractmethod
    def find(self, case_id: str) -> CaseFiles | None:
        """Return the files of a case, or None."""

    def reread(self) -> Layout:
        """Return one that knows what other processes have written since."""
        return self

    @abstractmethod
    def write(self, case_id: str, contents: Mapping[str, bytes], links: Mapping[str, Path] | None = None) -> CaseFiles:
        """Write a case completely or not at all, in place of an older one.

        Args:
            case_id: its id.
            contents: its files by name.
            links: files elsewhere that hold the same, by name: they are referred to where each is a file of its own.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """

    @abstractmethod
    def write_sidecar(self, files: CaseFiles, content: bytes) -> CaseFiles:
        """Write another sidecar of a case, whose other files stay as they are; returns where all of them lie.

        Raises:
            UserError: the disk is full, the folder cannot be written, or a file is missing.
        """

    @abstractmethod
    def remove(self, case_id: str) -> None:
        """Take a case away; nothing happens where there is none."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let other processes write where this one did."""


class FolderLayout(Layout):
    """`STORE/cases/<id>/` with the files of a case."""

    def cases(self) -> dict[str, CaseFiles]:
        """Return the files of every folder of a case."""
        folder = self.store / CASES
        names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
        return {name: CaseFiles.of_folder(folder / name) for name in names}

    def find(self, case_id: str) -> CaseFiles | None:
        """Return the files of the folder of a case, or None where there is no folder."""
        folder = case_folder(self.store, case_id)
        return CaseFiles.of_folder(folder) if folder.exists() else None

    def write(self, case_id: str, contents: Mapping[str, bytes], links: Mapping[str, Path] | None = None) -> CaseFiles:
        """Write a folder beside its place and rename it there; a folder that is none of ours stays."""
        folder = case_folder(self.store, case_id)
        with finished_folder(folder, replace=NAMES) as unfinished:
            for name, content in contents.items():
                if links and name in links and _link(unfinished / name, links[name]):
                    continue
                (unfinished / name).write_bytes(content)
        return CaseFiles.of_folder(folder)

    def write_sidecar(self, files: CaseFiles, content: bytes) -> CaseFiles:
        """Replace that file alone."""
        write_text(files.folder / SIDECAR, content.decode())
        return files

    def remove(self, case_id: str) -> None:
        """Remove the folder of a case, but nothing that is not ours."""
        folder = case_folder(self.store, case_id)
        if any((folder / name).exists() for name in NAMES):
            shutil.rmtree(folder, ignore_errors=True)


class ContainerLayout(Layout):
    """`STORE/containers/*.tar`, each with the files of many cases.

    Args:
        store: the store's folder.
        prefix: of the containers that are written here; none but the processes of one call may have it.
        max_bytes: of a container, from which on it is full.
    """

    def __init__(self, store: Path, prefix: str = "1-of-1", max_bytes: int = MAX_BYTES) -> None:
        super().__init__(store)
        self.prefix, self.max_bytes = prefix, max_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process all copies are one object, which appends to a container of its own."""
        return _in_this_process, (self.store, self.prefix, self.max_bytes)

    @functools.cached_property
    def _writer(self) -> ContainerWriter:
        return ContainerWriter(self.store / CONTAINERS, self.prefix, self.max_bytes)

    @functools.cached_property
    def _newest(self) -> dict[str, tuple[int, CaseFiles | None]]:
        """By case id the generation and files of the newest record of all containers."""
        newest: dict[str, tuple[int, CaseFiles | None]] = {}
        for path in sorted((self.store / CONTAINERS).glob(f"*{SUFFIX}")):
            for case_id, generation, files in scan_container(path).records:
                if generation >= newest.get(case_id, (0, None))[0]:
                    newest[case_id] = generation, files
        return newest

    def damages(self) -> list[str]:
        """Return what is wrong with the containers beside cases: the headers behind a damaged one are not read."""
        scans = {path: scan_container(path) for path in sorted((self.store / CONTAINERS).glob(f"*{SUFFIX}"))}
        advice = "`medpretrain3d pack` makes a store without it"
        damaged = {path: scan.end for path, scan in scans.items() if not scan.can_grow}
        return [f"{path} is damaged behind byte {end:,}; {advice}" for path, end in damaged.items()]

    def cases(self) -> dict[str, CaseFiles]:
        """Return the files of every case of the containers, as they were when first asked for."""
        return {case_id: files for case_id, (_, files) in sorted(self._newest.items()) if files is not None}

    def find(self, case_id: str) -> CaseFiles | None:
        """Return the files of a case, or None."""
        return self._newest.get(case_id, (0, None))[1]

    def reread(self) -> ContainerLayout:
        """Return one whose records are those of the containers as they are now."""
        return ContainerLayout(self.store, self.prefix, self.max_bytes)

    def write(self, case_id: str, contents: Mapping[str, bytes], links: Mapping[str, Path] | None = None) -> CaseFiles:
        """Append a record, which refers to nothing elsewhere."""
        generation = self._newest.get(case_id, (0, None))[0] + 1
        files = self._writer.append(case_id, contents, generation)
        self._newest[case_id] = generation, files
        return files

    def write_sidecar(self, files: CaseFiles, content: bytes) -> CaseFiles:
        """Append a record with a copy of the other files, since a record lies in one place."""
        others = {name: one.read() for name in NAMES if name != SIDECAR and (one := files.named(name)).num_bytes}
        return self.write(files.case_id, {**others, SIDECAR: content})

    def remove(self, case_id: str) -> None:
        """Append that the case is gone."""
        generation, files = self._newest.get(case_id, (0, None))
        if files is not None:
            self._writer.remove(case_id, generation + 1)
            self._newest[case_id] = generation + 1, None

    def close(self) -> None:
        """Let others append to the container."""
        self._writer.close()


@functools.cache
def _in_this_process(store: Path, prefix: str, max_bytes: int) -> ContainerLayout:
    return ContainerLayout(store, prefix, max_bytes)


def layout_of(store: Path) -> Layout:
    """Return how the cases of a store lie."""
    return ContainerLayout(store) if (Path(store) / CONTAINERS).is_dir() else FolderLayout(store)


def write_case(place: Path | Layout, case_data: CaseData) -> dict[str, Any]:
    """Write a case completely or not at all, in place of an older one; returns its row for the index.

    Args:
        place: the store's folder, for a folder of its own, or how cases lie in the store.
        case_data: all that is written.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    sidecar, contents = case_contents(case_data)
    layout = place if isinstance(place, Layout) else FolderLayout(place)
    file = case_data.image_file
    links = {} if file is None or file.member or file.fetcher else {IMAGE: file.path}
    return index_row(sidecar, layout.write(case_data.case_id, contents, links))


def _link(path: Path, to: Path) -> bool:
    """Make a relative symbolic link, so that two stores can be moved together; False where there are none.

    A hard link would change the time of change of the other store's file, which would be read again for it.
    """
    try:
        path.symlink_to(os.path.relpath(os.path.realpath(to), os.path.realpath(path.parent)))
    except OSError:
        return False
    return True
