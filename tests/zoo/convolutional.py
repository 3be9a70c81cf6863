"""Convolutional networks in plain torch, in the style of the libraries that have them."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.network import CLASSES, VALUES, Network, of_family

IMAGE, SERIES = (1, 8, 8), (2, 24)


def conv(channels_in: int, channels_out: int, taps: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, taps, stride, taps // 2, groups=groups, bias=False)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(1, 8), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv(8, 8), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        out: Tensor = self.fc(x.flatten(1))
        return out


class BasicBlock(nn.Module):
    """torchvision's, with a projection where the shape changes."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inplanes, planes, stride=stride), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(planes, planes), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(conv(inplanes, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        made: Tensor = self.relu(out)
        return made


class Bottleneck(nn.Module):
    expansion = 2

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        wide = planes * self.expansion
        self.conv1, self.bn1 = conv(inplanes, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, stride=stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, wide, 1), nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != wide:
            self.downsample = nn.Sequential(conv(inplanes, wide, 1, stride), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        made: Tensor = self.relu(out)
        return made


class ResNet(nn.Module):
    """torchvision's stem, two stages of blocks, a mean and a linear layer."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], blocks: int) -> None:
        super().__init__()
        expansion = getattr(block, "expansion", 1)
        self.conv1, self.bn1, self.relu = conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(block(8, 8), *(block(8 * expansion, 8) for _ in range(blocks)))
        wide = 8 * expansion
        self.layer2 = nn.Sequential(block(wide, 12, 2), *(block(12 * expansion, 12) for _ in range(blocks)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(12 * expansion, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(self.layer2(self.layer1(x)))
        out: Tensor = self.fc(torch.flatten(x, 1))
        return out


class DoubleConv(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            conv(channels_in, channels_out), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True),
            conv(channels_out, channels_out), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """One step down, one up, with a skip; a class for the image, or a value for each pixel."""

    def __init__(self, *, is_classifier: bool) -> None:
        super().__init__()
        self.is_classifier = is_classifier
        self.down1, self.down2 = DoubleConv(1, 8), DoubleConv(8, 12)
        self.up, self.merge = nn.ConvTranspose2d(12, 8, 2, 2), DoubleConv(16, 8)
        self.head = nn.Linear(8, CLASSES) if is_classifier else nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        low = self.down2(F.max_pool2d(high, 2))
        merged = self.merge(torch.cat([self.up(low), high], 1))
        out: Tensor = self.head(merged.mean((2, 3)) if self.is_classifier else merged)
        return out


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, 2 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), conv(2 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


def dense_net() -> nn.Module:
    return nn.Sequential(
        conv(1, 8), DenseLayer(8, 4), DenseLayer(12, 4), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
        return x * scale


class SEBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(8, 8), nn.BatchNorm2d(8), conv(8, 8), nn.BatchNorm2d(8)
        self.se = SqueezeExcite(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.se(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


def squeeze_excite() -> nn.Module:
    blocks = nn.Sequential(SEBlock(), SEBlock())
    return nn.Sequential(conv(1, 8), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


class Separable(nn.Sequential):
    """A depthwise convolution, then a pointwise one."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            conv(channels_in, channels_in, groups=channels_in), nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True),
            conv(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True),
        )  # fmt: skip


def separable() -> nn.Module:
    return nn.Sequential(
        conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), Separable(8, 8), Separable(8, 12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES),
    )  # fmt: skip


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv = nn.Sequential(
            nn.Sequential(conv(channels, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            nn.Sequential(conv(wide, wide, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            conv(wide, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(x)
        return out


def mobile_net() -> nn.Module:
    features = nn.Sequential(
        conv(1, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU6(), *(InvertedResidual(8) for _ in range(3))
    )
    head = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, CLASSES))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def norm_net(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        conv(1, 8), norm, nn.ReLU(), conv(8, 8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def group_norm_net() -> nn.Module:
    return norm_net(nn.GroupNorm(2, 8))


def grouped() -> nn.Module:
    return nn.Sequential(
        conv(1, 8), nn.ReLU(), conv(8, 8, groups=2), nn.ReLU(), conv(8, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


class TemporalBlock(nn.Module):
    """A dilated causal convolution twice, with a residual connection."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv1 = nn.Conv1d(channels_in, channels_out, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(channels_out, channels_out, 3, dilation=dilation)
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(F.pad(x, (self.pad, 0))))
        out = F.relu(self.conv2(F.pad(out, (self.pad, 0))))
        return F.relu(out + self.skip(x))


def temporal() -> nn.Module:
    blocks = nn.Sequential(TemporalBlock(2, 8, 1), TemporalBlock(8, 8, 2), TemporalBlock(8, 8, 2))
    return nn.Sequential(blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, CLASSES))


NETWORKS = of_family(
    "convolutional networks",
    [
        Network(name="ConvNet", build=ConvNet, shape=IMAGE),
        Network(name="ResNet, basic blocks", build=partial(ResNet, BasicBlock, 2), shape=IMAGE),
        Network(name="ResNet, bottlenecks", build=partial(ResNet, Bottleneck, 2), shape=IMAGE),
        Network(name="U-Net, classifier", build=partial(UNet, is_classifier=True), shape=IMAGE),
        Network(name="U-Net, denoiser", build=partial(UNet, is_classifier=False), shape=IMAGE, task=VALUES),
        Network(name="DenseNet", build=dense_net, shape=IMAGE),
        Network(name="squeeze-excite", build=squeeze_excite, shape=IMAGE),
        Network(name="depthwise separable", build=separable, shape=IMAGE),
        Network(name="MobileNet", build=mobile_net, shape=IMAGE),
        Network(name="GroupNorm after convolutions", build=group_norm_net, shape=IMAGE),
        Network(name="grouped convolutions", build=grouped, shape=IMAGE),
        Network(name="TCN", build=temporal, shape=SERIES),
    ],
)
