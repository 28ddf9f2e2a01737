import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import raster as reference

from wm3dr import _native

FOCAL = 400.0
SIZE = (83, 61)  # width, height: not square, several bands of rows, no multiple of any block
CENTRE = (37.25, 33.5)


def grid(rows, columns, rng, jitter, step=8.0, slope=0.3):
    """A jittered sheet that faces the camera (CCW seen from it), in mm at about z = 400, where a mm is a pixel."""
    i, j = np.mgrid[0 : rows + 1, 0 : columns + 1].astype(float)
    points = np.stack([(j - columns / 2) * step, (i - rows / 2) * step, np.full(i.shape, FOCAL)], -1)
    points[..., :2] += rng.uniform(-jitter, jitter, points[..., :2].shape)
    points[..., 2] += rng.uniform(-slope, slope, i.shape) * 40
    number = np.arange(i.size).reshape(i.shape)
    a, b, c, d = (n.ravel() for n in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    flip = rng.random(a.size) < 0.5
    first = np.where(flip[:, None], np.stack([a, c, b], -1), np.stack([a, c, d], -1))
    second = np.where(flip[:, None], np.stack([b, c, d], -1), np.stack([a, d, b], -1))
    return points.reshape(-1, 3).astype(np.float32), np.concatenate([first, second]).astype(np.int32)


def native(vertices, triangles, focal=FOCAL, centre=CENTRE, size=SIZE, threads=1):
    return _native.rasterize(vertices, triangles, focal, centre, size, threads)


def scene(seed, faces=3, step=8.0):
    """Sheets at different depths that hide each other in part, with folds that face away."""
    rng = np.random.default_rng(seed)
    _, triangles = grid(5, 7, rng, 0.0)
    sheets = []
    for _ in range(faces):
        points, _ = grid(5, 7, rng, 0.45 * step, step)
        sheets.append(points + rng.uniform([-20, -15, -100], [20, 15, 100]))
    return np.stack(sheets).astype(np.float32), triangles


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([1.3, 4.0, 11.0, 40.0]))
def test_agrees_with_the_twin_that_snaps_alike(seed, step):
    vertices, triangles = scene(seed, step=step)
    triangle_id, face_id, depth, barycentric = native(vertices, triangles)
    twin = reference.rasterize(vertices, triangles, FOCAL, CENTRE, SIZE)
    np.testing.assert_array_equal(triangle_id < 0, twin.triangle_id < 0)
    # Where two surfaces are nearly as near, float32 may choose the other one.
    sure = (twin.second - twin.depth > 1e-3) & (twin.triangle_id >= 0)
    np.testing.assert_array_equal(triangle_id[sure], twin.triangle_id[sure])
    np.testing.assert_array_equal(face_id[sure], twin.face_id[sure])
    np.testing.assert_allclose(depth[sure], twin.depth[sure], rtol=1e-5)
    np.testing.assert_allclose(barycentric[sure], twin.barycentric[sure], atol=1e-5)
    assert sure.sum() >= 0.97 * (twin.triangle_id >= 0).sum()


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_snapping_moves_only_what_lies_on_an_edge(seed):
    vertices, triangles = scene(seed, step=9.0)
    triangle_id, face_id, depth, barycentric = native(vertices, triangles)
    exact = reference.rasterize(vertices, triangles, FOCAL, CENTRE, SIZE, snap=False)
    differs = (triangle_id != exact.triangle_id) | (face_id != exact.face_id)
    differs &= ~(exact.second - exact.depth < 0.05)
    # A pixel centre changes hands only within 1/256 px of an edge: of about 0.2 px of edge per pixel, some 0.2 %.
    assert differs.mean() < 0.01
    same = ~differs & (triangle_id >= 0) & (exact.second - exact.depth > 0.05)
    # Corners move by at most 1/512 px per axis: little against the height of a triangle (some px), slivers excepted.
    assert np.quantile(np.abs(depth[same] / exact.depth[same] - 1), 0.98) < 1e-3
    error = np.abs(barycentric[same] - exact.barycentric[same]).max(-1)
    assert np.quantile(error, 0.95) < 2e-3


