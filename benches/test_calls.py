"""Whole calls and their stages, by size and number of faces: `pytest benches/test_calls.py --benchmark-only`.

Faces are planted (`wm3dr.bench`); the files of the wheel are measured, or those of WM3DR_BENCH_ENCODER and
WM3DR_BENCH_FACE_MODEL, with as many threads as the process may use. Inputs are made, and results checked, before the
timing.
"""

import os

import numpy as np
import pytest

import wm3dr
from wm3dr import bench
from wm3dr.decode import decode
from wm3dr.image import network_input
from wm3dr.threads import usable_threads

FACES = pytest.mark.parametrize("faces", [1, 5, 10, 20, 50])
SIZES = pytest.mark.parametrize("size", [256, 512, 1024])


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
@FACES
@SIZES
def test_call(benchmark, encoder, face_model, size, faces, render):
    encoder.plant(face_model, faces, (size, size))
    model = wm3dr.Reconstructor(encoder, face_model, max_side=size)
    image = photo(size)
    assert len(model.reconstruct(image, render=render)) == faces
    benchmark(model.reconstruct, image, render=render)


@SIZES
def test_preprocess(benchmark, size):
    image = photo(size)
    np.testing.assert_array_equal(network_input(image, size).pixels[0], image)
    benchmark(network_input, image, size)


@SIZES
def test_preprocess_of_a_larger_photo(benchmark, size):
    image = photo(2 * size)
    assert network_input(image, size).pixels.shape == (1, size, size, 3)
    benchmark(network_input, image, size)


@SIZES
def test_encode(benchmark, encoder, face_model, size):
    encoder.plant(face_model, 1, (size, size))
    pixels = network_input(photo(size), size).pixels
    heatmap, _ = encoder.predict(pixels)
    assert heatmap.shape == (1, 1, size // 8, size // 8)
    benchmark(encoder.predict, pixels)


@FACES
@SIZES
def test_peaks_and_rows(benchmark, encoder, face_model, size, faces):
    encoder.plant(face_model, faces, (size, size))
    model = wm3dr.Reconstructor(encoder, face_model, max_side=size)
    given = network_input(photo(size), size)
    output = encoder.predict(given.pixels)
    assert len(model._peaks(given, *output).scores) == faces
    benchmark(model._peaks, given, *output)


@FACES
@SIZES
def test_decode(benchmark, encoder, face_model, size, faces):
    encoder.plant(face_model, faces, (size, size))
    model = wm3dr.Reconstructor(encoder, face_model, max_side=size)
    given = network_input(photo(size), size)
    peaks = [model._peaks(given, *encoder.predict(given.pixels))]
    rest = {"contract": encoder.contract, "face_model": face_model, "camera": None, "threads": usable_threads()}
    assert len(decode(peaks, size=given.size, **rest)[1]) == faces
    benchmark(decode, peaks, size=given.size, **rest)


def test_cold_start(benchmark, encoder, face_model):
    """A new process from before the import to its first result; `wm3dr bench` prints its memory too."""
    arguments = (encoder.path, face_model.path, usable_threads())
    milliseconds, peak_mib = bench.cold_start(*arguments)
    assert milliseconds > 0 and not peak_mib > 1024
    benchmark.extra_info["peak MiB"] = round(peak_mib)
    benchmark.pedantic(bench.cold_start, arguments, rounds=3)
