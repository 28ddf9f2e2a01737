"""Cameras from what people know of them, results in another camera, at a known scale, and points in every frame."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from builders import photo_with_faces
from conftest import REPOSITORY
from PIL import Image

import wm3dr
from wm3dr import Camera
from wm3dr.frames import FRAMES, change_frame
from wm3dr.placement import _same_pixel_and_size, interpupillary_mm

FOCAL_LENGTH, FOCAL_35MM, PIXELS_X, PIXELS_Y, PLANE_X, PLANE_UNIT = 0x920A, 0xA405, 0xA002, 0xA003, 0xA20E, 0xA210
ORIENTATION = 0x0112


# Cameras


def test_fields_of_view():
    assert Camera.from_fov((640, 480), horizontal=90).focal == pytest.approx(320)
    camera = Camera.from_fov((640, 480), vertical=60.0)
    assert camera == Camera(240 / np.tan(np.radians(30)), (320.0, 240.0), (640, 480))
    assert camera.vertical_field_of_view == pytest.approx(60)
    assert Camera.from_fov((300, 400), diagonal=53.130102354).focal == pytest.approx(500)  # 2 atan(1/2)
    assert Camera.from_fov((640, 480), horizontal=70).horizontal_field_of_view == pytest.approx(70)
    shifted = Camera.from_fov((640, 480), horizontal=90, principal_point=(300.0, 250.0))
    assert shifted.principal_point == (300.0, 250.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "one of 'horizontal', 'vertical', 'diagonal' must be given, not 0"),
        ({"horizontal": 50, "vertical": 40}, TypeError, "must be given, not 2"),
        ({"horizontal": 180}, ValueError, "'horizontal' must be between 0 and 180 degrees, not 180"),
        ({"diagonal": float("nan")}, ValueError, "'diagonal' must be between 0 and 180 degrees, not nan"),
        ({"vertical": "50"}, TypeError, r"'vertical' must be a number \(degrees\), not str"),
    ],
)
def test_bad_fields_of_view(options, error, message):
    with pytest.raises(error, match=message):
        Camera.from_fov((640, 480), **options)
    with pytest.raises(ValueError, match="camera 'size'"):
        Camera.from_fov((0, 480), horizontal=50)


def test_matrices():
    camera = Camera(812.5, (321.25, 199.5), (640, 400))
    assert Camera.from_matrix(camera.matrix, (640, 400)) == camera
    # OpenCV counts from the centre of the first pixel: the same ray is half a pixel further in our coordinates.
    opencv = [[812.5, 0, 320.75], [0, 812.5, 199.0], [0, 0, 1]]
    assert Camera.from_matrix(opencv, (640, 400), pixel_origin="center") == camera
    nearly_square = Camera.from_matrix([[800, 0, 320], [0, 804, 200], [0, 0, 1]], (640, 400))
    assert nearly_square.focal == pytest.approx(np.sqrt(800 * 804))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(4), r"'matrix' must be \(3, 3\) and finite, not of shape \(4, 4\)"),
        (np.full((3, 3), np.nan), "finite"),
        ([[800, 0, 320], [0, 900, 200], [0, 0, 1]], "f_x = 800 and f_y = 900: resize the photo to square pixels"),
        ([[800, 5, 320], [0, 800, 200], [0, 0, 1]], "has skew 5"),
        ([[-800, 0, 320], [0, 800, 200], [0, 0, 1]], "with f > 0"),
        ([[800, 0, 0], [0, 800, 0], [320, 200, 1]], r"must be \[\[f_x, 0, c_x\]"),  # transposed
    ],
)
def test_bad_matrices(matrix, message):
    with pytest.raises(ValueError, match=message):
        Camera.from_matrix(matrix, (640, 400))


def test_bad_pixel_origin():
    with pytest.raises(ValueError, match="'pixel_origin' must be 'corner' or 'center', not 'opencv'"):
        Camera.from_matrix(np.eye(3), (640, 400), pixel_origin="opencv")


def photo_file(size, tags, orientation=None) -> bytes:
    """A JPEG file with these tags of the EXIF sub-directory."""
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    exif.get_ifd(0x8769).update(tags)
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 90, 90)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_exif_focal_lengths(tmp_path):
    # A 3:2 photo at 50 mm of 35-mm film: 36 mm are its width.
    content = photo_file((600, 400), {FOCAL_35MM: 50})
    expected = Camera(50 / 36 * 600, (300.0, 200.0), (600, 400))
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with Image.open(path) as image:
        for source in (content, path, str(path), image):
            camera = Camera.from_exif(source)
            assert camera.focal == pytest.approx(expected.focal) and camera.size == (600, 400)
            assert camera.principal_point == expected.principal_point
    # Of 4:3 the diagonal counts (CIPA DCG-001).
    four_by_three = Camera.from_exif(photo_file((400, 300), {FOCAL_35MM: 26}))
    assert four_by_three.focal == pytest.approx(26 * 500 / np.hypot(36, 24))
    # Reduced after it was taken: the same angle.
    reduced = Camera.from_exif(photo_file((600, 400), {FOCAL_35MM: 50, PIXELS_X: 6000, PIXELS_Y: 4000}))
    assert reduced.focal == pytest.approx(expected.focal)


def test_exif_orientation_turns_the_size():
    content = photo_file((600, 400), {FOCAL_35MM: 50}, orientation=6)
    camera = Camera.from_exif(content)
    assert camera.size == (400, 600) and camera.principal_point == (200.0, 300.0)
    assert camera.focal == pytest.approx(50 / 36 * 600)
    assert Camera.from_exif(Image.open(io.BytesIO(content))).size == (600, 400)  # PIL images are taken as they are
    assert wm3dr.image.read_rgb(content).shape == (600, 400, 3)


def test_exif_focal_plane_resolution():
    # 24 mm at 2400 pixels an inch, reduced to a tenth.
    tags = {FOCAL_LENGTH: 24.0, PLANE_X: 2400.0, PLANE_UNIT: 2, PIXELS_X: 6000, PIXELS_Y: 4000}
    assert Camera.from_exif(photo_file((600, 400), tags)).focal == pytest.approx(24 / 25.4 * 2400 / 10)
    tags |= {PLANE_UNIT: 3}
    assert Camera.from_exif(photo_file((600, 400), tags)).focal == pytest.approx(2.4 * 2400 / 10)


@pytest.mark.parametrize(
    "tags", [{}, {FOCAL_35MM: 0}, {FOCAL_LENGTH: 24.0}, {FOCAL_LENGTH: 24.0, PLANE_X: 2400.0, PLANE_UNIT: 2}]
)
def test_exif_without_a_focal_length(tags):
    with pytest.raises(ValueError, match="have no 35-mm equivalent focal length"):
        Camera.from_exif(photo_file((600, 400), tags))


def test_exif_of_what_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"was cropped after it was taken: 400 x 400 pixels, 6000 x 4000"):
        Camera.from_exif(photo_file((400, 400), {FOCAL_35MM: 50, PIXELS_X: 6000, PIXELS_Y: 4000}))
    with pytest.raises(FileNotFoundError, match="'image': no such file"):
        Camera.from_exif(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="is not an image that Pillow reads"):
        Camera.from_exif(b"no image")
    with pytest.raises(TypeError, match=r"'image' must be a path, .* not ndarray"):
        Camera.from_exif(np.zeros((4, 4, 3), np.uint8))


def test_projection_and_back():
    camera = Camera(812.5, (321.25, 199.5), (640, 400))
    points = np.random.default_rng(0).uniform([-500, -400, 300], [500, 400, 3000], (2, 50, 3))
    image = np.concatenate([camera.project(points), points[..., 2:]], axis=-1)
    np.testing.assert_allclose(camera.unproject(image), points, rtol=1e-12)
    with pytest.raises(ValueError, match=r"'points' has shape \(2,\), not"):
        camera.unproject([1.0, 2.0])
    with pytest.raises(ValueError, match="not in front of the camera"):
        camera.unproject([1.0, 2.0, 0.0])


# Another camera


def landmark_residual(result, other):
    """Root mean square of the landmarks' moves, % of the diagonal of the box, by face."""
    moves = [np.sqrt(((b.landmarks - a.landmarks) ** 2).sum(1).mean()) for a, b in zip(result, other, strict=True)]
    return 100 * np.array(moves) / [np.linalg.norm(face.box[2:] - face.box[:2]) for face in result]


