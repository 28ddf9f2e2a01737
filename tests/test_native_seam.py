"""What crosses the border to the native module: types, layouts, threads, the GIL, processes."""

import multiprocessing
import re
import sys
import threading
import time

import numpy as np
import pytest

from wm3dr import _native


def mesh(n=200):
    i, j = np.mgrid[0:n, 0:n]
    points = np.stack([(j - n / 2) * 2.0, (i - n / 2) * 2.0, np.full(i.shape, 900.0)], -1).reshape(1, -1, 3)
    a = (i * n + j)[:-1, :-1].ravel()
    triangles = np.concatenate([np.stack([a, a + n, a + n + 1], -1), np.stack([a, a + n + 1, a + 1], -1)])
    return points.astype(np.float32), triangles.astype(np.int32)


def rasterize(threads=2):
    points, triangles = mesh()
    return _native.rasterize(points, triangles, 1000.0, (256.0, 256.0), (512, 512), threads)


def test_results_own_their_memory():
    arrays = rasterize()
    for array in arrays:
        assert array.flags.writeable
        array[...] = 0  # nobody else's


def test_read_only_input_is_accepted_and_left_alone():
    points, triangles = mesh(20)
    points.flags.writeable = triangles.flags.writeable = False
    before = points.copy()
    _native.vertex_normals(points, triangles, 2)
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize("layout", [lambda a: a[:, ::2], lambda a: a[..., ::-1], np.asfortranarray])
def test_other_layouts_are_refused_with_the_way_out(layout):
    message = "'vertices' has a non-contiguous layout, expected C order (numpy.ascontiguousarray)"
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.vertex_normals(layout(mesh(20)[0]), np.array([[0, 1, 2]], np.int32), 1)


def test_unaligned_arrays_are_refused_or_read_rightly():
    points, triangles = mesh(20)
    shifted = np.frombuffer(b"\0" + points.tobytes(), np.uint8)[1:].view(np.float32).reshape(points.shape)
    expected = _native.vertex_normals(points, triangles, 1)
    if shifted.flags.aligned:
        np.testing.assert_array_equal(_native.vertex_normals(shifted, triangles, 1), expected)
    else:
        with pytest.raises((ValueError, TypeError), match="'vertices'"):
            _native.vertex_normals(shifted, triangles, 1)


@pytest.mark.parametrize("threads", [-1, 2**70, 1.5, "2"])
def test_threads_that_are_no_number_are_refused(threads):
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _native.vertex_normals(*mesh(5), threads)


def test_python_runs_while_the_core_works():
    """A thread that only counts gets on during native calls; it would not if they held the GIL."""
    points, triangles = mesh(400)
    points = np.repeat(points, 8, axis=0)
    count, stop = [0], threading.Event()

    def counting():
        while not stop.is_set():
            count[0] += 1
            time.sleep(1e-4)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=counting)
    thread.start()
    try:
        sys.setswitchinterval(10)  # no help from the interpreter
        before = count[0]
        start = time.perf_counter()
        _native.vertex_normals(points, triangles, 1)
        during, seconds = count[0] - before, time.perf_counter() - start
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert during >= 1, f"nothing else ran for {seconds * 1e3:.0f} ms"


def test_many_python_threads_at_once():
    expected = [array.tobytes() for array in rasterize(1)]
    wrong, barrier = [], threading.Barrier(6)

    def work(threads):
        barrier.wait()
        for _ in range(4):
            wrong.extend(a.tobytes() != e for a, e in zip(rasterize(threads), expected, strict=True))

    workers = [threading.Thread(target=work, args=(t,)) for t in (0, 1, 2, 2, 3, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(wrong) == 6 * 4 * 4
    assert not any(wrong)


def in_child(connection):
    connection.send([array.tobytes() for array in rasterize(2)])


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own_threads():
    expected = [array.tobytes() for array in rasterize(2)]  # the parent's pool exists
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(there,))
    child.start()
    try:
        assert here.poll(30), "the child hangs"
        assert here.recv() == expected
    finally:
        child.kill()
        child.join()


def test_calls_do_not_leak():
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    for _ in range(20):
        rasterize(2)
    before = process.memory_info().rss
    for _ in range(200):
        rasterize(2)
    assert process.memory_info().rss - before < 20e6  # one call returns 6 MB
