"""Files that nobody should trust, made from honest ones. Payloads would leave a file `executed` in the folder."""

import codecs
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Build = Callable[[Path, Path], Path]
"""(folder to write in, folder of an honest run) → the file"""


class Call:
    """A pickle of it calls a function when it is read by a reader that executes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS = {
    "mkdir": Call(os.mkdir, "executed"),
    "system": Call(os.system, "touch executed"),
    "eval": Call(eval, "open('executed', 'w')"),
    "exec": Call(exec, "open('executed', 'w')"),
    "open": Call(open, "executed", "w"),
    "getattr": Call(getattr, Call(__import__, "os"), "mkdir"),
    "torch.load": Call(torch.load, "executed"),
    "torch.save": Call(torch.save, {}, "executed"),
    "path": Path("executed"),
}


def _encoded(times: int) -> Any:
    """Bytes that double so many times."""
    content: Any = Call(codecs.encode, "a", "latin1")
    for _ in range(times):
        content = Call(codecs.encode, content, "HEX-codec")
    return content


GROWING = {
    "bytearray": Call(bytearray, 2**30),
    "tensor": Call(torch.Tensor, 2**28),
    "float tensor": Call(torch.FloatTensor, 2**28),
    "storage": Call(
        torch._utils._rebuild_tensor_v2, Call(torch.storage.TypedStorage, 2**28), 0, (2**28,), (1,), False, {}
    ),
    "dtype": Call(np.dtype, "V2000000000", False, True),
    "dtype by its class": Call(type(np.dtype("f8"))),
    "encoding": _encoded(40),
}
"""Pickles of a few bytes that are large when they are read."""


def torch_file(content: Any, name: str = "x.pt", **how: Any) -> Build:
    """A file of `torch.save`; the content may be a function of the honest run's."""

    def build(folder: Path, honest: Path) -> Path:
        made = content(torch.load(honest / "last.pt", weights_only=True)) if callable(content) else content
        torch.save(made, folder / name, **how)
        return folder / name

    return build


def raw(data: bytes | Callable[[bytes], bytes], name: str = "x.pt", source: str = "last.pt") -> Build:
    """A file of given bytes, or of those of an honest one changed."""

    def build(folder: Path, honest: Path) -> Path:
        (folder / name).write_bytes(data((honest / source).read_bytes()) if callable(data) else data)
        return folder / name

    return build


def run_with(path: str, value: Any) -> Build:
    """The honest run's checkpoint with one value, at keys joined by dots, replaced or changed; `...` takes it out."""

    def change(run: dict[str, Any]) -> dict[str, Any]:
        *way, last = path.split(".")
        place: Any = run
        for key in way:
            place = place[int(key) if key.isdecimal() else key]
        if value is ...:
            del place[last]
        else:
            place[last] = value(place[last]) if callable(value) else value
        return run

    return torch_file(change, "last.pt")


def weights_with(name: str, change: Callable[[torch.Tensor], Any]) -> Build:
    """The weights of the honest run with one tensor changed, beside the name of their network."""

    def build(run: dict[str, Any]) -> dict[str, Any]:
        state = dict(run["state_dict"])
        state[name] = change(state[name])
        return {"state_dict": state, "arch": "repvgg_tiny"}

    return torch_file(build)


def deployed_with(**metadata: Any) -> Build:
    """The honest deployed file, saying something else of itself; `...` takes an entry out."""

    def build(folder: Path, honest: Path) -> Path:
        said = {**facts(honest / "deployed.safetensors"), **metadata}
        text = json.dumps({key: value for key, value in said.items() if value is not ...})
        return save(folder, honest, text)

    return build


def deployed_saying(text: str) -> Build:
    """The honest deployed file with any text for metadata."""
    return lambda folder, honest: save(folder, honest, text)


def save(folder: Path, honest: Path, text: str) -> Path:
    save_file(load_file(honest / "deployed.safetensors"), folder / "x.safetensors", {"zoo": text})
    return folder / "x.safetensors"


def facts(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file of ours, unchecked."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["zoo"])


def bomb(megabytes: int) -> Build:
    """An archive like torch's of a few kilobytes that unpacks to that much."""

    def build(folder: Path, honest: Path) -> Path:
        content = io.BytesIO()
        torch.save({"w": torch.zeros(1)}, content)
        with zipfile.ZipFile(content) as inside, zipfile.ZipFile(folder / "x.pt", "w", zipfile.ZIP_DEFLATED) as out:
            for entry in inside.infolist():
                data = inside.read(entry)
                if entry.filename.endswith("data/0"):
                    with out.open(entry.filename, "w", force_zip64=True) as file:
                        for _ in range(megabytes):
                            file.write(bytes(2**20))
                else:
                    out.writestr(entry.filename, data)
        return folder / "x.pt"

    return build


def renamed_pickle(count: int) -> Build:
    """An archive whose pickle of many instructions has its name in capitals: torch finds it all the same."""

    def build(folder: Path, honest: Path) -> Path:
        with zipfile.ZipFile(folder / "x.pt", "w") as out:
            out.writestr("x/DATA.PKL", b"\x80\x02(" + b"}" * count + b"l.")
            out.writestr("x/version", "3\n")
        return folder / "x.pt"

    return build


def many_things(count: int) -> Build:
    """A pickle of many small instructions, as a file of torch's older format."""
    return old_file(b"\x80\x02(" + b"}" * count + b"l.")


def old_file(pickled: bytes) -> Build:
    """A file of torch's older format that holds a pickle."""
    magic, version = 0x1950A86A20F9469CFC6C, 1001
    machine = {"protocol_version": version, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(part, 2) for part in (magic, version, machine))
    return raw(head + pickled)


def circle() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["state_dict"] = state
    return state


def circle_of_lists() -> list[Any]:
    items: list[Any] = []
    items.extend([items] * 1000)
    return items


def nested(depth: int) -> dict[str, Any]:
    inner: Any = torch.ones(1)
    for _ in range(depth):
        inner = {"model": inner}
    return inner


def doubling(times: int) -> list[Any]:
    """A few lists that, followed, are 2^times items."""
    items: list[Any] = [0]
    for _ in range(times):
        items = [items, items]
    return items
