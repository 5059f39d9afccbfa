"""Which log files may have news: told by the kernel, or looked at once per interval."""

from __future__ import annotations

import os

import pytest

from pytest_elastic.multiprocessing import _file_watcher
from pytest_elastic.multiprocessing._file_watcher import Watcher
from pytest_elastic.multiprocessing._follow import Lines, LogFile

NEVER = 3600.0


@pytest.fixture
def watch():
    """Watch these paths: `watch(path, ..., interval=...)` gives the watcher and the files."""
    made = []

    def begin(*paths, interval=NEVER):
        files = [LogFile(rank, str(path), Lines("")) for rank, path in enumerate(paths)]
        watcher = Watcher(files, interval)
        watcher.look()
        made.append((watcher, files))
        return watcher, files

    yield begin
    for watcher, files in made:
        watcher.deafen()
        watcher.close()
        for file in files:
            file.end()


@pytest.fixture
def no_inotify(monkeypatch):
    """As on a system without it."""

    def refuse():
        raise OSError("none here")

    monkeypatch.setattr(_file_watcher, "Inotify", refuse)


def heard(watcher: Watcher) -> list[int]:
    """The ranks of the files with news, now."""
    return sorted(file.rank for file in watcher.wait(block=False))


def test_a_write_is_news_of_that_file_only(watch, tmp_path):
    """Others are left alone."""
    for name in "ab":
        (tmp_path / name).write_text("")
    watcher, _ = watch(tmp_path / "a", tmp_path / "b")
    assert heard(watcher) == []
    (tmp_path / "b").write_text("x\n")
    assert heard(watcher) == [1]


def test_a_file_that_appears_is_opened_and_followed(watch, tmp_path):
    """Its creation is news, and so is every later write."""
    watcher, files = watch(tmp_path / "a")
    with (tmp_path / "a").open("w") as writer:
        assert heard(watcher) == [0]
        assert files[0].behind
        print("x", file=writer, flush=True)
        assert heard(watcher) == [0]


def test_a_renamed_file_is_followed_and_its_successor_found(watch, tmp_path):
    """Both the old inode and the name are watched."""
    path = tmp_path / "a"
    path.write_text("")
    watcher, _ = watch(path)
    path.rename(tmp_path / "old")
    (tmp_path / "old").write_text("x\n")
    assert heard(watcher) == [0]
    (tmp_path / "new").write_text("y\n")
    assert heard(watcher) == []
    (tmp_path / "new").rename(path)
    assert heard(watcher) == [0]


def test_appeared_right_after_it_was_looked_for(watch, tmp_path, monkeypatch):
    """Its directory is watched by then."""
    look = LogFile.look

    def look_in_vain(file):
        found = look(file)
        (tmp_path / "a").write_text("x\n")
        return found

    monkeypatch.setattr(LogFile, "look", look_in_vain)
    watcher, _ = watch(tmp_path / "a")
    monkeypatch.undo()
    assert heard(watcher) == [0]


def test_replaced_before_it_is_watched(watch, tmp_path, monkeypatch):
    """What is watched is the file that was opened, not the one that has its name by then."""
    path = tmp_path / "a"
    path.write_text("")
    look = LogFile.look

    def look_and_lose(file):
        found = look(file)
        path.rename(tmp_path / "old")
        return found

    monkeypatch.setattr(LogFile, "look", look_and_lose)
    watcher, _ = watch(path)
    monkeypatch.undo()
    (tmp_path / "old").write_text("x\n")
    assert heard(watcher) == [0]


