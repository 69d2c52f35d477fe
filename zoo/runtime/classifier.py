"""A network that says what is in a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.runtime.engines import Array, open_session
from zoo.runtime.pictures import Picture, Preparation, open_picture
from zoo.untrusted import typed


class Prediction(NamedTuple):
    """A class and how probable it is. `name` is the number where the names are unknown."""

    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class Classifier:
    """Pictures in, probabilities out. Not for concurrent calls.

    run: Normalised images (N, 3, H, W) → logits (N, classes). batch_size: The N that it takes, None if any.
    """

    run: Callable[[Array], Array]
    preparation: Preparation
    batch_size: int | None = None

    def predict(self, pictures: Sequence[Picture]) -> Array:
        """Compute the probability of every class, (N, classes); N is the number of pictures.

        Raises:
            One of `zoo.runtime.pictures.UNREADABLE`: A picture cannot be read.
            ValueError: There are none, or the network's answer is not one number for each class that it names.
        """
        if not pictures:
            raise ValueError("no pictures")
        images = self.preparation.batch([open_picture(picture) for picture in pictures])
        logits = self._in_batches(images)
        names = self.preparation.class_names
        if logits.ndim != 2 or (names and logits.shape[1] != len(names)):
            raise ValueError(f"it names {len(names)} classes, but its answer to a picture is {logits.shape[1:]}")
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def top(self, probabilities: Array, k: int = 5) -> list[Prediction]:
        """Name the k most probable classes of a picture, best first; `probabilities` is one row of `predict`."""
        names = self.preparation.class_names
        best = np.argsort(-probabilities, kind="stable")[:k].tolist()
        return [Prediction(i, names[i] if names else str(i), float(probabilities[i])) for i in best]

    def _in_batches(self, images: Array) -> Array:
        """Run images in batches of the size that the network takes, the last one filled up with copies."""
        size = self.batch_size or len(images)
        missing = -len(images) % size
        padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        outputs = [self.run(padded[i : i + size]) for i in range(0, len(padded), size)]
        return np.concatenate(outputs)[: len(images)]


def load(path: str | Path) -> Classifier:
    """Open a file that `zoo export` wrote.

    Args:
        path: An .onnx file (needs the package onnxruntime), an OpenVINO .xml (openvino), an .ncnn.param (ncnn) or an
            .mnn (MNN) with its .json beside it.

    Raises:
        ValueError: Another kind of file, a damaged one, one that does not say how its images are prepared, or its
            engine is not installed; one line that names the file.
        FileNotFoundError: There is no such file.
    """
    session = open_session(path)
    if session.said is None:
        raise ValueError(f"{path}: does not say how its images are prepared; files of `zoo export` do")
    try:
        preparation = typed(Preparation, json.loads(session.said))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: what it says of its images is damaged: {error}") from error
    return Classifier(session.run, preparation, session.batch_size)
