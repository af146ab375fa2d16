"""What is written is there whole, on the disk, or not at all; whatever is refused is one line."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medpretrain3d.atomic import exchange, finished_file, finished_folder, put_back, remove_unfinished, write_text
from medpretrain3d.errors import UserError


def read(place: Path) -> str | None:
    """What a reader finds: the two files of a version agree."""
    put_back(place)
    if place.is_file():
        return place.read_text()
    if not place.is_dir():
        return None
    first, second = ((place / name).read_text() for name in ("a", "b"))
    assert first == second
    return first


def write(place: Path, version: str, is_folder: bool) -> None:
    if not is_folder:
        write_text(place, version)
        return
    with finished_folder(place, replace=("a",)) as unfinished:
        (unfinished / "a").write_text(version)
        (unfinished / "b").write_text(version)


def die_at(k: int, can_exchange: bool) -> None:
    """End this process at the k-th step; a call that changes a folder or the disk has one before and one after it."""
    counted = iter(range(k))

    def dying(real):
        def call(*args, **kwargs):
            if next(counted, None) is None:
                os._exit(9)
            result = real(*args, **kwargs)
            if next(counted, None) is None:
                os._exit(9)
            return result

        return call

    for name in ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    exchange.exchange = dying(exchange.exchange) if can_exchange else cannot_exchange


def cannot_exchange(one, other):
    raise OSError(errno.EINVAL, "Invalid argument")


def write_part(path: Path, then: Callable[[], None] | None) -> None:
    path.write_text("x")
    if then is not None:
        then()


def killed_writing(place: Path, version: str, is_folder: bool, k: int, can_exchange: bool) -> bool:
    child = os.fork()
    if child == 0:
        try:
            die_at(k, can_exchange)
            write(place, version, is_folder)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("is_link", [False, True], ids=["place", "link"])
@pytest.mark.parametrize(
    ("is_folder", "can_exchange"),
    [(False, True), (True, True), (True, False)],
    ids=["file", "folder", "folder without exchange"],
)
def test_a_process_killed_at_any_step_leaves_the_old_or_the_new(tmp_path, is_folder, can_exchange, is_link):
    place = tmp_path / "place"
    if is_link:
        (tmp_path / "disk").mkdir()
        place.symlink_to(tmp_path / "disk" / "target", target_is_directory=is_folder)
    write(place, "old", is_folder)
    seen = []
    for k in range(60):
        if not killed_writing(place, f"new {k}", is_folder, k, can_exchange):
            break
        seen.append(read(place))
        assert seen[-1] in ("old", *(f"new {i}" for i in range(k + 1)))
    assert seen[0] == "old"
    assert seen[-1] != "old"  # killed while it cleaned up
    assert 6 <= len(seen) < 60
    write(place, "last", is_folder)
    remove_unfinished((tmp_path / "disk") if is_link else tmp_path, {"target" if is_link else "place"})
    assert read(place) == "last"
    assert place.is_symlink() == is_link
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


def test_everything_is_flushed_before_its_name_is_there_and_the_name_after(tmp_path, monkeypatch):
    events: list[tuple[str, str]] = []
    real_fsync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(descriptor):
        events.append(("flush", os.path.realpath(f"/proc/self/fd/{descriptor}")))
        real_fsync(descriptor)

    def renaming(real):
        def call(one, other):
            events.append(("rename", str(other)))
            real(one, other)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renaming(real_rename))
    monkeypatch.setattr(os, "replace", renaming(real_replace))
    write_text(tmp_path / "new" / "file.json", "x")
    with finished_folder(tmp_path / "folder") as unfinished:
        (unfinished / "below").mkdir()
        (unfinished / "below" / "deep").write_text("x")
        (unfinished / "flat").write_text("x")
    names = [(kind, Path(path).name if "unfinished" not in Path(path).name else "temporary") for kind, path in events]
    assert names == [
        ("flush", tmp_path.name),  # the name of the folder `new`
        ("flush", "temporary"),
        ("rename", "file.json"),
        ("flush", "new"),
        ("flush", "deep"),
        ("flush", "below"),
        ("flush", "flat"),
        ("flush", "temporary"),
        ("rename", "folder"),
        ("flush", tmp_path.name),
    ]


def test_a_file_system_that_flushes_no_folder_is_written_all_the_same(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, r"the disk is full \([\d,]+ bytes free\); nothing was written"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "input/output error"),
        (errno.EFBIG, "too large"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission denied"),
        (errno.ENOENT, "cannot be written, its folder takes no files or was removed; choose another place"),
        (errno.EPERM, "not permitted"),
        (errno.EMFILE, "too many files.*ulimit -n"),
        (errno.ENFILE, "too many files"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.ESTALE, "network file system"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
@pytest.mark.parametrize("step", ["block", "fsync", "mkdir"])
def test_what_a_disk_refuses_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, code, words, step):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    if step != "block":
        monkeypatch.setattr(os, step, refuse)
    for finished in (finished_file, finished_folder):
        with pytest.raises(UserError, match=words) as caught, finished(tmp_path / "below" / "a") as unfinished:
            write_part(
                unfinished if finished is finished_file else unfinished / "b", refuse if step == "block" else None
            )
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "below" / "a") in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_file_too_large_for_the_limit_is_one_line(tmp_path):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            try:
                write_text(tmp_path / "a", "x" * 5000)
            except UserError as error:
                code = 0 if "too large" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_a_file_that_is_read_is_not_blamed_on_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError), finished_file(tmp_path / "a"):
        (tmp_path / "other").read_text()
    with pytest.raises(PermissionError), finished_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "other"))


@pytest.mark.parametrize("length", [1, 100, 101, 230, 255])
@pytest.mark.parametrize("letter", ["n", "é"])
def test_any_name_that_the_file_system_takes_can_be_written(tmp_path, length, letter):
    name = letter * (length // len(letter.encode())) or "n"
    for version in ("old", "new"):
        write_text(tmp_path / "files" / name, version)
        write(tmp_path / "folders" / name, version, is_folder=True)
    assert (read(tmp_path / "files" / name), read(tmp_path / "folders" / name)) == ("new", "new")
    assert [path.name for path in (*(tmp_path / "files").iterdir(), *(tmp_path / "folders").iterdir())] == [name] * 2


@pytest.mark.parametrize("length", [100, 240])
def test_what_a_killed_process_left_of_a_long_name_is_known_by_it(tmp_path, length):
    own, other = "n" * length, "n" * (length - 1) + "m"
    for name in (own, other):
        assert killed_writing(tmp_path / name, "x", is_folder=True, k=2, can_exchange=True)
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path, {own})
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_too_long_for_the_file_system_are_one_line(tmp_path):
    with pytest.raises(UserError, match="too long"):
        write_text(tmp_path / ("n" * 256), "x")
    with pytest.raises(UserError, match="too long"), finished_folder(tmp_path / ("n" * 256)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_links_stay_and_what_they_lead_to_is_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "file").symlink_to(disk / "file")  # leads nowhere yet
    (tmp_path / "folder").symlink_to("disk/folder")
    for version in ("old", "new"):
        write_text(tmp_path / "file", version)
        write(tmp_path / "folder", version, is_folder=True)
    assert (read(disk / "file"), read(disk / "folder")) == ("new", "new")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "folder").is_symlink()
    assert sorted(path.name for path in disk.iterdir()) == ["file", "folder"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="leads to itself"):
        write_text(tmp_path / "loop", "x")


def test_a_device_is_written_and_not_replaced():
    write_text(Path("/dev/null"), "x")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UserError, match="the disk is full"):
        write_text(Path("/dev/full"), "x")
    assert Path("/dev/full").is_char_device()


def test_a_folder_gives_way_only_if_it_is_of_the_same_kind(tmp_path):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    write(foreign, "new", is_folder=True)  # an empty folder has nothing to lose
    (foreign / "a").rename(foreign / "holiday.jpg")
    with pytest.raises(UserError, match="holds other files and no a; choose another place"):
        write(foreign, "newer", is_folder=True)
    assert (foreign / "holiday.jpg").read_text() == "new"
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file, wanted a folder"):
        write(tmp_path / "file", "new", is_folder=True)
    with pytest.raises(UserError, match="is a folder, wanted a file"):
        write_text(foreign, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]


@pytest.mark.parametrize("place", ["/dev/stdout", "/proc/self/fd/1"])
def test_a_file_that_output_goes_to_holds_what_is_written_and_what_is_printed(tmp_path, place):
    code = f"from medpretrain3d.atomic import write_text; print(1); write_text('{place}', '2\\n'); print(3)"
    with (tmp_path / "out.txt").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "out.txt").read_text() == "1\n2\n3\n"
