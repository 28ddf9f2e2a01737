"""The stored mesh drawn and split is the refined mesh drawn, and what it shows has the refined mesh's colours."""

import numpy as np
import pytest
from builders import synthetic_arrays

from wm3dr import Camera, _native
from wm3dr.dense import DenseFaces, interpolate, rasterize, rasterize_faces
from wm3dr.face_model import write_face_model

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


@pytest.fixture(scope="module")
def stored(face_model, vertices):
    return np.ascontiguousarray(vertices[:, : face_model.n_stored])


def test_stored_vertices_are_the_first(face_model, vertices, stored):
    native = face_model.native
    np.testing.assert_array_equal(native.refine(stored, 2), vertices)
    normals = native.stored_normals(stored, 2)
    np.testing.assert_array_equal(normals, native.normals(vertices, 1)[:, : face_model.n_stored])


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_picture(face_model, vertices, stored, threads):
    assert len(face_model.triangles) == 4 * len(face_model.stored_triangles)
    whole = rasterize(vertices, face_model.triangles, CAMERA, threads)
    split = rasterize_faces(stored, face_model, CAMERA, threads)
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


def test_all_four_parts(face_model, stored):
    split = rasterize_faces(stored, face_model, CAMERA, 1)
    seen = np.bincount(split.triangle_id[split.triangle_id >= 0] % 4, minlength=4)
    assert seen.min() > 0.2 * seen.max()


def test_a_model_without_refinement(face_model, stored):
    assert face_model.metadata.subdivisions == 1
    triangles = face_model.stored_triangles
    np.testing.assert_array_equal(triangles[:, 0], face_model.triangles[0::4, 0])
    arguments = (stored, triangles, CAMERA.focal, CAMERA.principal_point, CAMERA.size, 1)
    plain, split = _native.rasterize(*arguments), _native.rasterize(*arguments, split=True)
    hit = plain[0] >= 0
    np.testing.assert_array_equal(split[0][hit] // 4, plain[0][hit])
    np.testing.assert_array_equal(split[2], plain[2])


def drawn(face_model, stored, albedo, illumination, threads=1):
    normals = face_model.native.stored_normals(stored, threads)
    view = (CAMERA.focal, CAMERA.principal_point, CAMERA.size, threads)
    return face_model.native.render(stored, normals, albedo, illumination, *view)


@pytest.fixture(scope="module")
def colors(face_model):
    """Coefficients of albedo and light; some colours are clipped."""
    rng = np.random.default_rng(9)
    albedo = rng.normal(0, 1, (2, face_model.widths["albedo"])).astype(np.float32)
    light = rng.normal(0, 0.3, (2, 3, 9)).astype(np.float32)
    light[:, :, 0] += 0.8
    return albedo, light


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_what_is_seen_has_the_colors_of_the_vertices(face_model, vertices, stored, colors, threads):
    native, (albedo, light) = face_model.native, colors
    maps, picture = drawn(face_model, stored, albedo, light, threads)
    alone = rasterize_faces(stored, face_model, CAMERA, 1)
    for got, expected in zip(maps, vars(alone).values(), strict=True):
        np.testing.assert_array_equal(got, expected)
    whole = _native.colors(native.albedos(albedo, 1), native.normals(vertices, 1), light, 1)
    assert (whole == 0).any() and (whole == 1).any()
    expected = np.rint(interpolate(alone, face_model.triangles, whole, 1) * np.float32(255)).astype(np.uint8)
    np.testing.assert_array_equal(picture, expected)
    empty = alone.triangle_id < 0
    assert empty.any() and not picture[empty].any()


def test_a_model_that_is_not_refined_has_colors_too(tmp_path, colors):
    """The same for a mesh that is drawn as it is stored."""
    model, (_, light) = write_face_model(tmp_path / "plain.safetensors", *synthetic_arrays(subdivisions=0)), colors
    assert model.n_stored == model.n_vertices
    rng = np.random.default_rng(2)
    camera = Camera(60.0, (16.0, 12.0), (32, 24))
    faces = DenseFaces(
        model,
        identity=np.zeros((1, model.widths["identity"]), np.float32),
        expression=np.zeros((1, model.widths["expression"]), np.float32),
        albedo=rng.normal(0, 1, (1, model.widths["albedo"])).astype(np.float32),
        illumination=light[:1],
        rotations=np.diag(np.float32([1, -1, -1]))[None],
        translations=np.float32([[0, 0, 4 * np.ptp(model.mean_shape)]]),
        camera=camera,
        threads=1,
    )
    picture = faces.raster_color
    carried = interpolate(faces.raster, model.triangles, faces.colors, 1)
    assert picture.any()
    np.testing.assert_array_equal(picture, np.rint(carried * np.float32(255)).astype(np.uint8))


def test_what_is_drawn_must_fit(face_model, stored, colors):
    albedo, light = colors
    with pytest.raises(ValueError, match="'albedo' has a non-finite value at flat index 4"):
        drawn(face_model, stored, np.where(np.arange(albedo.size).reshape(albedo.shape) == 4, np.nan, albedo), light)
    with pytest.raises(ValueError, match="'albedo' has shape"):
        drawn(face_model, stored, albedo[:1], light)
    with pytest.raises(ValueError, match="'illumination' has shape"):
        drawn(face_model, stored, albedo, light[:1])
    normals, view = np.zeros_like(stored), (CAMERA.focal, CAMERA.principal_point, CAMERA.size, 1)
    with pytest.raises(ValueError, match="'normals' has shape"):
        face_model.native.render(stored, normals[:, 1:].copy(), albedo, light, *view)
    with pytest.raises(ValueError, match="'normals' has a non-finite value"):
        face_model.native.render(stored, normals * np.float32(np.nan), albedo, light, *view)
    with pytest.raises(ValueError, match="'stored' has shape"):
        face_model.native.refine(stored[:, 1:].copy(), 1)
