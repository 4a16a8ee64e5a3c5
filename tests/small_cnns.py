"""Small CNNs, one of each kind of ending; hidden size SIZE; frames (3, 8, 8)."""

import torch
import torch.nn.functional as F
from torch import nn

SIZE = 12
"""Hidden size of the small CNNs: every structure's example fits it."""


class FcNet(nn.Module):
    """Ends like VGG and AlexNet: two fc layers with activation and dropout, and an output layer."""

    layer, size = "fc7", SIZE

    def __init__(self, act=nn.ReLU, classes=5):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc6, self.act6, self.drop6 = nn.Linear(16, SIZE), act(), nn.Dropout()
        self.fc7, self.act7, self.drop7 = nn.Linear(SIZE, SIZE), act(), nn.Dropout()
        self.fc8 = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = torch.flatten(self.pool(F.relu(self.bn(self.conv(x)))), 1)
        x = self.drop6(self.act6(self.fc6(x)))
        return self.fc8(self.drop7(self.act7(self.fc7(x))))


class ResidualNet(nn.Module):
    """Ends like ResNet50: a bottleneck with its shortcut, activation, global average pooling, output layer."""

    layer, size = "conv3", SIZE

    def __init__(self, classes=5):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, SIZE, 3, stride=2, padding=1), nn.BatchNorm2d(SIZE)
        self.conv1, self.bn1 = nn.Conv2d(SIZE, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, SIZE, 1, bias=False), nn.BatchNorm2d(SIZE)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = self.relu(self.bn0(self.stem(x)))
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x
        return self.fc(torch.flatten(self.avgpool(self.relu(out)), 1))


class DenseNet(nn.Module):
    """Ends like DenseNet: the last layer's maps join the earlier ones, then norm, activation, pooling."""

    layer, size = "conv2", SIZE

    def __init__(self, classes=5):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(SIZE)
        self.fc = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = self.conv0(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        x = F.relu(self.norm3(x), inplace=True)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class PlainNet(nn.Module):
    """Ends like MobileNetV2 and EfficientNet: conv, norm, any activation, global average pooling, output layer."""

    layer, size = "conv", SIZE

    def __init__(self, act=nn.ReLU6, kernel=1, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv, self.bn, self.act = nn.Conv2d(4, SIZE, kernel, padding=kernel // 2), nn.BatchNorm2d(SIZE), act()
        self.fc = nn.Linear(SIZE, classes)

    def forward(self, x):
        x = self.act(self.bn(self.conv(F.relu(self.stem(x)))))
        return self.fc(x.mean([2, 3]))


CNNS = {"fc": FcNet, "conv": ResidualNet}


class SnippetNet(nn.Module):
    """A 3-D CNN over snippets of four frames."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc6, self.fc7 = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc7(torch.relu(self.fc6(torch.relu(self.conv(x)).mean((2, 3, 4)))))


def prepare(cnn: nn.Module) -> nn.Module:
    """The CNN in float64 and evaluation mode, with batch statistics that are not just 0 and 1."""
    for module in cnn.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.5)
    return cnn.double().eval()


@torch.no_grad()
def shake(net: nn.Module) -> nn.Module:
    """Draws recurrent biases and the other gates' weights, so that no two gates are alike."""
    for layer in net.recurrent_layers:
        nn.init.normal_(layer.bias, std=0.5)
        copies = getattr(layer.input_to_hidden, "copies", None)
        if copies is not None:
            copies += 0.3 * torch.randn_like(copies)
    return net


def film(batch=2, steps=4, size=(8, 8)):
    """Random video ``(B, T, 3, H, W)``."""
    return torch.randn(batch, steps, 3, *size, dtype=torch.float64)
