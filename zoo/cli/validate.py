"""`validate.py`, `zoo validate`: score a network on a labelled image set."""

import sys
from typing import Any

from zoo.atomic import atomic_write
from zoo.cli.config import parse
from zoo.cli.errors import check_folders, report
from zoo.cli.results import check_results_file, csv_text, deliver, markdown, show_log
from zoo.engine.config import ValidateConfig
from zoo.engine.distributed import Processes
from zoo.engine.evaluate import Predictions
from zoo.engine.validate import validate

DESCRIPTION = "Score a network on a labelled image set. The last line of stdout is JSON."


def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, report; 0, or 2 for bad input, 1 for a mishap."""
    argv = sys.argv[1:] if argv is None else argv
    return report("validate.py", lambda: _main(argv))


def _main(argv: list[str]) -> int:
    config = parse(ValidateConfig, argv, "validate.py", DESCRIPTION)
    check_results_file(config.judge.results_file)
    check_folders(config.judge.per_class, config.judge.confusion)
    show_log()

    judgement = validate(config)
    if not Processes.from_environment().is_first:
        return 0
    rows: list[dict[str, Any]] = []
    judged = {"model": judgement.model} | ({"block": judgement.block} if judgement.block else {})
    for (name, distort), predictions in judgement.predictions.items():
        row = {**judged, "network": name, "distort": distort, **predictions.to_dict(), "params": judgement.params[name]}
        if judgement.real_top1:
            row["real_top1"] = judgement.real_top1[name, distort]
        rows.append(row)
    print(markdown(rows))
    agreements = [
        {"weights": name, "distort": distort, **agreement.to_dict()}
        for (name, distort), agreement in judgement.agreements.items()
    ]
    if agreements:
        print(markdown(agreements))
    first = next(iter(judgement.predictions.values()))
    for path, table in ((config.judge.per_class, _per_class), (config.judge.confusion, _confusion)):
        if path is not None:
            with atomic_write(path) as temporary:
                temporary.write_text(csv_text(table(first, judgement.classes)))
    results = {
        **judged,
        "checkpoint": config.model.checkpoint,
        "top1": rows[0]["top1"],
        "top5": rows[0]["top5"],
        "count": rows[0]["count"],
        "rows": rows,
        "agreement": agreements,
    }
    deliver(results, rows, config.judge.results_file)
    return 0


def _per_class(predictions: Predictions, classes: list[str]) -> list[dict[str, Any]]:
    confusion = predictions.confusion(len(classes))
    counts, correct = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return [
        {"class": i, "name": name, "count": n, "correct": hits, "top1": 100 * hits / n if n else None}
        for i, (name, n, hits) in enumerate(zip(classes, counts, correct, strict=True))
    ]


def _confusion(predictions: Predictions, classes: list[str]) -> list[dict[str, Any]]:
    table = predictions.confusion(len(classes)).tolist()
    return [{"class": name, **dict(zip(classes, line, strict=True))} for name, line in zip(classes, table, strict=True)]
