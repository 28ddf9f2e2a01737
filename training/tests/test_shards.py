"""Shards: what goes in comes out, within the loss of the image coding, and gaps are noticed."""

import numpy as np
import pytest

from wm3dr_training.data.shards import pack, unpack


@pytest.fixture
def labels(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(64), np.arange(64))[None, ..., None] * np.ones((12, 1, 1, 3))
    np.save(tmp_path / "train_a.npy", (smooth + rng.integers(0, 20, (12, 1, 1, 3))).astype(np.uint8))
    np.savez(tmp_path / "train_a.npz", names=np.arange(12), split=np.zeros(12, np.uint8))
    np.save(tmp_path / "skin_a.npy", np.where(smooth[..., 0] > 60, 255, 0).astype(np.uint8))
    np.save(tmp_path / "background.npy", np.full((3, 64, 64, 3), 77, np.uint8))
    np.savez(tmp_path / "background.npz", names=np.arange(3), split=np.array([0, 0, 1], np.uint8))
    return tmp_path


def test_round_trip(labels, tmp_path):
    shards = pack(labels, ["a"], tmp_path / "shards", megabytes=0.005)
    assert len(shards) > 1
    assert all(path.stat().st_size < 0.02e6 for path in shards)
    counts = unpack(shards, tmp_path / "again")
    assert counts == {"train_a": 12, "skin_a": 12, "background": 3}
    for name, tolerance in (("train_a", 6), ("background", 2)):
        before, after = np.load(labels / f"{name}.npy"), np.load(tmp_path / "again" / f"{name}.npy")
        assert np.abs(before.astype(int) - after).mean() < tolerance
    skin = np.load(tmp_path / "again" / "skin_a.npy")
    assert skin.shape == (12, 64, 64)
    assert ((skin > 127) == (np.load(labels / "skin_a.npy") > 127)).mean() > 0.98
    assert np.array_equal(np.load(tmp_path / "again" / "background.npz")["split"], [0, 0, 1])


def test_missing_shard_is_noticed(labels, tmp_path):
    shards = pack(labels, ["a"], tmp_path / "shards", megabytes=0.005)
    with pytest.raises(ValueError, match="lack images of"):
        unpack(shards[1:], tmp_path / "again")


def test_missing_source(labels, tmp_path):
    with pytest.raises(FileNotFoundError, match="wm3dr-train label"):
        pack(labels, ["b"], tmp_path / "shards")
