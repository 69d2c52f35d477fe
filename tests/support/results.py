"""Results with made-up figures, for the tests of tables, plots and the page."""

from zoo.bench.statistics import paired_ratio, summarize
from zoo.results.files import result_of
from zoo.results.records import Join, Latency, LayerTime, Ratio, Side, TrainStep

MODELS = {  # milliseconds of the peer, parameters in millions
    "repvgg_a0": (35.0, 8.31),
    "repghostnet_1.0x": (18.0, 4.07),
    "dbb_resnet18": (48.0, 11.69),
    "mobileone_s0": (24.0, 2.08),
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
    """20 samples around `seconds`, 2 % apart, and the ratio of the reference's to them."""
    noise = [1 + 0.02 * ((7 * i) % 5 - 2) for i in range(20)]
    samples = [seconds * n for n in noise]
    return samples, paired_ratio([reference * n for n in reversed(noise)], samples)


def latency():
    records = []
    for model, (milliseconds, params) in MODELS.items():
        for (structure, engine, precision), speedup in SPEEDUPS.items():
            reference = milliseconds / 1000
            samples, ratio = timed(reference / speedup, reference)
            records.append(
                Latency(
                    **{"model": model, "structure": structure, "engine": engine, "precision": precision},
                    **{"batch_size": 1, "img_size": 224, "threads": 1, "is_reference": structure == "peer"},
                    **{"time": summarize(samples), "samples": samples, "speedup": ratio, "params": int(params * 1e6)},
                    **{"macs": 400_000_000, "bytes": 10**7, "peak_memory": 3 * 10**7, "other_cpus": 0.1},
                )
            )
    failed = {"model": "repvgg_a0", "structure": "deployed", "engine": "openvino", "precision": "fp16"}
    failed |= {"batch_size": 1, "img_size": 224, "threads": 1}
    records.append(Latency(**failed, status="out of memory", error="can't allocate <memory> | 9 GB"))
    return result_of("latency", records, peaks={"1": {"gemm_fp32": 9.1e10, "triad": 1.36e10}})


def concat_add():
    records = []
    for comparison, ratio in {"operator": 1.4, "equal width": 0.65}.items():
        for engine in ("eager", "onnxruntime"):
            for layout in ("nchw", "nhwc"):
                for power in range(9):
                    add = 1e-5 * 2**power
                    factor = ratio * (1 + 0.4 * (power == 2) + 0.05 * (layout == "nhwc") + 0.1 * (engine == "eager"))
                    ends = {"low": 0.95, "high": 1.05, "repeat_low": 0.93, "repeat_high": 1.07}
                    records.append(
                        Join(
                            **{"comparison": comparison, "stage": "3", "channels": 36, "side": 56, "threads": 1},
                            **{"batch_size": 2**power, "engine": engine, "layout": layout},
                            concat=Side(time=summarize(timed(add * factor, add)[0]), bytes=4 * 10**6),
                            add=Side(time=summarize(timed(add, add)[0]), bytes=3 * 10**6),
                            ratio=Ratio(value=factor, **{name: factor * end for name, end in ends.items()}),
                        )
                    )
    return result_of("concat-add", records)


def train():
    records = []
    for model, (milliseconds, _) in MODELS.items():
        for structure, slower in {"plain": 1.0, "train": 1.9}.items():
            reference = milliseconds / 100
            samples, ratio = timed(reference * slower, reference)
            time = summarize(samples)
            records.append(
                TrainStep(
                    **{"model": model, "structure": structure, "layout": "nhwc", "precision": "bf16"},
                    **{"batch_size": 32, "img_size": 160, "threads": 2, "is_reference": structure == "plain"},
                    **{"time": time, "samples": samples, "step_ratio": ratio.inverse()},
                    **{"forward": time.median / 3, "backward": time.median / 2, "optimizer": time.median / 6},
                    **{"saved_activations": int(3e8 * slower), "peak_memory": int(4e8 * slower)},
                )
            )
    return result_of("train", records)


def profile():
    times = {"train": {"conv 3x3": 6e-3, "BatchNorm": 3e-3}, "deployed": {"conv 3x3": 6e-3, "ReLU": 1e-3}}
    records = []
    for structure, kinds in times.items():
        whole = sum(kinds.values())
        same = {"model": "repvgg_a0", "batch_size": 1, "img_size": 224, "threads": 1, "structure": structure}
        same |= {"n": 20, "iqr": 1e-4}
        records.append(LayerTime(**same, level="network", name="", kind="RepVGG", median=whole, share=1.0))
        for kind, seconds in kinds.items():
            share = seconds / whole
            records.append(LayerTime(**same, level="kind", name=kind, kind=kind, median=seconds, share=share))
    return result_of("profile", records)


def all_results():
    return {"latency": latency(), "concat-add": concat_add(), "train": train(), "profile": profile()}
