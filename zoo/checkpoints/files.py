"""Read the bytes of a checkpoint that nobody vouches for: nothing is executed, and nothing is larger than its file."""

import argparse
import json
import mmap
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.mishaps import first_line, is_out_of_memory
from zoo.untrusted import check_bounds

MAX_HEADER = 16 * 2**20
"""bytes of names, sizes and metadata in a safetensors file; those of a network of 10,000 tensors take 2 MiB"""
MAX_PROGRAM = 32 * 2**20
"""bytes by which an archive may grow when it is unpacked"""
MAX_OPCODES = 1_000_000
"""instructions of a pickle, each of which builds one small thing; a tensor takes about 20"""
FILLERS = frozenset({"builtins.bytearray", "__builtin__.bytearray"}) | {
    f"{kind.__module__}.{kind.__name__}" for kind in (Tensor, *torch._tensor_classes)
}
"""what torch lets a pickle call with a size: a few bytes of file, any number of bytes of memory"""
TRANSFORMS = re.compile("(base64|bz2|hex|quopri|quotedprintable|rot13|uu|zip|zlib)(codec)?", re.IGNORECASE)
"""encodings of bytes as bytes: `_codecs.encode`, with which pickles spell bytes, doubles with them as often as asked"""
PLAIN = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")
"""numpy's names of the numbers that may lie beside weights"""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file and the remedy."""


def read_content(path: Path) -> tuple[Any, dict[str, Any] | None]:
    """Read a `.safetensors` file, or one of `torch.save`.

    Tensors, containers, numbers and strings are read, and objects of a few known inert classes; anything else is
    refused.

    Returns:
        What is in the file, of bounded depth, number of items and length of names; and the metadata of ours in a
        safetensors file, else None.

    Raises:
        CheckpointError: The file is missing, empty, truncated, no checkpoint, or unpacks to more than it is.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise CheckpointError(f"{path}: is empty; copy or download it again")
    try:
        if path.suffix == ".safetensors" or head[8:] == b"{":
            return _read_safetensors(path, head)
        content = _read_torch(path, head)
        check_bounds(content)
        stored = sum(dict(_storages(content)).values())  # each once: tensors share them
        if stored > path.stat().st_size:
            raise ValueError(f"is of {path.stat().st_size:,} bytes and would fill {stored:,}")
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: {error}; save its state_dict() alone") from error
    return content, None


def _storages(content: Any) -> Iterator[tuple[int, int]]:
    """Address and bytes of what holds each tensor's values."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor) and item.layout is torch.strided and not item.is_meta:
            yield item.untyped_storage().data_ptr(), item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)


def _read_safetensors(path: Path, head: bytes) -> tuple[dict[str, Tensor], Any]:
    if len(head) > 8 and (size := int.from_bytes(head[:8], "little")) > MAX_HEADER:
        raise _damaged(path, ValueError(f"a header of {size:,} bytes"))
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("zoo", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, RecursionError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, head: bytes) -> Any:
    is_archive = head.startswith(b"PK")
    try:
        with torch.serialization.safe_globals(_inert_classes()), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of old protocols, TorchScript, sparse and quantised tensors: errors say it
            if is_archive:
                opcodes = _scan_archive(path)
            else:
                with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
                    opcodes = _count_opcodes([stream] * 5)  # magic number, version, machine, content, storages
            if opcodes > MAX_OPCODES:
                raise CheckpointError(f"{path}: holds more than {MAX_OPCODES:,} things; save its state_dict() alone")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL " in str(error):
            name = str(error).split("GLOBAL ")[1].split()[0]
            raise CheckpointError(
                f"{path}: holds an object of {name} beside tensors, which is not loaded since that could run code "
                "from the file, or fill memory; save its state_dict() alone"
            ) from error
        raise _damaged(path, error) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch and zipfile raise nearly anything on bytes that are no checkpoint
        if "TorchScript archive" in str(error):
            raise CheckpointError(
                f"{path}: is a TorchScript archive, which is a program; save the state_dict() of what it holds"
            ) from error
        raise _damaged(path, error, truncated=is_archive) from error


def _scan_archive(path: Path) -> int:
    """Count the instructions of an archive's pickles, unless it unpacks to more than the file.

    torch stores without compressing; only the program in a TorchScript archive, which torch refuses, is compressed.
    """
    with zipfile.ZipFile(path) as archive, ExitStack() as opened:
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > path.stat().st_size + MAX_PROGRAM:
            raise CheckpointError(
                f"{path}: is a compressed archive that unpacks to {unpacked:,} bytes, which torch.save never writes; "
                "unpack it yourself, or copy or download the checkpoint again"
            )
        pickles = [entry for entry in entries if entry.filename.lower().endswith(".pkl")]
        return _count_opcodes([opened.enter_context(archive.open(entry)) for entry in pickles])


def _count_opcodes(streams: list[Any]) -> int:
    """Count the instructions of pickles without following them, up to what is too many or to where they break.

    Raises:
        pickle.UnpicklingError: One names a function that makes much of a few bytes.
    """
    opcodes, encodes, transforms = 0, False, False
    for stream in streams:
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                opcodes += 1
                if opcodes > MAX_OPCODES:
                    return opcodes
                if isinstance(argument, str):
                    name = argument.replace(" ", ".") if opcode.name == "GLOBAL" else ""
                    encodes |= name == "_codecs.encode"
                    transforms |= _is_transform(argument)
                    if name in FILLERS or (encodes and transforms):
                        raise pickle.UnpicklingError(f"GLOBAL {name or '_codecs.encode'}")
        except ValueError:  # torch will say
            return opcodes
    return opcodes


def _is_transform(word: str) -> bool:
    """Tell whether a word is a name of a transform, in any of the spellings that Python takes (`HEX-codec`)."""
    return TRANSFORMS.fullmatch(re.sub("[^0-9A-Za-z]+", "", word)) is not None


def _inert_classes() -> list[Any]:
    """List the classes that training programs store beside weights and that run no code when read."""
    scalar = np.float64(0).__reduce__()[0]  # numpy's own constructor; its module has had two names
    return [
        argparse.Namespace,
        (_plain_dtype, "numpy.dtype"),
        *[(type(np.dtype(kind)), kind) for kind in PLAIN],  # may have a state, and no name that a file could call
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (OrderedDict, "yacs.config.CfgNode"),  # RepVGG's main.py stores its configuration, a dictionary
    ]


def _plain_dtype(kind: str, *_: Any) -> np.dtype[Any]:
    """Make a numpy dtype of a number; others may be of any size. Raises: pickle.UnpicklingError."""
    if kind not in PLAIN:
        raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({kind!r})")
    return np.dtype(kind, copy=True)  # a copy: its state is then set by the file


def _damaged(path: Path, error: BaseException, truncated: bool = False) -> CheckpointError:
    what = "is truncated" if truncated else "is truncated, or not a checkpoint"
    reason = first_line(error)
    if is_out_of_memory(error):
        return CheckpointError(f"{path}: there is no memory to read it into ({reason})")
    return CheckpointError(f"{path}: {what} ({reason}); copy or download it again")
