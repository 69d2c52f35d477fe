"""Training, from a configuration to a deployed network: one loop, top to bottom."""

import dataclasses
import inspect
import logging
import math
import signal
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard.writer import SummaryWriter

from zoo.data import EvalLoader, TrainLoader
from zoo.engine import checkpoint, qat
from zoo.engine.build import (
    build_network,
    count_classes,
    images_of_run,
    make_eval_loader,
    make_train_loader,
    open_dataset,
    settings_at,
    training_mode,
)
from zoo.engine.config import TrainConfig
from zoo.engine.distributed import Processes, joined, sum_over_processes, synchronise_batchnorm
from zoo.engine.evaluate import Predictions, evaluate
from zoo.engine.finish import Trained, finish
from zoo.engine.folder import locked, run_folder
from zoo.engine.hardware import choose_dtype, place, prepare
from zoo.engine.log import log_epoch, log_shares, log_step, open_log, progress_bar
from zoo.engine.optim import Schedule, create_optimizer, freeze
from zoo.engine.pictures import show_augmented, show_results
from zoo.engine.state import Interrupted, Progress, RunState, StopRequest
from zoo.engine.step import Run, optimiser_step, restore_buffers, skip_step
from zoo.network import declare, facts
from zoo.reparam.merged import merge

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> Trained:
    """Run (or continue) a training and deploy what it gives.

    Raises:
        ValueError, FileNotFoundError, OSError: impossible settings, missing files, a full disk.
        DivergedError: the loss was not finite for too many steps; names the last good checkpoint.
        Interrupted: SIGTERM, SIGINT or SIGHUP; the state is saved.
        WorkerLostError: another process of the run, or one that loads its data, is gone.
    """
    processes = prepare(config.hardware)
    writes = locked(run_folder(config)) if processes.is_first else nullcontext()
    with joined(processes, config.hardware.dist_timeout), writes, StopRequest() as stop:
        return _train(config, processes, stop)


