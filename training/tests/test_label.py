"""Labels: crops, quality, arrays, the landmark process (a stand-in program speaks its protocol), the command."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wm3dr_training.data import arrays, crops, detector, label, mesh_client, quality
from wm3dr_training.data.correspondence import load_correspondence
from wm3dr_training.data.landmarks import MEDIAPIPE_68, N_MEDIAPIPE
from wm3dr_training.data.records import MissingDataError, Record

RNG = np.random.default_rng(11)
SHARED = Path(__file__).parents[3] / "shared"

STAND_IN = """
import struct, sys
import numpy as np
if "{mode}" == "dies":
    print("no module named mediapipe", file=sys.stderr)
    sys.exit(1)
while len(header := sys.stdin.buffer.read(4)) == 4:
    side, = struct.unpack("<I", header)
    crop = np.frombuffer(sys.stdin.buffer.read(side * side * 3), np.uint8).reshape(side, side, 3)
    points = np.zeros((478, 3), "<f4")
    y, x = np.nonzero(crop[..., 0] > 128)   # the "face" is the bright square; a point on each 1/22 of it
    if len(x) == 0:
        points[:] = np.nan
    else:
        k = np.arange(478)
        points[:, 0] = x.min() + (k % 22) / 21 * (x.max() + 1 - x.min())
        points[:, 1] = y.min() + (k // 22) / 21 * (y.max() + 1 - y.min())
    sys.stdout.buffer.write(points.tobytes())
    sys.stdout.buffer.flush()
"""


def stand_in(tmp_path: Path, mode: str = "works") -> list[str]:
    program = tmp_path / f"{mode}.py"
    program.write_text(STAND_IN.replace("{mode}", mode))
    return [sys.executable, str(program)]


class OneFace:
    """A detector that knows where the face is."""

    def __init__(self, boxes, scores=(0.9,)):
        self.found = detector.Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))

    def detect(self, image):
        return self.found


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def photo(box=(30, 20, 70, 60), size=(100, 90)) -> np.ndarray:
    image = np.full((size[1], size[0], 3), 40, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 220
    return image


def test_affine_and_crop_agree_on_every_pixel():
    """A ramp survives cropping: the value at a crop pixel's centre is that of the photo point it came from."""
    y, x = np.mgrid[:120, :150] + 0.5
    image = np.stack([x, y, np.full_like(x, 7)], axis=2).round().astype(np.uint8)
    square = np.array([20.3, 10.7, 116.3, 106.7])  # exactly half of 192: magnified
    crop = crops.crop_square(image, square).astype(float)
    affine = crops.affine_from_square(square).astype(float)
    row, column = 100, 60
    source = np.linalg.solve(affine[:, :2], np.array([column + 0.5, row + 0.5]) - affine[:, 2])
    # ½ for the rounding of the ramp, ½ for that of the result
    np.testing.assert_allclose(crop[row, column, :2], source, atol=1.0)
    mean = crop[40:150, 40:150, :2].mean(axis=(0, 1))
    middle = np.linalg.solve(affine[:, :2], np.array([95.0, 95.0]) - affine[:, 2])
    np.testing.assert_allclose(mean, middle, atol=0.1)  # no shift of a fraction of a pixel


def test_crop_is_black_outside_and_says_so():
    image = np.full((50, 60, 3), 200, np.uint8)
    square = np.array([-20.0, -10.0, 76.0, 86.0])
    crop = crops.crop_square(image, square)
    covered = crops.covered_box(crops.affine_from_square(square), 60, 50)
    assert covered.tolist() == [40, 20, 160, 120]
    assert crop[60, 30].tolist() == [0, 0, 0] and crop[60, 100].tolist() == [200, 200, 200]


def test_square_around_by_hand():
    points = np.array([[10.0, 20.0], [50.0, 40.0], [np.nan, np.nan]])
    assert crops.square_around(points).tolist() == [-10.0, -10.0, 70.0, 70.0]
    with pytest.raises(ValueError, match="span no area"):
        crops.square_around(np.full((3, 2), np.nan))


def test_background_is_the_central_square():
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 255
    assert (crops.center_crop(image, 30)[:, 2:-2] == 255).all()


def test_main_face_is_large_and_central():
    found = detector.Detections(
        np.array([[0, 0, 30, 30], [40, 40, 70, 70], [45, 0, 55, 10]], np.float32),
        np.array([0.9, 0.9, 0.99], np.float32),
    )
    assert detector.main_face(found, 110, 110) == (1, pytest.approx(1.0))
    with pytest.raises(ValueError, match="no main face"):
        detector.main_face(detector.Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)), 9, 9)


