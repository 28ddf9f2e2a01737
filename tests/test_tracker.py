"""Tracks: who is who, what is averaged and smoothed, and that nothing looks ahead."""

import itertools
import json
import math

import numpy as np
import pytest
from builders import K_ALBEDO, K_EXPRESSION, K_IDENTITY, photo_with_faces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

import wm3dr
from wm3dr import _native
from wm3dr.assignment import assign
from wm3dr.decode import faces_from_dense
from wm3dr.dense import DenseFaces
from wm3dr.smoothing import OneEuroRotation, OneEuroVector, rotation_matrix, rotation_vector
from wm3dr.tracks import common_motion

SIZE, FPS = (640, 360), 25.0
CAMERA = wm3dr.Camera(1015.0, (320.0, 180.0), SIZE)
RAW = {"smoothing": None, "average": False}


@pytest.fixture
def frame(face_model):
    """Make a result of faces given as dicts of translation (mm) and, if wanted, vector, identity, expression, score."""

    def make(*faces, camera=CAMERA):
        def column(name, default):
            return np.array([f.get(name, default) for f in faces], np.float32).reshape(len(faces), *np.shape(default))

        translations = column("translation", (0.0, 0.0, 1000.0))
        light = np.zeros((3, 9))
        light[:, 0] = 0.8
        dense = DenseFaces(
            face_model,
            identity=column("identity", np.zeros(K_IDENTITY)),
            expression=column("expression", np.zeros(K_EXPRESSION)),
            albedo=column("albedo", np.zeros(K_ALBEDO)),
            illumination=column("illumination", light),
            rotations=_native.rotations_from_vectors(column("vector", np.zeros(3)), translations),
            translations=translations,
            camera=camera,
            threads=1,
        )
        found = faces_from_dense(dense, column("score", 0.9), np.zeros((len(faces), 2), np.float32))
        return wm3dr.Result(found, camera, SIZE, "none", {"total": 1.0}, dense)

    return make


def test_without_smoothing_a_frame_comes_out_as_it_went_in(result):
    tracked = wm3dr.Tracker(**RAW).track(result, 0.0)
    assert [face.id for face in tracked] == [0, 1, 2] and tracked.time == 0.0
    for before, after in zip(result, tracked, strict=True):
        np.testing.assert_allclose(after.landmarks, before.landmarks, atol=2e-3)
        np.testing.assert_allclose(after.rotation, before.rotation, atol=1e-5)
        np.testing.assert_allclose(after.translation, before.translation, rtol=1e-5)
        np.testing.assert_array_equal(after.coefficients.identity, before.coefficients.identity)
        np.testing.assert_array_equal(after.coefficients.illumination, before.coefficients.illumination)
        np.testing.assert_allclose(after.box, before.box, atol=5e-3)
        assert (after.score, after.index, after.age, after.seen) == (before.score, before.index, 0.0, 1)


def test_smoothing_leaves_what_rests(frame):
    tracker = wm3dr.Tracker()
    face = {
        "translation": (180.0, -90.0, 1400.0),
        "vector": (0.2, -0.5, 0.1),
        "identity": np.linspace(-1, 1, K_IDENTITY),
        "expression": np.linspace(0, 1, K_EXPRESSION),
    }
    (given,) = frame(face)
    for k in range(40):
        (out,) = tracker.track(frame(face), k / FPS)
        np.testing.assert_allclose(out.rotation, given.rotation, atol=2e-6)
        np.testing.assert_allclose(out.translation, given.translation, rtol=2e-6)
        np.testing.assert_allclose(out.landmarks, given.landmarks, atol=2e-3)
        np.testing.assert_allclose(out.coefficients.expression, given.coefficients.expression, atol=1e-6)
        np.testing.assert_allclose(out.coefficients.identity, given.coefficients.identity, atol=1e-6)


def crossing(k):
    """Two faces that pass each other at 1.0 and 1.6 m; the one behind is hidden while it is covered."""
    x = -330.0 + 11.0 * k
    near, far = {"translation": (x, 0.0, 1000.0)}, {"translation": (-1.6 * x, 10.0, 1600.0)}
    hidden = abs(x + x) < 110.0  # in the plane of the near one
    return near, far, hidden


