"""Pictures: what they show is where the result says it is."""

import numpy as np
import PIL.Image
import pytest

import wm3dr
from wm3dr import layers
from wm3dr.layers import draw_layer
from wm3dr.views import FRONT, RIGHT, TOP


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def test_layers_are_the_raster(result):
    raster = result.render()
    layer = draw_layer(result.dense, result.dense.colors, result.camera, supersample=1)
    np.testing.assert_array_equal(layer.coverage > 0, raster.alpha > 0)
    # The raster draws the stored triangles, the layer the refined ones: colours halfway between two levels round apart.
    difference = np.abs(np.rint(layer.values * 255) - raster.color)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_bands_change_nothing(result, monkeypatch):
    whole = draw_layer(result.dense, result.dense.colors, result.camera)
    monkeypatch.setattr(layers, "BAND_PIXELS", 236 * 4 * 7)
    banded = draw_layer(result.dense, result.dense.colors, result.camera)
    # The principal point of a band is another float32: edges may take or lose a sample here and there.
    assert (np.abs(banded.coverage - whole.coverage) > 1e-6).mean() < 1e-3
    assert np.abs(banded.values - whole.values).mean() < 1e-4


def test_supersampling_only_softens_edges(result):
    fine = draw_layer(result.dense, result.dense.colors, result.camera, supersample=3)
    hit = result.render().alpha > 0
    inner = hit & np.roll(hit, 1, 0) & np.roll(hit, -1, 0) & np.roll(hit, 1, 1) & np.roll(hit, -1, 1)
    assert (fine.coverage[inner] == 1).mean() > 0.99
    soft = (fine.coverage > 0) & (fine.coverage < 1)
    assert soft.any() and soft.mean() < 0.2
    assert fine.coverage.mean() == pytest.approx(hit.mean(), rel=0.02)


def test_overlay_changes_only_the_faces(result, photo):
    picture = pixels(result.draw(photo, landmarks=False, boxes=False))
    away = result.render().alpha == 0
    away &= np.roll(away, 1, 0) & np.roll(away, -1, 0) & np.roll(away, 1, 1) & np.roll(away, -1, 1)
    np.testing.assert_array_equal(picture[away], photo[away])
    opaque = pixels(result.draw(photo, opacity=1.0, landmarks=False, boxes=False))
    inside = result.render().alpha > 0
    assert np.abs(opaque[inside] - result.render().color[inside]).mean() < 4
    assert (pixels(result.draw(photo, meshes=False, landmarks=False, boxes=False)) == photo).all()


def test_marks_are_at_their_places(result):
    """On a black photo the landmarks are the only thing drawn."""
    black = np.zeros((180, 236, 3), np.uint8)
    marks = pixels(result.draw(black, meshes=False, boxes=False)).sum(axis=2)
    seen = [p for face in result for p in face.landmarks if 2 <= p[0] < 234 and 2 <= p[1] < 178]
    around = [marks[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].max() for x, y in seen]
    assert min(around) > 100
    assert (marks > 0).mean() < 0.5


def test_pictures_of_large_photos_are_reduced(encoder, face_model):
    large = np.zeros((900, 1800, 3), np.uint8)
    result = wm3dr.Reconstructor(encoder, face_model).reconstruct(large)
    assert result.draw(large, max_side=600).size == (600, 300)
    assert result.draw(large).size == (1800, 900)


def test_bgr_arrays_are_drawn_right(result, photo):
    for kind in ("overlay", "attributes"):
        expected = pixels(result.draw(photo, kind))
        np.testing.assert_array_equal(pixels(result.draw(photo[:, :, ::-1], kind, color="bgr")), expected)


def test_attributes_lay_out_three_panels(result, photo, reconstructor):
    beside = result.draw(photo, "attributes", panel_side=300)
    assert beside.width > 3 * 300 and beside.height < 2 * 300
    wide = np.zeros((60, 236, 3), np.uint8)
    stacked = reconstructor.reconstruct(wide).draw(wide, "attributes", panel_side=300)
    assert stacked.width < 2 * 300


def test_views_are_right_handed_and_show_depth(result):
    """The right view has depth along x and height along y; the top view has x along x and depth upwards."""
    for view in (FRONT, RIGHT, TOP):
        rotation = np.array(view.rotation)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert abs(rotation[0, view.axes[0]]) == 1 and abs(rotation[1, view.axes[1]]) == 1
    np.testing.assert_array_equal(np.array(RIGHT.rotation) @ [0, 0, 1], [1, 0, 0])  # far away: at the right
    np.testing.assert_array_equal(np.array(TOP.rotation) @ [0, 0, 1], [0, -1, 0])  # far away: at the top
    sheet = result.draw(kind="views", sheet_side=700)
    assert max(sheet.size) < 700 + 300


def test_wrong_kind_and_wrong_photo(result, photo):
    with pytest.raises(ValueError, match="'kind' must be 'overlay', 'attributes' or 'views', not 'poster'"):
        result.draw(photo, "poster")
    with pytest.raises(ValueError, match=r"'image' is 235 x 180 pixels, but the result is of a photo of \(236, 180\)"):
        result.draw(photo[:, 1:])
    assert isinstance(result.draw(photo), PIL.Image.Image)
