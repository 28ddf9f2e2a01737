"""Contract version 2: the runtime's rows at chosen cells are those of the whole torch module."""

import numpy as np
import pytest
import torch

from wm3dr.encoder import Encoder as RuntimeEncoder
from wm3dr.encoder import float_image
from wm3dr_training.encoder import DeployedEncoder, Encoder, Layout
from wm3dr_training.export import (
    PARITY,
    FeatureEncoder,
    contract_metadata,
    export_module,
    head_graph,
    parity,
    with_static_padding,
)

LAYOUT = Layout(identity=5, expression=4, albedo=3)


@pytest.fixture(scope="module", params=["efficientnet_lite0", "resnet50"])
def encoder(request):
    torch.manual_seed(0)
    encoder = Encoder(request.param, LAYOUT, blendshapes=True, head_width=16)
    torch.nn.init.normal_(encoder.coefficients[-1].weight, std=0.05)  # rows that differ from cell to cell
    return encoder.eval()


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "encoder.onnx"
    metadata = contract_metadata("synthetic", "0" * 64, LAYOUT, "ray", "CC0-1.0", {}, head_graph(encoder))
    export_module(with_static_padding(FeatureEncoder(encoder)), path, metadata)
    return path


def test_rows_at_cells(encoder, exported):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 96, 64, 3), np.uint8)
    with torch.no_grad():
        heatmap, rows = (value.numpy() for value in DeployedEncoder(encoder)(torch.from_numpy(float_image(pixels))))
    opened = RuntimeEncoder(exported)
    assert opened.contract.version == "2"
    found, features = opened.predict(pixels)
    np.testing.assert_allclose(found, heatmap, atol=1e-4)
    cells = np.array([[0, 0], [11, 7], [4, 2]], np.int32)
    expected = rows[1][:, cells[:, 0], cells[:, 1]].T
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(opened.rows(features[1], cells), expected, rtol=1e-3, atol=1e-3)


def test_parity_sees_another_head(encoder, exported, tmp_path):
    images = [255 * torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(2))]
    assert parity(DeployedEncoder(encoder), exported, images) < PARITY
    torch.manual_seed(3)
    other = Encoder("efficientnet_lite0" if encoder.neck.out_channels == 160 else "resnet50", LAYOUT, True, 16).eval()
    metadata = contract_metadata("synthetic", "0" * 64, LAYOUT, "ray", "CC0-1.0", {}, head_graph(other))
    path = tmp_path / "other.onnx"
    export_module(with_static_padding(FeatureEncoder(encoder)), path, metadata)
    assert parity(DeployedEncoder(encoder), path, images) > PARITY
