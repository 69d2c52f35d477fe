"""Pictures of scores show what the rows say."""

import numpy as np

from zoo.results.scores import MAX_LABELS, class_accuracy, confusion_matrix, curves


def test_a_confusion_matrix_counts_and_names_few_classes():
    figure = confusion_matrix(np.array([[3, 1], [0, 0]]), ["a$b$", "c"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a$b$", "c"]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    many = [str(i) for i in range(MAX_LABELS + 1)]
    assert not confusion_matrix(np.eye(len(many), dtype=int), many).axes[0].texts


def test_the_worst_class_stands_on_top_and_those_without_images_nowhere():
    rows = [
        {"name": name, "count": n, "top1": top1} for name, n, top1 in (("a", 2, 50.0), ("b", 0, None), ("c", 4, 25.0))
    ]
    axes = class_accuracy(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c (4)", "a (2)"]
    assert [bar.get_width() for bar in axes.patches] == [25.0, 50.0] and axes.yaxis_inverted()
    rows = [{"name": str(i), "count": 1, "top1": float(i % 2)} for i in range(120)]
    assert "the worst 50 of 120" in class_accuracy(rows).axes[0].get_title(loc="left")


def test_curves_have_a_line_for_each_column_that_is_filled():
    history = [
        {"epoch": 1, "train_loss": 2.0},
        {"epoch": 2, "train_loss": 1.0, "loss": 1.5, "top1": 50.0, "ema_loss": 1.2, "ema_top1": 55.0},
    ]
    losses, top1 = curves(history).axes
    assert [line.get_xydata().tolist() for line in losses.lines] == [[[1, 2.0], [2, 1.0]], [[2, 1.5]], [[2, 1.2]]]
    assert [line.get_xydata().tolist() for line in top1.lines] == [[[2, 50.0]], [[2, 55.0]]]
    assert losses.lines[1].get_color() == top1.lines[0].get_color()
