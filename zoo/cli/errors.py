"""Mistakes of the user and mishaps of a run: one line on stderr and an exit code, no traceback."""

import os
import sys
from collections.abc import Callable

from zoo.mishaps import is_out_of_memory
from zoo.untrusted import printable

USAGE, RUNTIME = 2, 1


class UsageError(ValueError):
    """The user asked for something impossible: exit code 2."""


def report(program: str, body: Callable[[], int]) -> int:
    """Run a command; what it raises on purpose becomes one line `program: error: …` on stderr.

    ValueError and FileNotFoundError are the user's (exit code 2); other OSErrors, our own RuntimeErrors and
    memory that runs out are mishaps (1); an interrupted run exits with 128 + signal. Anything else is a bug
    of ours and keeps its traceback, as everything does with ZOO_TRACEBACK=1.
    """
    try:
        code = body()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our stdout has all it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail(program, KeyboardInterrupt("interrupted"), 130)
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return _fail(program, error, USAGE)
    except OSError as error:
        return _fail(program, error, RUNTIME)
    except Exception as error:
        if is_out_of_memory(error):
            what = ": ".join(filter(None, ("out of memory", str(error))))
            return _fail(program, MemoryError(f"{what}; lower --batch-size or --img-size"), RUNTIME)
        if not (isinstance(error, RuntimeError) and type(error).__module__.startswith("zoo.")):
            raise
        return _fail(program, error, getattr(error, "exit_code", RUNTIME))


def _fail(program: str, error: BaseException, code: int) -> int:
    if os.environ.get("ZOO_TRACEBACK"):
        raise error
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"{program}: error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code
