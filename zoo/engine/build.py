"""From a configuration to the objects of a run: network, datasets, loaders."""

import dataclasses
from typing import Any

from timm.data import Mixup
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from zoo.data import (
    EvalLoader,
    EvalTransform,
    ImageSet,
    TrainLoader,
    TrainTransform,
    create_dataset,
    spread,
)
from zoo.engine.config import AugmentConfig, DataConfig, ModelConfig, TrainConfig, ValidateConfig
from zoo.engine.distributed import Processes
from zoo.engine.hardware import choose_workers
from zoo.network import input_size, preprocessing
from zoo.settings import Augmentation

STREAMS = ("wds", "hfids", "tfds")


def open_dataset(config: DataConfig, train: bool, seed: int = 0) -> Any:
    """The training or validation set, thinned to the number of samples asked for.

    A stream cannot be thinned: the number is told to its reader, as its length.
    """
    split = config.train_split if train else config.val_split
    limit = config.train_num_samples if train else config.val_num_samples
    if config.dataset.partition("/")[0].lower() in STREAMS:
        options = {"is_training": train, "batch_size": config.batch_size, "num_samples": limit, "seed": seed}
        return create_dataset(config.dataset, config.data_dir, split, **options)
    dataset = create_dataset(config.dataset, config.data_dir, split)
    assert isinstance(dataset, ImageSet)
    return dataset if limit is None else spread(dataset, limit)


def count_classes(config: ModelConfig, dataset: Any) -> int:
    """Count the classes: --num-classes, else the dataset's, else 1000. Raises: ValueError if the dataset has more."""
    found = len(getattr(dataset, "classes", None) or ())  # streams do not know
    if config.num_classes is not None and found > config.num_classes:
        raise ValueError(f"num_classes: the dataset has {found} classes, --num-classes is {config.num_classes}")
    return config.num_classes or found or 1000


def build_network(config: ModelConfig, num_classes: int) -> nn.Module:
    """The network, with weights if the configuration names any.

    Raises: ValueError or OSError for an unknown name, an unknown argument, or unfit weights.
    """
    if config.model is None:
        raise ValueError("model: give --model, or a recipe with --config (try --config quickstart)")
    try:
        return zoo.create_model(
            config.model,
            config.pretrained,
            checkpoint=config.checkpoint,
            block=config.block,
            num_classes=num_classes,
            drop_rate=config.drop,
            **config.model_kwargs,
        )
    except TypeError as error:  # from the network's own constructor
        raise ValueError(f"model_kwargs: {config.model} does not take them: {error}") from error


def train_size(data: DataConfig, network: nn.Module) -> int:
    """Return the side of the training images in pixels: as configured, else the network's."""
    return data.img_size or preprocessing(network)["input_size"][-1]


def eval_transform(data: DataConfig, network: nn.Module, distort: str = "none") -> EvalTransform:
    """Choose the test-time preprocessing: the configuration's; where that is silent, the network's at its test size."""
    size = data.eval_img_size or data.img_size
    own = preprocessing(network, test=size is None)
    own_size = own.pop("input_size")[-1]
    asked = {key: getattr(data, key) for key in ("crop_pct", "interpolation") if getattr(data, key) is not None}
    return EvalTransform(**own | asked, img_size=size or own_size, distort=distort)


def images_of_run(data: DataConfig, network: nn.Module, dataset: Any) -> dict[str, Any]:
    """Collect what a network trained with these settings will say of its images and classes."""
    channels = input_size(network)[0]
    side, cut = train_size(data, network), eval_transform(data, network)
    other = cut.img_size != side
    said = {
        "input_size": (channels, side, side),
        "test_input_size": (channels, cut.img_size, cut.img_size) if other else None,
        "crop_pct": cut.crop_pct,
        "test_crop_pct": cut.crop_pct if other else None,
        "interpolation": cut.interpolation,
    }
    names = getattr(dataset, "classes", None)  # streams do not know
    return said | ({"class_names": tuple(map(str, names))} if names else {})


def train_transform(data: DataConfig, augment: AugmentConfig, network: nn.Module) -> TrainTransform:
    """Training-time augmentation with the network's size, mean and spread."""
    own = preprocessing(network)
    settings = {field.name: getattr(augment, field.name) for field in dataclasses.fields(Augmentation)}
    return TrainTransform(
        **settings, img_size=train_size(data, network), mean=tuple(own["mean"]), std=tuple(own["std"])
    )


def settings_at(config: TrainConfig, epoch: int) -> tuple[DataConfig, AugmentConfig]:
    """Training data and augmentation of an epoch: `progressive` and `mixup_off_epoch` change them."""
    data, augment = config.data, config.augment
    changeable = {setting.name for setting in dataclasses.fields(augment)} - {"progressive"} | {"img_size"}
    for start, changes in sorted(augment.progressive.items()):
        if unknown := changes.keys() - changeable:
            raise ValueError(f"progressive: {sorted(unknown)[0]} is not a setting that can change during a run")
        if start <= epoch:
            data = dataclasses.replace(data, img_size=changes.get("img_size", data.img_size))
            augment = dataclasses.replace(augment, **{k: v for k, v in changes.items() if k != "img_size"})
    if 0 < augment.mixup_off_epoch <= epoch:
        augment = dataclasses.replace(augment, mixup=0.0, cutmix=0.0)
    return data, augment


def make_train_loader(
    config: TrainConfig,
    epoch: int,
    dataset: Any,
    network: nn.Module,
    num_classes: int,
    processes: Processes,
) -> TrainLoader:
    """The loader of the training batches with the settings of an epoch."""
    data, augment = settings_at(config, epoch)
    mixup = None
    if augment.mixup > 0 or augment.cutmix > 0:
        if data.batch_size % 2:
            raise ValueError(f"batch_size: mixup pairs images, so it must be even, got {data.batch_size}")
        mixup = Mixup(
            mixup_alpha=augment.mixup,
            cutmix_alpha=augment.cutmix,
            prob=augment.mixup_prob,
            switch_prob=augment.mixup_switch_prob,
            label_smoothing=augment.smoothing,
            num_classes=num_classes,
        )
    return TrainLoader(
        dataset,
        train_transform(data, augment, network),
        seed=config.run.seed,
        mixup=mixup,
        **_reading(config, processes),
    )


def make_eval_loader(
    config: TrainConfig | ValidateConfig,
    dataset: Any,
    network: nn.Module,
    processes: Processes,
    distort: str = "none",
) -> EvalLoader:
    """The loader of the validation batches: each image once over all processes."""
    how = _reading(config, processes) | {"batch_size": config.data.eval_batch_size or config.data.batch_size}
    return EvalLoader(dataset, eval_transform(config.data, network, distort), **how)


def _reading(config: TrainConfig | ValidateConfig, processes: Processes) -> dict[str, Any]:
    """Arguments of `zoo.data.loaders.Reading`."""
    return {
        "batch_size": config.data.batch_size,
        "workers": choose_workers(config.data.workers, processes.local_world_size),
        "rank": processes.rank,
        "world_size": processes.world_size,
        "max_bad_images": config.data.max_bad_images,
        "device": processes.device,
        "channels_last": config.hardware.channels_last,
    }


def training_mode(network: nn.Module, freeze_bn: bool) -> None:
    """Training mode; with frozen BatchNorm, its layers stay in eval mode."""
    network.train()
    if freeze_bn:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
