"""`validate.py`, `zoo validate`: score a network on a labelled image set."""

from typing import Any

from zoo.cli.results import show_log, write_results, write_table
from zoo.engine.config import JudgeConfig, ValidateConfig
from zoo.engine.distributed import Processes
from zoo.engine.validate import validate
from zoo.results.scores import class_accuracy, confusion_matrix
from zoo.results.table import Table


def run(config: ValidateConfig) -> dict[str, Any] | None:
    """Evaluate, print the scores, write the files; the results, from the first process only."""
    show_log()
    judgement = validate(config)
    if not Processes.from_environment().is_first:
        return None
    rows, agreements = judgement.rows, judgement.agreements
    print(Table.of(rows).markdown())
    if agreements:
        print(Table.of(agreements).markdown())
    if config.judge.per_class or config.judge.confusion:
        _write_classes(judgement.first.confusion(len(judgement.classes)).numpy(), judgement.classes, config.judge)
    of_first = {key: rows[0][key] for key in ("model", "block", "top1", "top5", "count") if key in rows[0]}
    results = {**of_first, "checkpoint": config.model.checkpoint, "rows": rows, "agreement": agreements}
    return write_results(results, rows, config.judge.results_file)


def _write_classes(counts: Any, names: list[str], config: JudgeConfig) -> None:
    """Write what was found class by class; `counts` is the confusion matrix."""
    if config.confusion:
        lines = zip(names, counts.tolist(), strict=True)
        table = [{"class": name, **dict(zip(names, line, strict=True))} for name, line in lines]
        write_table(table, lambda: confusion_matrix(counts, names), config.confusion)
    if config.per_class:
        found = zip(names, counts.sum(axis=1).tolist(), counts.diagonal().tolist(), strict=True)
        classes = [
            {"class": i, "name": name, "count": n, "correct": hits, "top1": 100 * hits / n if n else None}
            for i, (name, n, hits) in enumerate(found)
        ]
        write_table(classes, lambda: class_accuracy(classes), config.per_class)
