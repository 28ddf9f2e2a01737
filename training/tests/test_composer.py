"""Batches: points go with their pixels, faces hardly overlap, centres are marked, augmentation stays in range."""

import math

import numpy as np
import pytest
import torch
from synthetic import write_synthetic_labels

from wm3dr_training import augment
from wm3dr_training.bank import (
    CROP_SIZE,
    FACE_SIZE,
    MIRROR_68,
    N_DENSE,
    N_LANDMARKS,
    BackgroundBank,
    FaceBank,
    load_bank,
)
from wm3dr_training.composer import MultiFaceComposer, SingleFaceComposer, face_points, gaussian_heatmap
from wm3dr_training.config import TrainConfig
from wm3dr_training.data.correspondence import load_correspondence
from wm3dr_training.paste import paste_one_by_one, paste_together
from wm3dr_training.sampling import crop_affines, map_points, sample_window

DOTS = np.array([[60.0, 70.0], [130.0, 64.0], [84.0, 125.0]])  # crop px, not symmetric
LANDMARKS = (36, 45, 48)  # that lie on the dots
SIGMA = 3.0


def dot_bank(count: int = 3) -> FaceBank:
    """Crops that are dark but for three coloured Gaussian dots, red, green and blue, each on a landmark."""
    y, x = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE] + 0.5
    crop = np.full((CROP_SIZE, CROP_SIZE, 3), 8.0)
    for channel, (dx, dy) in enumerate(DOTS):
        crop[:, :, channel] += 240 * np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * SIGMA**2))
    points = np.full((N_LANDMARKS + 468, 2), CROP_SIZE / 2, np.float32)
    points[list(LANDMARKS)] = DOTS
    fine = np.repeat(np.repeat(crop, 2, axis=0), 2, axis=1)
    correspondence = load_correspondence()
    mirror = np.concatenate([MIRROR_68, N_LANDMARKS + correspondence.mirror[:N_DENSE]])
    return FaceBank(
        images=torch.from_numpy(np.repeat(crop[None], count, axis=0).round().astype(np.uint8)),
        points=torch.from_numpy(np.repeat(points[None], count, axis=0)),
        weights=torch.ones(count, len(points)),
        covered=torch.tensor([[0.0, 0.0, CROP_SIZE, CROP_SIZE]]).repeat(count, 1),
        skin=None,
        fine=torch.from_numpy(fine[None].round().astype(np.uint8)),
        fine_row=torch.tensor([0] + [-1] * (count - 1)),
        source=torch.zeros(count, dtype=torch.long),
        sources=["dots"],
        mirror=torch.from_numpy(mirror.astype(np.int64)),
        photo=torch.arange(count),
    )


def config(stage: int, **values) -> TrainConfig:
    return TrainConfig(**({"stage": stage, "face_model": "", "labels": "", "sources": (), "iterations": 1} | values))


def no_augmentation(monkeypatch) -> None:
    keep = lambda images, *_, **__: (images, torch.ones_like(images[:, :1]))  # noqa: E731
    monkeypatch.setattr("wm3dr_training.composer.augment", keep)


def brightest(image: torch.Tensor, channel: int, near: torch.Tensor, radius: float) -> np.ndarray:
    """Centre of gravity of one channel's surplus within `radius` px of a point."""
    value = (image[channel] - image[[c for c in range(3) if c != channel]].amax(0)).clamp_min(0).double()
    height, width = value.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    value = value * (torch.hypot(x - near[0], y - near[1]) < radius)
    return np.array([float((value * x).sum() / value.sum()), float((value * y).sum() / value.sum())])


@pytest.mark.parametrize("mirrored", [False, True])
def test_single_face_carries_its_points(monkeypatch, mirrored):
    no_augmentation(monkeypatch)
    monkeypatch.setattr(torch, "rand", _rand_with_coin(torch.rand, mirrored))
    composer = SingleFaceComposer(dot_bank(), config(1, size=192, batch=4), torch.Generator().manual_seed(3))
    batch = composer.batch(lambda n: torch.zeros(n, dtype=torch.long))
    assert batch.mirrored.tolist() == [mirrored] * 4
    for face in range(4):
        scale = float(batch.sizes[face]) / FACE_SIZE
        for channel, landmark in enumerate(LANDMARKS):
            number = int(MIRROR_68[landmark]) if mirrored else landmark
            point = batch.points[face, number]
            found = brightest(batch.images[face], channel, point, 4 * SIGMA * scale)
            assert np.abs(found - point.numpy()).max() < 0.15  # px


def _rand_with_coin(real, mirrored: bool):
    """torch.rand whose one-dimensional draws in `batch` decide to mirror always or never."""

    def rand(*args, **kwargs):
        drawn = real(*args, **kwargs)
        return drawn * 0 + (0.1 if mirrored else 0.9) if drawn.ndim == 1 and _called_for_a_coin() else drawn

    return rand


