"""The folder of a run: where it is, and that one run at a time writes to it."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from zoo.engine import checkpoint
from zoo.engine.config import TrainConfig
from zoo.engine.pictures import AUGMENTED, CURVES, MISTAKES

logger = logging.getLogger(__name__)

WRITTEN = (
    *(checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST),
    *("args.yaml", "summary.csv", "deployed.safetensors", "deployed.xml", "deployed.bin"),
    *(AUGMENTED, CURVES, MISTAKES),
)
"""what a run writes whole or not at all, each under a temporary name first; other files there may be the user's"""


def run_folder(config: TrainConfig) -> Path:
    """Return a run's folder: --output, or where the checkpoint of --resume is, or output/MODEL."""
    if config.run.output:
        return Path(config.run.output)
    if config.run.resume is not None and config.run.resume != "auto":
        return Path(config.run.resume).parent
    name = config.model.model or checkpoint.describe(config.model.checkpoint).get("model", "train")
    return Path("output") / re.sub(r"[^\w.-]", "_", name).lstrip(".")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder for the time of the block, and remove what a killed run left half written.

    The folder is made; one that was made here, and in which the block writes nothing, goes again. The lock is the
    system's, on the file `.lock`: it ends with the process, however that dies.

    Raises:
        ValueError: Another run holds it.
        OSError: The folder cannot be made or written to.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with _lock(path):
        for name in WRITTEN:
            (folder / f".tmp-{name}").unlink(missing_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # the folder holds a run
                    folder.rmdir()


def _lock(path: Path) -> TextIO:
    """The file, open, and locked by this process."""
    while True:
        file = path.open("a")
        try:
            # A record lock: unlike flock's it does not live on in a data loading process that outlives a killed run.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            message = "another run is writing there: wait until it ends, or choose another --output"
            raise ValueError(f"{path.parent}: {message}") from None
        except OSError as error:  # some network file systems
            logger.warning("%s: no lock can be had (%s): start no second run there", path.parent, error.strerror)
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the run before has just removed it
