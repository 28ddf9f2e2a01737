"""Heatmap → peaks, cell by cell."""

import numpy as np


def find_peaks(heatmap, threshold, window):
    """Maxima of their window, at least threshold; equal ones that a chain of windows connects are one, the first."""
    height, width = heatmap.shape
    reach = window // 2
    maxima = [
        (i, j)
        for i in range(height)
        for j in range(width)
        if heatmap[i, j] >= threshold
        and heatmap[i, j] >= heatmap[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1].max()
    ]
    group = {cell: cell for cell in maxima}  # grows together until nothing changes
    changed = True
    while changed:
        changed = False
        for a in maxima:
            for b in maxima:
                near = abs(a[0] - b[0]) <= reach and abs(a[1] - b[1]) <= reach
                if near and heatmap[a] == heatmap[b] and group[a] != group[b]:
                    group[a] = group[b] = min(group[a], group[b])
                    changed = True
    cells = sorted(set(group.values()), key=lambda cell: (-heatmap[cell], cell))
    return np.array(cells, np.int32).reshape(-1, 2), np.array([heatmap[cell] for cell in cells])


def gather_coefficients(coefficients, peaks):
    """(C, h, w) at (P, 2) cells → (P, C)."""
    return np.array([coefficients[:, i, j] for i, j in peaks]).reshape(-1, len(coefficients))
