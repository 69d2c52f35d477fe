"""Write a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without error, that file becomes `path`.

    The order is write, fsync, rename, fsync of the folder, so that whenever the process or the machine dies
    `path` holds either all of its old content or all of its new content. On an error the temporary file is
    removed and `path` is left as it was. The temporary name is fixed (`.tmp-` and the name of `path`): what a
    killed process leaves behind is overwritten by the next write, and the suffix is the one the writer
    expects. One process at a time may write a path.

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
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    except (RuntimeError, SafetensorError) as error:
        # Neither torch nor safetensors passes the system's error on: both wrap it in one of their own.
        if isinstance(error, SafetensorError) or "inline_container" in str(error):
            raise OSError(f"cannot write {path}: is the disk full? ({str(error).splitlines()[0]})") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
