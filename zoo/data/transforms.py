"""Image transforms: lists of named operations, configured by two dataclasses.

Operations on PIL images come from timm and torchvision and run in the workers; an image leaves them as uint8.
Normalising, PCA lighting and random erasing follow on the batch, in float32 (`zoo/data/batches.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm.data
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, posterize
from timm.data.constants import DEFAULT_CROP_PCT, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import Compose, RandomCrop

from zoo.settings import Augmentation

ImageTransform = Callable[[Image.Image], Tensor]

# Distortions of a batch (..., H, W) of square images, as in ACNet's robustness table; rot90 is
# counter-clockwise.
DISTORTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "rot90": lambda images: torch.rot90(images, 1, (-2, -1)),
    "rot180": lambda images: torch.rot90(images, 2, (-2, -1)),
    "vflip": lambda images: images.flip(-2),
}


@dataclass(kw_only=True)
class TrainTransform(Augmentation):
    """Training-time augmentation at a size, for images of which mean and spread are known.

    Order: random resized crop, crop of the padded image, flips, AutoAugment or colour jitter, then on the float image
    lighting, normalising and erasing. As in timm, a policy `aa` switches the colour jitter off, unless it is "3a"
    (3-Augment).
    """

    img_size: int = 224
    """side of the crop in pixels"""
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    """per-channel mean of images in [0, 1]"""
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    """per-channel standard deviation of images in [0, 1]"""

    def build(self) -> ImageTransform:
        """PIL RGB image → uint8 tensor (3, img_size, img_size); draws from the global generators.

        Raises: ValueError if timm does not know the policy or takes no such jitter.
        """
        jitter: Any = self.color_jitter[0] if len(self.color_jitter) == 1 else tuple(self.color_jitter)
        jitter = jitter or None  # timm's annotation leaves out None, which means no jitter
        try:
            transform = timm.data.create_transform(
                self.img_size,
                is_training=True,
                scale=(self.scale[0], self.scale[1]),
                ratio=(self.ratio[0], self.ratio[1]),
                hflip=self.hflip,
                vflip=self.vflip,
                color_jitter=jitter,
                auto_augment=self.aa,
                interpolation=self.train_interpolation,
                mean=self.mean,  # AutoAugment fills with it
                std=self.std,
                use_prefetcher=True,  # leave the image uint8
            )
        except AssertionError as error:  # so timm refuses
            raise ValueError(f"timm takes no aa {self.aa!r} with color_jitter {jitter}: {error}") from error
        assert isinstance(transform, Compose)
        if self.crop_padding:
            transform.transforms.insert(1, RandomCrop(self.img_size, self.crop_padding))
        for operation in _operations(transform):
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize
        return transform


def _operations(transform: Compose) -> Iterator[AugmentOp]:
    """Yield the operations a policy draws from: RandAugment's and AugMix's own, those of AutoAugment's sub-policies."""
    for step in transform.transforms:
        for group in getattr(step, "policy", None) or [getattr(step, "ops", ())]:
            yield from group


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """timm's, which keeps no bit at one end of its range: a black image, but Pillow 13 refuses to make it."""
    return posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)


@dataclass(kw_only=True)
class EvalTransform:
    """Test-time preprocessing: resize the shorter side to img_size / crop_pct, centre crop of img_size."""

    img_size: int = 224
    """side of the crop in pixels"""
    crop_pct: float = DEFAULT_CROP_PCT
    """share of the resized shorter side that the crop keeps; 1.0 crops nothing off a square image"""
    crop_mode: str = "center"
    """center, or timm's squash (resize both sides, ignore the aspect) and border (pad, lose nothing)"""
    interpolation: str = "bilinear"
    """resampling: bilinear, bicubic, nearest"""
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    """per-channel mean of images in [0, 1]"""
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    """per-channel standard deviation of images in [0, 1]"""
    distort: str = "none"
    """one of DISTORTIONS, applied after the crop"""

    def __post_init__(self) -> None:
        if self.distort not in DISTORTIONS:
            raise ValueError(f"unknown distortion {self.distort!r}; known: {', '.join(DISTORTIONS)}")

    def build(self) -> ImageTransform:
        """PIL RGB image → uint8 tensor (3, img_size, img_size)."""
        cut = {key: value for key, value in vars(self).items() if key not in ("img_size", "distort")}
        transform = timm.data.create_transform(self.img_size, is_training=False, use_prefetcher=True, **cut)
        assert isinstance(transform, Compose)
        return transform