def test_two_names_of_one_file(watch, tmp_path):
    """One inode has one watch; a write is news for both."""
    (tmp_path / "a").write_text("")
    os.link(tmp_path / "a", tmp_path / "b")
    watcher, _ = watch(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_text("x\n")
    assert heard(watcher) == [0, 1]


def test_a_log_that_is_the_directory_of_another(watch, tmp_path):
    """Watching it as a file does not undo watching it as a directory."""
    (tmp_path / "new").write_text("x\n")
    watcher, files = watch(tmp_path / "a", tmp_path)
    (tmp_path / "new").rename(tmp_path / "a")
    assert files[0] in watcher.wait(block=False)
    assert files[0].behind


def test_a_directory_that_appears_late(watch, tmp_path):
    """It is looked for once per interval, and watched from then on."""
    path = tmp_path / "attempt_0" / "a"
    watcher, files = watch(path, interval=0.0)
    path.parent.mkdir()
    assert (heard(watcher), files[0].behind) == ([0], False)
    assert heard(watcher) == []
    path.write_text("x\n")
    assert (heard(watcher), files[0].behind) == ([0], True)


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_directory_that_is_made_again(watch, tmp_path, how):
    """Whatever happened to the old one, the file in the new one is found."""
    path = tmp_path / "attempt_0" / "a"
    path.parent.mkdir()
    watcher, files = watch(path, interval=0.0)
    path.parent.rmdir() if how == "removed" else path.parent.rename(tmp_path / "attempt_1")
    assert heard(watcher) == [0]
    path.parent.mkdir()
    path.write_text("x\n")
    assert (heard(watcher), files[0].read()) == ([0], "x\n")


def test_a_symbolic_link_is_looked_at(watch, tmp_path):
    """Its target may appear where nobody watches; once it is there, the kernel tells of writes."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere" / "target")
    watcher, files = watch(tmp_path / "a", interval=0.0)
    (tmp_path / "elsewhere" / "target").write_text("x\n")
    assert (heard(watcher), files[0].read()) == ([0], "x\n")


def test_without_inotify_every_file_is_looked_at(watch, tmp_path, no_inotify):
    """Once per interval, and not before."""
    watcher, files = watch(tmp_path / "a", interval=0.0)
    (tmp_path / "a").write_text("x\n")
    assert (heard(watcher), files[0].read()) == ([0], "x\n")
    patient, _ = watch(tmp_path / "a", interval=NEVER)
    assert heard(patient) == []


@pytest.mark.parametrize("refused", ["/proc", "/"], ids=["for files", "at all"])
def test_without_watches_left_a_file_is_looked_at(watch, tmp_path, monkeypatch, refused):
    """The kernel's limit (ENOSPC) makes it slower, not wrong."""
    add = _file_watcher.Inotify.add
    monkeypatch.setattr(
        _file_watcher.Inotify,
        "add",
        lambda self, path, mask: -1 if path.startswith(refused) else add(self, path, mask),
    )
    (tmp_path / "a").write_text("x\n")
    watcher, files = watch(tmp_path / "a", interval=0.0)
    assert (heard(watcher), files[0].read()) == ([0], "x\n")
    assert heard(watcher) == [0]


def test_an_overflow_makes_everybody_look(watch, tmp_path, monkeypatch):
    """Events that the kernel had no room for may have been about any file."""
    watcher, _ = watch(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_text("")
    monkeypatch.setattr(_file_watcher.Inotify, "events", lambda _: iter([(-1, 0x4000, "")]))
    assert heard(watcher) == [0, 1]


def test_wake_ends_every_wait(watch, tmp_path):
    """Also one that begins later; it brings no news."""
    watcher, _ = watch(tmp_path / "a")
    watcher.wake()
    assert (watcher.wait(block=True), watcher.wait(block=True)) == (set(), set())


def test_a_deaf_watcher_is_told_nothing(watch, tmp_path):
    """No event is delivered any more; again is fine."""
    (tmp_path / "a").write_text("")
    watcher, _ = watch(tmp_path / "a")
    watcher.deafen()
    (tmp_path / "a").write_text("x\n")
    assert heard(watcher) == []
    watcher.deafen()


def test_instances_used_up(monkeypatch):
    """The kernel's limit of instances (EMFILE) is an `OSError`."""
    import ctypes

    class Full:
        inotify_init1 = staticmethod(lambda flags: -1)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_: Full)
    with pytest.raises(OSError, match="used up"):
        _file_watcher.Inotify()
    monkeypatch.delattr(Full, "inotify_init1")
    with pytest.raises(OSError, match="no inotify"):
        _file_watcher.Inotify()
