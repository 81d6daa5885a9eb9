"""Swin as a detector's backbone: `python examples/detector_backbone.py [MODEL]`.

A feature pyramid (Lin et al. 2017) over three stages' maps, and a score for each cell of where an object's centre is,
trained on pictures of one bright square. MODEL is a folder or hub id of a Swin; by default it is a tiny one with
random weights, which learns this task, and no other, in seconds.
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F

from minitrans import AutoBackbone, SwinBackbone, SwinConfig

STAGES = ["stage1", "stage2", "stage3"]
torch.manual_seed(0)
if len(sys.argv) > 1:
    backbone = AutoBackbone.from_pretrained(sys.argv[1], out_features=STAGES)
else:
    sizes = {"embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 4}
    backbone = SwinBackbone(SwinConfig(image_size=64, **sizes, out_features=STAGES))
print("stage, channels, stride:", *(tuple(feature) for feature in backbone.feature_info))


sides = nn.ModuleList(nn.Conv2d(channels, 32, 1) for channels in backbone.channels)
score = nn.Conv2d(32, 1, 3, padding=1)


def detect(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, 64, 64) -> a score for each of 16 × 16 cells, (B, 256)."""
    maps = [side(x) for side, x in zip(sides, backbone(images).feature_maps, strict=True)]
    return score(sum(F.interpolate(x, (16, 16)) for x in maps).relu()).flatten(1)


def squares(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with one bright 8 × 8 square each, and the cell (of 16 × 16) that its centre is in."""
    images, corners = torch.randn(count, 3, 64, 64), torch.randint(0, 14, (count, 2)) * 4
    for image, (y, x) in zip(images, corners.tolist(), strict=True):
        image[:, y : y + 8, x : x + 8] += 2
    return images, (corners[:, 0] // 4 + 1) * 16 + corners[:, 1] // 4 + 1


optimizer = torch.optim.AdamW([*backbone.train().parameters(), *sides.parameters(), *score.parameters()], lr=2e-3)
for step in range(40):
    images, cells = squares(16)
    loss = F.cross_entropy(detect(images), cells)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.2f}")
with torch.inference_mode():
    backbone.eval()
    images, cells = squares(64)
    found = detect(images).argmax(1)
away = torch.stack([(found // 16 - cells // 16).abs(), (found % 16 - cells % 16).abs()]).amax(0)
print(f"{(away <= 1).sum()} of 64 new squares found within one cell; one guess at random finds about 3")
