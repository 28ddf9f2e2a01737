"""What a result holds: shapes, frames, consistency between sparse, dense and drawn values."""

import dataclasses
import json

import numpy as np
import pytest

import wm3dr


def test_sequence(result):
    assert len(result) == 3
    assert list(result) == [result[0], result[1], result[2]]
    assert result[-1] is result.faces[2] and result[1:] == result.faces[1:]
    assert [face.index for face in result] == [0, 1, 2]


def test_shapes_and_types(result, face_model):
    n = face_model.n_vertices
    for face in result:
        for name, shape in {
            "box": (4,),
            "center": (2,),
            "landmarks": (68, 2),
            "landmarks_camera": (68, 3),
            "rotation": (3, 3),
            "translation": (3,),
            "vertices": (n, 3),
            "vertices_px": (n, 2),
            "normals": (n, 3),
            "albedo": (n, 3),
            "colors": (n, 3),
        }.items():
            array = getattr(face, name)
            assert array.shape == shape and array.dtype == np.float32, name
            assert np.isfinite(array).all(), name
        assert face.visible.shape == (n,) and face.visible.dtype == bool
        assert list(face.blendshapes) == list(face_model.expression_names)
        assert face.pose == (face.pose.yaw, face.pose.pitch, face.pose.roll)


def test_everything_is_frozen(result):
    for thing in (result, result[0], result.camera, result[0].coefficients, result.render(), result[0].mesh()):
        name = dataclasses.fields(thing)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)
    with pytest.raises(ValueError, match="read-only"):
        result[0].vertices[0] = 0


def test_sparse_and_dense_agree(result, face_model):
    for face in result:
        np.testing.assert_allclose(face.vertices[face_model.landmark_vertices], face.landmarks_camera, atol=2e-3)
        np.testing.assert_allclose(result.camera.project(face.vertices), face.vertices_px, atol=1e-3)
        x, y = face.vertices_px.T
        np.testing.assert_allclose(face.box, [x.min(), y.min(), x.max(), y.max()], atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(face.normals, axis=1), 1, atol=1e-4)


def test_frames_of_meshes(result):
    face = result[1]
    camera, opengl, model = face.mesh("camera"), face.mesh(), face.mesh("model")
    assert (camera.frame, opengl.frame, model.frame) == ("camera", "opengl", "model")
    np.testing.assert_array_equal(opengl.vertices, camera.vertices * [1, -1, -1])
    np.testing.assert_allclose(model.vertices @ face.rotation.T + face.translation, camera.vertices, atol=2e-3)
    np.testing.assert_allclose(model.normals @ face.rotation.T, camera.normals, atol=1e-5)
    for mesh in (camera, opengl, model):  # triangles face out in every frame
        a, b, c = mesh.vertices[mesh.triangles].swapaxes(0, 1)
        outward = np.einsum("tc,tc->t", np.cross(b - a, c - a), mesh.normals[mesh.triangles].mean(axis=1))
        assert (outward > 0).mean() > 0.99
    with pytest.raises(ValueError, match="'frame' must be"):
        face.mesh("world")


def test_colors_are_albedo_times_shading(result):
    """CONVENTIONS.md §6 in float64."""
    face = result[0]
    x, y, z = face.normals.astype(np.float64).T * [[1], [-1], [-1]]
    a0, a1, a2 = np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)
    c0, c1, c2 = 1 / np.sqrt(4 * np.pi), np.sqrt(3) / np.sqrt(4 * np.pi), 3 * np.sqrt(5) / np.sqrt(12 * np.pi)
    basis = [
        np.full_like(x, a0 * c0),
        -a1 * c1 * y,
        a1 * c1 * z,
        -a1 * c1 * x,
        a2 * c2 * x * y,
        -a2 * c2 * y * z,
        a2 * c2 * (3 * z**2 - 1) / (2 * np.sqrt(3)),
        -a2 * c2 * x * z,
        a2 * c2 * (x**2 - y**2) / 2,
    ]
    shading = np.stack(basis, 1) @ face.coefficients.illumination.T.astype(np.float64)
    np.testing.assert_allclose(face.colors, np.clip(face.albedo * shading, 0, 1), atol=1e-4)


