"""int8 under a goal: what is tried, in which order, and that each way gives a file of the same network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.support.export_networks import images, small_network
from zoo.compare import compare
from zoo.export import Goal, export_file
from zoo.export.engines import Source
from zoo.export.files import FORMATS, write_until_it_holds
from zoo.export.formats import Format, Order
from zoo.export.int8 import MIXED

pytest.importorskip("nncf")


def answering(*classes: int) -> Callable[[Tensor], Tensor]:
    """Something to run that answers these classes, in turn, whatever the images."""
    return lambda x: nn.functional.one_hot(torch.tensor(classes), 3).float()


GOAL = Goal([(torch.zeros(4, 1), torch.tensor([0, 1, 2, 0]), torch.arange(4))], 25.0)


def test_formats_with_int8_end_with_mixed_precision() -> None:
    for name, kind in FORMATS.items():
        assert [*kind.ways][-1:] == ([MIXED] if "int8" in kind.precisions else []), name


def test_top1_is_the_share_of_right_answers_in_per_cent() -> None:
    assert [GOAL.top1(answering(*c)) for c in ((0, 1, 2, 0), (0, 1, 2, 1), (1, 2, 0, 1))] == [100, 75, 0]
    with pytest.raises(ValueError, match="no labelled images"):
        Goal([], 1.0).top1(answering(0))


def test_a_file_of_a_fixed_batch_is_judged_on_every_image_once() -> None:
    seen: list[int] = []

    def run(x: Tensor) -> Tensor:
        seen.append(len(x))
        return nn.functional.one_hot(x[:, 0].long(), 9).float()

    batch = torch.arange(7.0)[:, None], torch.tensor([0, 1, 2, 3, 4, 5, 8])
    assert Goal([batch], 0).top1(run, 3) == pytest.approx(100 * 6 / 7) and seen == [3, 3, 3]


ANSWERS = {"a": (1, 1, 1, 1), "b": (0, 1, 2, 1), "c": (0, 1, 2, 0)}


def write_answer(order, path):
    return {"characters": path.write_text(order.way(order))}


KIND = Format(
    suffix=".txt",
    package=None,
    write=write_answer,
    read=lambda path, precision: answering(*ANSWERS[path.read_text()]),
    ways={"a": lambda *_: "a", "b": lambda *_: "b", "c": lambda *_: "c"},
)


class Right(nn.Module):
    """Answers all that `GOAL` asks."""

    def forward(self, x: Tensor) -> Tensor:
        return answering(0, 1, 2, 0)(x)


ORDER = Order(Source(Right(), torch.zeros(4, 1)), "int8", "", goal=GOAL)


def test_the_first_way_that_holds_is_taken_and_no_other_is_tried(tmp_path: Path) -> None:
    nodes, attempts = write_until_it_holds(KIND, ORDER, GOAL, tmp_path / "net.txt")
    assert nodes == {"characters": 1} and (tmp_path / "net.txt").read_text() == "b"
    assert [(attempt.way, attempt.top1) for attempt in attempts] == [("fp32", 100), ("a", 25), ("b", 75)]


def test_a_goal_that_no_way_reaches_is_an_error_that_says_how_far_each_came(tmp_path: Path) -> None:
    kind = replace(KIND, ways={"a": KIND.ways["a"]})
    with pytest.raises(ValueError, match=r"max_drop=25 points of top-1 in every way: fp32 100\.00 %, a 25\.00 %$"):
        write_until_it_holds(kind, ORDER, GOAL, tmp_path / "net.txt")


def fail(*_):
    raise ValueError("there is nothing to align")


def test_a_way_that_fails_is_passed_over_and_named_if_none_holds(tmp_path: Path) -> None:
    _, attempts = write_until_it_holds(replace(KIND, ways={"f": fail, **KIND.ways}), ORDER, GOAL, tmp_path / "net.txt")
    assert [attempt.way for attempt in attempts] == ["fp32", "a", "b"]
    with pytest.raises(ValueError, match=r"every way: fp32 100\.00 %; f: there is nothing to align$"):
        write_until_it_holds(replace(KIND, ways={"f": fail}), ORDER, GOAL, tmp_path / "net.txt")


def test_channels_that_nncf_does_not_align_are_an_error_of_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.export.openvino_engine._by_ranges", lambda order, **_: {}["float32"])  # as NNCF 3.4
    with pytest.raises(ValueError, match="NNCF aligns no channels"):
        FORMATS["openvino"].ways["aligned channels"](ORDER)


def coloured(number: int, seed: int) -> Tensor:
    """Noise around a colour of its own for each image, so that answers differ by more than int8's noise."""
    generator = torch.Generator().manual_seed(seed)
    noise, colours = (torch.randn(number, 3, size, size, generator=generator) for size in (32, 1))
    return noise / 2 + 2 * colours


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network that prefers no class."""
    model = small_network()
    with torch.no_grad():
        model.get_parameter("head.bias").sub_(model(coloured(64, 5)).mean(0))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "mnn"])
def test_every_way_but_the_last_gives_the_network_in_int8(format: str, network: nn.Module, tmp_path: Path) -> None:
    kind, x = FORMATS[format], coloured(32, 9)
    source = Source(zoo.deploy(network), x, tuple(coloured(8, seed) for seed in range(4)))
    with torch.no_grad():
        exact = source.network(x)
    for name, way in list(kind.ways.items())[:-1]:
        file = tmp_path / f"{len(name)}{kind.suffix}"
        kind.write(Order(source, "int8", "{}", way=way), file)
        found = compare([kind.read(file, "int8")(x)], [exact]).sqnr_db
        assert 15 < found < 50, name  # noise there is, and not much


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "mnn"])
def test_layers_go_back_to_float_until_top1_holds(format: str, network: nn.Module, tmp_path: Path) -> None:
    """Calibrated on images fifty times too dark, every range is too small; only fewer int8 layers can help."""
    x = coloured(64, 5)
    with torch.no_grad():
        labels = network(x).argmax(1)
    file = export_file(
        *(network, tmp_path / f"net{FORMATS[format].suffix}", images(1)),
        format=format,
        precision="int8",
        calibration=[coloured(8, seed) / 50 for seed in range(2)],
        goal=Goal([(x[:32], labels[:32]), (x[32:], labels[32:])], 2.0),
    )
    assert (file.attempts[0].way, file.attempts[0].top1) == ("fp32", 100)
    assert all(attempt.top1 < 98 for attempt in file.attempts[1:-1])
    assert file.attempts[-1].way == MIXED and file.attempts[-1].top1 >= 98


def test_a_goal_is_of_int8_alone(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_drop is a setting of int8, not of fp32"):
        export_file(network, tmp_path / "net.onnx", images(1), goal=GOAL)
