"""Exports a network whose features `imagebart evaluate` compares pictures of shapes by. Needs Python's torch.

    python examples/shapes/features.py features.pt
    imagebart evaluate pipelines/shapes.toml --set evaluate.network=features.pt --set evaluate.network_resize=none

Three convolutions with random weights of seed 0, never trained: colours and edges in 256 numbers, averaged over the picture. Distances
in it tell sets of shapes apart, but are no FID: that has Inception's features.
"""

import sys

import torch
from torch import nn


class Features(nn.Module):
    """float32 [batch, 3, height, width] in [-1, 1] to [batch, 256]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        widths = [3, 64, 128, 256]
        layers = []
        for narrow, wide in zip(widths, widths[1:]):
            layers.append(nn.Conv2d(narrow, wide, kernel_size=4, stride=2, padding=1))
            nn.init.kaiming_normal_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).mean(dim=(2, 3))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.jit.script(Features().eval()).save(sys.argv[1])
