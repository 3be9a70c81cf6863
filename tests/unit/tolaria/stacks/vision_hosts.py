"""Image networks in the style of torchvision and timm, small: a ViT and a ResNet, each with one dial for its depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits

PATCH, WIDTH, HEADS = 2, 24, 3
STRIP, DISTANCE, DISTANCES = (4, 40), 4, 8


class DropPath(nn.Module):
    """Leaves a sample's branch out with a probability that rises with the depth (timm's stochastic depth)."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        kept = 1.0 - self.drop_prob
        mask = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(kept)
        return x * mask / kept


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class ViTBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        # Of rate 0 it is an identity, as timm has it: blocks of a run then differ by class.
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


class ViT(nn.Module):
    """Patches by a convolution, a class token, learnt positions, blocks with rising rates of stochastic depth."""

    def __init__(self, shape: tuple[int, ...], outputs: int, depth: int, drop_path_rate: float = 0.1) -> None:
        super().__init__()
        channels, height, width = shape
        self.patch_embed = nn.Conv2d(channels, WIDTH, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (height // PATCH) * (width // PATCH), WIDTH))
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList([ViTBlock(WIDTH, HEADS, rate) for rate in rates])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x)[:, 0])
        return out


class BasicBlock(nn.Module):
    """torchvision's: two convolutions beside a shortcut, which the first block of a stage downsamples."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(planes), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        result: Tensor = self.relu(out)
        return result


class ResNet(nn.Module):
    """A stem and two stages; the first block of each changes the shape, the equal ones are its tail."""

    def __init__(self, shape: tuple[int, ...], outputs: int, layers: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], 4, 3, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.layer1 = self._stage(4, 8, layers[0], stride=1)
        self.layer2 = self._stage(8, 12, layers[1], stride=stride)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(12, outputs)

    @staticmethod
    def _stage(inplanes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inplanes, planes, stride)
        return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(1, blocks)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


class Dots:
    """Two dots in a strip: how far apart are they? A convolution sees no further than its field, which depth widens."""

    def splits(self, seed: int) -> Splits:
        draw = torch.Generator().manual_seed(seed)
        sets = {}
        for name, rows in (("train", 2400), ("judge", 400), ("test", 400)):
            images = 0.1 * torch.randn(rows, 1, STRIP[0], STRIP[1], generator=draw)
            labels = torch.randint(0, DISTANCES, (rows,), generator=draw)
            gaps = DISTANCE * (labels + 1)
            lines = torch.randint(0, STRIP[0], (rows,), generator=draw)
            starts = (torch.rand(rows, generator=draw) * (STRIP[1] - gaps)).long()
            for place in (starts, starts + gaps):
                images[torch.arange(rows), 0, lines, place] += 1.0
            sets[name] = Split(images, labels)
        return Splits(**sets, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=DISTANCES)


dots = Dots()


def vit(shape: tuple[int, ...], outputs: int, depth: int = 3) -> nn.Module:
    return ViT(shape, outputs, depth)


def resnet(shape: tuple[int, ...], outputs: int, layers: tuple[int, int] = (2, 3)) -> nn.Module:
    return ResNet(shape, outputs, layers, stride=2)


def near_sighted(shape: tuple[int, ...], outputs: int, layers: tuple[int, int] = (1, 3)) -> nn.Module:
    """Its tail of two blocks sees nineteen pixels, twice the tail twenty-seven."""
    return ResNet(shape, outputs, layers, stride=1)
