"""Scores are exact counts over each image once."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from zoo.engine.build import eval_transform
from zoo.engine.config import DataConfig
from zoo.engine.evaluate import Predictions, eval_mode, evaluate


class Table(nn.Module):
    """Logits of image i are row i of a table; an image is its own number."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


def batches(targets, size):
    for first in range(0, len(targets), size):
        index = torch.arange(first, min(first + size, len(targets)))
        yield index[:, None, None, None].float(), targets[index], index


def random_case(count=23, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, classes, generator=generator), torch.randint(classes, (count,), generator=generator)


def test_images_are_cut_as_the_network_says_and_the_settings_overrule():
    network: Any = nn.Identity()
    network.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "squash"}
    own, other = eval_transform(DataConfig(), network), eval_transform(DataConfig(crop_pct=0.9, img_size=16), network)
    assert (own.img_size, own.crop_pct, own.crop_mode) == (32, 1.0, "squash")
    assert (other.img_size, other.crop_pct, other.crop_mode) == (16, 0.9, "squash")
    wide = Image.new("RGB", (64, 32))
    wide.paste((255, 255, 255), (0, 0, 16, 32))  # the left quarter, which a centre crop would cut off
    assert own.build()(wide)[:, :, 0].eq(255).all()


def test_scores_equal_a_direct_count():
    logits, targets = random_case()
    scores, _ = evaluate({"net": Table(logits)}, batches(targets, 5))
    score = scores["net"]
    ranks = (logits > logits.gather(1, targets[:, None])).sum(1)
    assert score.count == 23
    assert score.top1 == 100 * int((ranks < 1).sum()) / 23
    assert score.top5 == 100 * int((ranks < 5).sum()) / 23
    assert score.loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-6)


def test_the_batch_size_changes_no_score():
    logits, targets = random_case()
    results = [evaluate({"net": Table(logits)}, batches(targets, size))[0]["net"] for size in (1, 4, 23)]
    assert len({(r.top1, r.top5, r.count) for r in results}) == 1
    assert all(torch.equal(r.classes, results[0].classes) for r in results)


def test_two_classes_have_a_top5_of_all():
    logits, targets = random_case(classes=2)
    assert evaluate({"net": Table(logits)}, batches(targets, 8))[0]["net"].top5 == 100


def test_confusion_counts_true_by_predicted():
    logits, targets = random_case()
    table = evaluate({"net": Table(logits)}, batches(targets, 5))[0]["net"].confusion(7)
    wanted = torch.zeros(7, 7, dtype=torch.int64)
    for target, predicted in zip(targets, logits.argmax(1), strict=True):
        wanted[target, predicted] += 1
    assert torch.equal(table, wanted)


def test_real_labels_count_any_label_and_leave_unlabelled_images_out():
    classes = torch.tensor([[1, 0], [2, 0], [0, 1], [1, 2]])
    predictions = Predictions(index=torch.arange(4), targets=torch.zeros(4).long(), classes=classes, loss=0.0)
    assert predictions.real_top1([[1, 5], [], [1], [0, 1]]) == pytest.approx(100 * 2 / 3)


def test_agreement_is_image_by_image():
    logits, targets = random_case()
    other = logits.clone()
    other[3] = other[3].flip(0)  # another most probable class for one image
    _, agreements = evaluate({"a": Table(logits), "b": Table(other)}, batches(targets, 5), compare=[("a", "b")])
    agreement = agreements["a", "b"]
    assert (agreement.num_images, agreement.same_top1, agreement.identical_top1) == (23, 22, False)
    assert agreement.max_relative_error > 0.1


def test_evaluation_leaves_each_module_in_its_mode():
    model = nn.Sequential(nn.BatchNorm2d(1).eval(), nn.Dropout()).train()
    model[0].eval()
    with eval_mode([model]):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="holds no image"):
        evaluate({"net": Table(torch.zeros(1, 2))}, [])
