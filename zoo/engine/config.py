"""Everything a training or validation run can be told: one keyword-only dataclass per concern.

The field names are the YAML keys and (with dashes) the flags; the docstring under a field is its `--help`;
the bounds are in the annotations (`zoo.settings`). Flags have timm's names where timm has one.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from zoo.settings import (
    Augmentation,
    Count,
    Device,
    NaturalNumber,
    NonNegative,
    Pixels,
    Positive,
    ResultsFile,
    Seed,
    Share,
    TableFile,
    Threads,
    WeightsFile,
    Workers,
)


@dataclass(kw_only=True)
class ModelConfig:
    """The network."""

    model: str | None = None
    """registered name, or timm/NAME, torchvision/NAME; a checkpoint of ours knows its own"""
    checkpoint: str | None = None
    """file of weights to start from (train) or to judge (validate), any known layout"""
    pretrained: bool = False
    """start from the published weights of the registry"""
    num_classes: Count | None = None
    """number of classes; by default what the dataset says, else 1000"""
    drop: Share | None = None
    """dropout before the classifier; by default the network's own"""
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    """further arguments of the network, as YAML: '{output_stride: 16}'"""
    block: str | None = None
    """convert the K×K convs of the network to this multi-branch block (acb, dbb, kxk+1x1, …)"""


@dataclass(kw_only=True)
class DataConfig:
    """Where images come from and how they are cut at test time."""

    data_dir: str | None = None
    """folder of the dataset (train/ and val/ or validation/ inside), or where shards lie"""
    dataset: str = ""
    """bundled data by name (fashion), or anything timm's create_dataset knows (wds/…, hfds/…, tfds/…)"""
    train_split: str = "train"
    """name of the training split"""
    val_split: str = "validation"
    """name of the validation split"""
    train_num_samples: Count | None = None
    """use only this many training images, an even spread over the set (default: all); a stream: images per epoch"""
    val_num_samples: Count | None = None
    """use only this many validation images, an even spread over the set (default: all); a stream: how many it has"""
    img_size: Pixels | None = None
    """image size in training and, unless eval_img_size is set, in validation; by default the network's"""
    eval_img_size: Pixels | None = None
    """image size in validation"""
    crop_pct: Annotated[float, Meta(ge=0.05, le=2)] | None = None
    """share of the resized validation image that the centre crop keeps; by default the network's"""
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    """resampling in validation; by default the network's"""
    batch_size: Count = 128
    """images per process and step (gradient accumulation multiplies it)"""
    eval_batch_size: Count | None = None
    """images per process and step in validation; by default batch_size"""
    workers: Workers | None = None
    """data loading processes per training process, by default one a core and at most 4; 0: load in the main process"""
    max_bad_images: NaturalNumber = 0
    """unreadable training images to replace and report before giving up"""


@dataclass(kw_only=True)
class AugmentConfig(Augmentation):
    """Training-time randomness in images and labels."""

    mixup: NonNegative = 0.0
    """alpha of mixup; 0 is off"""
    cutmix: NonNegative = 0.0
    """alpha of cutmix; 0 is off"""
    mixup_prob: Share = 1.0
    """probability that a batch is mixed at all"""
    mixup_switch_prob: Share = 0.5
    """probability of cutmix where both are on"""
    mixup_off_epoch: NaturalNumber = 0
    """first epoch without mixup and cutmix; 0 is never"""
    smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """label smoothing"""
    progressive: dict[NaturalNumber, dict[str, Any]] = field(default_factory=dict)
    """settings that change at an epoch, as YAML: '{0: {img_size: 160}, 37: {img_size: 192, aa: rand-m7}}'"""


@dataclass(kw_only=True)
class OptimConfig:
    """The optimiser and which parameter gets what.

    A selector in `no_decay`, `lr_scale` and `freeze` is `bias` (every parameter of that name), `norm`
    (everything in a normalisation layer), `1d` (everything of at most one dimension) or a shell pattern over
    the name.
    """

    opt: str = "sgd"
    """timm's name: sgd is with Nesterov momentum, momentum is without; adamw, lamb, …"""
    lr: NonNegative = 0.1
    """peak learning rate"""
    lr_base_size: Count | None = None
    """batch over all processes that lr is meant for: with another batch, lr is scaled in proportion"""
    momentum: Share = 0.9
    """momentum, for the optimisers that have one"""
    weight_decay: NonNegative = 1e-4
    """weight decay of the parameters that decay"""
    weight_decay_end: NonNegative | None = None
    """anneal the weight decay to this by a cosine (MobileOne)"""
    no_decay: list[str] = field(default_factory=lambda: ["1d"])
    """selectors of parameters without weight decay; '!selector' takes back, the last match wins"""
    lr_scale: dict[str, NonNegative] = field(default_factory=dict)
    """learning rate multiples by selector, as YAML: '{bias: 2}'"""
    layer_decay: Annotated[float, Meta(ge=0.01, le=1)] | None = None
    """layer-wise learning rate decay from the head down to the stem"""
    clip_grad: Positive | None = None
    """clip the gradient to this norm"""
    grad_accum_steps: Count = 1
    """batches per optimiser step"""
    equivalent_l2: NonNegative = 0.0
    """RepVGG's custom L2: this times half the squared norm of every block's equivalent kernel"""
    channel_lasso: NonNegative = 0.0
    """pruning: this times the group lasso over the output channels of every block's equivalent kernel"""
    freeze: list[str] = field(default_factory=list)
    """selectors of parameters that are not trained"""
    freeze_bn: bool = False
    """keep the running statistics of every BatchNorm and normalise with them"""
    merge_pixels: NaturalNumber = 0
    """train each block as one convolution, BatchNorm statistics from about this many pixels a channel; 0: by branch"""
    qat: bool = False
    """quantisation-aware training: refine trained weights, deployed, with int8 rounding, and write an int8 file"""