def coverage(vertices, triangles, size=SIZE):
    """How often each pixel is drawn when every triangle is drawn alone."""
    count = np.zeros(size[::-1], int)
    for triangle in triangles:
        count += native(vertices[None], triangle[None].copy(), size=size)[0] >= 0
    return count


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.booleans())
def test_shared_edges_are_drawn_exactly_once(seed, on_centres):
    rng = np.random.default_rng(seed)
    vertices, triangles = grid(4, 5, rng, 1.7, slope=0)  # more, and quads of 8 px could fold over their neighbours
    if on_centres:  # corners and edges through pixel centres: the fill rule decides
        vertices[:, :2] = np.round(vertices[:, :2] * 2) / 2 + np.array([0.25, 0.0])
    count = coverage(vertices, triangles)
    assert count.max() == 1
    whole = native(vertices[None], triangles)[0] >= 0
    np.testing.assert_array_equal(count == 1, whole)


@pytest.mark.parametrize("step", [9.0, 90.0])  # 32-bit and 64-bit edge functions
def test_a_closed_sheet_leaves_no_hole(step):
    rng = np.random.default_rng(5)
    vertices, triangles = grid(10, 14, rng, 0.3 * step, step, slope=0)
    assert (native(vertices[None], triangles)[0] >= 0).all()
    assert (coverage(vertices, triangles) == 1).all()


def test_top_and_left_edges_belong_to_a_square_and_the_others_do_not():
    # Corners on the centres of pixels (10, 20) and (14, 23).
    x0, y0, x1, y1 = (10.5 - CENTRE[0], 20.5 - CENTRE[1], 14.5 - CENTRE[0], 23.5 - CENTRE[1])
    vertices = np.array([[[x0, y0, FOCAL], [x0, y1, FOCAL], [x1, y1, FOCAL], [x1, y0, FOCAL]]], np.float32)
    triangle_id, *_ = native(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    rows, columns = np.nonzero(triangle_id >= 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 22, 10, 13)
    assert len(rows) == 3 * 4


def test_the_back_is_culled_and_what_is_cut_by_the_near_plane_dropped():
    vertices = np.array([[[-20, -20, 400], [0, 20, 400], [20, -20, 400]]], np.float32)
    front = np.array([[0, 1, 2]], np.int32)
    assert (native(vertices, front)[0] >= 0).any()
    assert (native(vertices, front[:, ::-1].copy())[0] < 0).all()
    vertices[0, 0, 2] = 0.9
    for array, empty in zip(native(vertices, front), (-1, -1, 0, 0), strict=True):
        assert (array == empty).all()


def test_nearer_faces_hide_farther_ones_and_ties_go_to_the_first():
    triangle = np.array([[-30, -30, 400], [0, 30, 400], [30, -30, 400]], np.float32)
    front = np.array([[0, 1, 2]], np.int32)
    near = triangle - [0, 0, 1]
    for faces, seen in (([triangle, near], 1), ([near, triangle], 0), ([triangle, triangle], 0)):
        _, face_id, _, _ = native(np.stack(faces).astype(np.float32), front)
        drawn = face_id[face_id >= 0]
        assert len(drawn)
        assert (drawn == seen).mean() > 0.99  # the nearer one is 0.25 % larger; its rim is its own in any case
    doubled = native(triangle[None], np.concatenate([front, front]))[0]
    assert set(np.unique(doubled)) == {-1, 0}


def test_surfaces_that_cross_are_parted_where_they_do():
    left = np.array([[-40, -40, 380], [-40, 40, 380], [40, 40, 420], [40, -40, 420]], np.float32)
    right = left * [-1, 1, 1]
    right = right[::-1]
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    _, face_id, _, _ = native(np.stack([left, right]).astype(np.float32), triangles)
    columns = np.arange(SIZE[0]) + 0.5
    for side, face in ((columns < CENTRE[0] - 1, 0), (columns > CENTRE[0] + 1, 1)):
        seen = face_id[:, side]
        assert set(np.unique(seen)) <= {-1, face}


def test_weights_are_perspective_correct():
    # A steep quad: the middle of its edges in space is not that in the image.
    vertices = np.array([[[-25, -20, 300], [-25, 20, 300], [60, 40, 700], [60, -40, 700]]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    triangle_id, face_id, depth, barycentric = native(vertices, triangles)
    points = _native.interpolate(triangle_id, face_id, barycentric, triangles, vertices, 1)
    seen = triangle_id >= 0
    assert seen.sum() > 500
    i, j = np.nonzero(seen)
    px = _native.project(points[seen][None], FOCAL, CENTRE)[0]
    np.testing.assert_allclose(px, np.stack([j + 0.5, i + 0.5], -1), atol=1 / 256)  # the snapping of the corners
    np.testing.assert_allclose(points[..., 2], depth, rtol=1e-6)
    np.testing.assert_allclose(barycentric[seen].sum(-1), 1, atol=1e-6)
    assert (barycentric >= 0).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_interpolation_agrees_with_the_twin(channels):
    vertices, triangles = scene(11)
    triangle_id, face_id, _, barycentric = native(vertices, triangles)
    attributes = np.random.default_rng(2).normal(size=(*vertices.shape[:2], channels)).astype(np.float32)
    got = _native.interpolate(triangle_id, face_id, barycentric, triangles, attributes, 2)
    expected = reference.interpolate(triangle_id, face_id, barycentric, triangles, attributes)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert (got[triangle_id < 0] == 0).all()


def test_shifting_the_principal_point_shifts_the_image():
    vertices, triangles = scene(3)
    one = native(vertices, triangles)
    two = native(vertices, triangles, centre=(CENTRE[0] + 5, CENTRE[1] - 4))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a[4:, :-5], b[:-4, 5:])


@pytest.mark.parametrize("step", [1.1, 8.0, 60.0])
def test_threads_do_not_change_a_byte(step):
    vertices, triangles = scene(7, faces=5, step=step)
    one = native(vertices, triangles, size=(83, 161))
    attributes = np.ascontiguousarray(vertices)
    carried = _native.interpolate(one[0], one[1], one[3], triangles, attributes, 1)
    for threads in (2, 5, 0):
        again = native(vertices, triangles, size=(83, 161), threads=threads)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, again, strict=True))
        again = _native.interpolate(one[0], one[1], one[3], triangles, attributes, threads)
        assert again.tobytes() == carried.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3, 40), (5, 5), (400, 2)])
