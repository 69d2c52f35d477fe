"""Images in, batches out: datasets, transforms and deterministic loaders. Knows no network.

    dataset = create_dataset("fashion", split="train")  # or ("", "/data/imagenet", "train"), ("wds/…", …)
    loader = train_loader(dataset, TrainTransform(img_size=32), batch_size=64, seed=0)
    loader.set_epoch(3, start_batch=100)  # resume in the middle of epoch 3
    for images, targets in loader: ...  # float32, normalised, on `device`

    for images, targets, index in eval_loader(dataset, EvalTransform(img_size=32), batch_size=64): ...

Every training image is a function of (seed, epoch, image index) and every batch of (seed, epoch, step): the
number and order of workers, and where a run was interrupted, change nothing.
"""

from zoo.data.datasets import create_dataset
from zoo.data.image_sets import BadImageError, ImageSet, spread
from zoo.data.loaders import EvalLoader, TrainLoader, eval_loader, train_loader
from zoo.data.seeding import derive_seed, seeded
from zoo.data.transforms import DISTORTIONS, EvalTransform, TrainTransform

__all__ = [
    "DISTORTIONS",
    "BadImageError",
    "EvalLoader",
    "EvalTransform",
    "ImageSet",
    "TrainLoader",
    "TrainTransform",
    "create_dataset",
    "derive_seed",
    "eval_loader",
    "seeded",
    "spread",
    "train_loader",
]
