"""Whole calls and the encoder, by size and number of faces: `pytest benches/test_calls.py --benchmark-only`.

Faces are planted (`wm3dr.bench`); the files of the wheel are measured, or those of WM3DR_BENCH_ENCODER and
WM3DR_BENCH_FACE_MODEL.
"""

import os

import numpy as np
import pytest

import wm3dr
from wm3dr import bench
from wm3dr.image import network_input

FACES = (1, 5, 10, 20, 50)
SIZES = (256, 512, 1024)


@pytest.fixture(scope="module")
def face_model():
    return wm3dr.FaceModel.load(os.environ.get("WM3DR_BENCH_FACE_MODEL"))


@pytest.fixture(scope="module")
def encoder():
    try:
        return bench.PlantedEncoder(os.environ.get("WM3DR_BENCH_ENCODER"), providers=["CPUExecutionProvider"])
    except FileNotFoundError as error:
        pytest.skip(str(error))


def photo(size):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


@pytest.mark.parametrize("render", [False, True], ids=["plain", "render"])
@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("size", SIZES)
def test_call(benchmark, encoder, face_model, size, faces, render):
    encoder.plant(face_model, faces, (size, size))
    model = wm3dr.Reconstructor(encoder, face_model, max_side=size)
    result = benchmark(model.reconstruct, photo(size), render=render)
    assert len(result) == faces


@pytest.mark.parametrize("size", SIZES)
def test_preprocess(benchmark, size):
    given = benchmark(network_input, photo(size), size)
    assert given.pixels.shape == (1, size, size, 3)


@pytest.mark.parametrize("size", SIZES)
def test_encode(benchmark, encoder, face_model, size):
    encoder.plant(face_model, 1, (size, size))
    heatmap, _ = benchmark(encoder.predict, network_input(photo(size), size).pixels)
    assert heatmap.shape == (1, 1, size // 8, size // 8)
