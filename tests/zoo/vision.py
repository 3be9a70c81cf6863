"""Vision networks of `transformers`."""

from __future__ import annotations

from tests.zoo.faces import MLP, WIDTH, Face, face, fed
from tests.zoo.network import CLASSES, Network, of_family

IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": CLASSES}
MAPS = {"num_channels": 1, "num_labels": CLASSES}
RESNET = {**MAPS, "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 2], "hidden_act": "relu"}
CONVNEXT = {**MAPS, "num_stages": 2, "hidden_sizes": [8, 12], "depths": [2, 2], "patch_size": 2}
MOBILE = {**MAPS, "image_size": 32, "depth_multiplier": 0.1, "min_depth": 8, "finegrained_output": False}
SWIN = {
    **MAPS,
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
}


def image(name: str, made: Face, size: int = 8) -> Network:
    return Network(name=name, build=made.one_output, shape=(1, size, size))


def fed_image(name: str, made: Face, size: int = 8) -> Network:
    return fed(image(name, made, size), made, "pixel_values")


NETWORKS = of_family(
    "vision",
    [
        fed_image("ViT", face("ViTForImageClassification", "ViTConfig", WIDTH, IMAGE, MLP)),
        image("DeiT", face("DeiTForImageClassification", "DeiTConfig", WIDTH, IMAGE, MLP)),
        image(
            "ResNet of transformers, basic",
            face("ResNetForImageClassification", "ResNetConfig", RESNET, layer_type="basic"),
            32,
        ),
        fed_image(
            "ResNet of transformers, bottleneck", face("ResNetForImageClassification", "ResNetConfig", RESNET), 32
        ),
        fed_image("ConvNext", face("ConvNextForImageClassification", "ConvNextConfig", CONVNEXT), 16),
        fed_image("Swin", face("SwinForImageClassification", "SwinConfig", SWIN), 16),
        image("MobileNetV2", face("MobileNetV2ForImageClassification", "MobileNetV2Config", MOBILE), 32),
    ],
    has_transformers=True,
)
