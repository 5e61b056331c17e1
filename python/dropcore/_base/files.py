"""Files that are replaced as a whole: a reader sees the old content or the new one."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None  # type: ignore[no-redef]

__all__ = ["check_replaceable", "checked_path", "lock_open", "locked_folder", "replacing"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checked_path(what: str, path: Any) -> Path:
    """`path` as a Path; TypeError for anything else than a str or a path."""
    if isinstance(path, bytes) or not isinstance(path, str | os.PathLike):
        raise TypeError(f"{what}: path must be a str or a pathlib.Path, got {type(path).__name__}")
    if not os.fspath(path):
        raise ValueError(f"{what}: path must name a file, got an empty str")
    return Path(path)


def check_replaceable(what: str, path: Path) -> None:
    """OSError unless `path` can be replaced by a new file, as far as that can be told before.

    Parameters
    ----------
    what : str
        The caller, for messages.
    path : Path

    Raises
    ------
    OSError
        If `path` is a folder or no regular file, or its folder does not exist or is read-only.
    """
    _checked_target(what, path)


@contextmanager
def replacing(what: str, path: Path) -> Iterator[Path]:
    """Give the name of a new file to write; it becomes `path` when the block ends.

    The file is on the disk (fsync) before it takes the name, and the name is when the context ends.
    A process that is killed at any moment leaves the old file or the new one. If the block fails,
    the old file stays and nothing else.

    The new file is written in a folder of its own beside `path`, so that it may be written by
    programs that use temporary files themselves. The folders of writers that were killed are
    removed by the next one: a living writer holds a lock on its folder.

    A link is followed. A new file has the permissions that the umask allows; one that is replaced
    keeps its own.

    Parameters
    ----------
    what : str
        The caller, for messages.
    path : Path

    Raises
    ------
    OSError
        If `path` is a folder or no regular file, its folder does not exist, or writing fails.
    MemoryError
        If the system has no memory for it.
    """
    target, mode = _checked_target(what, path)
    stem = f".{target.name[:40]}."
    with _unchanged(what, path):
        _remove_abandoned(target.parent, stem)
        try:
            folder, lock = _own_folder(target.parent, stem)
        except PermissionError:
            raise _no_permission(what, target.parent, path) from None
    try:
        temporary = folder / target.name
        with _unchanged(what, path):
            yield temporary
            # The permissions of a new folder tell what the umask allows, which cannot be read
            # without changing it for all threads.
            temporary.chmod(stat.S_IMODE(folder.stat().st_mode & 0o666 if mode is None else mode))
            _synchronize(temporary, os.O_RDWR)
            os.replace(temporary, target)
        if os.name == "posix":
            _synchronize(target.parent, os.O_RDONLY)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _checked_target(what: str, path: Path) -> tuple[Path, int | None]:
    """The file that `path` leads to, and its mode, None where there is none."""
    target = Path(os.path.realpath(path))
    mode = None
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = target.stat().st_mode
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{what}: {path} is a folder: name a file in it")
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(f"{what}: {path} is not a regular file and cannot be replaced")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{what}: there is no folder {target.parent}: create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise _no_permission(what, target.parent, path)
    return target, mode


@contextmanager
def _unchanged(what: str, path: Path) -> Iterator[None]:
    """Say what a full disk, or the system's lack of memory, has done to the file."""
    try:
        yield
    except OSError as error:
        reason = f"{what}: {path} was not written, and what was there is unchanged: "
        if error.errno == errno.ENOMEM:
            raise MemoryError(reason + os.strerror(error.errno)) from None
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, reason + os.strerror(error.errno)) from None


def _no_permission(what: str, folder: Path, path: Path) -> PermissionError:
    return PermissionError(
        f"{what}: nothing can be created in {folder}, where a new file is written before it "
        f"becomes {path.name}: give write permission, or name another folder"
    )


def _own_folder(parent: Path, stem: str) -> tuple[Path, int | None]:
    """A new folder and the handle whose lock on it is held, None where there are no locks."""
    while True:
        folder = parent / f"{stem}{secrets.token_hex(8)}.tmp"
        folder.mkdir()
        if fcntl is None:
            return folder, None
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except BaseException:
            folder.rmdir()
            raise
        lock_open(lock)
        if folder.exists():
            return folder, lock
        os.close(lock)  # another writer took it for abandoned, before it was locked


def lock_open(handle: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder until it is closed; True also where there are no locks.

    Without `wait`, False if another process has locked it.
    """
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # not every file system has locks
            pass
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder within the block; False if another process has locked or removed it."""
    if fcntl is None:
        yield True
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        own = lock_open(handle, wait=False)
        try:
            # The process that had the lock may have removed the folder, and another made it again.
            own = own and os.path.samestat(os.fstat(handle), folder.stat())
        except FileNotFoundError:
            own = False
        yield own
    finally:
        os.close(handle)


def _synchronize(path: Path, flags: int) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path, stem: str) -> None:
    """Remove the folders of writers that were killed, which hold no lock any more."""
    if fcntl is None:
        return
    for found in parent.glob(f"{glob.escape(stem)}{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):
            handle = os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(found, ignore_errors=True)
            finally:
                os.close(handle)