def test_another_camera_keeps_shape_and_landmarks(reconstructor, photo, result):
    camera = Camera(640.0, (100.0, 95.0), (236, 180))
    other = result.with_camera(camera)
    assert other.camera == camera and other.timings == result.timings and not other.metric
    at_once = reconstructor.reconstruct(photo, camera)
    for face, before, same in zip(other, result, at_once, strict=True):
        np.testing.assert_array_equal(face.translation, same.translation)
        np.testing.assert_array_equal(face.landmarks, same.landmarks)
        np.testing.assert_array_equal(face.vertices_in("model"), before.vertices_in("model"))
        assert (face.score, face.center.tolist()) == (before.score, before.center.tolist())
        np.testing.assert_allclose(camera.project(face.vertices), face.vertices_px, atol=1e-3)
        x, y = face.vertices_px.T
        np.testing.assert_allclose(face.box, [x.min(), y.min(), x.max(), y.max()], atol=2e-3)
    assert result.with_camera(result.camera) is result


def test_the_translation_is_that_of_least_landmark_residual(result):
    """No small step in any direction brings the landmarks nearer to their pixels; the closed form is improved on."""
    camera = Camera(700.0, (130.0, 80.0), (236, 180))
    start = _same_pixel_and_size(result.dense.translations.astype(float), result.camera, camera)
    for index, (face, before) in enumerate(zip(result.with_camera(camera), result, strict=True)):
        turned = face.vertices_in("model")[result.face_model.landmark_vertices].astype(float) @ face.rotation.T

        def residual(t, turned=turned, before=before):
            return ((camera.project(turned + t) - before.landmarks) ** 2).sum()

        best = residual(face.translation)
        for step in np.concatenate([np.eye(3), -np.eye(3)]):
            assert residual(face.translation + 0.2 * step) > best
        assert best < residual(start[index])


