"""Measures on encoders whose answers are known, composites with exact annotation, the report and the command."""

import json
import zipfile
from io import BytesIO

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from synthetic import SHARED, write_synthetic_model

import wm3dr
from wm3dr import _native
from wm3dr_training.cli import main
from wm3dr_training.data.records import MissingDataError
from wm3dr_training.evaluate import composites, external, metrics, protocols, report
from wm3dr_training.evaluate.data import Outcome, Row, Setting
from wm3dr_training.evaluate.prediction import predict

SQUARE = np.array([[10.0, 20.0], [50.0, 20.0], [50.0, 60.0], [10.0, 60.0]])


def points68(center=(100.0, 80.0), radius=30.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    return (np.array(center) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def test_errors_by_hand():
    reference = points68()
    moved = reference + np.array([3.0, -4.0])
    between = np.linalg.norm(reference[36] - reference[45])
    assert metrics.interocular_nme(moved, reference) == pytest.approx(100 * 5 / between, rel=1e-5)
    assert metrics.box_nme(SQUARE + np.array([0, 2.0]), SQUARE) == pytest.approx(100 * 2 / 40)
    hidden = np.where(np.arange(4)[:, None] == 3, np.nan, SQUARE)
    hidden[2] = [50.0, 40.0]  # the box of the known points is 40 × 20
    assert metrics.box_nme(SQUARE, hidden) == pytest.approx(100 * (20 / 3) / np.sqrt(800))
    jaw_only = reference.copy()
    jaw_only[:17] += 50
    assert metrics.interocular_nme(jaw_only, reference) == 0.0


def test_overlap_and_matching():
    a, b = np.array([0.0, 0, 10, 10]), np.array([5.0, 0, 15, 10])
    assert metrics.box_overlap(a, b) == pytest.approx(1 / 3)
    assert metrics.box_overlap(a, a + 20) == 0.0
    assert metrics.best_overlap(np.stack([a + 20, b, a + 1]), a) == 2
    assert metrics.best_overlap(np.stack([a + 20]), a) is None
    assert metrics.best_overlap(np.zeros((0, 4)), a) is None
    reference = np.array([[0.0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 240, 40]])
    found = np.array(
        [[102.0, 0, 142, 40], [2, 2, 42, 42], [4, 4, 44, 44], [190, -10, 290, 90]]
    )  # one twice, one too large
    recalled, right = metrics.match_faces(found, reference)
    assert recalled.tolist() == [True, True, False] and right.tolist() == [True, True, False, False]
    assert metrics.match_faces(np.zeros((0, 4)), reference)[0].tolist() == [False] * 3


def test_curves_count_missed_photos():
    bounds, share = metrics.cumulative_errors(np.array([1.0, 2.0, 9.0]), 4, 10.0)
    assert share[0] == 0.0 and share[-1] == 0.75
    assert share[np.searchsorted(bounds, 2.0)] == 0.5


def test_area_under_roc_by_hand():
    assert metrics.area_under_roc(np.array([0.9, 0.4]), np.array([0.1, 0.5])) == 0.75
    assert metrics.area_under_roc(np.array([0.3]), np.array([0.3])) == 0.5


def test_pnp_finds_the_pose_that_made_the_points():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 40, (51, 3)) + np.array([0, 0, 60])
    for vector in rng.uniform(-0.7, 0.7, (12, 3)).astype(np.float32):
        rotation = _native.rotations_from_vectors(vector[None])[0]
        camera = points @ rotation.T.astype(float) + [120.0, -60.0, 1500.0]
        pixels = 800 * camera[:, :2] / camera[:, 2:] + [300.0, 210.0]
        found = metrics.pnp_rotation(points, pixels, 800.0, (300.0, 210.0))
        assert np.abs(found - rotation).max() < 1e-4


def test_skin_tones_are_ordered():
    mask = np.ones((4, 4), bool)
    angles = [
        metrics.skin_tone_angle(np.full((4, 4, 3), color, np.uint8), mask)
        for color in ((240, 205, 180), (200, 150, 120), (120, 80, 60), (60, 40, 30))
    ]
    assert angles == sorted(angles, reverse=True) and angles[0] > 41 and angles[-1] < -30
    assert np.isnan(metrics.skin_tone_angle(np.full((4, 4, 3), 128, np.uint8), mask))


def dotted_face() -> composites.AnnotatedFace:
    """A photo whose eye corners (36, 45) and chin (8) are a red, a green and a blue spot."""
    image = np.full((200, 180, 3), 60, np.uint8)
    landmarks = np.tile(np.array([[90.0, 100.0]], np.float32), (68, 1))
    y, x = np.mgrid[0:200, 0:180] + 0.5
    for channel, (number, place) in enumerate({36: (60, 80), 45: (118, 76), 8: (92, 150)}.items()):
        landmarks[number] = place
        image[:, :, channel] += (190 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 18)).astype(np.uint8)
    return composites.AnnotatedFace(image, landmarks)


