"""Any recipe made small: the same code, on a few bundled images, in seconds."""

import dataclasses

from zoo.engine.config import TrainConfig
from zoo.engine.folder import run_folder

IMAGES, BATCH, SIZE, EPOCHS = 8, 4, 64, 3


def smoke(config: TrainConfig) -> TrainConfig:
    """The recipe with bundled data, small images and batches, and at most three epochs.

    Everything else stays: network, optimiser, groups, schedule, augmentation, mixup, average, precision. What
    changes at later epochs (progressive) changes at the second. It starts anew each time, in a folder `smoke`
    of the run's own, which stays free for the real run.
    """
    epochs = min(config.schedule.epochs, EPOCHS)
    progressive = {
        int(start > 0): {**changes, **({"img_size": SIZE} if "img_size" in changes else {})}
        for start, changes in sorted(config.augment.progressive.items())
    }
    accumulate = min(config.optim.grad_accum_steps, 2)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, num_classes=None),
        data=dataclasses.replace(
            config.data,
            dataset="fashion",
            data_dir=None,
            img_size=min(config.data.img_size or SIZE, SIZE),
            eval_img_size=None,
            train_num_samples=IMAGES,
            val_num_samples=IMAGES,
            batch_size=BATCH,
            eval_batch_size=None,
            workers=0,
        ),
        augment=dataclasses.replace(config.augment, progressive=progressive),
        optim=dataclasses.replace(config.optim, grad_accum_steps=accumulate),
        schedule=dataclasses.replace(
            config.schedule, epochs=epochs, warmup_epochs=min(config.schedule.warmup_epochs, epochs - 1)
        ),
        run=dataclasses.replace(config.run, output=str(run_folder(config) / "smoke"), overwrite=True, resume=None),
    )