def test_annotation_says_which_face_is_meant(tmp_path):
    boxes, scores = [(0, 0, 60, 60), (62, 60, 96, 88)], (0.99, 0.6)
    with mesh_client.MeshClient(command=stand_in(tmp_path)) as mesh:
        image = photo((62, 60, 96, 88))
        row = label.label_photo(image, OneFace(boxes, scores), mesh, box=np.array([64, 60, 98, 90]))
        assert row["box"].tolist() == [62, 60, 96, 88] and row["score"] == np.float32(0.6) and row["second"] == 0
        missed = label.label_photo(image, OneFace(boxes[:1], scores[:1]), mesh, box=np.array([64, 60, 98, 90]))
        assert missed["box"].tolist() == [64, 60, 98, 90] and missed["score"] == 0
        assert np.isfinite(missed["direct"]).all()


def test_known_box_is_the_records_own_or_that_of_its_landmarks():
    points = np.full((68, 2), np.nan, np.float32)
    points[:2] = [[3, 9], [5, 4]]
    assert label.known_box(Record("s", "a", bytes)) is None
    assert label.known_box(Record("s", "a", bytes, landmarks68=points)).tolist() == [3, 4, 5, 9]
    own = np.array([1, 2, 3, 4], np.float32)
    assert label.known_box(Record("s", "a", bytes, landmarks68=points, box=own)) is own


def judged(**changes):
    """Three good labels, changed as asked."""
    points = np.concatenate([RNG.uniform(0, 100, (3, N_MEDIAPIPE, 2)), np.zeros((3, N_MEDIAPIPE, 1))], axis=2)
    values = {
        "names": np.array(["a", "b_profile", "c"]),
        "direct": points,
        "mirrored": points.copy(),
        "score": np.full(3, 0.9),
        "second": np.zeros(3),
        "landmarks68": points[:, MEDIAPIPE_68, :2].copy(),
    }
    for key, change in changes.items():
        change(values[key])
    return quality.judge(**values)


def move(row, amount):
    def change(array):
        array[row, ..., 0] += amount

    return change


def fill(row, value):
    def change(array):
        array[row] = value

    return change


@pytest.mark.parametrize(
    ("changes", "row", "reason"),
    [
        ({}, 0, ""),
        ({"mirrored": move(0, 5)}, 0, "mirror image disagrees"),  # 5 of about 100 px: beyond 3.5 %
        ({"mirrored": move(1, 5)}, 1, ""),  # profiles may differ by 6.5 %
        ({"mirrored": move(1, 9)}, 1, "mirror image disagrees"),
        ({"landmarks68": move(2, 12)}, 2, "differs from annotation"),
        ({"direct": fill(0, np.nan), "mirrored": fill(0, np.nan)}, 0, "no landmarks"),
        ({"score": fill(0, 0.3), "landmarks68": fill(0, np.nan)}, 0, "low detection score"),
        ({"second": fill(0, 0.8), "landmarks68": fill(0, np.nan)}, 0, "another main face"),
        ({"second": fill(0, 0.8)}, 0, ""),  # the annotation says which face is meant
    ],
)
def test_reasons_of_rejection(changes, row, reason):
    verdict = judged(**changes)
    assert verdict["reason"][row] == reason
    assert verdict["valid"][row] == (reason == "")
    others = [k for k in range(3) if k != row]
    assert verdict["valid"][others].all()


def test_merged_landmarks_are_the_mean():
    verdict = judged(mirrored=move(0, 2))
    again = judged()
    assert verdict["landmarks478"].dtype == np.float32 and again["disagreement"].max() == 0
    assert 0.015 < verdict["disagreement"][0] < 0.025  # 2 of about 97 px


def test_landmarks_come_back_in_pixels_of_the_photo(tmp_path):
    """The stand-in marks the bright square; wherever it lies and however small, the square's corners come back."""
    with mesh_client.MeshClient(command=stand_in(tmp_path)) as mesh:
        for box in ((30, 20, 70, 60), (2, 1, 42, 41)):
            row = label.label_photo(photo(box), OneFace([box]), mesh)
            found = row["direct"][:462, :2]  # 21 full rows of the 22 by 22 grid
            np.testing.assert_allclose(found.min(axis=0), box[:2], atol=0.6)
            np.testing.assert_allclose(found[:, 0].max(), box[2], atol=0.6)
            # the grid is not mirror-symmetric in its numbers, but its extent is that of the square again
            np.testing.assert_allclose(row["mirrored"][:462, 0].min(), box[0], atol=0.6)
            assert row["size"].tolist() == [100, 90] and row["score"] == np.float32(0.9)