def test_narrow_images(size):
    vertices, triangles = scene(13, step=5.0)
    centre = (size[0] / 2, size[1] / 2)
    triangle_id, face_id, _, _ = native(vertices, triangles, centre=centre, size=size)
    twin = reference.rasterize(vertices, triangles, FOCAL, centre, size)
    sure = ~(twin.second - twin.depth < 1e-3)
    np.testing.assert_array_equal(triangle_id[sure], twin.triangle_id[sure])
    np.testing.assert_array_equal(face_id[sure], twin.face_id[sure])


def test_no_face_is_an_empty_raster():
    arrays = native(np.zeros((0, 5, 3), np.float32), np.array([[0, 1, 2]], np.int32))
    assert [a.shape for a in arrays] == [(61, 83), (61, 83), (61, 83), (61, 83, 3)]
    assert (arrays[0] == -1).all()
    assert not _native.interpolate(*(arrays[k] for k in (0, 1, 3)), *empty_mesh(), 1).any()


def empty_mesh():
    return np.array([[0, 1, 2]], np.int32), np.zeros((0, 5, 2), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 5)}, "'size' has 0 x 5 pixels, expected sides of 1 to 32768"),
        ({"size": (5, 40_000)}, "'size' has 5 x 40000 pixels, expected sides of 1 to 32768"),
        ({"focal": 0.0}, "'focal' has 0, expected a positive finite number of pixels"),
        ({"centre": (np.nan, 0.0)}, "'principal_point' has a non-finite value at flat index 0"),
        ({"triangles": np.array([[0, 1, 99]], np.int32)}, "'triangles' has index 99, expected indices in 0..48"),
        ({"vertices": np.full((1, 48, 3), np.inf, np.float32)}, "'vertices_camera' has a non-finite value"),
        ({"threads": 999}, "'threads' has 999, expected 0 (all) to 256"),
    ],
)
def test_bad_scenes_are_refused(changes, message):
    vertices, triangles = scene(1)
    with pytest.raises(ValueError, match=re.escape(message)):
        native(**{"vertices": vertices, "triangles": triangles} | changes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("triangle_id", 70, "'triangle_id' has number 70, expected -1 or numbers in 0..70"),
        ("triangle_id", -2, "'triangle_id' has number -2, expected -1 or numbers in 0..70"),
        ("face_id", 3, "'face_id' has number 3, expected -1 or numbers in 0..3"),
        ("face_id", -1, "'face_id' has a pixel that disagrees with 'triangle_id'"),
    ],
)
def test_bad_rasters_are_refused(name, value, message):
    vertices, triangles = scene(1)
    triangle_id, face_id, _, barycentric = native(vertices, triangles)
    maps = {"triangle_id": triangle_id, "face_id": face_id}
    i, j = np.argwhere(triangle_id >= 0)[0]
    maps[name][i, j] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.interpolate(maps["triangle_id"], maps["face_id"], barycentric, triangles, vertices, 1)
