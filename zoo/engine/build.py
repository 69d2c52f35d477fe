"""From a configuration to the objects of a run: network, datasets, loaders."""

import dataclasses
from typing import Any

import torch
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
    eval_loader,
    spread,
    train_loader,
)
from zoo.engine.config import AugmentConfig, DataConfig, ModelConfig, TrainConfig, ValidateConfig
from zoo.engine.distributed import Processes

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
    """What --num-classes says, else the dataset, else 1000. Raises: ValueError if the dataset has more."""
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


def preprocessing(network: nn.Module) -> dict[str, Any]:
    """What a network says about its input in timm's `pretrained_cfg`; empty if it has none."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    cfg = cfg if isinstance(cfg, dict) else cfg.to_dict()
    return {key: value for key, value in cfg.items() if value is not None}


def train_size(data: DataConfig, network: nn.Module) -> int:
    """Side of the training images in pixels: as configured, else the network's, else 224."""
    return data.img_size or preprocessing(network).get("input_size", (3, 224, 224))[-1]


def eval_transform(data: DataConfig, network: nn.Module, distort: str = "none") -> EvalTransform:
    """Test-time preprocessing: the configuration's; where that is silent, the network's, at its test size."""
    own = preprocessing(network)
    colours: dict[str, Any] = {key: tuple(own[key]) for key in ("mean", "std") if key in own}
    size, crop_pct = data.eval_img_size or data.img_size, own.get("crop_pct", 0.875)
    if size is None:
        size = own.get("test_input_size", own.get("input_size", (3, 224, 224)))[-1]
        crop_pct = own.get("test_crop_pct", crop_pct)
    return EvalTransform(
        img_size=size,
        crop_pct=data.crop_pct or crop_pct,
        crop_mode=own.get("crop_mode", "center"),
        interpolation=data.interpolation or own.get("interpolation", "bilinear"),
        distort=distort,
        **colours,
    )


def train_transform(data: DataConfig, augment: AugmentConfig, network: nn.Module) -> TrainTransform:
    """Training-time augmentation."""
    own = preprocessing(network)
    jitter = augment.color_jitter
    return TrainTransform(
        img_size=train_size(data, network),
        interpolation=augment.train_interpolation,
        scale=_pair("scale", augment.scale),
        ratio=_pair("ratio", augment.ratio),
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=jitter[0] if len(jitter) == 1 else tuple(jitter),
        aa=augment.aa,
        reprob=augment.reprob,
        remode=augment.remode,
        recount=augment.recount,
        pca_lighting=augment.lighting,
        **{key: tuple(own[key]) for key in ("mean", "std") if key in own},
    )


def _pair(key: str, values: list[float]) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"{key}: must be two numbers, 0 < low <= high, got {values}")
    return values[0], values[1]


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
    device: torch.device,
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
    return train_loader(
        dataset,
        train_transform(data, augment, network),
        batch_size=data.batch_size,
        workers=data.workers,
        seed=config.run.seed,
        rank=processes.rank,
        world_size=processes.world_size,
        mixup=mixup,
        max_bad_images=data.max_bad_images,
        device=device,
        channels_last=config.hardware.channels_last,
    )


def make_eval_loader(
    config: TrainConfig | ValidateConfig,
    dataset: Any,
    network: nn.Module,
    processes: Processes,
    device: torch.device,
    distort: str = "none",
) -> EvalLoader:
    """The loader of the validation batches: each image once over all processes."""
    return eval_loader(
        dataset,
        eval_transform(config.data, network, distort),
        batch_size=config.data.eval_batch_size or config.data.batch_size,
        workers=config.data.workers,
        rank=processes.rank,
        world_size=processes.world_size,
        max_bad_images=config.data.max_bad_images,
        device=device,
        channels_last=config.hardware.channels_last,
    )


def training_mode(network: nn.Module, freeze_bn: bool) -> None:
    """Training mode; with frozen BatchNorm, its layers stay in eval mode."""
    network.train()
    if freeze_bn:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
