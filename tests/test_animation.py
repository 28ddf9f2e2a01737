"""Clips: GLB read back by pygltflib, trimesh and three.js in a browser; CSV and JSON."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from browser import Page, chromium
from builders import photo_with_faces, synthetic_arrays
from click.testing import CliRunner
from PIL import Image

import wm3dr
from wm3dr import cli
from wm3dr.animation import Clip, target_offsets, targets
from wm3dr.animation_glb import quaternions
from wm3dr.coarse import coarse_model, expression_offsets
from wm3dr.face_model import FaceModelMetadata
from wm3dr.viewer import three_script

ROOT = Path(__file__).parents[1]

TIMES = (0.0, 0.04, 0.1, 0.14)
TOLERANCE_MM = 0.01


@pytest.fixture(scope="module")
def frames(reconstructor):
    """Four frames of two faces that move, turn and change their expression; the second is missing in the third."""
    places = [((9, 7, 250, 0), (22, 15, 200, 128)), ((10, 7, 250, 60), (21, 14, 200, 160)), ((11, 8, 250, 140),),
              ((12, 8, 250, 255), (20, 12, 200, 220))]  # fmt: skip
    return [reconstructor.reconstruct(photo_with_faces((236, 180), list(faces))) for faces in places]


@pytest.fixture(scope="module")
def clip(frames):
    return clip_of(frames)


def clip_of(frames):
    """A clip whose faces keep one identity, so that the written mesh is exactly `face.vertices`."""
    clip = Clip()
    first = frames[0].dense
    for time, result in zip(TIMES, frames, strict=True):
        n = len(result)
        steady = result.dense.changed(identity=first.identity[:n], albedo=first.albedo_coefficients[:n])
        clip.add(result.with_dense(steady), time, range(n))
    return clip


def vertices_of(clip, track, row):
    """(N, 3) mm, camera frame: what our own decoder says."""
    return clip.face_model.native.vertices_camera(
        track.identity[None], track.expression[row : row + 1], track.rotations[row : row + 1],
        track.translations[row : row + 1], 1)[0]  # fmt: skip


def rotation_from_quaternion(q):
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


class Glb:
    """A GLB as pygltflib reads it, evaluated as the specification says."""

    def __init__(self, path):
        self.gltf = pytest.importorskip("pygltflib", reason="no pygltflib: pip install 'wm3dr[dev]'").GLTF2().load(path)
        self.blob = self.gltf.binary_blob()

    def array(self, number):
        accessor = self.gltf.accessors[number]
        kind = {5126: np.float32, 5123: np.uint16, 5125: np.uint32}
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]

        def read(view, component, count, width):
            view = self.gltf.bufferViews[view]
            return np.frombuffer(self.blob, kind[component], count * width, view.byteOffset).reshape(count, width)

        if accessor.sparse is None:
            return read(accessor.bufferView, accessor.componentType, accessor.count, width)
        values = np.zeros((accessor.count, width), np.float32)
        sparse = accessor.sparse
        where = read(sparse.indices.bufferView, sparse.indices.componentType, sparse.count, 1)[:, 0]
        assert (np.diff(where.astype(int)) > 0).all()
        values[where] = read(sparse.values.bufferView, accessor.componentType, sparse.count, width)
        np.testing.assert_array_equal(np.float32(accessor.min), values.min(axis=0))
        np.testing.assert_array_equal(np.float32(accessor.max), values.max(axis=0))
        return values

    def node(self, name):
        return next(i for i, node in enumerate(self.gltf.nodes) if node.name == name)

    def value(self, node, path, time, default):
        """A channel at a time: STEP or LINEAR, rotations on the sphere."""
        for channel in self.gltf.animations[0].channels if self.gltf.animations else ():
            if (channel.target.node, channel.target.path) == (node, path):
                sampler = self.gltf.animations[0].samplers[channel.sampler]
                times = self.array(sampler.input)[:, 0]
                assert self.gltf.accessors[sampler.input].min == [times[0]]
                values = self.array(sampler.output).reshape(len(times), -1).astype(float)
                if sampler.interpolation == "STEP":
                    return values[np.searchsorted(times, time, side="right") - 1]
                found = np.array([np.interp(time, times, column) for column in values.T])
                return found / np.linalg.norm(found) if path == "rotation" else found
        return np.array(default if default is not None else {"scale": [1, 1, 1]}[path], float)

    def vertices(self, name, time):
        """(n, 3) mm, camera frame."""
        number = self.node(name)
        node = self.gltf.nodes[number]
        mesh = self.gltf.meshes[node.mesh]
        primitive = mesh.primitives[0]
        points = self.array(primitive.attributes.POSITION).astype(float)
        weights = self.value(number, "weights", time, mesh.weights)
        for weight, target in zip(weights, primitive.targets, strict=True):
            points = points + weight * self.array(target["POSITION"] if isinstance(target, dict) else target.POSITION)
        points = points * self.value(number, "scale", time, node.scale)
        points = points @ rotation_from_quaternion(self.value(number, "rotation", time, node.rotation)).T
        return (points + self.value(number, "translation", time, node.translation)) * 1000 * [1, -1, -1]


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("names", ["arkit", "model"])
def test_glb_at_its_keyframes(clip, tmp_path, names, refined):
    """Base, targets, weights and nodes together are the reconstructed vertices."""
    clip.save(tmp_path / "clip.glb", names=names, refined=refined)
    glb = Glb(tmp_path / "clip.glb")
    n = clip.face_model.n_vertices if refined else coarse_model(clip.face_model).n_vertices
    assert [track.id for track in clip.tracks] == [0, 1] and len(clip.tracks[1].times) == 3
    for track in clip.tracks:
        for row, time in enumerate(track.times):
            found = glb.vertices(f"face_{track.id}", time)
            assert found.shape == (n, 3)
            assert np.abs(found - vertices_of(clip, track, row)[:n]).max() < TOLERANCE_MM


def test_glb_against_the_faces(clip, frames, tmp_path):
    """The same against `face.vertices` of the results that went in."""
    clip.save(tmp_path / "clip.glb", refined=True)
    glb = Glb(tmp_path / "clip.glb")
    found = glb.vertices("face_1", TIMES[0])
    assert np.abs(found - frames[0][1].vertices).max() < TOLERANCE_MM
    moved = glb.vertices("face_1", TIMES[3])
    assert np.abs(moved - found).max() > 20  # something moves at all


def test_missing_face_is_hidden(clip, tmp_path):
    clip.save(tmp_path / "clip.glb")
    glb = Glb(tmp_path / "clip.glb")
    assert np.ptp(glb.vertices("face_1", 0.11), axis=0).max() < 1e-6
    assert np.ptp(glb.vertices("face_1", 0.14), axis=0).max() > 100
    paths = [(channel.target.node, channel.target.path) for channel in glb.gltf.animations[0].channels]
    assert (glb.node("face_1"), "scale") in paths and (glb.node("face_0"), "scale") not in paths


def test_between_keyframes(clip, tmp_path):
    """Weights and places are linear in between; quaternions never take the long way."""
    clip.save(tmp_path / "clip.glb", names="model")
    glb = Glb(tmp_path / "clip.glb")
    track, number = clip.tracks[0], glb.node("face_0")
    middle = glb.value(number, "weights", 0.02, None)
    np.testing.assert_allclose(middle, track.expression[:2].mean(axis=0), atol=1e-6)
    for channel in glb.gltf.animations[0].channels:
        if channel.target.path == "rotation":
            keys = glb.array(glb.gltf.animations[0].samplers[channel.sampler].output).astype(float)
            assert (np.einsum("nc,nc->n", keys[1:], keys[:-1]) > 0).all()
            np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-6)


def test_quaternions_take_the_short_way():
    """A head that turns from 170° to 190° goes on, not back."""
    yaws = np.radians([150.0, 170.0, 190.0, 210.0])
    turns = np.array([[[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]] for y in yaws])
    found = quaternions(turns)
    np.testing.assert_allclose(np.einsum("nc,nc->n", found[1:], found[:-1]), np.cos(np.radians(10)), atol=1e-12)
    np.testing.assert_allclose([rotation_from_quaternion(q) for q in found], turns, atol=1e-12)


def test_time_begins_at_zero(frames, tmp_path):
    late = Clip()
    for number, result in enumerate(frames[:2]):
        late.add(result, 12.5 + number, [4, 9])
    late.save(tmp_path / "late.glb")
    glb = Glb(tmp_path / "late.glb")
    assert glb.gltf.scenes[0].extras == {"start_seconds": 12.5}
    times = glb.array(glb.gltf.animations[0].samplers[0].input)[:, 0]
    assert times.tolist() == [0.0, 1.0] and [node.name for node in glb.gltf.nodes] == ["camera", "face_4", "face_9"]


def test_scaled_faces(frames, tmp_path):
    """Real millimetres are in the scale of the node."""
    scaled = frames[0].with_scale(70.0)
    Clip.from_results([scaled]).save(tmp_path / "one.glb", refined=True)
    glb = Glb(tmp_path / "one.glb")
    assert not glb.gltf.animations and scaled[0].scale != 1.0
    for face in scaled:
        assert np.abs(glb.vertices(f"face_{face.index}", 0) - face.vertices).max() < TOLERANCE_MM


def test_trimesh_reads_it(frames, tmp_path):
    """trimesh knows no morph targets: it shows the neutral face, at its place."""
    Clip.from_results([frames[0]]).save(tmp_path / "one.glb", refined=True)
    scene = trimesh.load_scene(tmp_path / "one.glb", process=False)
    assert sorted(scene.graph.nodes_geometry) == ["face_0", "face_1"]
    for face in frames[0]:
        transform, name = scene.graph[f"face_{face.index}"]
        points = trimesh.transform_points(scene.geometry[name].vertices, transform) * [1000, -1000, -1000]
        neutral = frames[0].dense.changed(expression=np.zeros_like(frames[0].dense.expression))
        assert np.abs(points - neutral.vertices[face.index]).max() < TOLERANCE_MM
        np.testing.assert_array_equal(scene.geometry[name].faces, face.face_model.triangles)


def test_arkit_names():
    """Halves that ARKit does not part become one target and their difference; the shape stays."""
    metadata, arrays = synthetic_arrays()
    names = ("browInnerUp_L", "jawOpen", "browInnerUp_R", "mouthSmile_L")
    model = wm3dr.FaceModel.from_arrays(FaceModelMetadata(**{**vars(metadata), "expression_names": names}), arrays)
    wanted = targets(model)
    assert wanted.names == ("browInnerUp", "jawOpen", "browInnerUp_asymmetry", "mouthSmileLeft")
    weights = np.array([0.7, 0.2, 0.1, 0.5], np.float32)
    written = wanted.from_weights @ weights
    np.testing.assert_allclose(written, [0.4, 0.2, 0.3, 0.5], atol=1e-7)
    shape = np.tensordot(weights, expression_offsets(model), 1)
    np.testing.assert_allclose(np.tensordot(written, target_offsets(model, wanted), 1), shape, atol=1e-5)
    both = target_offsets(model, wanted)[0]
    np.testing.assert_allclose(both, expression_offsets(model)[[0, 2]].sum(axis=0), atol=1e-5)


def test_default_model_has_arkits_names():
    names = targets(wm3dr.FaceModel.load()).names
    assert {"jawOpen", "mouthSmileLeft", "eyeBlinkRight", "browInnerUp", "cheekPuff"} <= set(names)
    assert len(set(names)) == 53 and not [name for name in names if name.endswith(("_L", "_R"))]


def test_csv(clip):
    rows = list(csv.DictReader(io.StringIO(clip.to_csv(names="model"))))
    assert [(row["frame"], row["track"]) for row in rows] == [(f, t) for f, t in
            (("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"), ("2", "0"), ("3", "0"), ("3", "1"))]  # fmt: skip
    track = clip.tracks[1]
    row = rows[3]
    assert float(row["time"]) == 0.04
    assert np.float32(row["expression2"]) == track.expression[1, 2]
    assert np.float32(row["tz_mm"]) == track.translations[1, 2] and np.float32(row["yaw"]) == track.poses[1, 0]


def test_json(clip, tmp_path, frames):
    clip.save(tmp_path / "clip.json", names="model")
    content = json.loads((tmp_path / "clip.json").read_text())
    assert content["format"] == "wm3dr-clip" and content["times"] == list(TIMES)
    assert content["camera"]["focal"] == frames[0].camera.focal
    first, second = content["tracks"]
    assert second["times"] == [0.0, 0.04, 0.14] and first["id"] == 0
    last = dict(zip(content["targets"], first["weights"][-1], strict=True))
    assert last == pytest.approx(frames[3][0].blendshapes)


def test_identity_is_the_mean_by_score(frames):
    clip = Clip()
    for number, result in enumerate(frames[:2]):
        clip.add(result, number, [0, 1])
    faces = [frames[0][1], frames[1][1]]
    expected = np.average(
        [face.coefficients.identity for face in faces], axis=0, weights=[face.score for face in faces]
    )
    np.testing.assert_allclose(clip.tracks[1].identity, expected, rtol=1e-5)
    assert np.ptp([face.coefficients.identity for face in faces], axis=0).max() > 0.01


def test_tracked_results_bring_ids_and_times(reconstructor, frames):
    tracker = wm3dr.Tracker(reconstructor)
    tracked = [tracker.track(result, 0.5 + number / 25) for number, result in enumerate(frames)]
    clip = Clip.from_results(tracked)
    assert clip.times.tolist() == [0.5, 0.54, 0.58, 0.62]
    assert {face.id for result in tracked for face in result} == {track.id for track in clip.tracks}
    assert len(clip.tracks[0].times) == 4


def test_one_camera_for_all_frames(frames):
    """Frames of another focal length are carried to the longest; pixels of the landmarks stay where they were."""
    camera = frames[1].camera
    longer = wm3dr.Camera(2 * camera.focal, camera.principal_point, camera.size)
    clip = Clip()
    clip.add(frames[0], 0.0, [0, 1])
    clip.add(frames[1].with_camera(longer), 0.1, [0, 1])
    assert clip.camera == longer
    moved = clip.tracks[0]
    expected = frames[0].with_camera(longer)[0]
    np.testing.assert_allclose(moved.translations[0], expected.translation, rtol=1e-6)
    np.testing.assert_allclose(moved.rotations[0], expected.rotation, atol=1e-6)


def test_clip_without_faces(reconstructor, tmp_path):
    empty = reconstructor.reconstruct(np.zeros((40, 60, 3), np.uint8))
    clip = Clip.from_results([empty, empty], fps=25)
    clip.save(tmp_path / "empty.glb")
    assert [node.name for node in Glb(tmp_path / "empty.glb").gltf.nodes] == ["camera"]
    assert clip.to_csv().count("\n") == 1 and clip.to_dict()["tracks"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "'fps' must be positive and finite, not 0"),
        ({}, "'time' is missing"),
        ({"fps": 25}, "'ids' is missing for 2 faces: pass ids, or results of wm3dr.Tracker"),
        ({"fps": 25, "ids": [[0, 1]]}, "'ids' has 1 entries for 4 results"),
        ({"fps": 25, "ids": [[0], [0], [0], [0]]}, "'ids' has 1 entries for 2 faces"),
        ({"fps": 25, "ids": [[3, 3], [0, 1], [0], [0, 1]]}, r"'ids' has a number twice: \[3, 3\]"),
    ],
)
def test_bad_clips(frames, arguments, message):
    with pytest.raises(ValueError, match=message):
        Clip.from_results(frames, **arguments)


def test_bad_frames(frames, clip, tmp_path, reconstructor):
    own = Clip()
    with pytest.raises(ValueError, match="the clip has no frame yet"):
        own.save(tmp_path / "none.glb")
    with pytest.raises(TypeError, match=r"'result' must be a wm3dr.Result, not list"):
        own.add([], 0.0)
    with pytest.raises(TypeError, match="'time' must be a number"):
        own.add(frames[2], "0")
    own.add(frames[2], 1.0)
    with pytest.raises(ValueError, match=r"'time' must be finite seconds, greater than 1.0 s, not 1.0"):
        own.add(frames[2], 1.0)
    with pytest.raises(ValueError, match=r"'result' is of \(60, 40\) pixels, the frames before were \(236, 180\)"):
        own.add(reconstructor.reconstruct(np.zeros((40, 60, 3), np.uint8)), 2.0)
    with pytest.raises(ValueError, match=r"'path' ends in '.fbx', not .glb, .csv or .json"):
        own.save(tmp_path / "clip.fbx")
    with pytest.raises(ValueError, match="'names' must be 'arkit' or 'model', not 'apple'"):
        own.save(tmp_path / "clip.glb", names="apple")
    with pytest.raises(TypeError, match=r"'camera' must be a wm3dr.Camera or None, not float"):
        Clip(1015.0)
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path):
    with Image.open(ROOT / "docs/photos/solvay_1927.jpg") as image:
        (tmp_path / "frames").mkdir()
        for number, left in enumerate((400, 404, 409)):
            image.crop((left, 380, left + 500, 780)).save(tmp_path / "frames" / f"{number:04}.png")
    done = CliRunner().invoke(
        cli.main,
        [
            "animate",
            str(tmp_path / "frames"),
            "-o",
            str(tmp_path / "a.glb"),
            "-o",
            str(tmp_path / "a.csv"),
            "--fps",
            "10",
        ],
    )
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert {row["time"] for row in rows} == {"0.0", "0.1", "0.2"} and "jawOpen" in rows[0]
    always = [track for track in {row["track"] for row in rows} if sum(row["track"] == track for row in rows) == 3]
    assert len(always) >= 3  # of some seven heads in the part
    assert Glb(tmp_path / "a.glb").gltf.meshes[0].extras["targetNames"][2] == "browInnerUp"
    again = CliRunner().invoke(cli.main, ["animate", str(tmp_path / "frames"), "-o", str(tmp_path / "a.csv")])
    assert again.exit_code == 1 and "--overwrite replaces it" in again.output
    other = CliRunner().invoke(cli.main, ["animate", "x.png", "-o", "x.fbx"])
    assert other.exit_code == 2 and "ends in none of .glb, .csv, .json" in other.output


def test_command_with_a_video(tmp_path):
    """A video's own times, and its faces under one id."""
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'wm3dr[video]'")
    from fractions import Fraction

    from wm3dr.video import VideoWriter

    with Image.open(ROOT / "docs/photos/solvay_1927.jpg") as image:
        frames = [np.asarray(image.convert("RGB").crop((x, 380, x + 480, 780))) for x in (400, 403, 405)]
    with (
        (tmp_path / "a.mp4").open("wb") as file,
        VideoWriter(file, (480, 400), Fraction(10), Fraction(1, 10)) as writer,
    ):
        for number, frame in enumerate(frames):
            writer.write(frame, number)
    output = tmp_path / "a.json"
    done = CliRunner().invoke(cli.main, ["animate", str(tmp_path / "a.mp4"), "-o", str(output)])
    assert done.exit_code == 0, done.output
    content = json.loads(output.read_text())
    assert content["times"] == pytest.approx([0.0, 0.1, 0.2])
    assert sum(len(track["times"]) == 3 for track in content["tracks"]) >= 3
    missing = CliRunner().invoke(cli.main, ["animate", "none.mp4", "-o", str(tmp_path / "b.json")])
    assert missing.exit_code == 1 and "none.mp4" in missing.output


PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>{three}</script><script>
window.clip = new Promise((done, failed) => new THREE.GLTFLoader().parse(
  Uint8Array.from(atob("{glb}"), (c) => c.charCodeAt(0)).buffer, "", done, failed));
window.evaluate = async (time) => {{
  const gltf = await window.clip, mixer = new THREE.AnimationMixer(gltf.scene), found = {{}};
  if (gltf.animations.length) {{
    const action = mixer.clipAction(gltf.animations[0]);
    action.setLoop(THREE.LoopOnce); action.clampWhenFinished = true; action.play();
    mixer.setTime(time);
  }}
  gltf.scene.updateMatrixWorld(true);
  gltf.scene.traverse((mesh) => {{
    if (!mesh.isMesh) return;
    const base = mesh.geometry.attributes.position, morphs = mesh.geometry.morphAttributes.position, points = [];
    for (let i = 0; i < base.count; i++) {{
      const p = [base.getX(i), base.getY(i), base.getZ(i)];
      morphs.forEach((morph, k) => {{
        const w = mesh.morphTargetInfluences[k];
        p[0] += w * morph.getX(i); p[1] += w * morph.getY(i); p[2] += w * morph.getZ(i);
      }});
      points.push(new THREE.Vector3(...p).applyMatrix4(mesh.matrixWorld).toArray());
    }}
    found[mesh.name] = {{ points, names: Object.keys(mesh.morphTargetDictionary) }};
  }});
  return found;
}};
</script>"""


def test_three_plays_it(clip, tmp_path):
    """three.js, in a browser, loads the clip and puts every vertex where it belongs at each time."""
    clip.save(tmp_path / "clip.glb", names="model")
    glb = base64.b64encode((tmp_path / "clip.glb").read_bytes()).decode()
    (tmp_path / "page.html").write_text(PAGE.format(three=three_script(), glb=glb))
    n = coarse_model(clip.face_model).n_vertices
    with chromium() as browser:
        page = Page(browser, tmp_path / "page.html", (400, 300))
        for time in TIMES:
            found = page.evaluate("(time) => window.evaluate(time)", time)
            for track in clip.tracks:
                mesh = found[f"face_{track.id}"]
                assert mesh["names"] == list(clip.face_model.expression_names)
                points = np.array(mesh["points"]) * [1000, -1000, -1000]
                row = np.flatnonzero(track.times == time)
                if len(row):
                    assert np.abs(points - vertices_of(clip, track, row[0])[:n]).max() < TOLERANCE_MM
                else:
                    assert np.ptp(points, axis=0).max() < 1e-6
        assert page.problems == []