@pytest.mark.parametrize(
    ("factor", "median", "worst"), [(0.5, 0.8, 2.4), (0.7, 0.3, 1.0), (1.5, 0.2, 0.6), (3, 0.3, 1)]
)
def test_accuracy_on_real_faces(solvay, factor, median, worst):
    """What docs/cameras.md promises, with room for other weights: % of the box's diagonal."""
    camera = Camera(factor * solvay.camera.focal, solvay.camera.principal_point, solvay.size)
    other = solvay.with_camera(camera)
    residual = landmark_residual(solvay, other)
    assert np.median(residual) < median and residual.max() < worst
    depth = np.array([b.translation[2] / a.translation[2] for a, b in zip(solvay, other, strict=True)])
    np.testing.assert_allclose(depth, factor, rtol=0.15)
    back = other.with_camera(solvay.camera)
    moved = np.linalg.norm(back.dense.translations - solvay.dense.translations, axis=1)
    assert (moved < 0.015 * solvay.dense.translations[:, 2]).all()


@pytest.fixture(scope="module")
def solvay():
    return wm3dr.reconstruct(REPOSITORY / "docs" / "photos" / "solvay_1927.jpg")


def test_bad_cameras_are_named(reconstructor, photo, result):
    for take in (result.with_camera, lambda camera: reconstructor.reconstruct(photo, camera)):
        with pytest.raises(ValueError, match=r"'camera' has size \(180, 236\), but the image is \(236, 180\)"):
            take(Camera(640.0, (100.0, 95.0), (180, 236)))
        with pytest.raises(ValueError, match=r"'camera' has a focal length of 20 px, at which face \d would stand at"):
            take(Camera(20.0, (118.0, 90.0), (236, 180)))
        with pytest.raises(TypeError, match=r"'camera' must be a wm3dr\.Camera or None, not float"):
            take(640.0)


def test_no_face_takes_any_camera(reconstructor):
    empty = reconstructor.reconstruct(np.zeros((50, 70, 3), np.uint8))
    camera = Camera(20.0, (35.0, 25.0), (70, 50))
    assert empty.with_camera(camera).camera == camera and len(empty.with_camera(camera)) == 0
    assert not empty.with_scale(63.0).metric


# A known scale


def test_results_are_not_metric_by_themselves(result):
    assert not result.metric and not any(face.metric for face in result)
    assert [face.scale for face in result] == [1.0] * 3
    assert result.to_dict()["metric"] is False and result.to_dict()["faces"][0]["scale"] == 1.0


def test_the_distance_between_the_eyes_sets_the_scale(reconstructor, photo, result):
    scaled = result.with_scale(63.0)
    assert scaled.metric and all(face.metric for face in scaled)
    for face, before in zip(scaled, result, strict=True):
        assert face.ipd_mm == pytest.approx(63.0) and face.scale == pytest.approx(63.0 / before.ipd_mm)
        for name in ("translation", "landmarks_camera", "vertices"):
            np.testing.assert_allclose(getattr(face, name), face.scale * getattr(before, name), rtol=2e-6, atol=2e-3)
        np.testing.assert_allclose(
            face.vertices_in("model"), face.scale * before.vertices_in("model"), rtol=1e-6, atol=1e-4
        )
        for name in ("landmarks", "vertices_px", "box"):  # what the photo shows stays
            np.testing.assert_allclose(getattr(face, name), getattr(before, name), atol=2e-3)
        for name in ("rotation", "pose"):
            np.testing.assert_array_equal(getattr(face, name), getattr(before, name))
        np.testing.assert_allclose(face.normals, before.normals, atol=1e-4)
        stored = scaled.to_dict()["faces"][face.index]
        assert stored["metric"] is True and stored["scale"] == pytest.approx(face.scale)
    at_once = reconstructor.reconstruct(photo, ipd_mm=63.0)
    np.testing.assert_array_equal(at_once[1].vertices, scaled[1].vertices)
    assert at_once.metric and scaled.with_camera(Camera(900.0, (118.0, 90.0), (236, 180))).metric


