"""Datasets by name and by folder, and what is said about wrong ones."""

import os
import tarfile

import pytest
from PIL import Image

from zoo.data import BadImageError, EvalLoader, EvalTransform, ImageSet, create_dataset, spread
from zoo.data.readers import ReaderImages


@pytest.fixture
def root(tmp_path):
    """train/{cat,dog,10,2} with two images each, val/{cat,dog} with one; each image has its own colour."""
    for split, classes, count in [("train", ("cat", "dog", "10", "2"), 2), ("val", ("cat", "dog"), 1)]:
        for label, name in enumerate(classes):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (50 * label, 100 * i, 9)).save(folder / f"{i}.png")
    return tmp_path


def open_set(*arguments, **options) -> ImageSet:
    dataset = create_dataset(*arguments, **options)
    assert isinstance(dataset, ImageSet)
    return dataset


def message(**arguments) -> str:
    with pytest.raises(ValueError) as caught:
        create_dataset(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_gives_its_images_and_classes_in_natural_order(root):
    dataset = open_set("", root, "train")
    assert dataset.classes == ("2", "10", "cat", "dog")
    assert [dataset[i][1] for i in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert dataset[5][0].getpixel((0, 0)) == (0, 100, 9)
    assert dataset.filename(5) == str(root / "train" / "cat" / "1.png")


@pytest.mark.parametrize("split", ["val", "validation"])
def test_validation_labels_are_those_of_training_though_classes_are_missing(root, split):
    dataset = open_set("", root, split)
    assert dataset.classes == ("2", "10", "cat", "dog")
    assert [dataset[i][1] for i in range(len(dataset))] == [2, 3]


def test_a_root_without_splits_is_the_split(root):
    assert len(open_set("folder", root / "val", "validation")) == 2


def test_tar_files_stand_for_folders(root, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "train.tar", "w") as tar:
        tar.add(root / "train" / "cat", "cat")
        tar.add(root / "train" / "dog", "dog")
    dataset = open_set("tar", packed, "train")
    assert dataset.classes == ("cat", "dog")
    assert [dataset[i][1] for i in range(4)] == [0, 0, 1, 1]
    assert dataset[3][0].getpixel((0, 0)) == (50, 100, 9)
    assert dataset.filename(3) == "dog/1.png"
    assert isinstance(dataset, ReaderImages)
    dataset.items.tar_state.tf.close()


def test_grey_and_palette_images_become_rgb(root):
    Image.new("L", (8, 8), 77).save(root / "val" / "cat" / "0.png")
    Image.new("P", (8, 8)).save(root / "val" / "dog" / "0.png")
    dataset = open_set("", root, "val")
    assert dataset[0][0].getpixel((3, 3)) == (77, 77, 77)
    assert dataset[1][0].mode == "RGB"


def test_what_is_missing_is_named_with_the_remedy(root, tmp_path):
    assert message(root=tmp_path / "nowhere").startswith(f"no such data folder: {tmp_path}/nowhere; give another")
    assert "--data-dir" in message()
    assert "did you mean fashion?" in message(name="fashon")
    assert "known: fashion, torch/…" in message(name="imagenet", root=root)
    (tmp_path / "empty").mkdir()
    assert message(root=tmp_path / "empty").startswith(f"no images in {tmp_path}/empty: one folder per class")
    assert "no split 'test'" in message(root=root, split="test")
    assert "Unknown torchvision dataset nothing" in message(name="torch/nothing", root=root)
    assert "wds/x" in message(name="wds/x", root=root)


def test_a_missing_split_is_never_replaced_by_another(root):
    (root / "val").rename(root / "elsewhere")
    assert "no split 'validation'" in message(root=root, split="validation")


def test_images_without_class_folders_are_refused(root):
    Image.new("RGB", (8, 8)).save(root / "val" / "stray.png")
    assert "outside class folders" in message(root=root, split="val")


def test_a_class_that_training_does_not_know_is_refused(root):
    (root / "val" / "dog").rename(root / "val" / "wolf")
    assert "has a class 'wolf' without a folder" in message(root=root, split="val")


def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch):
    closed = str(root / "train" / "dog")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed and allowed(path, mode))
    assert message(root=root) == f"data folder {closed} is not readable: check its permissions"


def test_a_fifo_is_an_unreadable_image_and_nobody_waits_for_it(root):
    (root / "val" / "cat" / "0.png").unlink()
    os.mkfifo(root / "val" / "cat" / "0.png")
    loader = EvalLoader(open_set("", root, "val"), EvalTransform(img_size=8), batch_size=2)
    with pytest.raises(BadImageError, match=rf"unreadable image {root}/val/cat/0.png \(not a regular file\)"):
        list(loader)


def test_links_to_classes_and_images_are_followed_and_circles_are_not(root):
    (root / "train" / "cat" / "again").symlink_to(root / "train")
    (root / "train" / "cat" / "linked.png").symlink_to(root / "val" / "cat" / "0.png")
    (root / "train" / "elk").symlink_to(root / "val" / "dog")
    dataset = open_set("", root, "train")
    assert dataset.classes == ("2", "10", "cat", "dog", "elk")
    assert [dataset[i][1] for i in range(len(dataset))] == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4]


def test_images_in_folders_of_a_class_folder_belong_to_it(root):
    (root / "train" / "cat").rename(root / "images")
    (root / "train" / "cat").mkdir()
    (root / "images").rename(root / "train" / "cat" / "images")
    dataset = open_set("", root, "train")
    assert dataset.classes == ("2", "10", "cat", "dog") and dataset[5][1] == 2
    assert dataset.filename(5) == str(root / "train" / "cat" / "images" / "1.png")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a file system of Linux")
def test_a_file_system_without_images_whose_links_lead_in_circles_is_left_soon():
    assert "/proc" in message(root="/proc")


def test_a_folder_inside_a_class_folder_that_cannot_be_listed_is_named(root, monkeypatch):
    closed = root / "train" / "dog" / "closed"
    closed.mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert message(root=root) == f"data folder {closed} cannot be listed: Permission denied"


def test_no_images_cannot_be_spread():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        spread(create_dataset("fashion", split="validation"), 0)


def test_spread_keeps_the_balance_and_the_names():
    dataset = open_set("fashion", split="val")
    part = spread(dataset, 50)
    assert [part[i][1] for i in range(50)] == [i // 5 for i in range(50)]
    assert part.filename(1) == "fashion_val.png[40]"
    assert part.classes == dataset.classes
    assert spread(dataset, 10**6) is dataset