def test_no_switch_where_faces_cross_at_different_depths(frame):
    tracker, n_hidden = wm3dr.Tracker(), 0
    for k in range(61):
        near, far, hidden = crossing(k)
        n_hidden += hidden
        faces = [near] if hidden else [near, far] if k % 2 else [far, near]  # order must not matter
        depths = {face.id: float(face.translation[2]) for face in tracker.track(frame(*faces), k / FPS)}
        if k == 0:
            first = depths
            assert len(first) == 2
        for number, depth in depths.items():
            assert abs(math.log(depth / first[number])) < 0.1, (k, depths)
    assert n_hidden == 9


def test_id_after_ten_lost_frames_and_after_long_loss(frame):
    tracker = wm3dr.Tracker(lost_seconds=2.0)
    here, neighbour = {"translation": (0.0, 0.0, 1000.0)}, {"translation": (300.0, 0.0, 1000.0)}
    for k in range(5):
        ids = [face.id for face in tracker.track(frame(here, neighbour), k / FPS)]
    assert ids == [0, 1]
    for k in range(5, 15):
        assert [face.id for face in tracker.track(frame(neighbour), k / FPS)] == [1]
    again = tracker.track(frame(neighbour, here), 15 / FPS)
    assert [face.id for face in again] == [1, 0]
    assert again[1].seen == 6 and again[1].age == pytest.approx(15 / FPS)
    tracker.track(frame(neighbour), 16 / FPS)
    (_, late) = tracker.track(frame(neighbour, here), 15 / FPS + 2.01)
    assert late.id == 2 and late.age == 0.0 and late.seen == 1


def test_a_face_elsewhere_or_of_another_size_is_somebody_else(frame):
    for other in ((250.0, 0.0, 1000.0), (0.0, 0.0, 1800.0)):
        tracker = wm3dr.Tracker()
        tracker.track(frame({"translation": (0.0, 0.0, 1000.0)}), 0.0)
        assert [face.id for face in tracker.track(frame({"translation": other}), 1 / FPS)] == [1]


def test_a_lost_face_is_looked_for_where_the_camera_has_turned_to(frame):
    """While one of four is not seen, the camera pans by two face widths."""

    def seen(k):
        return [{"translation": (x + 16.0 * k, y, 1200.0)} for x, y in ((-300, -50), (-80, 60), (150, -40), (-200, 90))]

    tracker = wm3dr.Tracker()
    assert [face.id for face in tracker.track(frame(*seen(0)), 0.0)] == [0, 1, 2, 3]
    for k in range(1, 21):
        tracker.track(frame(*seen(k)[1:]), k / FPS)
    assert [face.id for face in tracker.track(frame(*seen(21)), 21 / FPS)] == [0, 1, 2, 3]


def test_common_motion_is_that_of_most():
    before = np.array([[100.0, 50.0], [400.0, 80.0], [250.0, 300.0], [50.0, 250.0], [520.0, 200.0]])
    motion = common_motion(before, 1.1 * before + [7.0, -3.0])
    assert motion.zoom == pytest.approx(1.1)
    np.testing.assert_allclose(motion.shift, [7.0, -3.0], atol=1e-9)
    walker = before.copy()
    walker[2] += [40.0, 0.0]
    assert np.abs(common_motion(before, walker).shift).max() < 4.0  # the mean would say 8
    assert common_motion(before[:2], before[:2]) is None


def test_identity_and_albedo_are_means_weighted_by_score(frame):
    rng = np.random.default_rng(0)
    identities, albedos = rng.normal(size=(6, K_IDENTITY)), rng.normal(size=(6, K_ALBEDO))
    scores = np.array([0.9, 0.6, 0.8, 1.0, 0.55, 0.7])
    tracker, plain = wm3dr.Tracker(), wm3dr.Tracker(average=False)
    for k in range(6):
        given = frame({"identity": identities[k], "albedo": albedos[k], "score": scores[k]})
        (out,), (own,) = tracker.track(given, k / FPS), plain.track(given, k / FPS)
        wanted = np.average(identities[: k + 1], axis=0, weights=scores[: k + 1])
        np.testing.assert_allclose(out.coefficients.identity, wanted, atol=1e-6)
        wanted = np.average(albedos[: k + 1], axis=0, weights=scores[: k + 1])
        np.testing.assert_allclose(out.coefficients.albedo, wanted, atol=1e-6)
        np.testing.assert_allclose(own.coefficients.identity, identities[k], atol=1e-6)


