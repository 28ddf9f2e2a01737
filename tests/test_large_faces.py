"""Faces too large for the network at the photo's scale are taken from the photo reduced once more, into one camera."""

import numpy as np
import pytest
from builders import FOCAL, photo_with_faces

import wm3dr
from wm3dr.decode import merged
from wm3dr.image import coarse_input, network_input


@pytest.fixture(scope="module")
def large_photo():
    """1024 x 700 pixels: one red block of 24 x 24 px, a cell of the photo reduced by 3; one red cell of 8 x 8 px."""
    photo = photo_with_faces((1024, 700), [(100, 10, 255, 0)])
    photo[20 * 24 : 21 * 24, 10 * 24 : 11 * 24, 0] = 230
    return photo


@pytest.fixture(scope="module")
def model(encoder, face_model):
    return wm3dr.Reconstructor(encoder, face_model, max_side=1024)


def test_a_reduced_input_keeps_scale_and_places():
    photo = np.random.default_rng(2).integers(0, 256, (703, 1201, 3)).astype(np.uint8)
    fine = network_input(photo, 1024)
    coarse = coarse_input(fine, 320)
    assert coarse.scale == fine.scale / 3 and coarse.size == fine.size
    _, height, width, _ = coarse.pixels.shape
    assert height % 32 == 0 and width % 32 == 0 and 3 * height >= fine.pixels.shape[1] > 3 * (height - 32)
    blocks = fine.pixels[0, :600, :1020].reshape(200, 3, 340, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse.pixels[0, :200, :340], blocks, atol=0.56)  # Pillow rounds by a fixed-point ninth


def test_both_scales_share_one_camera(model, large_photo):
    result = model.reconstruct(large_photo)
    assert result.camera == wm3dr.Camera(3 * FOCAL, (512.0, 350.0), (1024, 700))
    small, large = result
    np.testing.assert_allclose(small.center, [100.5 * 8, 10.5 * 8])
    np.testing.assert_allclose(large.center, [10.5 * 24, 20.5 * 24])
    # The large face is that of the reduced photo alone, in pixels three times as small.
    reduced = model.reconstruct(large_photo[1::3, 1::3])
    assert len(reduced) == 1
    np.testing.assert_allclose(large.rotation, reduced[0].rotation, atol=1e-3)
    np.testing.assert_allclose(large.translation, reduced[0].translation, rtol=1e-3, atol=0.7)  # 341 1/3 px: half a px
    np.testing.assert_allclose(large.box, 3 * reduced[0].box, atol=2.0)
    # The small one keeps its place and size, farther away under the longer lens.
    alone = model.reconstruct(np.where(np.arange(1024)[None, :, None] < 700, 0, large_photo).astype(np.uint8))
    assert alone.camera == wm3dr.Camera(FOCAL, (512.0, 350.0), (1024, 700))
    assert small.translation[2] == pytest.approx(3 * alone[0].translation[2], rel=0.07)
    side = np.linalg.norm(alone[0].box[2:] - alone[0].box[:2])
    np.testing.assert_allclose(small.landmarks, alone[0].landmarks, atol=0.05 * side)  # the perspective inside the face
    assert np.abs((small.landmarks - alone[0].landmarks).mean(axis=0)).max() < 0.002 * side
    assert small.landmarks.tolist() == alone.with_camera(result.camera)[0].landmarks.tolist()


def test_the_second_look_can_be_declined(encoder, face_model, large_photo):
    model = wm3dr.Reconstructor(encoder, face_model, max_side=1024, large_faces=False)
    sides = [face.box[2] - face.box[0] for face in model.reconstruct(large_photo)]
    assert len(sides) == 2 and max(sides) < 1.5 * min(sides)  # the block is a small face for the photo's own scale


def test_small_photos_are_looked_at_once(encoder, face_model, photo, result):
    model = wm3dr.Reconstructor(encoder, face_model, large_faces=False)
    for face, expected in zip(model.reconstruct(photo), result, strict=True):
        np.testing.assert_array_equal(face.landmarks, expected.landmarks)


def choose(fine, coarse):
    """Faces as (side, x, y, score)."""
    faces = np.array([*fine, *coarse], np.float32).reshape(-1, 4)
    return merged(faces[:, 0], faces[:, 1:3], faces[:, 3], len(fine), 3.0).tolist()


def test_merging():
    assert choose([], []) == []
    assert choose([(60, 0, 0, 0.6), (80, 500, 0, 0.9)], []) == [1, 0]
    assert choose([], [(120, 0, 0, 0.9)]) == []  # small: what the photo itself does not show there is no face
    assert choose([(60, 0, 0, 0.6)], [(400, 600, 300, 0.7)]) == [1, 0]
    assert choose([(200, 300, 300, 0.6)], [(210, 310, 290, 0.7)]) == [1]  # both know the size: the better
    assert choose([(200, 300, 300, 0.8)], [(210, 310, 290, 0.7)]) == [0]
    assert choose([(330, 300, 300, 0.9)], [(400, 310, 290, 0.6)]) == [1]  # too large for the photo's own scale
    assert choose([(50, 330, 300, 0.9)], [(400, 310, 290, 0.6)]) == [1]  # a mouth taken for a face
    assert choose([(50, 560, 300, 0.9)], [(400, 310, 290, 0.6)]) == [0, 1]  # a face beside a large one