def _train(config: TrainConfig, processes: Processes, stop: StopRequest) -> Trained:
    started = time.monotonic()
    resume = checkpoint_to_resume(config)
    config = _settled(config, resume)

    # ---- data and network
    train_set, val_set = open_dataset(config.data, True, config.run.seed), open_dataset(config.data, False)
    num_classes = count_classes(config.model, train_set)
    if config.optim.qat:
        qat.refuse(config, train_set, resume is not None, processes)
    network = _network(config, resume, num_classes, processes)
    for start in config.augment.progressive:  # a mistake in it is said now, not when its epoch comes
        make_train_loader(config, start, train_set, network, num_classes, processes)
    loader = make_train_loader(config, 0, train_set, network, num_classes, processes)
    val_loader = make_eval_loader(config, val_set, network, processes)
    declare(network, **images_of_run(config.data, network, train_set))
    progress = Progress()
    if config.optim.qat:
        before, network = network, qat.quantise(network, config, train_set, processes)
        if resume is None:
            batches = stop.watch(val_loader, "before the first step")
            progress.history.append(qat.score_before(before, network, batches))

    # ---- optimiser, schedule, average
    freeze(network, config.optim.freeze)
    steps = len(loader) // config.optim.grad_accum_steps
    if not steps:
        raise ValueError(f"grad_accum_steps: an epoch has only {len(loader)} batches")
    global_batch = config.data.batch_size * config.optim.grad_accum_steps * processes.world_size
    optim = config.optim
    if optim.qat:
        optim = dataclasses.replace(optim, no_decay=[*optim.no_decay, qat.NO_DECAY])
    if optim.lr_base_size is not None:
        optim = dataclasses.replace(optim, lr=optim.lr * global_batch / optim.lr_base_size)
    optimizer = create_optimizer(network, optim)
    schedule = Schedule(optimizer, optim, config.schedule, steps)
    run = Run(
        config=config,
        processes=processes,
        dtype=choose_dtype("float32" if optim.qat else config.hardware.amp_dtype, processes.device, network),
        stop=stop,
        forward=_forward(network, config, processes),
    )
    ema = None
    if config.schedule.model_ema:
        decay, warmup = config.schedule.model_ema_decay, config.schedule.model_ema_warmup
        ema = ModelEmaV3(network, decay=decay, use_warmup=warmup)
    state = RunState(
        network=network,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(processes.device.type, enabled=run.dtype == torch.float16),
        ema=ema,
        progress=progress,
        identity={
            "model": config.model.model,
            "num_classes": num_classes,
            "global_batch": global_batch,
            "config": dataclasses.asdict(config),
            **facts(network),
        },
    )
    if resume is not None:
        state.restore(resume)
        logger.info("continuing %s: epoch %d, batch %d", resume, state.progress.epoch + 1, state.progress.batch)
    log = open_log(config, run.folder, state.progress) if processes.is_first else None
    if log and resume and state.progress.best_epoch == state.progress.epoch and not state.progress.batch:
        checkpoint.link(resume, run.folder / checkpoint.BEST)  # in case the run died just before it did
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    precision = str(run.dtype).removeprefix("torch.")
    logger.info("%s: %.2f M parameters, %d classes", config.model.model, parameters, num_classes)
    logger.info("%s on %s, %d steps of %d images per epoch", precision, processes.device, steps, global_batch)

    # ---- epochs
    progress, settings = state.progress, settings_at(config, 0)
    while progress.epoch < config.schedule.epochs:
        if settings_at(config, progress.epoch) != settings:
            settings = settings_at(config, progress.epoch)
            loader = make_train_loader(config, progress.epoch, train_set, network, num_classes, processes)
        _train_epoch(run, state, loader, schedule, steps, log)
        is_best = _end_epoch(progress, _scores(run, state, val_loader), schedule.lr())
        if log:
            log_epoch(log, run.folder, progress)
            log_shares(log, network, progress)
            if is_best or not progress.nonfinite:  # what diverges must not replace what is good
                state.save(run.folder)
            if is_best:
                checkpoint.link(run.folder / checkpoint.LAST, run.folder / checkpoint.BEST)

    # ---- deployed structure: proof, scores, file, pictures
    del loader
    trained = (qat.finish_int8 if optim.qat else finish)(run, state, val_loader)
    if log:
        show_results(progress.history, trained.predictions, val_set, network, log, run.folder)
        log.close()
    trained.results["seconds"] = round(time.monotonic() - started, 1)
    return trained


def _train_epoch(
    run: Run, state: RunState, loader: TrainLoader, schedule: Schedule, steps: int, log: SummaryWriter | None
) -> None:
    """The rest of the current epoch from the batch where it stands; the state is saved at the end."""
    config, progress = run.config, state.progress
    training_mode(state.network, config.optim.freeze_bn)
    buffers = list(state.network.buffers())
    accumulate = config.optim.grad_accum_steps
    first = progress.batch // accumulate
    loader.set_epoch(progress.epoch, progress.batch)
    batches = iter(loader)
    if log and not progress.step:
        batches = show_augmented(batches, state.network, log, run.folder)
    title = f"epoch {progress.epoch + 1}/{config.schedule.epochs}"
    images_per_step = config.data.batch_size * accumulate * run.processes.world_size
    with progress_bar(title, steps, first, images_per_step, shown=run.processes.is_first) as bar:
        for _ in range(first, steps):
            schedule.set(progress.step)
            before = [buffer.clone() for buffer in buffers]
            loss, signum = optimiser_step(run, state, islice(batches, accumulate))
            progress.step += 1
            progress.batch += accumulate
            if math.isfinite(loss):
                progress.loss_sum += loss
                progress.loss_count += 1
                progress.nonfinite = 0
            else:
                restore_buffers(buffers, before)
                skip_step(run, state)
            bar.set_postfix(loss=f"{loss:.3f}", lr=f"{schedule.lr():.4f}", refresh=False)
            bar.update()
            if log and progress.step % config.run.log_interval == 0:
                log_step(log, progress, loss, schedule.lr())
            due = config.run.checkpoint_interval and progress.step % config.run.checkpoint_interval == 0
            due = due or signum or progress.batch == steps * accumulate
            if run.processes.is_first and due and not progress.nonfinite:
                state.save(run.folder)
            if signum:
                name = signal.Signals(signum).name
                raise Interrupted(signum, f"stopped by {name} after step {progress.step}; {run.how_to_continue}")