@pytest.mark.parametrize("size", [45.0, 74.0, 160.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_composites_carry_landmarks(size, mirrored):
    canvas = np.full((400, 420, 3), 60, np.uint8)
    landmarks = composites.paste(canvas, dotted_face(), np.array([203.0, 187.0]), size, 0.35, mirrored)
    y, x = np.mgrid[0:400, 0:420] + 0.5
    for channel, number in enumerate((45, 36, 8) if mirrored else (36, 45, 8)):
        surplus = canvas[:, :, channel].astype(float) - canvas[:, :, (channel + 1) % 3]
        weight = np.clip(surplus, 0, None) * (
            np.hypot(*(np.stack([x, y]) - landmarks[number][:, None, None])) < size / 4
        )
        found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        assert np.abs(found - landmarks[number]).max() < 0.35  # px


def test_composites_are_reproducible_whole_and_apart():
    backgrounds = [np.full((300, 384, 3), 90, np.uint8)]
    made, again = (composites.make_composites([dotted_face()], backgrounds, 6, seed=3) for _ in range(2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(made, again, strict=True))
    assert max(len(c.sizes) for c in made) > 3
    for composite in made:
        assert composite.image.shape == (480, 640, 3) and composite.landmarks.shape == (len(composite.sizes), 68, 2)
        assert composite.sizes.min() >= 32
        assert composite.landmarks.min() > 0 and (composite.landmarks < (640, 480)).all()


def known_encoder(path, face_model: wm3dr.FaceModel, blind: bool = False):
    """Finds a face where a cell is red and gives each the same row: identity 0, frontal, at 20 × 100 mm."""
    width = sum(face_model.widths.values()) + 33
    row = np.zeros(width, np.float32)
    row[-1] = 10.0
    layout = [[name, n] for name, n in face_model.widths.items()]
    layout += [["rotation", 3], ["illumination", 27], ["translation", 3]]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Slice", ["cells", "zero", "one", "channel"], ["red"]),
        helper.make_node("Mul", ["red", "scale"], ["heatmap"]),
        helper.make_node("Mul", ["red", "nothing"], ["empty"]),
        helper.make_node("Add", ["empty", "row"], ["coefficients"]),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "channel": np.array([1]),
        "scale": np.float32(0.0 if blind else 1 / 255),
        "nothing": np.float32(0),
        "row": row.reshape(1, -1, 1, 1),
    }
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 3, "H", "W"])
    outputs = [
        helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["B", 1, "h", "w"]),
        helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["B", "C", "h", "w"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "for_tests", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    metadata = {
        "wm3dr_format": "wm3dr-encoder",
        "wm3dr_version": "1",
        "face_model": face_model.name,
        "face_model_sha256": face_model.sha256,
        "layout": json.dumps(layout),
        "stride": "8",
        "focal": "1015.0",
        "depth_offset": "10.0",
        "unit_mm": "100.0",
        "rotation_frame": "ray",
        "peak_window": "5",
        "peak_threshold": "0.5",
        "licence": "CC0-1.0",
        "training": "{}",
    }
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def red_photo(cells=((15, 12),), size=(256, 224)) -> np.ndarray:
    photo = np.zeros((size[1], size[0], 3), np.uint8)
    for column, row in cells:
        photo[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8, 0] = 250
    return photo


@pytest.fixture(scope="module")
def face_model(tmp_path_factory):
    return write_synthetic_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def reconstructor(tmp_path_factory, face_model):
    return wm3dr.Reconstructor(
        known_encoder(tmp_path_factory.mktemp("e") / "known.onnx", face_model), face_model, threads=1
    )


def webp(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def packs(tmp_path_factory, reconstructor):
    """helen_train and lfpw_train of 20 red photos, annotated with what the encoder says plus 2 px; dark backgrounds."""
    data = tmp_path_factory.mktemp("data")
    truth = reconstructor.reconstruct(red_photo())[0].landmarks
    for name in ("helen_train", "lfpw_train"):
        with zipfile.ZipFile(data / f"{name}.zip", "w") as archive:
            for k in range(20):
                archive.writestr(f"p{k:02d}.png", webp(red_photo()))
        stems = np.array([f"p{k:02d}" for k in range(20)])
        np.savez(
            data / f"{name}.npz", names=stems, landmarks68=np.repeat((truth + np.float32([2.0, 0.0]))[None], 20, axis=0)
        )
    with zipfile.ZipFile(data / "background.zip", "w") as archive:
        for k in range(6):
            cells = ((10, 10),) if k == 5 else ()  # one of the two held-out ones has a "face"
            archive.writestr(f"b{k}.png", webp(red_photo(cells, (384, 300))))
    return data


def test_predictions_pick_the_annotated_face(reconstructor):
    photo = red_photo(((6, 6), (20, 20)))
    result = reconstructor.reconstruct(photo)
    assert len(result) == 2
    for face in result.faces:
        p = predict(reconstructor, "x", photo, face.landmarks + 3)
        assert np.array_equal(p.face.landmarks, face.landmarks)
    missed = predict(reconstructor, "far", photo, face.landmarks + 5000)
    assert missed.index is None
    with pytest.raises(ValueError, match="the face of far was not found"):
        _ = missed.face


def test_measures_of_a_known_encoder(reconstructor, packs):
    setting = Setting(reconstructor, packs, packs)
    outcome = protocols.landmarks(setting)
    p = setting.validation_predictions[0]
    assert len(setting.validation_predictions) == 4  # the last tenth of each pack
    between = np.linalg.norm(p.reference[36] - p.reference[45])
    assert outcome.rows[0].value == pytest.approx(100 * 2 / between, rel=1e-4)
    size = metrics.box_size(np.concatenate([p.reference.min(0), p.reference.max(0)]))
    assert outcome.rows[1].value == pytest.approx(100 * 2 / size, rel=1e-4)
    assert outcome.rows[2].value == 100.0
    assert protocols.false_positives(setting).rows[0].value == 0.5
    # the same row in all nine cells: the decoded faces follow the cells, 8 px apart
    steps = np.stack(np.meshgrid([-8, 0, 8], [-8, 0, 8]), -1).reshape(-1, 2)
    spread = protocols.neighbours(setting).rows[0].value
    assert spread == pytest.approx(100 * np.linalg.norm(steps, axis=1).mean() / size, rel=0.02)


def test_a_blind_encoder_misses_everything(tmp_path, face_model, packs):
    blind = wm3dr.Reconstructor(known_encoder(tmp_path / "blind.onnx", face_model, blind=True), face_model, threads=1)
    setting = Setting(blind, packs, packs, quick=True)
    row = protocols.landmarks(setting).rows[0]
    assert row.measure == "validation faces found" and row.value == 0.0 and row.kept is False
    assert protocols.false_positives(setting).rows[0].value == 0.0
    recall = protocols.composites(setting).rows[0]
    assert recall.value == 0.0 and recall.kept is False
    assert protocols.pose(setting).rows == []


def test_rows_are_kept_or_not():
    assert Row("a", 3.0, must=4.0).kept is True and Row("a", 5.0, must=4.0).kept is False
    assert Row("a", 98.0, must=97.0, higher_is_better=True).kept is True
    assert Row("a", 98.0).kept is None
    text = report.markdown_table([Row("bad", 5.0, must=4.0, aim=3.0), Row("good", 3.5, must=4.0)])
    assert "| bad | **5.00 %** | ≤ 4 % | ≤ 3 % |" in text and "| good | 3.50 % |" in text


def test_aflw2000_groups_count_alike():
    errors, yaw = np.array([2.0, 4.0, 9.0, 9.0, 30.0]), np.array([0.0, -30.0, 31.0, -45.0, 89.0])
    groups, mean = external.balanced_mean(errors, yaw)
    assert groups == [3.0, 9.0, 30.0] and mean == 14.0


def test_dense_meshes_are_compared_vertex_by_vertex(tmp_path, reconstructor):
    photo = red_photo()
    Image.fromarray(photo).save(tmp_path / "a.png")
    truth = reconstructor.reconstruct(photo)[0].vertices_px
    np.savez(tmp_path / "a.npz", vertices_px=truth + np.float32([0.0, 3.0]))
    setting = Setting(reconstructor, tmp_path, tmp_path)
    size = metrics.box_size(np.concatenate([truth.min(0), truth.max(0)]))
    assert external.dense(setting, tmp_path).rows[0].value == pytest.approx(100 * 3 / size, rel=1e-4)
    np.savez(tmp_path / "a.npz", vertices_px=truth[:10])
    with pytest.raises(ValueError, match=r"'vertices_px' of .* has shape \(10, 2\), expected \(625, 2\)"):
        external.dense(setting, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match="has no photo with a mesh"):
        external.dense(setting, tmp_path / "empty")


def test_300w_by_part(tmp_path, reconstructor):
    truth = reconstructor.reconstruct(red_photo())[0].landmarks
    for part, shift in (("helen/testset", 1.0), ("ibug", 3.0)):
        folder = tmp_path / part
        folder.mkdir(parents=True)
        Image.fromarray(red_photo()).save(folder / "a.png")
        lines = "\n".join(f"{x:.4f} {y:.4f}" for x, y in truth + np.array([shift + 0.5, 0.5]))  # 300-W counts from 1
        (folder / "a.pts").write_text(f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n")
    rows = {row.measure: row.value for row in external.w300(Setting(reconstructor, tmp_path, tmp_path), tmp_path).rows}
    between = np.linalg.norm(truth[36] - truth[45])
    assert rows["300-W common: 68 points, inter-ocular"] == pytest.approx(100 / between, rel=1e-3)
    assert rows["300-W challenging: 51 points, inter-ocular"] == pytest.approx(300 / between, rel=1e-3)
    assert rows["300-W full: 68 points, inter-ocular"] == pytest.approx(200 / between, rel=1e-3)


def test_report_has_table_curves_figures_and_predictions(tmp_path):
    outcome = Outcome([Row("a", 1.0, must=2.0)], {"curve": (np.array([1.0, 2.0]), 3)}, {"names": np.array(["x"])})
    text = report.write_report(tmp_path / "out", "title", {"one": outcome}, {"two": "no data"})
    assert "- two: no data" in text and (tmp_path / "out" / "evaluation.md").read_text() == text
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["rows"][0]["value"] == 1.0
    assert np.load(tmp_path / "out" / "predictions.npz")["names"].tolist() == ["x"]
    with Image.open(tmp_path / "out" / "curves.png") as curves:
        assert curves.size[0] > 400


def test_command_measures_and_says_what_is_missing(tmp_path, face_model, packs):
    encoder = known_encoder(tmp_path / "known.onnx", face_model)
    arguments = ["evaluate", str(encoder), "--face-model", str(face_model.path), "-o", str(tmp_path / "out")]
    outcome = CliRunner().invoke(
        main, [*arguments, "--data", str(packs), "--only", "landmarks,photometric,pose", "--quick"]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "NME of the 51 inner points" in outcome.output
    assert "- photometric: labels of helen_train are needed" in outcome.output
    nothing = CliRunner().invoke(main, arguments)
    assert nothing.exit_code == 2 and "nothing to measure on" in nothing.output
    unknown = CliRunner().invoke(main, [*arguments, "--data", str(packs), "--only", "beauty"])
    assert unknown.exit_code == 2 and "beauty is none of landmarks, profile" in unknown.output
    absent = CliRunner().invoke(main, ["evaluate", "no.onnx", "--data", str(packs), "-o", str(tmp_path / "o")])
    assert absent.exit_code == 1 and "no.onnx" in absent.output


def test_photos_know_themselves_by_mobileface():
    """Alignment and embedding of the identity measure: photos against themselves, shifted and brighter."""
    if not (SHARED / "models" / "mobileface").exists() or not (SHARED / "data" / "london.zip").exists():
        pytest.skip(f"no {SHARED}: MobileFace and the London photos are not here")
    from wm3dr_training.data.sources import read_pack

    records = [r for r in read_pack(SHARED / "data", "london") if r.name.endswith("_03")][:6]
    embed = protocols.embedder(SHARED / "models" / "mobileface")
    points = points68((480.0, 520.0), 200.0)
    points[36:42], points[42:48] = (380, 460), (580, 460)
    points[30], points[48], points[54] = (480, 560), (400, 660), (560, 660)
    one, two = [], []
    for record in records:
        image = np.asarray(Image.fromarray(record.image()).resize((960, 960)))
        one.append(embed(protocols.aligned_face(image, points)))
        brighter = np.clip(image * 1.1, 0, 255).astype(np.uint8)
        two.append(embed(protocols.aligned_face(brighter, points + 4)))
    cosines = np.stack(one) @ np.stack(two).T
    same = np.eye(len(records), dtype=bool)
    assert metrics.area_under_roc(cosines[same], cosines[~same]) > 0.95


def test_onnx_files_of_the_tests_are_valid(tmp_path, face_model):
    onnx.checker.check_model(onnx.load(str(known_encoder(tmp_path / "k.onnx", face_model))))
