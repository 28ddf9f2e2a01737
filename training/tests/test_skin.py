"""Skin masks on drawn faces, where the truth is known."""

import cv2
import numpy as np
import pytest
from PIL import Image

from wm3dr_training.data import arrays, skin
from wm3dr_training.data.correspondence import load_correspondence
from wm3dr_training.data.landmarks import N_MEDIAPIPE, visible478

SIZE = 96
SKIN_COLOR, HAIR_COLOR = np.array([205, 160, 135]), np.array([40, 30, 25])


def ring(center, radii, count, start=0.0):
    angle = start + 2 * np.pi * np.arange(count) / count
    return np.asarray(center) + np.asarray(radii) * np.column_stack([np.cos(angle), np.sin(angle)])


@pytest.fixture
def face():
    """Landmarks of a frontal oval face and a photo of it: skin oval, dark surround, hair over the right forehead."""
    points = np.tile([[48.0, 48.0]], (N_MEDIAPIPE, 1))
    outlines = (((35, 54), (6, 5)), ((61, 54), (6, 5)), ((48, 50), (4, 8)), ((48, 24), (14, 4)))
    for seed, (center, radii) in zip(skin.SEEDS, outlines, strict=True):
        points[seed] = ring(center, radii, len(seed))
    # after the seeds: the forehead's outline shares points with the brows
    points[skin.FACE_OVAL] = ring((48, 48), (28, 36), len(skin.FACE_OVAL), -np.pi / 2)
    points[skin.RIGHT_EYE], points[skin.LEFT_EYE] = ring((37, 40), (6, 3), 16), ring((59, 40), (6, 3), 16)
    points[skin.RIGHT_BROW], points[skin.LEFT_BROW] = ring((37, 32), (7, 1.5), 10), ring((59, 32), (7, 1.5), 10)
    points[skin.LIPS] = ring((48, 67), (10, 4), 20)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    oval = ((x - 48) / 28) ** 2 + ((y - 48) / 36) ** 2 < 1
    hair = oval & (y < 30) & (x < 38)
    shading = 0.8 + 0.4 * x / SIZE
    image = np.where((oval & ~hair)[..., None], SKIN_COLOR * shading[..., None], HAIR_COLOR)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), points, oval, hair


def test_mask_is_the_oval_without_features_and_hair(face):
    image, points, oval, hair = face
    mask = skin.skin_mask(image, points)
    core = cv2.erode((oval & ~hair).astype(np.uint8), np.ones((5, 5))) > 0
    features = (
        (((np.mgrid[:SIZE, :SIZE][1] + 0.5 - cx) / rx) ** 2 + ((np.mgrid[:SIZE, :SIZE][0] + 0.5 - cy) / ry) ** 2)
        for cx, cy, rx, ry in ((37, 40, 6, 3), (59, 40, 6, 3), (37, 32, 7, 1.5), (59, 32, 7, 1.5), (48, 67, 10, 4))
    )
    distance = np.min(list(features), axis=0)
    assert not mask[distance < 1].any(), "eyes, brows and mouth are not skin"
    assert not mask[~oval].any() and not mask[cv2.erode(hair.astype(np.uint8), np.ones((5, 5))) > 0].any()
    plain = core & (distance > 6)
    assert mask[plain].mean() > 0.97, "the plain part of the face is skin"


def test_bright_and_dark_skin_and_grey_photos_do_as_well(face):
    image, points, *_ = face
    wanted = skin.skin_mask(image, points).sum()
    for other in (image // 3, np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)):
        assert abs(int(skin.skin_mask(other, points).sum()) - int(wanted)) < 0.15 * wanted


def test_no_face_no_skin(face):
    image, points, *_ = face
    assert not skin.skin_mask(image, np.full((N_MEDIAPIPE, 2), np.nan)).any()
    assert not skin.skin_mask(image, points + 500).any()


def test_hidden_half_is_left_out(face):
    image, points, *_ = face
    points = points.copy()
    points[points[:, 0] > 50] = np.nan
    mask = skin.skin_mask(image, points)
    assert mask.any() and not mask[:, 55:].any()


def test_parsing_labels_by_name():
    labels = np.arange(19).reshape(1, 19)
    assert np.flatnonzero(skin.mask_from_parsing(labels)).tolist() == [1, 10]
    assert np.flatnonzero(skin.mask_from_parsing(labels, ("hair",))).tolist() == [17]
    with pytest.raises(ValueError, match="range 0–19"):
        skin.mask_from_parsing(np.array([[0, 19]]))


def test_coloured_label_pictures_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="mode RGB, wanted one channel"):
        skin.read_parsing(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 3, np.uint8)).save(tmp_path / "b.png")
    assert (skin.read_parsing(tmp_path / "b.png") == 3).all()


def test_masks_are_aligned_with_the_crops(tmp_path):
    """A parsing image in photo pixels lands where the affine says; a photo without one falls back."""
    crop = np.zeros((2, 192, 192, 3), np.uint8)
    affine = np.array([[[2, 0, -20], [0, 2, -40]]] * 2, np.float32)  # photo (x, y) → crop (2x − 20, 2y − 40)
    np.save(tmp_path / "train_s.npy", crop)
    nothing = np.full((2, N_MEDIAPIPE, 2), np.nan, np.float32)
    np.savez(tmp_path / "train_s.npz", names=np.array(["a", "b"]), landmarks478=nothing, affine=affine)
    labels = np.zeros((100, 120), np.uint8)
    labels[30:50, 40:60] = 1  # photo box (40, 30)–(60, 50) → crop (60, 20)–(100, 60) → mask (30, 10)–(50, 30)
    (tmp_path / "parsing" / "s").mkdir(parents=True)
    Image.fromarray(labels).save(tmp_path / "parsing" / "s" / "a.png")
    counts = arrays.write_skin("s", tmp_path, tmp_path / "parsing")
    masks = np.load(tmp_path / "skin_s.npy")
    wanted = np.zeros((96, 96), np.uint8)
    wanted[10:30, 30:50] = 255
    assert np.array_equal(masks[0], wanted) and not masks[1].any()
    assert counts["parsed"] == 1 and counts["empty"] == 1


def test_far_half_of_a_profile_is_hidden():
    side = load_correspondence().side
    points = np.zeros((2, N_MEDIAPIPE, 3))
    points[:, 454], points[:, 234] = (10, 0, 1), (-10, 0, -1)  # nearly frontal
    points[1, 454], points[1, 234] = (5, 0, 20), (-5, 0, -20)  # the nose points to image right
    visible = visible478(points, side)
    assert visible[0].all()
    assert not visible[1, side == 1].any() and visible[1, side <= 0].all()
