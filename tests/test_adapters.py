"""Results handed to supervision, Rerun and trimesh themselves, and read back from them."""

import sys
import warnings

import numpy as np
import pytest

from wm3dr.adapters import log_rerun, to_key_points, to_supervision


@pytest.fixture(scope="module")
def empty(reconstructor):
    return reconstructor.reconstruct(np.zeros((64, 96, 3), np.uint8))


@pytest.fixture(scope="module")
def sv():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that OpenCV is absent, which nothing here needs
        return pytest.importorskip("supervision", reason="no supervision: pip install 'wm3dr[supervision]'")


def test_supervision_detections(sv, result):
    detections = result.to_supervision(masks=True)
    assert isinstance(detections, sv.Detections) and len(detections) == 3
    np.testing.assert_array_equal(detections.xyxy, [face.box for face in result])
    np.testing.assert_array_equal(detections.confidence, np.float32([face.score for face in result]))
    assert detections.data["class_name"].tolist() == ["face"] * 3 and detections.class_id.tolist() == [0] * 3
    second = detections[detections.data["yaw"] == np.float32(result[1].pose.yaw)]
    assert len(second) == 1  # filtering takes everything along
    np.testing.assert_array_equal(second.data["landmarks"][0], result[1].landmarks)
    np.testing.assert_array_equal(second.data["translation"][0], result[1].translation)
    np.testing.assert_array_equal(second.mask[0], result.render().face_id == 1)
    assert detections.mask.any(axis=(1, 2)).all() and detections.mask.sum(axis=0).max() == 1
    assert result.to_supervision().mask is None


def test_supervision_key_points(sv, result):
    points = result.to_key_points()
    assert isinstance(points, sv.KeyPoints) and points.xy.shape == (3, 68, 2)
    np.testing.assert_array_equal(points.xy[2], result[2].landmarks)
    np.testing.assert_array_equal(points.data["score"], np.float32([face.score for face in result]))


def test_supervision_draws_them(sv, result, photo):
    """Its annotators take boxes and points as they are: corners of boxes and landmarks inside the photo turn white."""
    height, width = photo.shape[:2]
    drawn = sv.BoxAnnotator(thickness=1, color=sv.Color.WHITE).annotate(np.array(photo), result.to_supervision())
    corners = [(x, y) for face in result for x in face.box[::2] for y in face.box[1::2]]
    corners = [(int(x), int(y)) for x, y in corners if 2 < x < width - 3 and 2 < y < height - 3]
    assert corners and all((drawn[y - 1 : y + 2, x - 1 : x + 2] == 255).all(axis=-1).any() for x, y in corners)
    drawn = sv.VertexAnnotator(radius=1, color=sv.Color.WHITE).annotate(np.zeros_like(photo), to_key_points(result))
    points = np.concatenate([face.landmarks for face in result]).astype(int)
    points = points[(points >= 1).all(axis=1) & (points < (width - 1, height - 1)).all(axis=1)]
    assert len(points) > 20 and (drawn[points[:, 1], points[:, 0]] == 255).all()


def test_supervision_of_no_face(sv, empty):
    assert len(to_supervision(empty, masks=True)) == 0 and to_supervision(empty, masks=True).mask.shape == (0, 64, 96)
    assert to_key_points(empty).xy.shape == (0, 68, 2)


def test_trimesh(result, face_model):
    """Watched for order, frame and units: the vertices of trimesh, turned back, are the camera's."""
    mesh = result[1].to_trimesh()
    np.testing.assert_array_equal(mesh.vertices * [1, -1, -1], result[1].vertices)
    np.testing.assert_array_equal(mesh.faces, face_model.triangles)
    np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], np.rint(result[1].colors * 255))


def chunks_of(path):
    """Entity path -> {column: value of the last row} of a Rerun recording."""
    chunk = pytest.importorskip("rerun.chunk", reason="no rerun with a reader of recordings: pip install -U rerun-sdk")
    found: dict[str, dict[str, object]] = {}
    for part in chunk.RrdReader(path).stream():
        batch = part.to_record_batch()
        values = found.setdefault(part.entity_path, {})
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values[name] = column[-1].as_py()
    return found


