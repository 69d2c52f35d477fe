"""Write a file whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from zoo.mishaps import first_line


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without error, that file becomes `path`.

    The order is write, fsync, rename, fsync of the folder, so that whenever the process or the machine dies
    `path` holds either all of its old content or all of its new content. On an error the temporary file is
    removed and `path` is left as it was. The temporary name is fixed (`.tmp-` and the name of `path`): what a
    killed process leaves behind is overwritten by the next write, and the suffix is the one the writer
    expects. One process at a time may write a path. The file's mode is the user's umask's, whoever writes it
    (safetensors makes its files 0600).

        with atomic_write("last.pt") as temporary:
            torch.save(state, temporary)

    Raises:
        OSError: the file could not be written (disk full, no such folder, read-only); the message is one line
            that names `path`.
    """
    path = Path(path)
    if not path.parent.is_dir():  # which torch reports as a RuntimeError
        raise FileNotFoundError(f"cannot write {path}: its folder does not exist")
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    except (RuntimeError, SafetensorError) as error:
        # Neither torch nor safetensors passes the system's error on: both wrap it in one of their own.
        if isinstance(error, SafetensorError) or "inline_container" in str(error):
            raise OSError(f"cannot write {path}: is the disk full? ({first_line(error)})") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(path: str | Path) -> Iterator[Path]:
    """Yield the name of `path` in an empty folder beside it; when the block ends without error, all in there moves out.

    For what is several files, or a folder. `path` comes last, so that it never stands beside another's companions,
    but each of them takes its name for itself: a process that is killed between two leaves the first.

    Raises:
        OSError: as `atomic_write`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: its folder does not exist")
    folder = path.with_name(f".tmp-{path.name}-files")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        yield folder / path.name
        for made in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            target = path.with_name(made.name)
            if made.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                os.replace(made, target)
            else:
                with atomic_write(target) as temporary:
                    os.replace(made, temporary)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