def walk(n, seed):
    """Times that are not even, and a face that moves at random."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.08, n))
    steps = np.cumsum(rng.normal(0, 1, (n, 10)), axis=0)
    faces = [
        {
            "translation": (4 * s[0], 4 * s[1], 1200 + 6 * s[2]),
            "vector": 0.03 * s[3:6],
            "expression": 0.5 + 0.03 * s[6:10],
        }
        for s in steps
    ]
    return times, faces


def test_outputs_do_not_depend_on_the_future(frame):
    times, faces = walk(24, 1)
    _, others = walk(24, 2)
    whole, half = wm3dr.Tracker(), wm3dr.Tracker()
    one = [whole.track(frame(face), t) for t, face in zip(times, faces, strict=True)]
    other = [half.track(frame(face), t) for t, face in zip(times, faces[:12] + others[12:], strict=True)]
    for a, b in zip(one[:12], other[:12], strict=True):
        assert json.dumps(a.to_dict()["faces"]) == json.dumps(b.to_dict()["faces"])
    assert json.dumps(one[13].to_dict()["faces"]) != json.dumps(other[13].to_dict()["faces"])


def test_smoothing_takes_most_of_the_tremble(frame):
    """At rest, with noise like the encoder's; of the place, which is known best, least is taken."""
    rng = np.random.default_rng(4)
    tracker, raw = wm3dr.Tracker(), wm3dr.Tracker(**RAW)
    rows = []
    for k in range(120):
        given = frame(
            {
                "translation": np.array([100.0, 50.0, 1200.0]) * (1 + rng.normal(0, 0.03)) + [*rng.normal(0, 2, 2), 0],
                "vector": np.array([0.1, -0.3, 0.1]) + rng.normal(0, 0.03, 3),
                "expression": 0.3 + rng.normal(0, 0.02, K_EXPRESSION),
            }
        )
        (smooth,), (plain,) = tracker.track(given, k / FPS), raw.track(given, k / FPS)
        rows.append(
            [
                np.concatenate(
                    [CAMERA.project(f.translation), [math.log(f.translation[2])], f.pose, f.coefficients.expression]
                )
                for f in (smooth, plain)
            ]
        )
    smooth, plain = np.array(rows)[20:].std(axis=0)
    ratio = smooth / plain
    assert ratio[:2].max() < 0.95 and ratio[6:].max() < 0.55, ratio
    assert ratio[2:6].max() < 0.75, ratio


def test_one_camera_for_all_frames(frame):
    """A face that comes so near that it is seen with a longer camera: the same track, that camera from then on."""
    longer = wm3dr.Camera(3 * 1015.0, (320.0, 180.0), SIZE)
    tracker = wm3dr.Tracker(smoothing=None)
    (near,) = tracker.track(frame({"translation": (60.0, 0.0, 1000.0)}), 0.0)
    second = tracker.track(frame({"translation": (60.0, 0.0, 3000.0)}, camera=longer), 0.04)
    third = tracker.track(frame({"translation": (60.0, 0.0, 1000.0)}), 0.08)
    assert [near.id, second[0].id, third[0].id] == [0, 0, 0]
    assert second.camera == third.camera == longer
    assert np.abs(third[0].landmarks - near.landmarks).mean() < 1.0  # of 160 px: the change of perspective
    given = wm3dr.Camera(700.0, (300.0, 190.0), SIZE)
    tracker = wm3dr.Tracker(smoothing=None, camera=given)
    out = tracker.track(frame({"translation": (60.0, 0.0, 1000.0)}), 0.0)
    assert out.camera == given and out[0].translation[2] == pytest.approx(1000 * 700 / 1015, rel=0.02)


def test_update_finds_and_follows(reconstructor):
    tracker = wm3dr.Tracker(reconstructor)
    for k in range(4):
        photo = photo_with_faces((236, 180), [(9 + k, 7, 250, 0), (22, 15, 200, 128)])
        tracked = tracker.update(photo, k / FPS)
        assert [face.id for face in tracked] == [0, 1]
    assert tracked.timings["total"] > tracked.timings["track"] > 0.0
    stored = json.loads(json.dumps(tracked.to_dict()))
    assert stored["time"] == 3 / FPS
    assert [(f["id"], f["seen"]) for f in stored["faces"]] == [(0, 4), (1, 4)]
    assert len(tracker.update(np.zeros((180, 236, 3), np.uint8), 1.0)) == 0
    scaled = tracked.with_scale(63.0)
    assert [face.id for face in scaled] == [0, 1] and scaled.metric


