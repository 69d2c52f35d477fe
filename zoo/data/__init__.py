"""Images in, batches out: datasets, transforms and deterministic loaders. Knows no network.

    dataset = create_dataset("fashion", split="train")  # or ("", "/data/imagenet", "train"), ("wds/…", …)
    loader = TrainLoader(dataset, TrainTransform(img_size=32), batch_size=64, seed=0)
    loader.set_epoch(3, start_batch=100)  # resume in the middle of epoch 3
    for images, targets in loader: ...  # float32, normalised, on `device`

    for images, targets, index in EvalLoader(dataset, EvalTransform(img_size=32), batch_size=64): ...

Every training image is a function of (seed, epoch, image index) and every batch of (seed, epoch, step): the
number and order of workers, and where a run was interrupted, change nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
