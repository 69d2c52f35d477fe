"""Transforms against their definitions."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, ColorJitter, Resize
from torchvision.transforms.functional import normalize, to_tensor

from zoo.data import DISTORTIONS, EvalTransform, TrainTransform, seeded
from zoo.data.batches import PCA_VALUES, PCA_VECTORS, ImageAugment, Normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(width: int = 60, height: int = 50) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalising_equals_torchvisions(channels_last):
    images = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    out = Normalize(MEAN, STD, torch.device("cpu"), channels_last)(images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert out.is_contiguous(memory_format=layout)
    torch.testing.assert_close(out, normalize(images / 255, list(MEAN), list(STD)), rtol=1e-5, atol=1e-6)


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre():
    out = EvalTransform(img_size=28, crop_pct=0.875).build()(photo())
    expected = CenterCrop(28)(Resize(32)(photo()))
    assert np.array_equal(out.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_distortions_turn_the_image():
    image = torch.tensor([[1, 2], [3, 4]])[None]
    turned = {name: distort(image)[0].tolist() for name, distort in DISTORTIONS.items()}
    assert turned == {
        "none": [[1, 2], [3, 4]],
        "rot90": [[2, 4], [1, 3]],
        "rot180": [[4, 3], [2, 1]],
        "vflip": [[3, 4], [1, 2]],
    }
    with pytest.raises(ValueError, match=r"unknown distortion 'rot45'; known: none, rot90, rot180, vflip"):
        EvalTransform(distort="rot45")


@pytest.mark.parametrize("aa", ["rand-m10-inc1", "rand-m2", "v0", "augmix-m10"])
def test_no_policy_asks_pillow_for_what_it_refuses(aa):
    transform = TrainTransform(img_size=16, aa=aa).build()
    for seed in range(150):
        with seeded(seed):
            assert transform(photo()).shape == (3, 16, 16)


def test_colour_jitter_without_contrast_is_torchvisions():
    # DBB's ResNets: brightness, saturation and hue of 0.4, no contrast.
    transform = TrainTransform(img_size=50, scale=(1, 1), ratio=(1, 1), hflip=0, color_jitter=(0.4, 0.0, 0.4, 0.4))
    square = photo(50, 50)
    with seeded(5):
        out = transform.build()(square)
    with seeded(5):  # the crop draws its (only possible) place first
        TrainTransform(img_size=50, scale=(1, 1), ratio=(1, 1), hflip=0).build()(square)
        expected = ColorJitter(0.4, 0.0, 0.4, 0.4)(square)
    assert np.array_equal(out.permute(1, 2, 0).numpy(), np.asarray(expected))
    assert not np.array_equal(np.asarray(expected), np.asarray(square))


def test_no_jitter_and_no_flip_leave_the_pixels():
    square = photo(50, 50)
    out = TrainTransform(img_size=50, scale=(1, 1), ratio=(1, 1), hflip=0).build()(square)
    assert np.array_equal(out.permute(1, 2, 0).numpy(), np.asarray(square))


def test_a_padded_crop_is_a_window_of_the_image_in_a_black_frame():
    image = photo(32, 32)
    transform = TrainTransform(img_size=32, scale=[1, 1], ratio=[1, 1], hflip=0, crop_padding=4).build()
    framed = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
    windows = {framed[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    places = set()
    for seed in range(200):
        with seeded(seed):
            places.add(windows[transform(image).permute(1, 2, 0).numpy().tobytes()])
    assert {y for y, _ in places} == {x for _, x in places} == set(range(9))


def test_lighting_adds_one_colour_along_the_principal_components():
    augment = ImageAugment(TrainTransform(lighting=0.1, std=STD), seed=3)
    images = torch.zeros(2, 3, 4, 4)
    augment(images, epoch=1, index=torch.tensor([7, 8]))
    for image, index in zip(images, (7, 8), strict=True):
        with seeded(3, 1, index, 1):
            alpha = torch.normal(0.0, 0.1, (3,))
        rgb = sum(alpha[k] * PCA_VALUES[k] * torch.tensor([vector[k] for vector in PCA_VECTORS]) for k in range(3))
        torch.testing.assert_close(image, (rgb / torch.tensor(STD))[:, None, None].expand(3, 4, 4))


def test_the_principal_components_are_orthonormal():
    vectors = torch.tensor(PCA_VECTORS)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3), atol=1e-3, rtol=0)


def test_lighting_equals_to_tensor_plus_noise_then_normalise():
    image = photo(4, 4)
    augment = ImageAugment(TrainTransform(lighting=0.1), seed=0)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    ours = Normalize(MEAN, STD, torch.device("cpu"), False)(pixels)
    augment(ours, 0, torch.tensor([0]))
    with seeded(0, 0, 0, 1):
        noise = torch.tensor(PCA_VECTORS) @ (torch.normal(0.0, 0.1, (3,)) * torch.tensor(PCA_VALUES))
    expected = normalize(to_tensor(image) + noise[:, None, None], list(MEAN), list(STD))
    torch.testing.assert_close(ours[0], expected, rtol=1e-5, atol=1e-5)


def test_erasing_blanks_a_box_and_depends_on_the_image_only():
    augment = ImageAugment(TrainTransform(reprob=1.0, remode="const"), seed=0)
    alone, together = torch.ones(1, 3, 32, 32), torch.ones(2, 3, 32, 32)
    augment(alone, 2, torch.tensor([11]))
    augment(together, 2, torch.tensor([5, 11]))
    assert torch.equal(alone[0], together[1])
    erased = alone[0, 0] == 0
    rows, columns = erased.any(1).sum(), erased.any(0).sum()
    assert erased.sum() == rows * columns
    assert 0.01 < erased.float().mean() < 0.4
    assert not torch.equal(together[0], together[1])
