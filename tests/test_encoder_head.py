"""Contract versions 2 and 3: the last layers are evaluated at the peaks only; the answer is that of version 1."""

import numpy as np
import pytest
from builders import (
    N_COEFFICIENTS,
    photo_with_faces,
    planted_encoder_of_pixels,
    planted_encoder_with_head,
    planted_rows,
)

import wm3dr
from wm3dr.encoder import Encoder


@pytest.fixture(params=[planted_encoder_with_head, planted_encoder_of_pixels], ids=["2", "3"])
def with_head(tmp_path, face_model, request):
    return request.param(tmp_path / "head.onnx", face_model)


def cells_of_one_color(batch, height, width):
    """(B, H, W, 3): the mean of a cell is a whole number, as version 3 returns it."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, height // 8, width // 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)


def test_rows_of_cells(encoder, with_head):
    pixels = cells_of_one_color(2, 64, 96)
    cells = np.array([[0, 11], [7, 3], [2, 2]], np.int32)
    whole, split = Encoder(encoder), Encoder(with_head)
    (heatmap, rows), (heatmap_2, features) = whole.predict(pixels), split.predict(pixels)
    assert features.shape == {"2": (2, 1, 8, 12), "3": (2, 8, 12, 1)}[split.contract.version]
    np.testing.assert_allclose(heatmap, heatmap_2, atol=1e-6)
    expected = whole.rows(rows[1], cells)
    np.testing.assert_array_equal(expected, rows[1][:, cells[:, 0], cells[:, 1]].T)
    np.testing.assert_allclose(split.rows(features[1], cells), expected, atol=1e-6)
    base, slope = planted_rows()
    green = pixels[1, 16, 16, 1] / 255
    np.testing.assert_allclose(expected[2], base + green * slope, atol=1e-5)


def test_no_cells(with_head):
    opened = Encoder(with_head)
    _, features = opened.predict(np.zeros((1, 32, 32, 3), np.uint8))
    assert opened.rows(features[0], np.zeros((0, 2), np.int32)).shape == (0, N_COEFFICIENTS)


@pytest.mark.parametrize("cell", [[0, 4], [4, 0], [-1, 0]])
def test_cells_outside_the_map_are_refused(with_head, cell):
    opened = Encoder(with_head)
    _, features = opened.predict(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"has cell \({cell[0]}, {cell[1]}\), expected .* map of 4 rows"):
        opened.rows(features[0], np.array([[0, 0], cell], np.int32))


def test_a_graph_of_another_version_is_refused(tmp_path, face_model):
    path = planted_encoder_with_head(tmp_path / "encoder.onnx", face_model, wm3dr_version="3")
    with pytest.raises(wm3dr.ModelError, match=r"{'image': 'float'} .* are not {'image': 'uint8'}"):
        Encoder(path)


def test_results_do_not_depend_on_the_version(encoder, with_head, face_model):
    photo = photo_with_faces((160, 96), [(4, 3, 255, 30), (14, 8, 240, 200)])
    whole, split = (wm3dr.Reconstructor(path, face_model).reconstruct(photo) for path in (encoder, with_head))
    assert len(whole) == len(split) == 2
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=1e-3)
        np.testing.assert_allclose(a.coefficients.illumination, b.coefficients.illumination, atol=1e-6)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("not base64!", "'head' is not base64"),
        ("AAAA", "'head': onnxruntime cannot open it"),
    ],
)
def test_a_broken_head_is_refused(tmp_path, face_model, head, message):
    path = planted_encoder_with_head(tmp_path / "broken.onnx", face_model, head=head)
    with pytest.raises(wm3dr.ModelError, match=message):
        Encoder(path)


def test_a_head_of_another_face_model_is_refused(tmp_path, face_model):
    layout = (
        '[["identity", 6], ["expression", 4], ["albedo", 3], ["rotation", 3], ["illumination", 27], ["translation", 3]]'
    )
    opened = Encoder(planted_encoder_with_head(tmp_path / "other.onnx", face_model, layout=layout))
    _, features = opened.predict(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(wm3dr.ModelError, match=r"the head returned 'coefficients' \(1, 45\), not \(1, 46\)"):
        opened.rows(features[0], np.zeros((1, 2), np.int32))
