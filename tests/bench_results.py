"""Result documents with made-up figures, for the tests of tables, plots and the page."""

import dataclasses

from zoo.bench.means import geometric_means, over_stages
from zoo.bench.results import document
from zoo.bench.statistics import paired_ratio, summarize

MODELS = {  # milliseconds of the peer, parameters in millions, top-1
    "repvgg_a0": (35.0, 8.31, 72.41),
    "repghostnet_1.0x": (18.0, 4.07, 74.22),
    "dbb_resnet18": (48.0, 11.69, 70.99),
    "mobileone_s0": (24.0, 2.08, 71.4),
}
SPEEDUPS = {  # structure, engine, precision
    ("peer", "eager", "fp32"): 1.0,
    ("train", "eager", "fp32"): 0.4,
    ("folded", "eager", "fp32"): 0.7,
    ("deployed", "eager", "fp32"): 1.25,
    ("deployed", "onnxruntime", "fp32"): 2.1,
    ("deployed", "openvino", "bf16"): 8.0,
    ("control", "eager", "fp32"): 1.01,
}


def timed(seconds, reference):
    """Figures of 20 samples around `seconds`, 2 % apart, and their ratio to the reference's."""
    noise = [1 + 0.02 * ((7 * i) % 5 - 2) for i in range(20)]
    samples = [seconds * n for n in noise]
    ratio = paired_ratio([reference * n for n in reversed(noise)], samples)
    return samples, {**dataclasses.asdict(summarize(samples)), "samples": samples}, dataclasses.asdict(ratio)


def latency():
    rows = []
    for model, (milliseconds, params, top1) in MODELS.items():
        for (structure, engine, precision), speedup in SPEEDUPS.items():
            reference = milliseconds / 1000
            _, figures, ratio = timed(reference / speedup, reference)
            rows.append(
                {
                    **{"model": model, "structure": structure, "engine": engine, "precision": precision},
                    **{"batch_size": 1, "img_size": 224, "threads": 1, "device": "cpu", "status": "ok"},
                    **figures,
                    **{"speedup": ratio, "images_per_s": 1 / figures["median"], "params": params * 1e6},
                    **{"macs_per_s": 4e10, "share_of_gemm_peak": 0.44, "share_of_bandwidth": 0.1, "peak_memory": 3e7},
                    **{"published_top1": {"value": top1, "source": "made up"}, "warning": None, "other_cpus": 0.1},
                }
            )
    failed = {**rows[0], "structure": "deployed", "engine": "openvino", "precision": "fp16"}
    failed = {
        key: failed[key] for key in ("model", "structure", "engine", "precision", "batch_size", "img_size", "threads")
    }
    rows.append({**failed, "status": "out of memory", "error": "can't allocate <memory> | 9 GB"})
    return document("latency", rows, means=geometric_means(rows), peaks={"1": {"gemm_fp32": 9.1e10, "triad": 1.36e10}})


def concat_add():
    rows = []
    for comparison, ratio in {"operator": 1.4, "equal width": 0.65}.items():
        for engine in ("eager", "onnxruntime"):
            for layout in ("nchw", "nhwc"):
                for power in range(9):
                    add = 1e-5 * 2**power
                    factor = ratio * (1 + 0.4 * (power == 2) + 0.05 * (layout == "nhwc") + 0.1 * (engine == "eager"))
                    _, concat, _ = timed(add * factor, add)
                    _, added, _ = timed(add, add)
                    interval = {"value": factor, "low": 0.95 * factor, "high": 1.05 * factor}
                    rows.append(
                        {
                            **{"comparison": comparison, "stage": "3", "channels": 36, "side": 56, "threads": 1},
                            **{"batch_size": 2**power, "engine": engine, "layout": layout, "status": "ok"},
                            **{"concat": {**concat, "bytes": 4e6, "bandwidth": 9e9}},
                            **{"add": {**added, "bytes": 3e6, "bandwidth": 8e9}},
                            **{"ratio": {**interval, "repeat_low": 0.93 * factor, "repeat_high": 1.07 * factor}},
                        }
                    )
    return document("concat-add", rows, means=over_stages(rows))


def train():
    rows = []
    for model, (milliseconds, _, _) in MODELS.items():
        for structure, slower in {"plain": 1.0, "train": 1.9}.items():
            reference = milliseconds / 100
            _, figures, ratio = timed(reference * slower, reference)
            median = figures["median"]
            rows.append(
                {
                    **{"model": model, "structure": structure, "layout": "nhwc", "precision": "bf16"},
                    **{"batch_size": 32, "img_size": 160, "threads": 2, "device": "cpu", "status": "ok"},
                    **figures,
                    **{"forward": median / 3, "backward": median / 2, "optimizer": median / 6, "step_ratio": ratio},
                    **{"saved_activations": 3e8 * slower, "peak_memory": 4e8 * slower},
                }
            )
    return document("train", rows)


def profile():
    times = {"train": {"conv 3x3": 6e-3, "BatchNorm": 3e-3}, "deployed": {"conv 3x3": 6e-3, "ReLU": 1e-3}}
    rows = []
    for structure, kinds in times.items():
        whole = sum(kinds.values())
        same = {"model": "repvgg_a0", "batch_size": 1, "img_size": 224, "threads": 1, "structure": structure}
        same |= {"status": "ok", "n": 20, "iqr": 1e-4}
        rows.append({**same, "level": "network", "name": "", "kind": "RepVGG", "median": whole, "share": 1.0})
        for kind, seconds in kinds.items():
            share = seconds / whole
            rows.append({**same, "level": "kind", "name": kind, "kind": kind, "median": seconds, "share": share})
    return document("profile", rows)


def all_results():
    return [latency(), concat_add(), train(), profile()]
