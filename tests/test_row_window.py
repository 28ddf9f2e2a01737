"""Rows of the cells around a peak are averaged where the encoder allows it, as seen from the peak's cell."""

import numpy as np
import pytest
from builders import photo_with_faces, planted_encoder, planted_encoder_of_pixels, planted_encoder_with_head

import wm3dr
from wm3dr.decode import averaged_rows, neighbourhoods


def test_windows_end_at_the_edge_of_the_map():
    cells = np.array([[0, 0], [2, 3], [4, 4]], np.int32)
    around, owner = neighbourhoods(cells, (5, 5), 3)
    assert np.bincount(owner).tolist() == [4, 9, 4]
    assert around[owner == 0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert around[owner == 1].mean(axis=0).tolist() == [2, 3]
    alone, owner = neighbourhoods(cells, (5, 5), 1)
    assert alone.tolist() == cells.tolist() and owner.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'cells' has cell \(5, 1\)"):
        neighbourhoods(np.array([[5, 1]], np.int32), (5, 5), 3)


def test_lateral_offsets_count_from_the_peak_before_the_mean():
    rows = np.array([[1.0, 10.0, 20.0, 5.0], [3.0, 2.0, 20.0, 7.0], [9.0, 1.0, 1.0, 1.0]], np.float32)
    cells = np.array([[4, 6], [2, 2]], np.int32)
    around = np.array([[4, 6], [3, 7], [2, 2]], np.int32)  # the second lies a cell to the right and a cell above
    owner = np.array([0, 0, 1], np.int32)
    mean = averaged_rows(rows, cells, around, owner, 8, slice(1, 4))
    np.testing.assert_allclose(mean, [[2.0, 10.0, 16.0, 6.0], [9.0, 1.0, 1.0, 1.0]])
    assert rows[1, 1] == 2.0, "the input stays"
    assert averaged_rows(rows[:0], cells[:0], around[:0], owner[:0], 8, slice(1, 4)).shape == (0, 4)
    with pytest.raises(ValueError, match="'owner' has no row of peak 1"):
        averaged_rows(rows, cells, around, owner * 0, 8, slice(1, 4))


def test_the_mean_of_a_window_by_hand():
    """Of rows that say the same face from each cell the mean says it from the peak, at the edge of the map, too."""
    cells = np.array([[0, 4], [3, 2]], np.int32)
    around, owner = neighbourhoods(cells, (6, 5), 3)
    face = np.array([[40.0, 4.0], [7.0, 30.0]], np.float32)  # x and y of two faces, network pixels
    rows = np.zeros((len(around), 6), np.float32)
    rows[:, 4:] = face[owner] - (around[:, ::-1] + 0.5) * 8
    rows[:, 0] = np.arange(len(around))
    mean = averaged_rows(rows, cells, around, owner, 8, slice(4, 6))
    np.testing.assert_allclose(mean[:, 4:] + (cells[:, ::-1] + 0.5) * 8, face, atol=1e-5)
    np.testing.assert_allclose(mean[:, 0], [1.5, 8.0])


@pytest.mark.parametrize("write", [planted_encoder, planted_encoder_with_head, planted_encoder_of_pixels])
def test_the_contract_decides(tmp_path, face_model, write):
    """Green decides the coefficients of a planted cell: 90 at the peak, 0 around it, so that the mean is a ninth."""
    photo = photo_with_faces((128, 128), [(7, 8, 230, 90)])
    single = wm3dr.Reconstructor(write(tmp_path / "one.onnx", face_model), face_model).reconstruct(photo)[0]
    window = write(tmp_path / "nine.onnx", face_model, row_window="3")
    mean = wm3dr.Reconstructor(window, face_model).reconstruct(photo)[0]
    base = wm3dr.Reconstructor(window, face_model).reconstruct(photo_with_faces((128, 128), [(7, 8, 230, 0)]))[0]
    expected = base.coefficients.identity + (single.coefficients.identity - base.coefficients.identity) / 9
    np.testing.assert_allclose(mean.coefficients.identity, expected, atol=2e-5)
    assert np.abs(mean.coefficients.identity - single.coefficients.identity).max() > 0.01
    # without green every cell holds the same row; from the peak, the outer cells' offsets cancel
    plain = write(tmp_path / "plain.onnx", face_model)
    alone = wm3dr.Reconstructor(plain, face_model).reconstruct(photo_with_faces((128, 128), [(7, 8, 230, 0)]))[0]
    np.testing.assert_allclose(base.landmarks, alone.landmarks, atol=1e-3)


@pytest.mark.parametrize("value", ["2", "0", "-1"])
def test_even_windows_are_refused(tmp_path, face_model, value):
    with pytest.raises(wm3dr.ModelError, match="row_window"):
        wm3dr.Encoder(planted_encoder(tmp_path / "even.onnx", face_model, row_window=value))
