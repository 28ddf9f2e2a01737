"""Face-part labels of the coarse vertices, drawn on the symmetric mean shape.

Lips are cut out along mesh edges between the landmarks of their outline. The other parts are outlines in the frontal
view (|x|, y) or the side view (z, y), in mm of the model frame; using |x| makes them symmetric.
"""

from itertools import pairwise

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

from .geometry import edges_from_triangles

REGION_NAMES = (
    "skin",
    "nose",
    "left_brow",
    "right_brow",
    "left_eyelids",
    "right_eyelids",
    "upper_lip",
    "lower_lip",
    "left_ear",
    "right_ear",
    "neck",
    "scalp",
)
"""Index = label; left and right are the subject's."""

NOSE_XY = [(-1, 32), (6, 32), (8, 20), (12, 8), (17, 1), (20, -7), (19, -14), (14, -19.5), (6, -21), (-1, -21)]
BROW_XY = [
    (11, 41), (13, 50), (29, 52), (42, 52), (52, 48.5), (59.5, 41.5),
    (58, 38.5), (49, 43), (40, 45), (28, 44.5), (14, 40),
]  # fmt: skip
EYELID_MARGIN_MM = 5.0
EAR_ZY = [(-100, 31), (-63, 31), (-65, 13), (-58, 8), (-57, -20), (-59, -32), (-100, -32)]
HAIRLINE_ZY = [(-100, 30), (-58, 30), (-40, 38), (-25, 56), (-8, 68), (8, 82), (60, 84)]
JAW_LINE_ZY = [(-100, -33), (-66, -33), (-50, -62), (-30, -80), (-12, -88.5), (10, -88.5), (28, -86.5), (60, -90)]
UPPER_LIP_OUTLINE = tuple(range(48, 55))
LOWER_LIP_OUTLINE = (54, 55, 56, 57, 58, 59, 48)
LEFT_EYE, RIGHT_EYE = range(42, 48), range(36, 42)


def region_labels(
    mean_shape: NDArray[np.float32],
    triangles: NDArray[np.int32],
    landmark_vertices: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """Index into `REGION_NAMES` for every coarse vertex, (N0,) uint8.

    Parameters
    ----------
    mean_shape : (N0, 3) float32
        mm, model frame, left-right symmetric.
    triangles : (T0, 3) int32
    landmark_vertices : (68,) int32
        Coarse vertex numbers.
    """
    x, y, z = mean_shape.astype(np.float64).T
    side, front = np.stack([z, y], 1), np.stack([np.abs(x), y], 1)
    labels = np.zeros(len(mean_shape), np.uint8)

    def put(name: str, inside: NDArray[np.bool_]) -> None:
        labels[inside] = REGION_NAMES.index(name)

    put("neck", y < np.interp(z, *np.transpose(JAW_LINE_ZY)))
    put("scalp", y > np.interp(z, *np.transpose(HAIRLINE_ZY)))
    ear = Outline(EAR_ZY).contains_points(side)
    put("left_ear", ear & (x > 0))
    put("right_ear", ear & (x < 0))
    put("nose", Outline(NOSE_XY).contains_points(front) & (z > 0))
    brow = Outline(BROW_XY).contains_points(front) & (z > -20)
    put("left_brow", brow & (x > 0))
    put("right_brow", brow & (x < 0))
    for name, eye in (("left_eyelids", LEFT_EYE), ("right_eyelids", RIGHT_EYE)):
        outline = mean_shape[landmark_vertices[eye], :2]
        put(name, (distance_to_polygon(mean_shape[:, :2], outline) < EYELID_MARGIN_MM) & (z > -20))
    upper, lower = lip_vertices(mean_shape, triangles, landmark_vertices)
    put("upper_lip", upper)
    put("lower_lip", lower)
    return labels


def distance_to_polygon(points: NDArray[np.floating], polygon: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of (P, 2) points to a closed polygon (M, 2), 0 inside."""
    start, end = polygon, np.roll(polygon, -1, axis=0)
    along = end - start
    offset = points[:, None] - start
    t = np.clip((offset * along).sum(2) / (along**2).sum(1), 0, 1)
    distance = np.linalg.norm(offset - t[..., None] * along, axis=2).min(axis=1)
    return np.where(Outline(polygon).contains_points(points), 0.0, distance)


def lip_vertices(
    mean_shape: NDArray[np.float32], triangles: NDArray[np.int32], landmark_vertices: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks (N0,) of upper and lower lip: what the shortest edge paths along the outer landmarks enclose."""
    edges = edges_from_triangles(triangles)
    lengths = np.linalg.norm(mean_shape[edges[:, 0]] - mean_shape[edges[:, 1]], axis=1).astype(np.float64)
    n = len(mean_shape)
    graph = csr_matrix((lengths, edges.T), shape=(n, n))
    graph = graph + graph.T

    def path(outline: tuple[int, ...]) -> NDArray[np.int64]:
        found = []
        for a, b in pairwise(outline):
            start, end = int(landmark_vertices[a]), int(landmark_vertices[b])
            _, before = dijkstra(graph, indices=start, return_predecessors=True)
            found.append(end)
            while found[-1] != start:
                found.append(int(before[found[-1]]))
        return np.unique(found)

    upper_outline, lower_outline = path(UPPER_LIP_OUTLINE), path(LOWER_LIP_OUTLINE)
    outside = np.ones(n, bool)
    outside[upper_outline] = outside[lower_outline] = False
    inner = edges[outside[edges].all(axis=1)]
    _, component = connected_components(csr_matrix((np.ones(len(inner)), inner.T), shape=(n, n)), directed=False)
    lip = ~outside | (component == component[landmark_vertices[62]]) | (component == component[landmark_vertices[66]])
    if lip.sum() > n // 4:
        raise ValueError("landmark_vertices: the outer lip landmarks do not enclose the lips")
    kept = np.where(lip[edges].all(axis=1), lengths, 0.0)
    inside = csr_matrix((kept, edges.T), shape=(n, n))
    inside.eliminate_zeros()
    from_upper = dijkstra(inside, directed=False, indices=upper_outline, min_only=True)
    from_lower = dijkstra(inside, directed=False, indices=lower_outline, min_only=True)
    return lip & (from_upper <= from_lower), lip & (from_upper > from_lower)


def region_mask(regions: NDArray[np.uint8], *names: str) -> NDArray[np.bool_]:
    """True where the label is one of `names`."""
    return np.isin(regions, [REGION_NAMES.index(name) for name in names])
