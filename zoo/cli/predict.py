"""`zoo predict`: say what is in pictures, with a network in any file. With an exported file no torch is imported."""

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from zoo.atomic import atomic_write
from zoo.catalog import natural
from zoo.cli.errors import UsageError
from zoo.cli.results import show_log, write_results
from zoo.results.table import Table
from zoo.runtime import Classifier, Prediction, load, open_picture
from zoo.runtime.config import PredictConfig
from zoo.runtime.engines import KINDS
from zoo.runtime.pictures import UNREADABLE, reason

logger = logging.getLogger(__name__)
STDIN = "-"


class Seen(NamedTuple):
    """A picture and what is in it, best first."""

    file: str
    best: list[Prediction]
    thumbnail: Image.Image | None
    """where a grid is wanted"""


def run(config: PredictConfig) -> dict[str, Any]:
    """Classify, print a table, write the files. Raises: UsageError if no picture can be read."""
    show_log()
    files = list(_files(config.images))
    classifier = _exported(config) if Path(config.checkpoint).suffix in KINDS else _stored(config)
    unreadable: dict[str, str] = {}
    seen = list(_classify(classifier, files, config, unreadable))
    if not seen:
        raise UsageError(f"none of the {len(files)} pictures can be read")
    rows = [{"image": one.file, "rank": i, **_record(best)} for one in seen for i, best in enumerate(one.best, 1)]
    print(Table.of(rows).text())
    if unreadable:
        logger.warning("%d of %d pictures could not be read", len(unreadable), len(files))
    if config.grid:
        _draw(seen, config.grid)
    results = {
        "images": [{"image": one.file, "predictions": [_record(best) for best in one.best]} for one in seen],
        "unreadable": [{"image": name, "reason": why} for name, why in unreadable.items()],
    }
    return write_results(results, rows, config.results_file)


def _files(given: list[str]) -> Iterator[str]:
    """The pictures of files and folders, each folder's in natural order. Raises: UsageError."""
    for name in given:
        if name != STDIN and not Path(name).exists():
            raise UsageError(f"{name}: no such file or folder")
        if not Path(name).is_dir():
            yield name
            continue
        endings = Image.registered_extensions()  # here: it imports every format that Pillow has
        found = [str(path) for path in Path(name).rglob("*") if endings.get(path.suffix.lower()) in Image.OPEN]
        if not found:
            raise UsageError(f"{name}: no pictures in this folder")
        yield from sorted(found, key=natural)


def _exported(config: PredictConfig) -> Classifier:
    if config.pretrained or config.model or config.num_classes or config.ema:
        raise UsageError(f"{config.checkpoint}: an exported file is complete: give it alone")
    return load(config.checkpoint)


def _stored(config: PredictConfig) -> Classifier:
    """A network with stored or published weights, in PyTorch."""
    import msgspec
    import torch

    from zoo.cli.networks import open_weights
    from zoo.network import class_names, facts
    from zoo.runtime.pictures import Preparation
    from zoo.untrusted import typed

    name, model = open_weights(config, config.pretrained)
    said = {**facts(model, test=True), "class_names": class_names(model)}
    try:
        preparation = typed(Preparation, msgspec.to_builtins(said))
    except ValueError as error:
        raise UsageError(f"{name}: pictures cannot be prepared for it: {error}") from error

    @torch.inference_mode()
    def logits(images: Any) -> Any:
        return model(torch.from_numpy(images)).float().numpy()

    return Classifier(logits, preparation)


def _classify(
    classifier: Classifier, files: list[str], config: PredictConfig, unreadable: dict[str, str]
) -> Iterator[Seen]:
    """Classify in batches; what cannot be read is entered into `unreadable` with the reason, and warned of."""
    with tqdm(total=len(files), unit=" images", leave=False, disable=None, file=sys.stderr) as bar:
        for start in range(0, len(files), config.batch_size):
            chunk = files[start : start + config.batch_size]
            pictures: dict[int, Image.Image] = {}
            for i, file in enumerate(chunk):
                try:
                    pictures[i] = open_picture(io.BytesIO(sys.stdin.buffer.read()) if file == STDIN else file)
                except UNREADABLE as error:
                    unreadable[file] = reason(error)
                    logger.warning("%s: %s", file, unreadable[file])
            rows = classifier.predict(list(pictures.values())) if pictures else ()
            for (i, picture), probabilities in zip(pictures.items(), rows, strict=True):
                if config.grid:
                    picture.thumbnail((256, 256))
                yield Seen(chunk[i], classifier.top(probabilities, config.topk), picture if config.grid else None)
            bar.update(len(chunk))


def _record(best: Prediction) -> dict[str, Any]:
    return {"class": best.label, "name": best.name, "probability": best.probability}


def _draw(seen: list[Seen], path: str) -> None:
    from zoo.results.grids import MAX_TILES, picture_grid

    tiles = [
        (one.thumbnail, f"{one.best[0].name}\n{one.best[0].probability:.0%} · {Path(one.file).name}")
        for one in seen
        if one.thumbnail
    ]
    if len(tiles) > MAX_TILES:
        logger.warning("%s shows the first %d of %d pictures", path, MAX_TILES, len(tiles))
    with atomic_write(path) as temporary:
        picture_grid(tiles).save(temporary)