def test_reset_starts_anew_and_ids_go_on(frame):
    tracker = wm3dr.Tracker()
    tracker.track(frame({}), 5.0)
    tracker.reset()
    assert [face.id for face in tracker.track(frame({}), 0.0)] == [1]


@pytest.mark.parametrize(
    ("time", "error", "message"),
    [
        (1.0, ValueError, "'time' is 1.0 s, not after 1.0 s"),
        (0.5, ValueError, "not after 1.0 s"),
        (math.nan, ValueError, "'time' must be finite"),
        ("2", TypeError, "'time' must be a number (seconds), not str"),
    ],
)
def test_bad_times(frame, time, error, message):
    tracker = wm3dr.Tracker()
    tracker.track(frame({}), 1.0)
    with pytest.raises(error) as caught:
        tracker.track(frame({}), time)
    assert message in str(caught.value)


def test_bad_arguments(frame, result):
    with pytest.raises(TypeError, match=r"'smoothing' must be a wm3dr\.Smoothing or None, not dict"):
        wm3dr.Tracker(smoothing={})
    with pytest.raises(TypeError, match=r"'reconstructor' must be a wm3dr\.Reconstructor"):
        wm3dr.Tracker("model.onnx")
    with pytest.raises(ValueError, match="'lost_seconds' must be finite and at least 0"):
        wm3dr.Tracker(lost_seconds=-1.0)
    with pytest.raises(TypeError, match=r"'result' must be a wm3dr\.Result, not list"):
        wm3dr.Tracker().track([], 0.0)
    tracker = wm3dr.Tracker()
    tracker.track(frame({}), 0.0)
    with pytest.raises(ValueError, match=r"the frame is \(236, 180\) pixels, those before were \(640, 360\)"):
        tracker.track(result, 1.0)
    with pytest.raises(ValueError, match=r"'min_cutoff' must be positive and finite \(Hz\), not 0"):
        wm3dr.OneEuro(0.0, 1.0)
    with pytest.raises(ValueError, match="'beta' must be finite and at least 0"):
        wm3dr.OneEuro(1.0, -1.0)


def test_one_euro_by_hand():
    """Δt = 0.1 s, from 0 to 1: speed 10/s low-passed by 1 Hz, cut-off 1 + 0.5 · speed, gain 1/(1 + 1/(2π f Δt))."""
    smooth = OneEuroVector(wm3dr.OneEuro(1.0, 0.5))
    assert smooth([0.0], 0.1)[0] == 0.0
    speed = 10.0 / (1 + 1 / (2 * math.pi * 0.1))
    wanted = 1 / (1 + 1 / (2 * math.pi * (1.0 + 0.5 * speed) * 0.1))
    assert smooth([1.0], 0.1)[0] == pytest.approx(wanted, rel=1e-12)
    turn = OneEuroRotation(wm3dr.OneEuro(1.0, 0.5))
    turn(np.eye(3), 0.1)
    np.testing.assert_allclose(turn(rotation_matrix([0, 0, 1.0]), 0.1), rotation_matrix([0, 0, wanted]), atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0, math.pi))
def test_rotation_vectors_there_and_back(axis, angle):
    axis = np.add(axis, (0.0, 0.0, 1e-3))
    vector = axis / max(np.linalg.norm(axis), 1e-9) * angle
    matrix = rotation_matrix(vector)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-9)
    np.testing.assert_allclose(rotation_matrix(rotation_vector(matrix)), matrix, atol=1e-6)


def test_assignment_is_exact():
    """Against every permutation and against SciPy; forbidden pairs and pairs of cost 1 stay apart."""
    rng = np.random.default_rng(0)
    for case in range(300):
        n, m = rng.integers(0, 6, 2)
        costs = rng.random((n, m)) * 1.5
        if case % 3 == 0:
            costs = np.round(4 * costs) / 4  # ties
        costs[rng.random((n, m)) < 0.3] = np.inf
        pairs = assign(costs)
        assert all(costs[i, j] < 1 for i, j in pairs)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        saved = sum(1 - costs[i, j] for i, j in pairs)
        clipped = np.minimum(costs, 1)
        rows, columns = linear_sum_assignment(clipped)
        assert saved == pytest.approx((1 - clipped[rows, columns]).sum())
        if 0 < n <= m:
            best = max(
                sum(1 - clipped[i, j] for i, j in enumerate(order))
                for order in itertools.permutations(range(m), int(n))
            )
            assert saved == pytest.approx(best)
