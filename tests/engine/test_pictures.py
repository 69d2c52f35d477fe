"""What a run shows in pictures is what the network saw and where it failed."""

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.writer import SummaryWriter

import zoo
from zoo.data import EvalLoader, EvalTransform, ImageSet
from zoo.engine.evaluate import Predictions
from zoo.engine.pictures import show_augmented, show_results, unnormalised, worst
from zoo.network import declare

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


class Noise(ImageSet):
    """Pictures of one grey each."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (16, 16), (40 * index, 100, 250 - 40 * index)), index

    def filename(self, index: int) -> str:
        return str(index)


def network() -> torch.nn.Module:
    network = zoo.create_model("repvgg_tiny", num_classes=len(NAMES))
    declare(network, class_names=NAMES, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    return network


def predictions(ranks: list[int]) -> Predictions:
    """Answers of which the true class is the one of its rank; 5 is not among the first five."""
    true = torch.arange(len(ranks))
    classes = (true[:, None] + torch.arange(5) - torch.tensor(ranks)[:, None]) % 6
    return Predictions(index=true, targets=true, classes=classes, loss=1.0)


def test_the_worst_mistakes_come_first_and_no_right_answer():
    assert worst(predictions([0, 1, 4, 0, 5, 2])) == [4, 2, 5, 1]
    assert worst(predictions([0, 0, 0, 0, 0, 0])) == []
    assert sorted(worst(predictions([3] * 6))) == list(range(6))


def test_a_normalised_image_comes_back():
    transform = EvalTransform(img_size=16, crop_pct=1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images, _, _ = next(iter(EvalLoader(Noise(), transform, batch_size=6)))
    for i, picture in enumerate(unnormalised(images, network())):
        np.testing.assert_array_equal(picture, Noise()[i][0])


def test_pictures_are_in_the_folder_and_in_tensorboard(tmp_path):
    with SummaryWriter(str(tmp_path / "tensorboard")) as log:
        batch = torch.randn(6, 3, 16, 16), torch.eye(6) * 0.7 + 0.05
        batches = list(show_augmented(iter([batch, batch]), network(), log, tmp_path))
        assert len(batches) == 2 and batches[0][0] is batch[0]
        history = [
            {"epoch": 1, "step": 3, "train_loss": 2.0},
            {"epoch": 2, "step": 6, "train_loss": 1.0, "loss": 1.5, "top1": 50.0},
        ]
        show_results(history, predictions([0, 1, 4, 0, 5, 2]), Noise(), network(), log, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["images"]) == ["augmented", "mistakes"]
    for name in ("augmented.png", "curves.png", "mistakes.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(10**6)) > 20, name
    with Image.open(tmp_path / "mistakes.png") as picture:
        assert picture.convert("RGB").getpixel((80, 80)) == Noise()[4][0].getpixel((0, 0))


def test_a_stream_shows_its_curves_alone(tmp_path):
    with SummaryWriter(str(tmp_path / "tensorboard")) as log:
        show_results([{"epoch": 1, "step": 3, "train_loss": 2.0}], predictions([5]), object(), network(), log, tmp_path)
    assert (tmp_path / "curves.png").exists() and not (tmp_path / "mistakes.png").exists()