def test_raster_shows_the_nearest_face(result, face_model):
    raster = result.render()
    height, width = raster.alpha.shape
    assert (width, height) == result.size
    hit = raster.face_id >= 0
    assert hit.any() and not hit.all()
    np.testing.assert_array_equal(raster.alpha, np.where(hit, 255, 0))
    np.testing.assert_array_equal(raster.triangle_id >= 0, hit)
    np.testing.assert_array_equal(raster.region >= 0, hit)
    assert (raster.depth[~hit] == 0).all() and not raster.color[~hit].any()
    for row, column in np.argwhere(hit)[::997]:
        face = result[raster.face_id[row, column]]
        corners = face_model.triangles[raster.triangle_id[row, column]]
        pixels, depths = face.vertices_px[corners], face.vertices[corners, 2]
        low, high = pixels.min(axis=0) - 1e-3, pixels.max(axis=0) + 1e-3
        assert (low <= [column + 0.5, row + 0.5]).all() and ([column + 0.5, row + 0.5] <= high).all()
        assert depths.min() - 1e-2 <= raster.depth[row, column] <= depths.max() + 1e-2
        assert raster.region[row, column] in face_model.regions[corners]
        color = face.colors[corners] * 255
        assert (color.min(axis=0) - 1 <= raster.color[row, column]).all()
        assert (raster.color[row, column] <= color.max(axis=0) + 1).all()


def test_visible_vertices(reconstructor):
    """A frontal patch is seen; what lies outside the image or behind another face is not."""
    from builders import photo_with_faces

    result = reconstructor.reconstruct(photo_with_faces((400, 320), [(25, 20, 250, 0), (31, 20, 200, 255)]))
    near, far = sorted(result, key=lambda face: face.translation[2])
    raster = result.render()
    for face in result:
        x, y = face.vertices_px.T
        outside = (x < 0) | (y < 0) | (x >= 400) | (y >= 320)
        assert not face.visible[outside].any()
    column, row = np.floor(far.vertices_px).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < 400) & (row < 320)
    covered = np.zeros(len(inside), bool)
    covered[inside] = raster.face_id[row[inside], column[inside]] == near.index
    assert covered.any() and far.visible[covered].mean() < 0.05  # but for the band of tolerance
    facing = np.einsum("nc,nc->n", far.vertices, far.normals) / np.linalg.norm(far.vertices, axis=1) < -0.3
    assert far.visible[inside & ~covered & facing].mean() > 0.97


def test_to_dict_is_json_and_complete(result):
    read = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert read["size"] == [236, 180] and read["camera"]["focal"] == 1015.0
    assert set(read["faces"][0]) == {
        "score",
        "box",
        "center",
        "landmarks",
        "landmarks_camera",
        "rotation",
        "translation",
        "pose",
        "coefficients",
        "blendshapes",
        "metric",
        "scale",
    }
    for face, stored in zip(result, read["faces"], strict=True):
        np.testing.assert_array_equal(np.float32(stored["landmarks"]), face.landmarks)  # exact float32
        np.testing.assert_array_equal(
            np.float32(stored["coefficients"]["illumination"]), face.coefficients.illumination
        )
        assert stored["pose"]["yaw"] == face.pose.yaw


def test_camera_geometry():
    camera = wm3dr.Camera(500.0, (320.0, 200.0), (640, 480))
    np.testing.assert_allclose(camera.project([[100.0, -50.0, 1000.0]]), [[370.0, 175.0]])
    np.testing.assert_allclose(camera.matrix @ [100.0, -50.0, 1000.0] / 1000, [370.0, 175.0, 1.0])
    assert camera.vertical_field_of_view == pytest.approx(np.degrees(2 * np.arctan(240 / 500)))
    assert camera.scaled(0.5) == wm3dr.Camera(250.0, (160.0, 100.0), (320, 240))
    with pytest.raises(ValueError, match="in front of the camera"):
        camera.project([[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        camera.project([1.0, 2.0])
