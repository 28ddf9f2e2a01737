"""Minimum-cost assignment, exact, in a page: what SciPy's `linear_sum_assignment` does, without SciPy in the runtime.

A frame has at most some hundred faces and few of them compete, so that speed does not matter and exactness costs
nothing.
"""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def assign(costs: F64) -> list[tuple[int, int]]:
    """Assign rows to columns, each at most once, with the least total cost; pairs that cost 1 or more stay apart.

    A row or column left alone costs as much as a pair of cost 1, so that two cheap pairs are never given up for more
    pairs.

    Parameters
    ----------
    costs : (n, m) float64
        No NaN; infinite is forbidden.

    Returns
    -------
    pairs : list of (row, column), by row
    """
    clipped = np.minimum(np.asarray(costs, np.float64), 1.0)
    if not clipped.size:
        return []
    transposed = clipped.shape[0] > clipped.shape[1]
    columns = _shortest_augmenting_paths(clipped.T if transposed else clipped)
    pairs = [(int(c), r) if transposed else (r, int(c)) for r, c in enumerate(columns)]
    return sorted((row, column) for row, column in pairs if clipped[row, column] < 1.0)


def _shortest_augmenting_paths(costs: F64) -> NDArray[np.intp]:
    """Return the column of every row, (n,), for n <= m (Jonker and Volgenant 1987; Crouse 2016 for rectangles).

    Dual values keep every reduced cost at 0 or more; each row is added by a shortest path (Dijkstra) to a free column.
    """
    n, m = costs.shape
    best = np.argmin(costs, axis=1)
    if len(np.unique(best)) == n:
        return best  # nobody competes: the usual case
    row_dual, column_dual = np.zeros(n), np.zeros(m)
    row_of = np.full(m, -1, np.intp)
    for start in range(n):
        distance, before, done = np.full(m, np.inf), np.full(m, -1, np.intp), np.zeros(m, bool)
        row, reached, last = start, 0.0, -1
        while True:
            through = reached + costs[row] - row_dual[row] - column_dual
            nearer = ~done & (through < distance)
            distance[nearer], before[nearer] = through[nearer], row
            last = int(np.argmin(np.where(done, np.inf, distance)))
            reached = float(distance[last])
            if row_of[last] < 0:
                break
            done[last] = True
            row = int(row_of[last])
        row_dual[start] += reached
        gained = reached - distance[done]
        row_dual[row_of[done]] += gained
        column_dual[done] -= gained
        while True:  # turn the path around
            row = int(before[last])
            column_of_row = int(np.flatnonzero(row_of == row)[0]) if row != start else -1
            row_of[last] = row
            if row == start:
                break
            last = column_of_row
    columns = np.full(n, -1, np.intp)
    columns[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
    return columns
