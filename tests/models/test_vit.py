import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightpose.models.backbones.vit import ViT


def step(checkpointing: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients of a step with dropped paths, and how many bytes of activations it kept for the backward pass."""
    torch.manual_seed(0)
    net = ViT("test_vit", (64, 48), drop_path_rate=0.5, checkpointing=checkpointing).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    images = torch.randn(8, 3, 64, 48)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        (features,) = net(images)
    features.sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(net.parameters()))
    return gradients, sum(kept[place].untyped_storage().nbytes() for place in kept.keys() - weights)


def test_checkpointing_keeps_less_and_changes_no_gradient() -> None:
    gradients, kept = step(checkpointing=False)
    recomputed, kept_then = step(checkpointing=True)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=1e-6)
    assert kept_then < kept / 4