def _scores(run: Run, state: RunState, loader: EvalLoader) -> dict[str, Predictions]:
    """Score raw weights and their average on the validation set; nothing in epochs without validation."""
    epoch, schedule = state.progress.epoch + 1, run.config.schedule
    if epoch != schedule.epochs and epoch % run.config.run.val_interval:
        return {}
    batches = run.stop.watch(loader, f"during validation; {run.how_to_continue}")
    return evaluate(state.weights(), batches, run.dtype, run.processes)[0]


def _end_epoch(progress: Progress, scores: dict[str, Predictions], lr: float) -> bool:
    """Close the books of an epoch; is it the best so far?"""
    row: dict[str, Any] = {"epoch": progress.epoch + 1, "step": progress.step, "lr": lr}
    row["train_loss"] = progress.loss_sum / max(progress.loss_count, 1)
    for name, score in scores.items():
        prefix = "" if name == "raw" else f"{name}_"
        row |= {f"{prefix}loss": score.loss, f"{prefix}top1": score.top1, f"{prefix}top5": score.top5}
    row["skipped"] = progress.skipped
    progress.history.append(row)
    top1 = max((score.top1 for score in scores.values()), default=-1.0)
    is_best = top1 > progress.best_top1
    if is_best:
        progress.best_top1, progress.best_epoch = top1, progress.epoch + 1
    progress.epoch += 1
    progress.batch = progress.loss_count = 0
    progress.loss_sum = 0.0
    return is_best


def checkpoint_to_resume(config: TrainConfig) -> Path | None:
    """Find the checkpoint that --resume names. Raises: ValueError if a run would be overwritten unasked."""
    folder = run_folder(config)
    if config.run.resume == "auto":
        return checkpoint.newest(folder)
    if config.run.resume is not None:
        return Path(config.run.resume)
    if checkpoint.newest(folder) and not config.run.overwrite:
        raise ValueError(f"{folder} holds a run: --resume auto continues it, --overwrite starts anew, --output moves")
    return None


def _settled(config: TrainConfig, resume: Path | None) -> TrainConfig:
    """Fill in what is left open about the network: by the run that continues, else by the weights to start from.

    Raises: ValueError if the run that continues was started with other settings.
    """
    saved = checkpoint.load(resume) if resume else None
    known = checkpoint.remembered(saved.config) if saved else checkpoint.describe(config.model.checkpoint)
    config = dataclasses.replace(config, model=checkpoint.settle(config.model, known))
    if resume and saved:
        checkpoint.check_same_settings(resume, saved.config, config)
    return config


def _network(config: TrainConfig, resume: Path | None, num_classes: int, processes: Processes) -> nn.Module:
    model = config.model
    if resume:  # the weights it started from may be gone, and a deployed network stays one
        model = dataclasses.replace(model, checkpoint=str(resume), pretrained=False)
    torch.manual_seed(config.run.seed)
    network = place(build_network(model, num_classes), config.hardware, processes.device)
    synchronised = config.hardware.sync_bn and processes.distributed
    if synchronised:
        network = synchronise_batchnorm(network, processes.device)
    if config.optim.merge_pixels:
        merge(network, config.optim.merge_pixels, sum_over_processes if synchronised else None)
    return network


def _forward(network: nn.Module, config: TrainConfig, processes: Processes) -> nn.Module:
    module: Any = torch.compile(network) if config.hardware.torchcompile else network
    if not processes.distributed:
        return module
    gpu = [processes.device] if processes.device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel).parameters  # torch 2.14 warns of the older name
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    sync: dict[str, Any] = {name: config.hardware.broadcast_buffers}
    return DistributedDataParallel(module, device_ids=gpu, **sync)