def _called_for_a_coin() -> bool:
    import sys

    frame = sys._getframe(2)
    return frame.f_code.co_name == "batch"


@pytest.mark.parametrize("row", [0, 1])
def test_pasted_faces_carry_their_points(monkeypatch, row):
    """Row 0 has a crop of twice the resolution, row 1 has none."""
    no_augmentation(monkeypatch)
    dark = BackgroundBank(torch.zeros((2, 384, 384, 3), dtype=torch.uint8))
    settings = config(
        2, size=320, batch=12, smallest_face=70.0, largest_face=180.0, negative_share=0.0, largest_count=1
    )
    monkeypatch.setattr("wm3dr_training.composer.PLAIN_SHARE", 0.0)
    composer = MultiFaceComposer(dot_bank(), dark, settings, torch.Generator().manual_seed(6))
    batch = composer.batch(lambda n: torch.full((n,), row, dtype=torch.long))
    checked = 0
    for face in range(len(batch.centers)):
        image, scale = batch.images[batch.image_index[face]], float(batch.sizes[face]) / FACE_SIZE
        for channel, landmark in enumerate(LANDMARKS):
            number = int(MIRROR_68[landmark]) if bool(batch.mirrored[face]) else landmark
            point = batch.points[face, number]
            radius = 4 * SIGMA * scale
            if (point < radius).any() or (point > 320 - radius).any():
                continue
            found = brightest(image, channel, point, radius)
            assert np.abs(found - point.numpy()).max() < 0.25  # px
            checked += 1
    assert checked > 20
    assert batch.mirrored.any() and not batch.mirrored.all()


@pytest.mark.parametrize("largest", [50.0, 300.0])
def test_faces_blended_together_are_those_blended_one_by_one(monkeypatch, largest):
    """The grouped way of a GPU against the loop of a CPU: the same pixels where faces overlap and the frame cuts."""
    no_augmentation(monkeypatch)
    noise = torch.Generator().manual_seed(2)
    bank = dot_bank(4)
    bank.images = torch.randint(0, 255, bank.images.shape, generator=noise, dtype=torch.uint8)
    bank.fine = torch.randint(0, 255, bank.fine.shape, generator=noise, dtype=torch.uint8)
    bank.covered[1] = torch.tensor([20.0, 0.0, 150.0, 180.0])
    photos = torch.randint(0, 255, (3, 384, 384, 3), generator=noise, dtype=torch.uint8)
    settings = config(2, size=160, batch=12, smallest_face=20.0, largest_face=largest, negative_share=0.1)

    def canvases(paste):
        monkeypatch.setattr("wm3dr_training.composer.paste_faces", paste)
        generator = torch.Generator().manual_seed(4)
        composer = MultiFaceComposer(bank, BackgroundBank(photos), settings, generator)
        return composer.batch(lambda n: torch.randint(0, 4, (n,), generator=generator))

    one, both = canvases(paste_one_by_one), canvases(paste_together)
    empty = canvases(lambda *_: None)
    assert len(one.centers) > 20 and one.image_index.bincount().max() > 2
    assert (one.images - empty.images).abs().amax(1).gt(1).float().mean() > 0.1
    torch.testing.assert_close(one.images, both.images, rtol=0, atol=0.05)  # of 255; sums in another order


def test_faces_hardly_overlap_and_sizes_keep_their_range():
    settings = config(2, size=320, batch=40, smallest_face=24.0, largest_face=160.0)
    backgrounds = BackgroundBank(torch.zeros((2, 384, 384, 3), dtype=torch.uint8))
    composer = MultiFaceComposer(dot_bank(), backgrounds, settings, torch.Generator().manual_seed(1))
    counts, sizes = [], []
    chances = np.random.default_rng(1)
    for _ in range(200):
        faces = composer._layout(iter(chances.random(8 + 60 * settings.largest_count).tolist()))
        counts.append(len(faces))
        sizes += [size for _, _, size, _ in faces]
        for k, (x, y, size, _) in enumerate(faces):
            assert 0 <= x <= 320 and 0 <= y <= 320  # centres stay inside
            for a, b, other, _ in faces[:k]:
                apart = math.hypot(x - a, y - b)
                assert apart > 0.42 * (size + other)  # landmark boxes touch at most
    assert min(sizes) >= 24 and max(sizes) <= 230
    assert max(counts) >= 6 and counts.count(0) > 5  # canvases without faces are negatives