@pytest.fixture
def recording(tmp_path):
    rr = pytest.importorskip("rerun", reason="no rerun: pip install 'wm3dr[rerun]'")
    stream = rr.RecordingStream("wm3dr_test")
    stream.save(tmp_path / "scene.rrd")
    return stream


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rerun_recording(result, photo, recording, tmp_path):
    """What stands in the file: the camera's matrix, boxes, landmarks, and vertices that project onto their pixels."""
    result.log_rerun(photo, recording=recording, entity="/group/")
    recording.disconnect()
    found = chunks_of(tmp_path / "scene.rrd")
    assert {f"/group/faces/{k}" for k in range(3)} | {"/group/camera", "/group/camera/image"} <= set(found)
    pinhole = found["/group/camera"]
    matrix = np.reshape(pinhole["Pinhole:image_from_camera"], (3, 3)).T  # columns first
    np.testing.assert_allclose(matrix, result.camera.matrix, rtol=1e-6)
    assert np.ravel(pinhole["Pinhole:resolution"]).tolist() == [236, 180]
    right_down_forward = [3, 2, 5]
    assert np.ravel(found["/group"]["ViewCoordinates:xyz"]).tolist() == right_down_forward
    assert np.ravel(pinhole["Pinhole:camera_xyz"]).tolist() == right_down_forward
    for face in result:
        mesh = found[f"/group/faces/{face.index}"]
        points = np.array(mesh["Mesh3D:vertex_positions"], np.float64) @ matrix.T
        assert np.abs(points[:, :2] / points[:, 2:] - face.vertices_px).max() < 0.01
        packed = np.array(mesh["Mesh3D:vertex_colors"], np.uint32)  # 0xRRGGBBAA
        np.testing.assert_array_equal(packed >> 24, np.rint(face.colors[:, 0] * 255))
        assert np.array(mesh["Mesh3D:triangle_indices"]).shape == face.face_model.triangles.shape
        assert "Mesh3D:vertex_normals" not in mesh
    boxes = found["/group/camera/boxes"]
    centers, halves = np.array(boxes["Boxes2D:centers"]), np.array(boxes["Boxes2D:half_sizes"])
    np.testing.assert_allclose(np.hstack([centers - halves, centers + halves]), [f.box for f in result], atol=1e-3)
    landmarks = np.array(found["/group/camera/landmarks"]["Points2D:positions"])
    np.testing.assert_array_equal(landmarks.reshape(3, 68, 2)[1], result[1].landmarks)
    pixels = np.array(found["/group/camera/image"]["Image:buffer"][0], np.uint8)
    np.testing.assert_array_equal(pixels.reshape(180, 236, 3), photo)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rerun_without_faces_or_photo(empty, recording, tmp_path):
    log_rerun(empty, recording=recording)
    recording.disconnect()
    found = chunks_of(tmp_path / "scene.rrd")
    assert "/photo/camera" in found and not any(path.startswith("/photo/faces/") for path in found)
    assert found["/photo/faces"]["Clear:is_recursive"] in (True, [True])


def test_rerun_refuses(result, recording):
    import rerun

    with pytest.raises(ValueError, match=r"'image' is 8 x 9 pixels, but the result belongs to 236 x 180"):
        log_rerun(result, np.zeros((9, 8, 3), np.uint8), recording=recording)
    with pytest.raises(ValueError, match=r"'entity' must be the path of an entity like 'photo', not '/'"):
        log_rerun(result, recording=recording, entity="/")
    if rerun.get_global_data_recording() is None:
        with pytest.raises(RuntimeError, match=r"no recording: call rerun\.init"):
            log_rerun(result)


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("supervision", "supervision", lambda result: result.to_supervision()),
        ("supervision", "supervision", lambda result: result.to_key_points()),
        ("rerun", "rerun", lambda result: result.log_rerun()),
    ],
)
def test_absent_packages_are_named(result, monkeypatch, module, extra, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"'{module}' is not installed: pip install 'wm3dr\[{extra}\]'"):
        call(result)
