"""What is written replaces the old file whole or leaves it; a folder gets its name when all in it is on the disk."""

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit import disk
from labkit.errors import UsageError


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is asked of the system, in order: what is synced, and what is given another name."""
    asked: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def name_of(descriptor: int) -> str:
        paths = [tmp_path, *tmp_path.rglob("*")]
        (path,) = (path for path in paths if path.stat().st_ino == os.fstat(descriptor).st_ino)
        return str(path.relative_to(tmp_path))

    def synced(descriptor: int) -> None:
        asked.append(f"fsync {name_of(descriptor)}")
        fsync(descriptor)

    def renamed(how: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def rename(old: Path, new: Path) -> Path:
            asked.append(f"{old.relative_to(tmp_path)} -> {new.relative_to(tmp_path)}")
            return how(old, new)

        return rename

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed(rename))
    monkeypatch.setattr(Path, "replace", renamed(replace))
    return asked


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses, as on a disk that fills up, what would make a file larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("data", "there"), [("Grüße\n", "Grüße\n".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n")])
def test_a_file_holds_exactly_what_was_written_and_nothing_lies_beside_it(
    tmp_path: Path, data: str | bytes, there: bytes
) -> None:
    path = tmp_path / "manifest.json"
    for _ in range(2):
        disk.write(path, data)
        assert path.read_bytes() == there
        assert list(tmp_path.iterdir()) == [path]


def test_a_shorter_file_replaces_a_longer_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.write(path, "long" * 1000)
    disk.write(path, "short")
    assert path.read_text() == "short"


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one_and_then_its_name_is(
    tmp_path: Path, done: list[str]
) -> None:
    disk.write(tmp_path / "file", "new")
    assert done == ["fsync file.new", "file.new -> file", "fsync ."]


def test_where_the_disk_is_full_the_old_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.write(path, "old")
    before = path.stat()
    with no_file_above(1000), pytest.raises(OSError, match="File too large"):
        disk.write(path, "new" * 1_000_000)
    assert path.read_text() == "old"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]
    disk.write(path, "new" * 1_000_000)
    assert path.stat().st_size == 3_000_000


def test_what_the_disk_has_no_room_for_as_it_is_synced_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    disk.write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refused)
        with pytest.raises(OSError, match="No space left") as caught:
            disk.write(path, "new")
        with pytest.raises(OSError, match="No space left"):
            disk.write(tmp_path / "other", "new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from labkit import disk

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{patch} = killed
disk.{call}
"""


def kill_at(patch: str, call: str) -> None:
    """A real process that is killed in the place of doing something."""
    script = KILLED.format(patch=patch, call=call)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9


@pytest.mark.parametrize("moment", ["os.fsync", "Path.replace"])
def test_a_process_that_is_killed_as_it_writes_leaves_the_old_file_and_no_hindrance(
    tmp_path: Path, moment: str
) -> None:
    path = tmp_path / "file"
    disk.write(path, "old")
    kill_at(moment, f"write(Path({str(path)!r}), 'new')")
    assert path.read_text() == "old"
    disk.write(path, "newer")
    assert path.read_text() == "newer"
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_while_a_file_is_written_finds_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path, over = tmp_path / "file", threading.Event()
    whole = [b"a" * 300_000, b"b" * 500_000]
    disk.write(path, whole[0])
    found: set[bytes] = set()

    def reading() -> None:
        while not over.is_set():
            found.add(path.read_bytes())

    reader = threading.Thread(target=reading)
    reader.start()
    for number in range(40):
        disk.write(path, whole[number % 2])
    over.set()
    reader.join()
    assert found <= set(whole)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A folder with files of this process and of another one."""
    folder = tmp_path / "trials" / ".one"
    (folder / "deep").mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    script = "import sys; open(sys.argv[1], 'w').write('theirs')"
    subprocess.run([sys.executable, "-c", script, str(folder / "deep" / "producer.ledger")], check=True)
    return folder


def test_a_folder_gets_its_name_when_every_file_and_every_name_in_it_is_on_the_disk(
    tmp_path: Path, unfinished: Path, done: list[str]
) -> None:
    place = unfinished.with_name("one")
    disk.publish(unfinished, place)
    at = done.index("trials/.one -> trials/one")
    everything = {"trials/.one", "trials/.one/deep", "trials/.one/deep/producer.ledger", "trials/.one/record.json"}
    everything.add(f"trials/.one/{disk.SUMS}")
    assert {each.removeprefix("fsync ") for each in done[:at]} == everything
    assert done[at + 1 :] == ["fsync trials"]
    assert not unfinished.exists()
    assert (place / "deep" / "producer.ledger").read_text() == "theirs"


def test_a_folder_that_cannot_be_synced_does_not_get_its_name(
    tmp_path: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refused)
        with pytest.raises(OSError, match="No space left"):
            disk.publish(unfinished, unfinished.with_name("one"))
    assert list((tmp_path / "trials").iterdir()) == [unfinished]


@pytest.mark.parametrize("moment", ["os.fsync", "Path.rename"])
def test_a_process_that_is_killed_as_it_publishes_leaves_an_unfinished_folder(unfinished: Path, moment: str) -> None:
    place = unfinished.with_name("one")
    kill_at(moment, f"publish(Path({str(unfinished)!r}), Path({str(place)!r}))")
    assert unfinished.is_dir()
    assert not place.exists()


def test_a_folder_never_takes_the_place_of_one_that_is_there(unfinished: Path) -> None:
    place = unfinished.with_name("one")
    place.mkdir()
    (place / "record.json").write_text("precious")
    with pytest.raises(OSError, match="not empty"):
        disk.publish(unfinished, place)
    assert (place / "record.json").read_text() == "precious"
    assert (unfinished / "record.json").read_text() == "{}"


def cut(folder: Path) -> None:
    (folder / "record.json").write_text("{")


def grown(folder: Path) -> None:
    with (folder / "deep" / "producer.ledger").open("a") as file:
        file.write("more")


def gone(folder: Path) -> None:
    (folder / "record.json").unlink()


def unreadable(folder: Path) -> None:
    (folder / disk.SUMS).write_bytes(b"\xff")


def no_sums(folder: Path) -> None:
    (folder / disk.SUMS).write_text("nothing")


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (cut, "record.json"),
        (grown, "deep/producer.ledger"),
        (gone, "record.json"),
        (unreadable, disk.SUMS),
        (no_sums, disk.SUMS),
    ],
)
def test_what_is_changed_in_a_sealed_folder_is_named(
    unfinished: Path, change: Callable[[Path], None], file: str
) -> None:
    assert disk.changed(unfinished) is None  # never sealed
    place = unfinished.with_name("one")
    disk.publish(unfinished, place)
    assert disk.changed(place) is None
    change(place)
    assert disk.changed(place) == file
    disk.seal(place)
    assert disk.changed(place) is None


def test_a_seal_is_one_that_sha256sum_checks(unfinished: Path) -> None:
    disk.seal(unfinished)
    subprocess.run(
        ["sha256sum", "--check", "--strict", disk.SUMS], cwd=unfinished, check=True, stdout=subprocess.DEVNULL
    )


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_a_file_is_in_the_way_of_is_a_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"^The folder '.*' cannot be made \(.*\); choose another\.$"):
        disk.folder(tmp_path / below)
    disk.folder(tmp_path / "a" / "b")
    disk.folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