def test_heatmap_marks_the_cell_of_each_centre():
    centers = torch.tensor([[12.0, 20.0], [63.0, 7.9], [70.0, 5.0]])
    heatmap = gaussian_heatmap(2, (8, 8), torch.tensor([0, 1, 1]), centers, torch.tensor([60.0, 20.0, 30.0]))
    assert (heatmap == 1).nonzero().tolist() == [[0, 0, 2, 1], [1, 0, 0, 7]]  # the third centre is outside
    assert heatmap.max() <= 1 and heatmap[0, 0, 7, 7] < 1e-3
    assert 0 < heatmap[0, 0, 2, 2] < 1


def test_affine_turns_scales_and_mirrors():
    affine = crop_affines(
        torch.tensor([[50.0, 60.0]]), torch.tensor([48.0]), torch.tensor([math.pi / 2]), torch.tensor([False])
    )
    middle = torch.tensor([[[CROP_SIZE / 2, CROP_SIZE / 2], [CROP_SIZE / 2 + 10, CROP_SIZE / 2]]])
    np.testing.assert_allclose(
        map_points(affine, middle)[0], [[50, 60], [50, 65]], atol=1e-4
    )  # half size, quarter turn
    bank = dot_bank()
    upright = crop_affines(torch.tensor([[96.0, 96.0]]), torch.tensor([96.0]), torch.zeros(1), torch.tensor([True]))
    points, _ = face_points(bank, torch.tensor([0]), upright, torch.tensor([True]))
    np.testing.assert_allclose(points[0, MIRROR_68[36]], [CROP_SIZE - 60.0, 70.0], atol=1e-4)


def test_windows_are_sampled_where_the_affine_says():
    image = torch.zeros(1, 1, CROP_SIZE, CROP_SIZE)
    image[0, 0, 40:60, 100:120] = 1.0
    affine = crop_affines(torch.tensor([[48.0, 48.0]]), torch.tensor([48.0]), torch.zeros(1), torch.tensor([False]))
    window = sample_window(image, affine, 96, CROP_SIZE)[0, 0]
    y, x = (window > 0.5).nonzero(as_tuple=True)
    assert (x.min().item(), x.max().item() + 1, y.min().item(), y.max().item() + 1) == (50, 60, 20, 30)


@pytest.mark.parametrize("name", ["jitter_color", "blur", "noise", "jpeg"])
def test_augmentation_stays_in_range_and_shape(name):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((6, 3, 64, 48), generator=generator) * 255
    options = {} if name == "jitter_color" else {"probability": 1.0}
    changed = getattr(augment, name)(images, generator, **options)
    assert changed.shape == images.shape and torch.isfinite(changed).all()
    assert changed.min() >= -1e-3 and changed.max() <= 255.001
    assert (changed - images).abs().mean() > 0.5


def test_jpeg_and_blur_keep_what_they_should():
    generator = torch.Generator().manual_seed(0)
    plain = torch.full((2, 3, 32, 32), 100.0)
    assert (
        augment.jpeg(plain, generator, probability=1.0) - plain
    ).abs().max() < 9  # one quantisation step of the mean
    assert torch.allclose(augment.blur(plain, generator, probability=1.0), plain, atol=1e-3)


def test_occluders_report_what_they_cover():
    generator = torch.Generator().manual_seed(2)
    images = torch.full((20, 3, 64, 64), 50.0)
    covered, clear = augment.occlude(images, generator, probability=1.0, donors=torch.full((2, 3, 64, 64), 200.0))
    changed = (covered != images).any(1, keepdim=True)
    assert not (changed & (clear > 0)).any()
    assert 0.02 < 1 - clear.mean() < 0.3


def test_augmentation_is_the_same_for_the_same_seed():
    images = torch.rand(4, 3, 64, 64) * 255
    first, _ = augment.augment(images, torch.Generator().manual_seed(5))
    again, _ = augment.augment(images, torch.Generator().manual_seed(5))
    other, _ = augment.augment(images, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_bank_reads_what_label_writes(tmp_path):
    folder = write_synthetic_labels(tmp_path / "labels", count=5)
    points = load_correspondence()
    bank = load_bank(folder, ["synthetic"], points.mirror[:N_DENSE], points.confidence, jaw_weight=0.25, with_skin=True)
    assert len(bank) == 5 and bank.images.shape == (5, CROP_SIZE, CROP_SIZE, 3)
    assert bank.weights[:, :17].eq(0.25).all() and bank.weights[:, 17:68].eq(1).all()
    assert bank.skin.shape == (5, CROP_SIZE // 2, CROP_SIZE // 2)
    assert torch.equal(bank.mirror[bank.mirror], torch.arange(len(bank.mirror)))
    with pytest.raises(FileNotFoundError, match=r"train_nothing\.npy is missing: run 'wm3dr-train label'"):
        load_bank(folder, ["nothing"], points.mirror[:N_DENSE], points.confidence)
    with pytest.raises(ValueError, match=r"hold no photo of the split 'validation'"):
        load_bank(folder, ["synthetic"], points.mirror[:N_DENSE], points.confidence, split="validation")