def test_photo_without_a_face_is_not_valid(tmp_path):
    with mesh_client.MeshClient(command=stand_in(tmp_path)) as mesh:
        row = label.label_photo(np.zeros((40, 50, 3), np.uint8), OneFace([], []), mesh)
    assert np.isnan(row["direct"]).all() and row["faces"] == 0


def test_process_that_ends_is_an_error_with_the_way_out(tmp_path):
    with (
        mesh_client.MeshClient(command=stand_in(tmp_path, "dies")) as mesh,
        pytest.raises(
            mesh_client.MeshError, match=r"no module named mediapipe[\s\S]*pip install \"mediapipe==0.10.9\""
        ),
    ):
        mesh.landmarks(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(mesh_client.MeshError, match="cannot be run"):
        mesh_client.MeshClient(python=str(tmp_path / "no-python"))


def test_client_checks_the_crop(tmp_path):
    with (
        mesh_client.MeshClient(command=stand_in(tmp_path)) as mesh,
        pytest.raises(ValueError, match=r"shape \(4, 5, 3\)"),
    ):
        mesh.landmarks(np.zeros((4, 5, 3), np.uint8))


def labelled(tmp_path, records, boxes=((30, 20, 70, 60),)):
    with mesh_client.MeshClient(command=stand_in(tmp_path)) as mesh:
        return label.label_records(records, OneFace(boxes), [mesh])


def test_arrays_carry_points_and_skip_corrupt_photos(tmp_path):
    manual = np.column_stack([np.linspace(30, 70, 68), np.linspace(20, 60, 68)]).astype(np.float32)
    records = [
        Record("s", "a", lambda: png(photo()), split="validation"),
        Record("s", "b", lambda: b"broken", landmarks68=manual),
        Record("s", "c", lambda: png(photo()), landmarks68=manual),
    ]
    labels = labelled(tmp_path, records)
    labels["valid"][:] = [True, False, False]  # the stand-in's grid is no face: judge it by hand
    labels["reason"][:] = ""
    counts = arrays.write_arrays(records, labels, tmp_path)
    assert counts == {"kept": 2, "unlabelled": 0, "corrupt": 1}
    table, images = np.load(tmp_path / "train_s.npz"), np.load(tmp_path / "train_s.npy")
    assert images.shape == (2, 192, 192, 3) and table["names"].tolist() == ["a", "c"]
    assert table["split"].tolist() == [1, 0]
    assert table["has478"].tolist() == [True, False] and table["has68"].tolist() == [False, True]
    # the box of c's landmarks is 40 px, its crop 80 px: 2.4 crop pixels to one of the photo, centred
    np.testing.assert_allclose(table["landmarks68"][1, [0, -1]], [[48, 48], [144, 144]], atol=1e-3)
    assert images[1, 50:142, 50:142].min() > 200 and images[1, :40].max() < 60


def test_large_photos_also_get_a_fine_crop(tmp_path):
    def large() -> np.ndarray:
        return np.kron(photo(), np.ones((8, 8, 1), np.uint8))  # the square's side is 320 px, the crop's 640

    points = np.column_stack([np.linspace(30, 70, 68), np.linspace(20, 60, 68)]).astype(np.float32)
    records = [
        Record("s", "small", lambda: png(photo()), landmarks68=points),
        Record("s", "large", lambda: png(large()), landmarks68=8 * points),
    ]
    labels = labelled(tmp_path, records)
    labels["valid"][:] = False
    labels["reason"][:] = ""
    labels["other_face"][:] = False
    arrays.write_arrays(records, labels, tmp_path)
    table, fine = np.load(tmp_path / "train_s.npz"), np.load(tmp_path / "fine_s.npy")
    assert table["fine_row"].tolist() == [-1, 0] and fine.shape == (1, 384, 384, 3)
    coarse = np.load(tmp_path / "train_s.npy")[1].astype(int)
    assert np.abs(fine[0].reshape(192, 2, 192, 2, 3).mean(axis=(1, 3)) - coarse).mean() < 4


def test_labels_of_other_photos_are_refused(tmp_path):
    records = [Record("s", "a", lambda: png(photo()))]
    labels = labelled(tmp_path, records)
    with pytest.raises(ValueError, match="labels of s are for other photos"):
        arrays.write_arrays([Record("s", "z", lambda: png(photo()))], labels, tmp_path)


def test_killed_save_leaves_the_former_file(tmp_path, monkeypatch):
    arrays.save_npz(tmp_path / "x.npz", a=np.arange(3))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        arrays.save_npz(tmp_path / "x.npz", a=np.arange(4))
    assert np.load(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


def test_command_goes_on_where_it_ended(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name, count in (("lfw", 3), ("background", 4)):
        with zipfile.ZipFile(data / f"{name}.zip", "w") as file:
            for k in range(count):
                file.writestr(f"{name}{k}.png", png(photo()))
    commands = stand_in(tmp_path)
    started = []

    class Client(mesh_client.MeshClient):
        def __init__(self, python):
            started.append(python)
            super().__init__(command=commands)

    monkeypatch.setattr(label, "MeshClient", Client)
    monkeypatch.setattr(label, "FaceDetector", lambda path: OneFace([(30, 20, 70, 60)]))
    # the stand-in is not mirror-symmetric, which is what the mirror test is there to find
    loose = quality.Thresholds(disagreement=10)
    monkeypatch.setattr(label, "judge", lambda *a: quality.judge(*a, loose))
    arguments = ["--data", str(data), "--out", str(out), "--workers", "2"]
    first = CliRunner().invoke(label.label, arguments)
    assert first.exit_code == 0, first.output
    assert "lfw: 3 of 3 labels valid" in first.output and "background: 4 photos, 0 corrupt" in first.output
    assert len(started) == 2
    made = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.suffix in (".npy", ".npz")}
    assert set(made) == {
        *("lfw.npz", "train_lfw.npy", "train_lfw.npz", "skin_lfw.npy", "fit_lfw.npz"),
        *("background.npy", "background.npz"),
    }
    (out / "skin_lfw.npy").unlink()
    second = CliRunner().invoke(label.label, arguments)
    assert second.exit_code == 0 and len(started) == 2, "labels that are there are not made again"
    again = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name in made}
    assert {name for name in made if made[name] != again[name]} == {"skin_lfw.npy"}
    assert np.load(out / "background.npz")["split"].tolist() == [0, 0, 1, 0]


def test_command_without_data_says_what_it_wants(tmp_path):
    result = CliRunner().invoke(label.label, ["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and "holds none of helen_train" in result.output
    result = CliRunner().invoke(label.label, ["--data", str(tmp_path), "--out", str(tmp_path), "--source", "lfw"])
    assert result.exit_code == 1 and "lfw.zip does not exist" in result.output


def test_missing_detector_shows_its_layout(tmp_path):
    with pytest.raises(MissingDataError, match=r"yunet_n_dynamic\.onnx"):
        detector.FaceDetector(tmp_path / "nothing.onnx")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the repository")
def test_yunet_finds_manually_annotated_faces():
    """The main face's box holds the manual landmarks' centre on 40 photos, at most one miss."""
    from wm3dr_training.data.sources import read_pack

    finder = detector.FaceDetector(SHARED / "models" / "yunet" / "yunet_n_dynamic.onnx")
    hits = 0
    records = read_pack(SHARED / "data", "lfpw_train")[:800:20]
    for record in records:
        image = record.image()
        found = finder.detect(image)
        if len(found.scores):
            index, _ = detector.main_face(found, image.shape[1], image.shape[0])
            box, center = found.boxes[index], record.landmarks68.mean(axis=0)
            hits += bool((box[:2] < center).all() and (center < box[2:]).all())
    assert hits >= len(records) - 1


def test_correspondence_is_symmetric_and_barycentric():
    points = load_correspondence()
    assert points.vertex_ids.shape == points.weights.shape == (468, 3)
    assert points.weights.min() >= 0
    np.testing.assert_allclose(points.weights.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(points.mirror[points.mirror], np.arange(478))
    assert np.array_equal(points.side[points.mirror], -points.side)
    np.testing.assert_allclose(points.confidence, points.confidence[points.mirror[:468]], atol=1e-6)
    vertices = RNG.normal(size=(2, points.vertex_ids.max() + 1, 3))
    by_hand = sum(points.weights[7, c] * vertices[1, points.vertex_ids[7, c]] for c in range(3))
    np.testing.assert_allclose(points.points(vertices)[1, 7], by_hand, atol=1e-12)


def test_command_reads_public_sets(tmp_path):
    """The reader is found by name, and its message reaches the user."""
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--set", "celeba", str(tmp_path / "nothing")]
    result = CliRunner().invoke(label.label, [*arguments, "--source", "background"])
    assert result.exit_code == 1 and "celeba: " in result.output and "list_eval_partition.txt" in result.output
