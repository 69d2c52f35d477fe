"""Work on whole batches, after the workers: normalising, and the augmentations of the float image."""

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from zoo.data.seeding import seeded
from zoo.data.transforms import TrainTransform

# Principal components of ImageNet's RGB values in [0, 1]: eigenvectors in columns, and the square roots of
# the eigenvalues as everyone uses them (Krizhevsky et al. 2012, section 4.1; constants of fb.resnet.torch).
PCA_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
PCA_VALUES = (0.2175, 0.0188, 0.0045)


class Normalize:
    """uint8 (B, 3, H, W) → float32 (image / 255 − mean) / std on `device`, in the asked memory format.

    On the CPU it goes image by image, so that the second and third pass find the image in the cache, and a
    channels-last image is seen as rows of W·3 numbers, because a broadcast over an innermost dimension of 3 is
    not vectorised.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, channels_last: bool
    ) -> None:
        mean_255, std_255 = torch.tensor(mean) * 255, torch.tensor(std) * 255
        self.device = device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.scale = (1 / std_255).view(3, 1, 1).to(device)
        self.shift = (-mean_255 / std_255).view(3, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        out = torch.empty(images.shape, device=self.device, memory_format=self.layout)
        if self.device.type != "cpu":
            return out.copy_(images).mul_(self.scale).add_(self.shift)
        source, target, scale, shift = images, out, self.scale, self.shift
        if self.layout == torch.channels_last:
            width = images.shape[-1]
            source, target = (tensor.permute(0, 2, 3, 1).flatten(2) for tensor in (images, out))
            scale, shift = scale.flatten().repeat(width), shift.flatten().repeat(width)
        for pixels, values in zip(source, target, strict=True):
            values.copy_(pixels).mul_(scale).add_(shift)
        return out


class ImageAugment:
    """PCA lighting and random erasing of a normalised batch, in place; seeded per image.

    They act on float values (noise is not rounded to pixel levels or clipped), hence not in the workers.
    """

    def __init__(self, transform: TrainTransform, seed: int) -> None:
        self.seed = seed
        self.lighting = transform.lighting
        self.components = torch.tensor(PCA_VECTORS) * torch.tensor(PCA_VALUES) / torch.tensor(transform.std)[:, None]
        # The boxes' fill is drawn on the CPU, where `seeded` holds; assigning it copies it to the image's device.
        self.erase = RandomErasing(transform.reprob, mode=transform.remode, max_count=transform.recount, device="cpu")

    def __call__(self, images: Tensor, epoch: int, index: Tensor) -> None:
        if not self.lighting and not self.erase.probability:
            return
        for image, i in zip(images, index.tolist(), strict=True):
            # The fourth number keeps this stream apart from the one that cropped the same image.
            with seeded(self.seed, epoch, i, 1):
                if self.lighting:
                    offset = self.components @ torch.normal(0.0, self.lighting, (3,))
                    image += offset.view(3, 1, 1).to(image.device)
                self.erase(image)
