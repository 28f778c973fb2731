"""CIFAR ResNets: resnet8 … resnet110 (16-32-64 channels) and the four times wider resnet8x4, resnet32x4.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with the 1 × 1 convolution shortcuts
of the published CIFAR teacher checkpoints, whose parameter names these are. ("resnet18" in lower case is torchvision's
ImageNet network; "ResNet18" is that network for 32 × 32 images, in resnet_imagenet.py.)
"""

from functools import partial

from torch import nn
from torch.nn import functional as F

from .common import Output, check_images, init_convs, pool


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, N × in × H × W -> N × out × H/stride × W/stride."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(
            self.bn1(self.conv1(x)), inplace=True
        )  # in place: a tenth of the time of an evaluation, the same bits
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class ResNet(nn.Module):
    """A stem and three stages of (depth − 2) / 6 blocks; `widths` are the channels of the stem and of each stage.

    forward: N × 3 × H × W floats of any size -> Output, the embedding of widths[-1] features.
    """

    head_name = "fc"

    def __init__(self, num_classes, *, depth, widths=(16, 16, 32, 64)):
        super().__init__()
        self.num_classes, self.embedding_dim = num_classes, widths[-1]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = self._stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = self._stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(self.embedding_dim, num_classes)
        init_convs(self)

    @staticmethod
    def _stage(in_channels, out_channels, blocks, stride):
        rest = (Block(out_channels, out_channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(Block(in_channels, out_channels, stride), *rest)

    def forward(self, images):
        check_images(images)
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        embedding = pool(x)
        return Output(self.fc(embedding), embedding)


MODELS = {f"resnet{depth}": partial(ResNet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)}
MODELS |= {f"resnet{depth}x4": partial(ResNet, depth=depth, widths=(32, 64, 128, 256)) for depth in (8, 32)}
