"""Records of surveys and experiments: what `tools/` finds of many networks, or of many trainings."""

from typing import Any

from zoo.results.records import Ratio, Record, Summary


class Conversion(Record):
    """One foreign network converted with one block, trained one step and deployed.

    `replaced` counts convolutions that became blocks, `left` the others by reason. without_gradient: Parameters that
    lost their gradient. block_error: The worst of a block in float64. relative_error, noise_floor: of the network.
    params: Before and after deploying. own_layout: Whether names and shapes are the plain network's again.
    """

    network: str
    block: str
    img_size: int
    seconds: float
    replaced: int | None = None
    left: dict[str, int] = {}
    without_gradient: list[str] = []
    block_error: float | None = None
    relative_error: float | None = None
    noise_floor: float | None = None
    params: tuple[int, int] | None = None
    own_layout: bool | None = None


class Folding(Record):
    """One foreign network as it is built, after timm's `reparameterize_model`, and after `zoo.fold`.

    layers, norms: Convolutions and fully connected layers, and BatchNorms, in these three. params: Before and after
    folding. relative_error: Of the folded network, in float64 and with random BatchNorm statistics. left: {reason:
    number of modules}. seconds: Folding with proof, once. times: Of one image (`zoo.network.proof_input`) on one
    thread in float32, as built and folded, in turn; speedup: their ratio.
    """

    network: str
    seconds: float
    layers: tuple[int, int, int] | None = None
    norms: tuple[int, int, int] | None = None
    params: tuple[int, int] | None = None
    relative_error: float | None = None
    left: dict[str, int] = {}
    times: tuple[Summary, Summary] | None = None
    speedup: Ratio | None = None


class Exported(Record):
    """One network as a file of one format.

    seconds: Writing it, reading it back and comparing. bytes: Of the file and what belongs to it. relative_error: Of
    its answers, to PyTorch's in float32; None where no engine for it runs. time: One image on one thread, in seconds.
    outside: Operations that the format's fast kernels do not take, where it tells.
    """

    network: str
    format: str
    img_size: int
    seconds: float | None = None
    bytes: int | None = None
    relative_error: float | None = None
    time: Summary | None = None
    outside: dict[str, int] = {}


class TrainingRun(Record):
    """One training of an experiment, told apart from its rivals by `variant`, learning rate and seed.

    train_loss, top1: Of each epoch, or the last one only; per cent. first_step_loss: Before the first step.
    results: What train.py printed.
    """

    variant: str
    seed: int
    lr: float | None = None
    train_loss: list[float] = []
    top1: list[float] = []
    pretrained_top1: float | None = None
    deployed_top1: float | None = None
    first_step_loss: float | None = None
    diverged: bool = False
    seconds: float | None = None
    results: dict[str, Any] = {}
