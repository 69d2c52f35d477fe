"""Give BatchNorms statistics of data without changing what the network computes in eval mode."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from zoo.surgery.preserve import MomentRecorder, run_watched


def refit_norms(model: nn.Module, batches: Iterable[Tensor], norms: Collection[str]) -> None:
    """Set running statistics to those of images, in place; scale and shift make up for it.

    A BatchNorm that only adds the bias of a folded convolution (mean 0, variance 1; `stock_state_dict`) computes the
    right thing in eval mode, but not in training, where it would normalise. With new statistics m', v' for m, v and

        γ' = γ √(v' + ε) / √(v + ε),      β' = β + γ (m' - m) / √(v + ε)

    it computes the same in eval mode, and very nearly so in training: the network can be trained on.

    Args:
        model: A network in eval mode.
        batches: Images like those of the training to come.
        norms: Names of the BatchNorms to set; they must have scale and shift.
    """
    seen: dict[str, MomentRecorder] = {}
    for name in norms:
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        seen[name] = MomentRecorder(norm.num_features, norm.weight)
    run_watched(model, {name: lambda x, _, see=recorder.see: see(x) for name, recorder in seen.items()}, batches)
    for name, recorder in seen.items():
        _set_statistics(model.get_submodule(name), recorder)


def _set_statistics(norm: nn.Module, seen: MomentRecorder) -> None:
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    moments = seen.moments()
    with torch.no_grad():
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.add_(scale * (moments.mean - norm.running_mean.double()))
        norm.running_mean.copy_(moments.mean)
        norm.running_var.copy_(moments.batch_variance)
        norm.weight.copy_(scale * (moments.batch_variance + norm.eps).sqrt())