def test_the_eyes_are_the_midpoints_of_their_corners(result, face_model):
    identity = np.stack([face.coefficients.identity for face in result])
    shape = face_model.native.shapes(identity, np.zeros((3, face_model.widths["expression"]), np.float32), 1)
    corners = shape[:, face_model.landmark_vertices[[36, 39, 42, 45]]].astype(np.float64)
    expected = np.linalg.norm(corners[:, :2].mean(axis=1) - corners[:, 2:].mean(axis=1), axis=1)
    np.testing.assert_allclose(interpupillary_mm(face_model, identity), expected, rtol=1e-5)
    np.testing.assert_allclose([face.ipd_mm for face in result], expected, rtol=1e-5)


def test_the_face_model_has_human_eyes(solvay):
    assert all(55 < face.ipd_mm < 72 for face in solvay)  # adults: 63 ± 4 mm


def test_scales_of_single_faces(result):
    each = result.with_scale([60.0, 63.0, 66.0])
    assert [round(face.ipd_mm, 3) for face in each] == [60.0, 63.0, 66.0] and each.metric
    some = result.with_scale({1: 70.0})
    assert [face.metric for face in some] == [False, True, False] and not some.metric
    assert some[0].scale == 1.0 and some[1].ipd_mm == pytest.approx(70.0)
    np.testing.assert_array_equal(some[0].vertices, result[0].vertices)
    # Given again, a size replaces the first; it is not multiplied.
    twice = result.with_scale(50.0).with_scale({1: 70.0})
    assert [round(face.ipd_mm, 3) for face in twice] == [50.0, 70.0, 50.0] and twice.metric
    np.testing.assert_allclose(twice[1].translation, some[1].translation, rtol=1e-6)


def test_scale_reaches_depth_and_who_hides_whom(reconstructor):
    result = reconstructor.reconstruct(photo_with_faces((400, 320), [(25, 20, 250, 0), (31, 20, 200, 255)]))
    near, far = sorted(result, key=lambda face: face.translation[2])
    raster = result.render()
    level = 31.0 * (far.translation[2] / far.ipd_mm) / (near.translation[2] / near.ipd_mm)  # here both stand as far
    scaled = result.with_scale({far.index: 31.0, near.index: 1.25 * level})
    assert scaled[far.index].translation[2] < scaled[near.index].translation[2]  # a small face that stands nearer
    other = scaled.render()
    np.testing.assert_array_equal(other.face_id >= 0, raster.face_id >= 0)
    swapped = (raster.face_id == near.index) & (other.face_id == far.index)
    assert swapped.sum() > 500
    for face in result:
        same = (raster.face_id == face.index) & (other.face_id == face.index)
        np.testing.assert_allclose(other.depth[same], scaled[face.index].scale * raster.depth[same], rtol=1e-3)


def test_scale_reaches_the_files(result, tmp_path):
    scaled = result.with_scale(70.0)
    for name, given, unit in (("plain", result, "m, scale of the face model"), ("scaled", scaled, "m")):
        given.save(tmp_path / f"{name}.glb")
        content = (tmp_path / f"{name}.glb").read_bytes()
        document = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
        assert document["asset"]["extras"]["unit"] == unit
        nodes = [node for node in document["nodes"] if node["name"].startswith("face_")]
        for node, face in zip(nodes, given, strict=True):
            assert node["extras"]["metric"] is given.metric
            np.testing.assert_allclose(node["translation"], face.translation * [1, -1, -1] / 1000, rtol=1e-6)
        given.save(tmp_path / f"{name}.obj")
        first = (tmp_path / f"{name}.obj").read_text().split("\n", 1)[0]
        assert ("scale of the face model" in first or "face model's scale" in first) is not given.metric


