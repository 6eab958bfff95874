"""CSPNeXt as it is published for itself: pretrained on ImageNet, or on heatmaps of keypoints.

Pretrained on ImageNet it is where the training of another model starts, and no codec decodes it:
the kit measures it as a bare backbone, and loads the head only so that every key is accounted for.
With a head of heatmaps it is a pose model, CSPNeXt-UDP. Parameter names are those of mmpretrain's
``LinearClsHead`` and mmpose's ``HeatmapHead``.
"""

from __future__ import annotations

from torch import Tensor, nn

from converters.architectures.cspnext import CSPNEXT_SIZES, CSPNeXt


class CSPNeXtBackbone(nn.Module):
    """The backbone alone: (N, 3, H, W) -> features (N, C, H / 32, W / 32)."""

    def __init__(self, size: str = "t") -> None:
        super().__init__()
        self.backbone = CSPNeXt(CSPNEXT_SIZES[size])

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H / 32, W / 32)."""
        features: Tensor = self.backbone(images)[-1]
        return features


class _ClassifierHead(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


class CSPNeXtClassifier(CSPNeXtBackbone):
    """ImageNet classification, (N, 3, H, W) -> logits (N, classes): mean over the map, linear."""

    def __init__(self, size: str = "t", classes: int = 1000) -> None:
        super().__init__(size)
        self.head = _ClassifierHead(self.backbone.out_channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        logits: Tensor = self.head(super().forward(images))
        return logits


class _HeatmapHead(nn.Module):
    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (channels, 256, 256):
            layers.append(nn.ConvTranspose2d(inputs, 256, 4, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(256), nn.ReLU()]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(256, keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.final_layer(self.deconv_layers(features))
        return maps


class CSPNeXtHeatmaps(CSPNeXtBackbone):
    """CSPNeXt-UDP, (N, 3, H, W) -> heatmaps (N, K, H / 4, W / 4).

    K is 19 in the published pretraining: the keypoints of AIC and COCO together.
    """

    def __init__(self, size: str = "t", keypoints: int = 19) -> None:
        super().__init__(size)
        self.head = _HeatmapHead(self.backbone.out_channels[-1], keypoints)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K, H / 4, W / 4)."""
        heatmaps: Tensor = self.head(super().forward(images))
        return heatmaps
