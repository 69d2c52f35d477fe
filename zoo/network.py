"""A network as a stranger meets it: what it says of its images and classes, and whether it runs on an input.

Every network, ours or not, says it in timm's `pretrained_cfg`; what that leaves out has the defaults of ImageNet.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)
Result = TypeVar("Result")

DOES_NOT_RUN = (RuntimeError, TypeError, ValueError, LookupError, AssertionError)
"""What networks raise for an input they do not take; timm asserts the sizes of images."""
LARGE = 192
"""Side in pixels from which a proof runs on images of half the size."""


def declared(model: nn.Module) -> dict[str, Any]:
    """Copy the entries of a network's `pretrained_cfg` that are not None; empty if it has none."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    cfg = cfg if isinstance(cfg, dict) else cfg.to_dict()
    return {key: value for key, value in cfg.items() if value is not None}


def preprocessing(model: nn.Module, *, test: bool = False) -> dict[str, Any]:
    """Resolve how a network wants its images, as timm does, but bilinear where it says nothing.

    Args:
        test: The size and crop for testing, where a network has others than for training.

    Returns:
        input_size (channels, height, width), mean, std, crop_pct, crop_mode, interpolation.
    """
    cfg = declared(model)
    resolved = resolve_data_config(pretrained_cfg={"interpolation": "bilinear", **cfg}, use_test_size=test)
    channels, height, width = resolved["input_size"]
    return {**resolved, "input_size": (getattr(model, "in_chans", None) or channels, height, width)}


def facts(model: nn.Module, *, test: bool = False) -> dict[str, Any]:
    """Collect what a file of a network says of its images and classes, ready for JSON; `declare` takes it back.

    Args:
        test: Of a network that is deployed: the size and crop for testing are the only ones.
    """
    cfg = declared(model)
    kept = ("class_names",) if test else ("class_names", "test_input_size", "test_crop_pct")
    return {**preprocessing(model, test=test), **{key: cfg[key] for key in kept if key in cfg}}


def class_names(model: nn.Module) -> list[str]:
    """Name the classes in words: as declared, WordNet's ids (`n07920052`) by their lemmas; empty if unknown.

    As in timm, a network that declares none and has as many classes as a version of ImageNet is taken for one of it.
    """
    cfg = declared(model)
    names: list[str] = list(cfg.get("class_names") or cfg.get("label_names") or ())
    if not names:
        subset = infer_imagenet_subset({"num_classes": getattr(model, "num_classes", None) or cfg.get("num_classes")})
        return list(_words(subset).values()) if subset else []
    if all(re.fullmatch(r"n\d{8}", name) for name in names):
        words = _words("imagenet-22k") | _words("imagenet-1k")  # the teddy bear is in the small one alone
        return [words.get(name, name) for name in names]
    return names


def _words(subset: str) -> dict[str, str]:
    """Id of WordNet → its lemmas, of the classes of a version of ImageNet in order."""
    words = ImageNetInfo(subset).label_descriptions(as_dict=True)
    assert isinstance(words, dict)
    return words


def declare(model: nn.Module, **facts: Any) -> None:
    """Set entries of a network's `pretrained_cfg` to what its file, or its training, knows; None drops one."""
    holder: Any = model
    cfg = {**declared(model), **facts}
    holder.pretrained_cfg = holder.default_cfg = {key: value for key, value in cfg.items() if value is not None}


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images that a network is made for."""
    return preprocessing(model)["input_size"]


def example_input(model: nn.Module, batch_size: int = 1, img_size: int | None = None) -> Tensor:
    """Draw random images for a network, of its dtype and device: of its own size, or `img_size` pixels square."""
    channels, height, width = input_size(model)
    size = (height, width) if img_size is None else (img_size, img_size)
    return random_input((batch_size, channels, *size), next(model.parameters(), torch.empty(0, device="cpu")))


def proof_input(model: nn.Module) -> Tensor:
    """Draw two random images to prove a network on: of half its size if that is large and the network runs on it.

    A proof needs every layer, not every pixel.
    """
    images = example_input(model, 2)
    height, width = images.shape[2:]
    if images.is_meta or min(height, width) < LARGE or declared(model).get("fixed_input_size"):
        return images
    half = random_input((*images.shape[:2], height // 2, width // 2), images)
    return half if runs_on(model, half) else images


def random_input(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw the same random numbers every time, in the dtype and on the device of `like`; drawn on the CPU."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, device="cpu").to(like)


def main_output(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Give the logits (N, classes) of the main head, which come first where a network has auxiliary heads."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def meta_twin(model: Network) -> Network:
    """Copy a network with its tensors on the meta device: deepcopy takes those it finds in the memo."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in model.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


class EmptyNorms(TorchFunctionMode):
    """Answers for BatchNorm on the meta device with an empty map: torch's own is Python there, and slow."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_empty_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _empty_norm(input: Tensor, running_mean: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    fits = input.is_meta and running_mean is not None and running_mean.shape == input.shape[1:2]
    return torch.empty_like(input) if fits else F.batch_norm(input, running_mean, *args, **kwargs)


def run_on_twin(model: Network, images: Tensor, run: Callable[[Network, Tensor], Result]) -> Result:
    """Call `run(twin, images)` with a copy of a network in eval mode, on the meta device if it runs there.

    Raises:
        ValueError: The network does not run on such images.
    """
    try:
        with EmptyNorms():
            return run(meta_twin(model).eval(), images.to("meta"))
    except DOES_NOT_RUN:  # data-dependent code, tensors that are not buffers
        pass
    try:
        return run(copy.deepcopy(model).eval(), images)
    except DOES_NOT_RUN as error:
        raise ValueError(
            f"{type(model).__name__} does not run on an input of {tuple(images.shape)}: {error}; "
            "pass `example=`, images (N, C, H, W) it accepts"
        ) from error


def runs_on(model: nn.Module, images: Tensor) -> bool:
    """Try a network on images, without changing it."""
    try:
        with torch.no_grad():
            run_on_twin(model, images, lambda twin, batch: twin(batch))
    except ValueError:
        return False
    return True


def names_of(model: nn.Module) -> Mapping[nn.Module, list[str]]:
    """All names of every module: `named_modules` tells only the first."""
    names: defaultdict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names
