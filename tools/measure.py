"""Measure everything that results/benchmark/ holds, one `benchmark.py` run of a few minutes per file.

    python tools/measure.py                   all of it, then docs/results.md
    python tools/measure.py speedup-1 train*  some of it
    python tools/measure.py --list            the commands

A run that fails or takes longer than its bound is reported, and the others go on. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from pathlib import Path

from zoo.export.cpu import has_bf16

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmark"
MINUTES = 15
SIX = "repvgg_a0 repghostnet_1.0x dbb_resnet18 acnet_resnet18 dbb_mobilenet_v1 mobileone_s0"
FLOATS = "fp32 bf16" if has_bf16() else "fp32"
PAIRS = {  # RepVGG, table 4: the ResNet and the networks that the paper sets beside it
    "resnet18": "repvgg_a0",
    "resnet34": "repvgg_a1 repvgg_b0",
    "resnet50": "repvgg_a2 repvgg_b1g4",
    "resnet101": "repvgg_b1 repvgg_b2g4",
}
TRAINED = ("repvgg_a0", "acnet_resnet18", "dbb_resnet18", "dbb_mobilenet_v1", "repghostnet_1.0x", "mobileone_s0")
DEPTHWISE = ("dbb_mobilenet_v1", "repghostnet_1.0x", "mobileone_s0")
"""Those of them whose merged steps are measured in both memory layouts."""


def commands() -> dict[str, str]:
    """Name of the result file → arguments of benchmark.py."""
    jobs = {}
    for batch in (1, 8):
        # Speed-up over what a user has today, and what engine="auto" makes of it: the geometric means.
        jobs[f"speedup-{batch}"] = (
            f"latency --model {SIX} --structure peer deployed --engine eager auto --precision fp32 bf16 int8 "
            f"--batch-size {batch} --rounds 40 --seconds 30"
        )
    # Train, folded and deployed structure on every engine.
    jobs["structures-1"] = (
        f"latency --model {SIX} --engine eager onnxruntime openvino --batch-size 1 --rounds 40 --seconds 30"
    )
    for engine in ("eager", "onnxruntime", "openvino"):
        jobs[f"concat-add-{engine}"] = (
            f"concat-add --engine {engine} --comparison operator --rounds 30 --seconds 1 --warmup-seconds 0.2"
        )
    jobs["ghost-repghost"] = (
        "concat-add --engine eager onnxruntime openvino --comparison network --width 0.5 1.0 1.3 "
        "--batch-size 1 8 --rounds 30 --seconds 2 --warmup-seconds 0.5"
    )
    for resnet, rivals in PAIRS.items():
        jobs[f"{resnet}-repvgg"] = (
            f"latency --model timm/{resnet} {rivals} --together --structure deployed "
            "--engine eager onnxruntime openvino --batch-size 1 8 --rounds 30 --seconds 40"
        )
    for model in TRAINED:
        jobs[f"train-{model}"] = (
            f"train --model {model} --layout nchw nhwc --precision {FLOATS} --threads 2 "
            "--batch-size 16 --rounds 10 --seconds 100"
        )
        # At the size that people train at: the price of the branches with statistics of the whole batch, and of a part.
        # Apart, as a step that needs three times the memory slows down the ones beside it unequally.
        large = "--threads 1 --batch-size 64 --img-size 224 --seconds 400"
        jobs[f"branches-{model}"] = f"train --model {model} --structure plain train {large} --rounds 6"
        layouts = "nchw nhwc" if model in DEPTHWISE else "nhwc"
        jobs[f"merged-{model}"] = (
            f"train --model {model} --structure plain --layout {layouts} --merge-pixels 1024 {large} --rounds 8"
        )
    # The costs of OREPA's table 4.
    jobs["orepa-resnet18"] = (
        "train --model dbb_resnet18 orepa_resnet18 --structure plain train --threads 1 "
        "--batch-size 32 --img-size 224 --rounds 10 --seconds 150"
    )
    jobs["phones-1"] = (
        "latency --model repvgg_a0 repghostnet_1.0x --structure deployed --engine openvino onnxruntime ncnn mnn auto "
        "--batch-size 1 --rounds 60 --seconds 120"
    )
    jobs["profile"] = f"profile --model {SIX} --batch-size 8 --rounds 20 --seconds 20"
    jobs["repeatability"] = (
        "latency --model repvgg_a0 repghostnet_1.0x --structure peer train deployed --engine eager onnxruntime "
        "--batch-size 1 --rounds 30 --seconds 10 --repeat 10"
    )
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="names or patterns of results")
    parser.add_argument("--list", action="store_true", help="print the commands only")
    options = parser.parse_args()
    jobs = commands()
    chosen = [name for name in jobs if any(fnmatch.fnmatch(name, pattern) for pattern in options.names)]
    if not chosen:
        parser.error(f"no such result; there are {', '.join(jobs)}")
    failed = []
    for name in chosen:
        arguments = [*jobs[name].split(), "--results-file", str((RESULTS / f"{name}.json").relative_to(ROOT))]
        print("benchmark.py", *arguments, flush=True)
        if not options.list and not run(arguments):
            failed.append(name)
    if options.list:
        return 0
    subprocess.run([sys.executable, "tools/results_page.py"], cwd=ROOT, check=True)
    print(f"failed: {', '.join(failed)}" if failed else "all done")
    return 1 if failed else 0


def run(arguments: list[str]) -> bool:
    """Whether `benchmark.py arguments` ended well within its bound."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        command = [sys.executable, "benchmark.py", *arguments]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=60 * MINUTES).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    sys.exit(main())
