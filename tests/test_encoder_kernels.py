"""The package's kernels of 8-bit blocks against onnxruntime's: the same bits."""

from pathlib import Path

import numpy as np
import pytest

import wm3dr
from wm3dr import _native
from wm3dr.encoder import Encoder
from wm3dr.image import read_rgb

needs_kernels = pytest.mark.skipif(
    not _native.has_quantized_kernels(), reason="the processor has no AVX-512 VNNI: onnxruntime computes the blocks"
)


@pytest.fixture(scope="module")
def photo():
    return read_rgb(Path(__file__).parents[1] / "docs" / "photos" / "solvay_1927.jpg")


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_bits_as_onnxruntime(photo, threads):
    own, other = (Encoder(own_kernels=own, threads=threads) for own in (True, False))
    assert (own.kernels, other.kernels) == ("wm3dr", "onnxruntime")
    noise = np.random.default_rng(0)
    for batch, height, width in [(1, 512, 512), (3, 224, 224), (1, 96, 160), (2, 32, 64), (1, 32, 32), (1, 480, 32)]:
        pixels = noise.integers(0, 256, (batch, height, width, 3), np.uint8)
        pixels[0] = photo[60 : 60 + height, 100 : 100 + width]
        for mine, its in zip(own.predict(pixels), other.predict(pixels), strict=True):
            np.testing.assert_array_equal(mine, its)


@needs_kernels
def test_faces_do_not_depend_on_the_kernels(photo):
    results = [wm3dr.Reconstructor(Encoder(own_kernels=own)).reconstruct(photo) for own in (True, False)]
    assert len(results[0]) == len(results[1]) > 20
    for mine, its in zip(*results, strict=True):
        np.testing.assert_array_equal(mine.landmarks, its.landmarks)
        assert mine.score == its.score


def test_without_the_instructions_onnxruntime_computes_the_blocks(monkeypatch):
    monkeypatch.setattr(_native, "has_quantized_kernels", lambda: False)
    encoder = Encoder()
    assert encoder.kernels == "onnxruntime"
    heatmap, _ = encoder.predict(np.zeros((1, 64, 64, 3), np.uint8))
    assert heatmap.shape == (1, 1, 8, 8)


@needs_kernels
def test_a_float_encoder_has_no_blocks(encoder):
    assert Encoder(encoder).kernels == "onnxruntime"
