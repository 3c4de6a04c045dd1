"""The precision that a network computes in."""

import torch


def precision(choice: str, accelerator: str) -> str:
    """The chosen precision; for ``auto`` the fastest that trains well on this machine.

    Args:
        choice: ``auto``, or one of Lightning's names.
        accelerator: of the trainer.
    """
    if choice != "auto":
        return choice
    if torch.cuda.is_available() and accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16-mixed" if features.get("avx512_bf16") or features.get("amx_bf16") else "32-true"