@pytest.mark.parametrize(
    ("ipd_mm", "error", "message"),
    [
        (6.3, ValueError, r"'ipd_mm' must be between 30 and 90 mm \(adults: about 63\), not 6.3"),
        (float("nan"), ValueError, "not nan"),
        ("63", TypeError, "'ipd_mm' must be millimetres"),
        (True, TypeError, "'ipd_mm' must"),
        ([63.0, 63.0], ValueError, r"'ipd_mm' has shape \(2,\), but there are 3 faces"),
        ([63.0, 63.0, 630.0], ValueError, "not 630"),
        ({3: 63.0}, ValueError, "'ipd_mm' names face 3, but there are 3, counted from 0"),
        ({"0": 63.0}, TypeError, "'ipd_mm' has the key '0'"),
        ({0: "63"}, TypeError, "'ipd_mm' must hold millimetres, not '63'"),
    ],
)
def test_bad_sizes_are_named(result, ipd_mm, error, message):
    with pytest.raises(error, match=message):
        result.with_scale(ipd_mm)


def test_bad_size_is_refused_before_the_work(reconstructor):
    with pytest.raises(ValueError, match="'ipd_mm' must be between 30 and 90 mm"):
        reconstructor.reconstruct("missing.jpg", ipd_mm=3.0)


# Frames


def test_vertices_in_every_frame(result):
    for face in result.with_scale(70.0):
        camera = face.vertices_in("camera").astype(np.float64)
        np.testing.assert_array_equal(camera, face.vertices)
        np.testing.assert_array_equal(face.vertices_in("opengl"), camera * [1, -1, -1])
        np.testing.assert_array_equal(face.vertices_in("opengl"), face.mesh().vertices)
        np.testing.assert_allclose(
            face.vertices_in("model") @ face.rotation.T + face.translation, camera, rtol=1e-6, atol=2e-3
        )
        image = face.vertices_in("image")
        np.testing.assert_array_equal(image[:, :2], face.vertices_px)
        np.testing.assert_array_equal(image[:, 2], camera[:, 2])
        np.testing.assert_allclose(result.camera.unproject(image), camera, rtol=1e-5, atol=1e-2)
        for frame in FRAMES:
            assert face.vertices_in(frame).shape == camera.shape and face.vertices_in(frame).dtype == np.float32


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FRAMES, FRAMES)))
def test_frames_there_and_back(result, source, target):
    face = result[1]
    points = face.vertices_in(source)[::7]
    carried = face.change_frame(points, source, target)
    # float32 vertices: an ulp at 1000 mm is 6e-5, times the rounding of some sums
    np.testing.assert_allclose(carried, face.vertices_in(target)[::7], rtol=1e-5, atol=5e-3)
    np.testing.assert_allclose(face.change_frame(carried, target, source), points, rtol=1e-9, atol=1e-8)


def test_axes_point_where_the_table_says():
    """A frontal face on the optical axis: the model's left is image right, its up is image up, its front is nearer."""
    view = {
        "rotation": np.diag([1.0, -1.0, -1.0]),
        "translation": [0.0, 0.0, 1000.0],
        "camera": Camera(500.0, (320.0, 240.0), (640, 480)),
    }
    axes = 100.0 * np.eye(3)
    np.testing.assert_allclose(
        change_frame(axes, "model", "camera", **view), [[100, 0, 1000], [0, -100, 1000], [0, 0, 900]]
    )
    np.testing.assert_allclose(
        change_frame(axes, "model", "opengl", **view), [[100, 0, -1000], [0, 100, -1000], [0, 0, -900]]
    )
    np.testing.assert_allclose(
        change_frame(axes, "model", "image", **view), [[370, 240, 1000], [320, 190, 1000], [320, 240, 900]]
    )


def test_bad_frames_are_named(result):
    face = result[0]
    for frame in ("viewer", "world", None):
        with pytest.raises(ValueError, match="'frame' must be 'model', 'camera', 'opengl' or 'image', not"):
            face.vertices_in(frame)
    with pytest.raises(ValueError, match="'target' must be"):
        face.change_frame(np.zeros(3), "model", "opencv")
    with pytest.raises(ValueError, match=r"'points' has shape \(4,\), not"):
        face.change_frame(np.zeros(4), "model", "camera")
    with pytest.raises(ValueError, match="not in front of the camera"):
        face.change_frame(np.zeros(3), "image", "camera")
    with pytest.raises(ValueError, match="'frame' must be 'opengl', 'camera' or 'model', not 'image'"):
        face.mesh("image")  # pixels and millimetres make no mesh with normals


def test_the_frames_are_those_of_the_conventions():
    text = (REPOSITORY / "CONVENTIONS.md").read_text()
    assert all(f"| `{frame}` |" in text for frame in FRAMES)


def test_results_stay_frozen(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.with_scale(63.0).camera = None
