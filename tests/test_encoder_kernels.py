"""The package's kernels of 8-bit blocks against onnxruntime's: the same bits."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import wm3dr
from wm3dr import _native
from wm3dr.encoder import Encoder
from wm3dr.files import DEFAULT_ENCODER
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
def test_a_runtime_that_does_not_take_the_kernels_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(_native, "__file__", str(tmp_path / "none.so"))
    with pytest.warns(RuntimeWarning, match="does not take the kernels of wm3dr and uses its own, which are slower"):
        encoder = Encoder()
    assert encoder.kernels == "onnxruntime"


@needs_kernels
def test_threads_may_share_an_encoder():
    encoder, noise = Encoder(threads=2), np.random.default_rng(0)
    photos = [noise.integers(0, 256, (1, 64 + 32 * (k % 3), 96, 3), np.uint8) for k in range(24)]
    alone = [encoder.predict(pixels) for pixels in photos]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(encoder.predict, photos))
    for (heatmap, maps), (its_heatmap, its_maps) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(heatmap, its_heatmap)
        np.testing.assert_array_equal(maps, its_maps)


@needs_kernels
def test_a_block_that_the_kernels_do_not_know_is_said(tmp_path):
    import onnx

    model = onnx.load(str(DEFAULT_ENCODER))
    block = next(node for node in model.graph.node if node.op_type == "InvertedResidual")
    strides = next(attribute for attribute in block.attribute if attribute.name == "strides")
    strides.ints[:] = [3, 3]
    onnx.save(model, str(tmp_path / "encoder.onnx"))
    with pytest.raises(wm3dr.ModelError, match="wm3dr: 'depthwise' has 96 channels, 9 taps, stride 3, expected"):
        Encoder(tmp_path / "encoder.onnx")


@needs_kernels
def test_a_float_encoder_has_no_blocks(encoder):
    assert Encoder(encoder).kernels == "onnxruntime"
