"""Inotify watcher of log files: sleeps until one of them may have grown.

*Theory of operation.*  Linux tells (inotify) when a file is written and when a name appears in a directory.
A `Watcher` asks for both: for the directory of each file before it looks for the file, so that no creation
falls between the two, and for the open file itself (through its descriptor, since its name may be another
file's by now), so that it is followed wherever it is moved.  Files that the kernel cannot watch (no inotify
on the system, its limits reached, a directory that is not there yet, a symbolic link, whose target may come
and go unnoticed) are looked at once per interval; all others cost nothing while nothing happens.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pytest_elastic.clock import Deadline
from pytest_elastic.multiprocessing._follow import LogFile
from pytest_elastic.pristine import os, select, struct
from pytest_elastic.processes import Wakeup, path_of

_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_MOVE_SELF = 0x800
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x1000000
_IN_MASK_ADD = 0x20000000  # One inode has one watch: a second caller must not take the first one's events.
_NAMES = _IN_CREATE | _IN_MOVED_TO | _IN_MOVE_SELF | _IN_ONLYDIR | _IN_MASK_ADD
CONTENT = _IN_MODIFY | _IN_MASK_ADD
_EVENT = struct.Struct("iIII")


class Inotify:
    """The kernel's notification for files and directories.  Not thread-safe.

    Raises:
        OSError: there is none here, or this user has used up his.
    """

    def __init__(self) -> None:
        # ctypes is loaded by the processes that need it: importing it would be paid by every run of pytest.
        import ctypes

        self._libc = ctypes.CDLL(None)
        try:
            self.descriptor = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError:
            raise OSError("this system has no inotify")
        if self.descriptor < 0:
            raise OSError("inotify_init1 failed: this user's instances are used up")

    def add(self, path: str, mask: int) -> int:
        """Watch an inode; the watch's number (always the same one for an inode), -1 if it cannot be."""
        return int(self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), mask))

    def remove(self, watch: int) -> None:
        """Watch an inode no more; its number is not used again."""
        self._libc.inotify_rm_watch(self.descriptor, watch)

    def events(self) -> Iterator[tuple[int, int, str]]:
        """What has happened since the last call: watch, mask, name in the watched directory."""
        data = os.read(self.descriptor, 1 << 16)
        position = 0
        while position < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            yield watch, mask, os.fsdecode(data[position - length : position].rstrip(b"\0"))

    def close(self) -> None:
        """Let go of it and of its watches."""
        os.close(self.descriptor)


class Watcher:
    """Knows which of some log files may have news.  `wake` may be called from any thread, the rest from one.

    Args:
        files: all of them; they are looked for at once.
        interval: seconds between two looks at a file that the kernel cannot watch.
    """

    def __init__(self, files: Iterable[LogFile], interval: float) -> None:
        self._files, self._interval = list(files), interval
        self._unwatched: set[LogFile] = set()  # Files whose open content the kernel would not watch.
        self._blind: set[LogFile] = set()
        self._names: dict[int, dict[str, list[LogFile]]] = defaultdict(lambda: defaultdict(list))
        self._contents: dict[int, list[LogFile]] = defaultdict(list)
        self._look_at = Deadline.after(interval)
        self._poll = select.poll()
        self._wakeup = Wakeup()
        self._poll.register(self._wakeup, select.POLLIN)
        self._inotify: Inotify | None = None
        with contextlib.suppress(OSError):
            self._inotify = Inotify()
            self._poll.register(self._inotify.descriptor, select.POLLIN)

    def wait(self, block: bool) -> set[LogFile]:
        """The files that may have news; if `block`, sleeps until there are any or `wake` was called."""
        left = None
        if not block:
            left = 0.0
        elif self._blind:
            left = self._look_at.remaining() * 1000
        ready = [descriptor for descriptor, _ in self._poll.poll(left)]
        news: set[LogFile] = set()
        if self._inotify is not None and self._inotify.descriptor in ready:
            news |= self._hear(self._inotify)
        if self._blind and self._look_at.passed():
            news |= self.look(list(self._blind))
            self._look_at = Deadline.after(self._interval)
        return news

    def wake(self) -> None:
        """End this and every later `wait` at once."""
        self._wakeup.set()

    def look(self, files: Iterable[LogFile] | None = None) -> set[LogFile]:
        """Open what has the names of these files (default: of all) and have it watched; returns them."""
        found = set(self._files if files is None else files)
        for file in found:
            named = self._watch_name(file)
            descriptor = file.look()
            if descriptor is not None and not self._watch_content(file, descriptor):
                self._unwatched.add(file)
            if file.error is not None or (named and file not in self._unwatched):
                self._blind.discard(file)
            else:
                self._blind.add(file)
        return found

    def deafen(self) -> None:
        """Be told nothing more.  Blocks some 15 ms: so long the kernel takes to be sure that nobody looks."""
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            self._poll.unregister(inotify.descriptor)
            inotify.close()

    def close(self) -> None:
        """Let go of the means to wait and wake; not while another thread waits."""
        self._wakeup.close()

    def _watch_name(self, file: LogFile) -> bool:
        directory, name = os.path.split(file.path)
        watch = -1 if self._inotify is None else self._inotify.add(directory or ".", _NAMES)
        if watch < 0:
            return False
        if file not in self._names[watch][name]:
            self._names[watch][name].append(file)
        return not os.path.islink(file.path)

    def _watch_content(self, file: LogFile, descriptor: int) -> bool:
        watch = -1 if self._inotify is None else self._inotify.add(path_of(descriptor), CONTENT)
        if watch < 0:
            return False
        self._contents[watch].append(file)
        return True

    def _hear(self, inotify: Inotify) -> set[LogFile]:
        news: set[LogFile] = set()
        for watch, mask, name in inotify.events():
            if mask & _IN_Q_OVERFLOW:
                return self.look()
            if watch in self._contents:
                news.update(self._contents[watch])
            if watch in self._names:
                if mask & (_IN_IGNORED | _IN_MOVE_SELF):  # The directory itself is gone, with all its files.
                    news |= self.look([file for files in self._names.pop(watch).values() for file in files])
                else:
                    news |= self.look(self._names[watch].get(name, []))
        return news
