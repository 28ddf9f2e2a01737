import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import peaks as reference

from wm3dr import _native

# Few values, so that ties are common.
heatmaps = st.tuples(st.integers(1, 9), st.integers(1, 11)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.625, 0.75, 1.0]))
)


@given(heatmaps, st.sampled_from([1, 3, 5, 7]), st.sampled_from([0.25, 0.5, 0.7]))
def test_agrees_with_the_twin(heatmap, window, threshold):
    cells, scores = _native.find_peaks(heatmap, threshold, window)
    expected_cells, expected_scores = reference.find_peaks(heatmap, np.float32(threshold), window)
    np.testing.assert_array_equal(cells, expected_cells)
    np.testing.assert_array_equal(scores, expected_scores)
    assert (cells.dtype, scores.dtype) == (np.int32, np.float32)


def test_separate_ties_are_two_peaks_and_neighbours_are_one():
    heatmap = np.zeros((6, 14), np.float32)
    heatmap[1, 2] = heatmap[1, 3] = heatmap[4, 11] = 0.8
    cells, _ = _native.find_peaks(heatmap, 0.5, 5)
    np.testing.assert_array_equal(cells, [[1, 2], [4, 11]])


def test_no_peak_is_an_empty_result():
    cells, scores = _native.find_peaks(np.zeros((4, 5), np.float32), 0.5, 5)
    assert cells.shape == (0, 2)
    assert scores.shape == (0,)


def test_coefficients_come_from_the_cells_of_the_peaks():
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(17, 5, 8)).astype(np.float32)
    peaks = np.array([[4, 7], [0, 3], [2, 0], [4, 7]], np.int32)
    rows = _native.gather_coefficients(coefficients, peaks)
    np.testing.assert_array_equal(rows, reference.gather_coefficients(coefficients, peaks))
    assert _native.gather_coefficients(coefficients, peaks[:0]).shape == (0, 17)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.full((2, 3), np.nan, np.float32), 0.5, 5), "'heatmap' has a non-finite value at flat index 0"),
        ((np.zeros((2, 3), np.float32), 0.5, 4), "'window' has 4, expected an odd number of cells"),
        ((np.zeros((2, 3), np.float32), np.nan, 5), "'threshold' has NaN, expected a finite number"),
        ((np.zeros(3, np.float32), 0.5, 5), "'heatmap' has shape (3,), expected (h, w)"),
    ],
)
def test_bad_heatmaps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.find_peaks(*arguments)


@pytest.mark.parametrize("cell", [[5, 0], [0, 8], [-1, 0]])
def test_peaks_outside_the_map_are_refused(cell):
    message = re.escape(f"'peaks' has cell ({cell[0]}, {cell[1]}), expected cells of a map of 5 rows and 8 columns")
    with pytest.raises(ValueError, match=message):
        _native.gather_coefficients(np.zeros((2, 5, 8), np.float32), np.array([cell], np.int32))
