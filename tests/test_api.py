"""The whole way from an array to faces, against a float64 twin of CONVENTIONS.md."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from builders import FOCAL, K_ALBEDO, K_EXPRESSION, K_IDENTITY, photo_with_faces, planted_rows, synthetic_arrays

import wm3dr

CELLS = [(9, 7, 0 / 255), (22, 15, 128 / 255), (3, 18, 255 / 255)]
FLIP = np.diag([1.0, -1.0, -1.0])


def rotation_from_vector(vector):
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def ray(translation):
    x, y, z = translation / np.linalg.norm(translation)
    s = 1 / (1 + z)
    return np.array([[1 - s * x * x, -s * x * y, x], [-s * x * y, 1 - s * y * y, y], [-x, -y, z]])


def twin(column, row, green, size, scale=1.0):
    """Rotation, translation, model-frame coarse vertices of a planted face (CONVENTIONS.md §3-5), float64."""
    base, slope = (part.astype(np.float64) for part in planted_rows())
    coefficients = base + green * slope
    ends = np.cumsum([K_IDENTITY, K_EXPRESSION, K_ALBEDO, 3, 27, 3])
    identity, expression, albedo, vector, illumination, offset = np.split(coefficients, ends[:-1])
    arrays = synthetic_arrays()[1]
    vertices = (
        arrays["mean_shape"]
        + arrays["identity_basis"].astype(np.float64) @ identity
        + arrays["expression_basis"].astype(np.float64) @ expression
    )
    z = 100 * (10 + offset[2])
    center = np.array([(column + 0.5) * 8, (row + 0.5) * 8])
    xy = z * (offset[:2] + center - np.array(size) * scale / 2) / FOCAL
    translation = np.array([*xy, z])
    rotation = ray(translation) @ rotation_from_vector(vector) @ FLIP
    gamma = illumination.reshape(3, 9) + np.array([0.8] + 8 * [0])
    return rotation, translation, vertices, gamma, (identity, expression, albedo)


def test_faces_are_those_of_the_float64_twin(result, photo):
    size = (photo.shape[1], photo.shape[0])
    assert result.size == size
    assert result.camera == wm3dr.Camera(FOCAL, (118.0, 90.0), size)
    assert [round(face.score, 3) for face in result] == [round(red / 255, 3) for red in (250, 200, 160)]
    for face, (column, row, green) in zip(result, CELLS, strict=True):
        rotation, translation, vertices, gamma, groups = twin(column, row, green, size)
        np.testing.assert_allclose(face.rotation, rotation, atol=2e-6)
        np.testing.assert_allclose(face.translation, translation, rtol=1e-5, atol=1e-3)
        camera = vertices @ rotation.T + translation
        pixels = camera[:, :2] / camera[:, 2:] * FOCAL + np.array(size) / 2
        n = len(vertices)  # refinement keeps the coarse vertices and their numbers
        np.testing.assert_allclose(face.vertices[:n], camera, rtol=1e-5, atol=2e-3)
        np.testing.assert_allclose(face.vertices_px[:n], pixels, atol=2e-3)
        landmarks = synthetic_arrays()[1]["landmark_vertices"]
        np.testing.assert_allclose(face.landmarks, pixels[landmarks], atol=2e-3)
        np.testing.assert_allclose(face.landmarks_camera, camera[landmarks], rtol=1e-5, atol=2e-3)
        np.testing.assert_allclose(face.box, [*pixels.min(axis=0), *pixels.max(axis=0)], atol=5e-3)
        np.testing.assert_allclose(face.center, [(column + 0.5) * 8, (row + 0.5) * 8])
        np.testing.assert_allclose(face.coefficients.illumination, gamma, atol=1e-6)
        for name, values in zip(("identity", "expression", "albedo"), groups, strict=True):
            np.testing.assert_allclose(getattr(face.coefficients, name), values, atol=1e-5)


def test_pose_follows_the_convention(result):
    for face in result:
        yaw, pitch, roll = np.radians(face.pose)
        about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        down = -pitch
        about_x = np.array([[1, 0, 0], [0, np.cos(down), -np.sin(down)], [0, np.sin(down), np.cos(down)]])
        np.testing.assert_allclose(FLIP @ face.rotation, about_z @ about_y @ about_x, atol=1e-5)


def test_a_reduced_photo_gives_the_faces_in_its_own_pixels(encoder, face_model):
    # Twice the size, blocks of 16 px: at max_side 236 every block is one cell again.
    # No green: the filter of the resize blurs cells a little, and green is what moves the coefficients.
    small = photo_with_faces((236, 180), [(9, 7, 250, 0), (22, 15, 200, 0)])
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    model = wm3dr.Reconstructor(encoder, face_model, max_side=236)
    for expected, face in zip(model.reconstruct(small), model.reconstruct(large), strict=True):
        np.testing.assert_allclose(face.landmarks, 2 * expected.landmarks, atol=1e-3)
        np.testing.assert_allclose(face.box, 2 * expected.box, atol=1e-3)
        np.testing.assert_allclose(face.vertices, expected.vertices, atol=1e-3)
    assert model.reconstruct(large).camera == wm3dr.Camera(2 * FOCAL, (236.0, 180.0), (472, 360))


def test_colours_orders_and_sources_agree(reconstructor, photo, result, tmp_path):
    import PIL.Image

    path = tmp_path / "photo.png"
    PIL.Image.fromarray(photo).save(path)
    alpha = np.dstack([photo, np.full(photo.shape[:2], 7, np.uint8)])
    sources = [path, str(path), path.read_bytes(), PIL.Image.open(path), alpha, np.asfortranarray(photo)]
    for other in [*map(reconstructor.reconstruct, sources), reconstructor.reconstruct(photo[:, :, ::-1], color="bgr")]:
        assert [face.score for face in other] == [face.score for face in result]
        for face, expected in zip(other, result, strict=True):
            np.testing.assert_array_equal(face.landmarks, expected.landmarks)


def test_grey_photos_are_accepted(reconstructor):
    grey = np.full((64, 96), 30, np.uint8)
    grey[16:24, 32:40] = 255
    for image in (grey, grey[:, :, None]):
        assert [face.center.tolist() for face in reconstructor.reconstruct(image)] == [[36.0, 20.0]]


def test_a_camera_keeps_the_place_of_every_face(reconstructor, photo, result):
    camera = wm3dr.Camera(640.0, (100.0, 95.0), (236, 180))
    other = reconstructor.reconstruct(photo, camera=camera)
    assert other.camera == camera
    for face, before in zip(other, result, strict=True):
        # Close to the pixel and size of the model origin; the landmarks decide (test_cameras.py).
        assert face.translation[2] == pytest.approx(before.translation[2] * 640 / FOCAL, rel=0.05)
        against_ray = ray(face.translation.astype(float)).T @ face.rotation
        np.testing.assert_allclose(against_ray, ray(before.translation.astype(float)).T @ before.rotation, atol=1e-5)
        spread = np.linalg.norm(face.landmarks - before.landmarks, axis=1).max()
        assert spread < 0.08 * np.linalg.norm(before.box[2:] - before.box[:2])  # perspective of the depth alone


def test_no_face_is_an_empty_result(reconstructor):
    result = reconstructor.reconstruct(np.zeros((50, 70, 3), np.uint8), render=True)
    assert len(result) == 0 and list(result) == [] and result.to_dict()["faces"] == []
    raster = result.render()
    assert raster.color.shape == (50, 70, 3) and not raster.alpha.any() and (raster.face_id == -1).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (31, 33), (5000, 2)])
def test_odd_sizes_work(reconstructor, size):
    result = reconstructor.reconstruct(np.zeros((size[1], size[0], 3), np.uint8))
    assert result.size == size and len(result) == 0


def test_peaks_in_the_padding_are_no_faces(encoder, face_model):
    model = wm3dr.Reconstructor(encoder, face_model, score_threshold=0.3)
    photo = photo_with_faces((240, 176), [(9, 7, 250, 0)])
    assert len(model.reconstruct(photo[:60])) == 1  # the centre of cell row 7, at 60, is still on the photo
    assert len(model.reconstruct(photo[:59])) == 0  # its score, 250/255 · 3/8, is above the threshold


def test_timings_and_provider(reconstructor, photo):
    result = reconstructor.reconstruct(photo, render=True)
    stages = ["preprocess", "encode", "peaks", "decode", "render", "total"]
    assert list(result.timings) == stages
    assert all(ms >= 0 for ms in result.timings.values())
    assert result.timings["total"] == pytest.approx(sum(result.timings[stage] for stage in stages[:-1]))
    assert result.provider == reconstructor.provider == "CPUExecutionProvider"


def test_batch_and_stream_keep_the_order(reconstructor, photo, result):
    empty = np.zeros((40, 40, 3), np.uint8)
    assert [len(r) for r in reconstructor.reconstruct_batch([photo, empty, photo])] == [3, 0, 3]
    stream = reconstructor.reconstruct_stream(image for image in (empty, photo))
    assert [len(r) for r in stream] == [0, 3]
    assert reconstructor.reconstruct_batch([]) == []
    following = reconstructor.reconstruct_stream([photo, "missing.jpg"])
    assert len(next(following)) == 3
    with pytest.raises(FileNotFoundError):
        next(following)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_thread_counts_give_identical_bytes(encoder, face_model, photo, result, threads):
    other = wm3dr.Reconstructor(encoder, face_model, threads=threads).reconstruct(photo)
    for face, expected in zip(other, result, strict=True):
        for name in ("landmarks", "box", "vertices", "normals", "albedo", "colors", "visible"):
            assert getattr(face, name).tobytes() == getattr(expected, name).tobytes(), name
    raster, expected = other.render(), result.render()
    for name in ("color", "alpha", "depth", "face_id", "triangle_id", "region"):
        assert getattr(raster, name).tobytes() == getattr(expected, name).tobytes(), name


def test_one_reconstructor_serves_many_threads(reconstructor, photo, result):
    expected = [face.vertices.tobytes() for face in result]
    barrier, wrong = threading.Barrier(6), []

    def work(flipped: bool) -> None:
        image = photo[:, ::-1] if flipped else photo
        barrier.wait()
        for _ in range(5):
            found = reconstructor.reconstruct(image, render=True)
            if not flipped and [face.vertices.tobytes() for face in found] != expected:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(bool(k % 2),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_lazy_values_are_computed_once_by_whichever_thread_asks(reconstructor, photo):
    found = reconstructor.reconstruct(photo)
    barrier, arrays = threading.Barrier(4), []

    def work() -> None:
        barrier.wait()
        arrays.append(found.dense.colors)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(array) for array in arrays}) == 1 and not arrays[0].flags.writeable


def test_importing_loads_neither_onnxruntime_nor_torch_nor_pillow():
    code = (
        "import sys, wm3dr; print([m for m in ('onnxruntime', 'torch', 'PIL', 'trimesh', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.sep)
    assert done.stdout.strip() == "[]"


def test_a_thousand_calls_leak_nothing(random_encoder, face_model):
    psutil = pytest.importorskip("psutil")
    model = wm3dr.Reconstructor(random_encoder, face_model, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    process = psutil.Process()

    def calls(n: int) -> int:
        for _ in range(n):
            assert model.reconstruct(image, render=True).faces
        return process.memory_info().rss

    calls(200)  # pools and arenas fill
    before = calls(1)
    after = calls(1000)
    # One float64 of every vertex of every face kept per call would already be 5 MB.
    assert after - before < 4_000_000
