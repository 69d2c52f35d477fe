"""The end of a training: raw and averaged weights in both structures, proven equal; the best as a file."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.checkpoints import save_deployed
from zoo.compare import Agreement
from zoo.data import EvalLoader
from zoo.engine.evaluate import Predictions, evaluate
from zoo.engine.state import RunState
from zoo.engine.step import Run

logger = logging.getLogger(__name__)
DEPLOYED = "deployed.safetensors"


@dataclass(kw_only=True)
class Trained:
    """The outcome of a training."""

    results: dict[str, Any]
    """JSON-able figures"""
    network: nn.Module
    """train structure of the better weights, eval mode"""
    deployed: nn.Module
    """its deployed structure"""
    predictions: Predictions
    """its answers to the validation images"""
    example: Tensor
    """one validation image (1, 3, H, W), normalised, on the device"""


def finish(run: Run, state: RunState, loader: EvalLoader) -> Trained:
    """Deploy raw weights and their average with proof, evaluate all on the same images, write the file.

    `deployed.safetensors` holds the better weights by top-1 (the average on a tie).

    Raises:
        EquivalenceError: a deployed structure differed; names the block.
        Interrupted: SIGTERM, SIGINT or SIGHUP.
    """
    weights = state.weights()
    example = next(iter(loader))[0][:2]
    networks: dict[str, nn.Module] = {}
    reports: dict[str, Any] = {}
    for name, network in weights.items():
        network.eval()
        networks[f"{name}/train"] = network
        networks[f"{name}/deployed"], reports[name] = zoo.deploy_with_report(network, example)
    pairs = [(f"{name}/train", f"{name}/deployed") for name in weights]
    # In float32: in 16 bits two equal functions round apart.
    batches = run.stop.watch(loader, f"during the last evaluation; {run.how_to_continue}")
    scores, agreements = evaluate(networks, batches, torch.float32, run.processes, pairs)
    best = max(weights, key=lambda name: (scores[f"{name}/deployed"].top1, name == "ema"))
    agreement = agreements[f"{best}/train", f"{best}/deployed"]

    path = run.folder / DEPLOYED
    results = results_of(run, state, best, scores, agreement, path)
    if run.processes.is_first:
        save_deployed(
            networks[f"{best}/deployed"],
            path,
            run.config.model.model or "",
            reports[best],
            num_classes=state.identity["num_classes"],
            model_kwargs=run.config.model.model_kwargs,
            block=run.config.model.block,
            weights=best,
            top1=results["top1"],
        )
    logger.info("deployed, %d blocks proven equal: %s", len(reports[best].blocks), path)
    return Trained(
        results=results,
        network=networks[f"{best}/train"],
        deployed=networks[f"{best}/deployed"],
        predictions=scores[f"{best}/deployed"],
        example=example[:1],
    )


def results_of(
    run: Run, state: RunState, best: str, scores: dict[str, Predictions], agreement: Agreement, path: Path
) -> dict[str, Any]:
    """Collect the figures of a run: its better weights, deployed in the file `path`, and how it went."""
    return {
        "model": run.config.model.model,
        **({"block": run.config.model.block} if run.config.model.block else {}),
        "weights": best,
        "top1": scores[f"{best}/deployed"].top1,
        "top5": scores[f"{best}/deployed"].top5,
        "count": agreement.num_images,
        "identical_top1": agreement.identical_top1,
        "max_relative_error": agreement.max_relative_error,
        "scores": {name: score.to_dict() for name, score in scores.items()},
        "best_epoch": state.progress.best_epoch,
        "best_top1": state.progress.best_top1,
        "epochs": state.progress.epoch,
        "skipped_steps": state.progress.skipped,
        "checkpoint": str(run.folder / "last.pt"),
        "deployed": str(path),
    }
