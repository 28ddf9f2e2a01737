"""The stored mesh drawn and split is the refined mesh drawn."""

import numpy as np
import pytest

from wm3dr import Camera, _native
from wm3dr.dense import interpolate, rasterize, rasterize_faces, render_faces

CAMERA = Camera(700.0, (75.0, 66.0), (160, 120))


@pytest.fixture(scope="module")
def vertices(face_model):
    """Two faces, one turned and partly behind the other, partly outside the image."""
    rng = np.random.default_rng(4)
    identity = rng.normal(0, 1, (2, face_model.widths["identity"])).astype(np.float32)
    expression = rng.uniform(0, 1, (2, face_model.widths["expression"])).astype(np.float32)
    translations = np.array([[20, -15, 1200], [-60, 40, 1350]], np.float32)
    rotations = _native.rotations_from_vectors(np.array([[0.2, 0.5, -0.3], [-0.4, 0.1, 0.2]], np.float32))
    return face_model.native.vertices_camera(identity, expression, rotations, translations, 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_picture(face_model, vertices, threads):
    assert len(face_model.triangles) == 4 * len(face_model.stored_triangles)
    whole = rasterize(vertices, face_model.triangles, CAMERA, threads)
    split = rasterize_faces(vertices, face_model, CAMERA, threads)
    both = (whole.triangle_id >= 0) & (split.triangle_id >= 0)
    assert both.sum() > 3000
    # Midpoints are snapped to 1/256 pixel when they are drawn: pixels on an outline may differ, a few in thousands.
    assert (whole.face_id != split.face_id).mean() < 1e-3
    same = both & (whole.face_id == split.face_id)
    assert (whole.triangle_id != split.triangle_id)[same].mean() < 0.02
    distance = np.abs(split.depth - whole.depth)[same]
    assert (distance > 0.3).mean() < 1e-3  # mm; outlines within the face
    values, expected = (interpolate(maps, face_model.triangles, vertices, threads)[same] for maps in (split, whole))
    np.testing.assert_allclose(values[distance <= 0.3], expected[distance <= 0.3], atol=0.5)
    np.testing.assert_allclose(values[:, 2], split.depth[same], rtol=1e-4)
    np.testing.assert_allclose(split.barycentric[split.triangle_id >= 0].sum(1), 1.0, atol=1e-5)
    assert split.barycentric.min() >= -1e-5


def test_all_four_parts(face_model, vertices):
    split = rasterize_faces(vertices, face_model, CAMERA, 1)
    seen = np.bincount(split.triangle_id[split.triangle_id >= 0] % 4, minlength=4)
    assert seen.min() > 0.2 * seen.max()


def test_a_model_without_refinement(face_model, vertices):
    assert face_model.metadata.subdivisions == 1
    stored = face_model.stored_triangles
    np.testing.assert_array_equal(stored[:, 0], face_model.triangles[0::4, 0])
    corners = np.ascontiguousarray(vertices[:, : stored.max() + 1])
    arguments = (corners, stored, CAMERA.focal, CAMERA.principal_point, CAMERA.size, 1)
    plain, split = _native.rasterize(*arguments), _native.rasterize(*arguments, split=True)
    hit = plain[0] >= 0
    np.testing.assert_array_equal(split[0][hit] // 4, plain[0][hit])
    np.testing.assert_array_equal(split[2], plain[2])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_colors_in_the_same_pass(face_model, vertices, threads):
    colors = np.random.default_rng(9).uniform(0, 1, vertices.shape).astype(np.float32)
    maps, picture = render_faces(vertices, colors, face_model, CAMERA, threads)
    alone = rasterize_faces(vertices, face_model, CAMERA, 1)
    for name, values in vars(alone).items():
        np.testing.assert_array_equal(getattr(maps, name), values)
    expected = np.rint(interpolate(alone, face_model.triangles, colors, 1) * np.float32(255)).astype(np.uint8)
    np.testing.assert_array_equal(picture, expected)
    empty = alone.triangle_id < 0
    assert empty.any()
    assert not picture[empty].any() and not maps.barycentric[empty].any()


def test_colors_must_fit(face_model, vertices):
    colors = np.zeros_like(vertices)
    with pytest.raises(ValueError, match="'colors' has a non-finite value at flat index 4"):
        colors[0, 1, 1] = np.nan
        render_faces(vertices, colors, face_model, CAMERA, 1)
    with pytest.raises(ValueError, match="'colors' has shape"):
        render_faces(vertices, colors[:1], face_model, CAMERA, 1)
    arguments = (CAMERA.focal, CAMERA.principal_point, CAMERA.size, 1)
    with pytest.raises(ValueError, match="'color_triangles' has shape with"):
        _native.render(vertices, face_model.triangles, face_model.triangles[:7], vertices, *arguments)
    with pytest.raises(ValueError, match="'color_triangles' has index"):
        _native.render(vertices, face_model.triangles, face_model.triangles, vertices[:, :9].copy(), *arguments)