@dataclass(kw_only=True)
class ScheduleConfig:
    """How long, the learning rate over it, and the average of the weights."""

    epochs: Count = 120
    """epochs, warm-up included"""
    sched: Literal["cosine", "tanh", "step", "multistep", "poly", "none"] = "cosine"
    """timm's name of the schedule"""
    sched_on_updates: bool = True
    """move the learning rate every step; false: every epoch"""
    warmup_epochs: NaturalNumber = 0
    """epochs of linear warm-up"""
    warmup_lr: NonNegative = 0.0
    """learning rate at the start of the warm-up"""
    min_lr: NonNegative = 0.0
    """learning rate at the end"""
    decay_epochs: Positive = 30
    """epochs between the drops of sched=step"""
    decay_rate: Share = 0.1
    """factor of a drop of sched=step and multistep"""
    decay_milestones: list[Count] = field(default_factory=lambda: [30, 60, 90])
    """epochs of the drops of sched=multistep"""
    model_ema: bool = False
    """keep an exponential moving average of the weights"""
    model_ema_decay: Share = 0.9999
    """decay of the average, per step"""
    model_ema_warmup: bool = False
    """let the average start fast: decay = 1 - (1 + step)^(-2/3), at most model_ema_decay"""


@dataclass(kw_only=True)
class HardwareConfig:
    """What it runs on."""

    device: Device = "auto"
    """auto, cpu, cuda, cuda:1, …"""
    amp_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """autocast precision; auto: bfloat16 where hardware and network gain by it (train), float32 (validate)"""
    channels_last: bool = True
    """NHWC memory layout"""
    sync_bn: bool = False
    """BatchNorm statistics over all processes"""
    broadcast_buffers: bool = True
    """let process 0's BatchNorm statistics win at every step (DDP's default)"""
    torchcompile: bool = False
    """compile the network"""
    threads: Threads | None = None
    """CPU threads per process; by default the cores it may use, shared between the processes"""
    dist_timeout: Count = 600
    """seconds a process waits for the others before it gives up"""


@dataclass(kw_only=True)
class RunConfig:
    """Where results go and how a run is kept."""

    output: str | None = None
    """folder of the run: checkpoints, summary.csv, TensorBoard, deployed.safetensors; by default output/MODEL"""
    resume: str | None = None
    """checkpoint to continue, or auto: the run in --output if there is one"""
    overwrite: bool = False
    """start anew although --output holds a run"""
    seed: Seed = 42
    """everything random is a function of it, the epoch, the step and the image"""
    checkpoint_interval: NaturalNumber = 0
    """optimiser steps between checkpoints inside an epoch; 0: only at its end"""
    log_interval: Count = 50
    """optimiser steps between lines in TensorBoard"""
    val_interval: Count = 1
    """epochs between validations (the last one always is)"""
    max_nonfinite_steps: NaturalNumber = 10
    """steps in a row with a NaN or infinite loss to skip before stopping"""
    results_file: ResultsFile | None = None
    """write the results here too: .json, .csv or .md"""
    smoke: bool = False
    """the same run on a few bundled images with small settings: does this recipe work at all?"""


@dataclass(kw_only=True)
class TrainConfig:
    """Train a network, deploy it with proof, and time both structures."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other. Raises: ValueError."""
        epochs, warmup = self.schedule.epochs, self.schedule.warmup_epochs
        if warmup > epochs and not self.run.smoke:  # which makes both small
            raise ValueError(
                f"warmup_epochs: {warmup} of {epochs} epochs; give fewer --warmup-epochs, or more --epochs"
            )


@dataclass(kw_only=True)
class JudgeConfig(WeightsFile):
    """What `validate.py` looks at."""

    structure: Literal["auto", "train", "deployed", "both"] = "auto"
    """structure to evaluate; both compares them image by image, auto is the checkpoint's own"""
    use_ema: Literal["auto", "raw", "ema", "both"] = "auto"
    """which weights of a training checkpoint; auto is the average if there is one"""
    recalibrate_bn: NaturalNumber = 0
    """estimate the BatchNorm statistics anew on this many training images first"""
    distort: list[Literal["none", "rot90", "rot180", "vflip"]] = field(default_factory=lambda: ["none"])
    """evaluate under each of these distortions of the images (ACNet, Table 5)"""
    real_labels: str | None = None
    """JSON of ImageNet-ReaL labels: top-1 against them too"""
    per_class: TableFile | None = None
    """write the accuracy of every class to this file: .csv a table; .png, .svg or .pdf a picture"""
    confusion: TableFile | None = None
    """write the confusion matrix (rows: true class) to this file: .csv a table; .png, .svg or .pdf a picture"""
    results_file: ResultsFile | None = None
    """write the results here too: .json, .csv or .md"""


@dataclass(kw_only=True)
class ValidateConfig:
    """Score a network on a labelled image set."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
