"""A stranger's criterion with weights of its own: they learn how much each loss of another criterion counts."""

import torch
from torch import nn


class Balanced(nn.Module):
    """Losses weighted by learnt variances (arXiv:1705.07115)."""

    def __init__(self, criterion, terms):
        super().__init__()
        self.criterion = criterion
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in terms})

    def forward(self, outputs, targets):
        losses = self.criterion(outputs, targets)
        return {name: losses[name] * (-own).exp() + own for name, own in self.log_variance.items()}
