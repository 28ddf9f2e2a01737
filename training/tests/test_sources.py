"""Readers: every layout is built small, read, and broken."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from wm3dr_training.data import external, sources
from wm3dr_training.data.landmarks import (
    MEDIAPIPE_68,
    MIRROR_68,
    inner_error,
    landmarks68_from_fiducials,
    mirror_landmarks,
)
from wm3dr_training.data.records import CorruptImageError, MissingDataError, Record, decode_image

RNG = np.random.default_rng(7)


def encoded(width: int = 40, height: int = 30, value: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_pack(folder: Path, name: str, stems: list[str], **annotations: np.ndarray) -> None:
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
        for stem in stems:
            file.writestr(f"{stem}.png", encoded())
    if annotations:
        np.savez(folder / f"{name}.npz", **annotations)


def write_pts(path: Path, points: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{lines}\n}}\n")


def test_pack_is_sorted_annotated_and_split(tmp_path):
    stems = [f"p{k:02d}" for k in range(20)]
    points = RNG.uniform(0, 30, (20, 68, 2)).astype(np.float32)
    write_pack(tmp_path, "helen_train", stems[::-1], names=np.array(stems), landmarks68=points)
    records = sources.read_pack(tmp_path, "helen_train")
    assert [record.name for record in records] == stems
    assert np.array_equal(records[3].landmarks68, points[3])
    assert [record.split for record in records].count("validation") == 2
    assert records[-1].split == "validation" and records[-3].split == "train"
    assert records[0].image().shape == (30, 40, 3)


def test_held_out_tenth_is_rounded_up():
    assert [sources.split_of("lfpw_train", k, 805) for k in (723, 724)] == ["train", "validation"]
    assert sources.split_of("lfw", 804, 805) == "train"


def test_every_third_background_is_held_out(tmp_path):
    write_pack(tmp_path, "background", [f"b{k}" for k in range(7)])
    splits = [record.split for record in sources.read_pack(tmp_path, "background")]
    assert splits == ["train", "train", "validation", "train", "train", "validation", "train"]


def test_pack_without_annotation_groups_people_of_cfp(tmp_path):
    fiducials = RNG.uniform(0, 30, (2, 30, 2)).astype(np.float32)
    stems = ["001_frontal_01", "001_profile_01"]
    write_pack(tmp_path, "cfp", stems, names=np.array(stems), fiducials30=fiducials)
    records = sources.read_pack(tmp_path, "cfp")
    assert {record.group for record in records} == {"001"}
    assert np.isfinite(records[0].landmarks68).all(axis=1).sum() == 30


def test_missing_pack_says_what_was_expected(tmp_path):
    with pytest.raises(MissingDataError, match=r"lfw: .*lfw\.zip does not exist.*\n.*NAME\.zip"):
        sources.read_pack(tmp_path, "lfw")


def test_pack_without_images_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "lfw.zip", "w") as file:
        file.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match="holds no image"):
        sources.read_pack(tmp_path, "lfw")


def test_zip_that_is_none(tmp_path):
    (tmp_path / "lfw.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="is not a zip file"):
        sources.read_pack(tmp_path, "lfw")


@pytest.mark.parametrize(
    ("points", "message"),
    [(np.zeros((2, 67, 2)), r"shape \(2, 67, 2\), wanted \(2, 68, 2\)"), (np.zeros((1, 68, 2)), "wanted")],
)
def test_annotation_count_is_checked(tmp_path, points, message):
    write_pack(tmp_path, "lfw", ["a", "b"], names=np.array(["a", "b"]), landmarks68=points.astype(np.float32))
    with pytest.raises(ValueError, match=message):
        sources.read_pack(tmp_path, "lfw")


def test_annotation_of_a_photo_that_is_not_there(tmp_path):
    write_pack(tmp_path, "lfw", ["a"], names=np.array(["z"]), landmarks68=np.zeros((1, 68, 2), np.float32))
    with pytest.raises(ValueError, match="first 'z'"):
        sources.read_pack(tmp_path, "lfw")


def test_folder_of_photos_is_searched_recursively(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded())
    (tmp_path / "b.txt").write_text("no photo")
    assert [record.name for record in sources.read_photos(tmp_path)] == ["in/a"]
    with pytest.raises(ValueError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        sources.read_photos(tmp_path / "empty")


def test_corrupt_photos_have_an_error_of_their_own():
    assert Record("s", "good", encoded).image().shape == (30, 40, 3)
    with pytest.raises(CorruptImageError, match="s/bad cannot be decoded"):
        Record("s", "bad", lambda: encoded()[:60]).image()
    with pytest.raises(CorruptImageError, match="x cannot be decoded"):
        decode_image(b"", "x")


def test_record_checks_its_fields():
    with pytest.raises(ValueError, match="split is 'test'"):
        Record("s", "n", encoded, split="test")
    with pytest.raises(ValueError, match=r"shape \(5, 2\), wanted \(68, 2\)"):
        Record("s", "n", encoded, landmarks68=np.zeros((5, 2), np.float32))


def test_300w_shifts_to_corners_and_keeps_tests_out(tmp_path):
    points = RNG.uniform(1, 30, (68, 2)).round(3)
    for part in ("helen/trainset", "helen/testset", "ibug"):
        write_pts(tmp_path / part / "a.pts", points)
        (tmp_path / part / "a.png").write_bytes(encoded())
    records = external.read_300w(tmp_path)
    assert [record.name for record in records] == ["helen/trainset/a"]
    # the centre of the first pixel is (1, 1) in the file and (½, ½) here
    np.testing.assert_allclose(records[0].landmarks68, points - 0.5, atol=1e-4)
    everything = external.read_300w(tmp_path, include_tests=True)
    assert [record.split for record in everything] == ["validation", "train", "validation"]


def test_pts_with_another_count_than_it_says(tmp_path):
    path = tmp_path / "a.pts"
    path.write_text("version: 1\nn_points: 68\n{\n1 2\n3 4\n}")
    with pytest.raises(ValueError, match="has 2 points, its head says 68"):
        external.read_pts(path)
    path.write_text("1 2 3")
    with pytest.raises(ValueError, match=r"no \{ … \}"):
        external.read_pts(path)
    path.write_text("n_points: 1\n{\nx 2\n}")
    with pytest.raises(ValueError, match="not a number"):
        external.read_pts(path)


def test_300w_lp_prefers_the_landmark_folder(tmp_path):
    fitted, better = RNG.uniform(1, 30, (2, 68)), RNG.uniform(1, 30, (68, 2))
    (tmp_path / "AFW").mkdir()
    (tmp_path / "landmarks" / "AFW").mkdir(parents=True)
    for stem in ("face_1_0", "face_1_1"):
        (tmp_path / "AFW" / f"{stem}.jpg").write_bytes(encoded())
        savemat(tmp_path / "AFW" / f"{stem}.mat", {"pt2d": fitted})
    savemat(tmp_path / "landmarks" / "AFW" / "face_1_1_pts.mat", {"pts_2d": better})
    first, second = external.read_300w_lp(tmp_path)
    np.testing.assert_allclose(first.landmarks68, fitted.T - 0.5, atol=1e-5)
    np.testing.assert_allclose(second.landmarks68, better - 0.5, atol=1e-5)
    assert first.group == second.group == "AFW/face_1"


def test_aflw2000_is_for_validation_and_takes_a_reannotation(tmp_path):
    points = RNG.uniform(1, 30, (3, 68))
    (tmp_path / "image00002.jpg").write_bytes(encoded())
    savemat(tmp_path / "image00002.mat", {"pt3d_68": points, "Pose_Para": np.deg2rad([[10, 20, 30, 0, 0, 0, 1]])})
    (record,) = external.read_aflw2000(tmp_path)
    assert record.split == "validation"
    np.testing.assert_allclose(record.landmarks68, points[:2].T - 0.5, atol=1e-5)
    np.testing.assert_allclose(external.read_aflw2000_pose(tmp_path, "image00002"), [10, 20, 30], atol=1e-4)
    np.save(tmp_path / "again.npy", np.ones((1, 68, 2)))
    (record,) = external.read_aflw2000(tmp_path, tmp_path / "again.npy")
    assert (record.landmarks68 == 0.5).all()
    np.save(tmp_path / "again.npy", np.ones((2, 68, 2)))
    with pytest.raises(ValueError, match=r"shape \(2, 68, 2\), wanted \(1, 68, 2\)"):
        external.read_aflw2000(tmp_path, tmp_path / "again.npy")


def test_mat_file_without_the_array(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded())
    savemat(tmp_path / "a.mat", {"other": np.zeros(3)})
    with pytest.raises(ValueError, match=r"no array 'pt3d_68'; it has \['other'\]"):
        external.read_aflw2000(tmp_path)
    (tmp_path / "a.mat").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"cannot be read as a \.mat file"):
        external.read_aflw2000(tmp_path)


def test_celeba_partition_people_and_boxes(tmp_path):
    images = tmp_path / "Img" / "img_celeba"
    images.mkdir(parents=True)
    for name in ("000001.jpg", "000002.jpg"):
        (images / name).write_bytes(encoded())
    for folder in ("Eval", "Anno"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n000003.jpg 0\n")
    (tmp_path / "Anno" / "identity_CelebA.txt").write_text("000001.jpg 77\n")
    (tmp_path / "Anno" / "list_bbox_celeba.txt").write_text("2\nimage_id x y w h\n000001.jpg 3 4 10 20\n")
    first, second = external.read_celeba(tmp_path)
    assert (first.split, second.split) == ("train", "validation")
    assert first.group == "77" and first.box.tolist() == [3, 4, 13, 24] and second.box is None


def test_300vw_takes_every_nth_frame(tmp_path):
    for number in range(1, 6):
        write_pts(tmp_path / "001" / "annot" / f"{number:06d}.pts", RNG.uniform(1, 30, (68, 2)))
        (tmp_path / "001" / "frames").mkdir(exist_ok=True)
        (tmp_path / "001" / "frames" / f"{number:06d}.jpg").write_bytes(encoded())
    assert [record.name for record in external.read_300vw(tmp_path, every=2)] == [
        "001/000001",
        "001/000003",
        "001/000005",
    ]
    with pytest.raises(ValueError, match="every is 0"):
        external.read_300vw(tmp_path, every=0)


def test_300vw_decodes_the_annotated_frames_of_a_video(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "002" / "annot").mkdir(parents=True)
    with av.open(str(tmp_path / "002" / "vid.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in (20, 90, 160, 230):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for number in (1, 2, 3, 4):
        write_pts(tmp_path / "002" / "annot" / f"{number:06d}.pts", RNG.uniform(1, 30, (68, 2)))
    records = external.read_300vw(tmp_path, every=2)
    for order in ((0, 1), (1, 0)):  # a step back is served, too
        for k in order:
            assert abs(float(records[k].image().mean()) - (20, 160)[k]) < 8
    write_pts(tmp_path / "002" / "annot" / "000009.pts", RNG.uniform(1, 30, (68, 2)))
    with pytest.raises(CorruptImageError, match="has 4 frames, wanted number 9"):
        external.read_300vw(tmp_path, every=1)[-1].image()


def test_cfp_folder(tmp_path):
    (tmp_path / "Data" / "Images" / "003" / "profile").mkdir(parents=True)
    (tmp_path / "Data" / "Fiducials" / "003" / "profile").mkdir(parents=True)
    (tmp_path / "Data" / "Images" / "003" / "profile" / "02.jpg").write_bytes(encoded())
    file = tmp_path / "Data" / "Fiducials" / "003" / "profile" / "02.txt"
    np.savetxt(file, RNG.uniform(1, 30, (30, 2)), delimiter=",")
    (record,) = external.read_cfp(tmp_path)
    assert record.name == "003_profile_02" and record.group == "003"
    file.write_text("1,2\n")
    with pytest.raises(ValueError, match="not 30 lines"):
        external.read_cfp(tmp_path)


@pytest.mark.parametrize("name", sorted(external.READERS))
def test_missing_sets_show_their_layout(tmp_path, name):
    with pytest.raises(MissingDataError, match=rf"^{name}: .*does not exist") as error:
        external.READERS[name](tmp_path / "nowhere")
    assert external.LAYOUTS[name] in str(error.value)


@pytest.mark.parametrize("name", ["300w", "300w_lp", "aflw2000", "300vw", "cfp"])
def test_empty_sets_show_their_layout(tmp_path, name):
    with pytest.raises(MissingDataError, match="no annotated photo"):
        external.READERS[name](tmp_path)


def test_fiducials_go_to_the_side_that_is_shown():
    right = RNG.uniform(0, 100, (1, 30, 2)).astype(np.float32)
    right[0, 25, 0], right[0, 26:30, 0] = 10, 50  # the mouth corner is left of the lips' middle: subject's right
    right[0, 12], right[0, 16], right[0, 17] = (20, 40), (32, 44), (26, 44)
    landmarks = landmarks68_from_fiducials(right)
    assert np.array_equal(landmarks[0, 48], right[0, 25]) and np.array_equal(landmarks[0, 41], right[0, 17])
    left = mirror_landmarks(right, 100, np.arange(30))
    np.testing.assert_allclose(landmarks68_from_fiducials(left), mirror_landmarks(landmarks, 100), atol=1e-4)


def test_lower_lid_in_the_other_order_is_put_right():
    fiducials = RNG.uniform(0, 100, (1, 30, 2)).astype(np.float32)
    fiducials[0, 25, 0], fiducials[0, 26:30, 0] = 10, 50
    fiducials[0, 12], fiducials[0, 16], fiducials[0, 17] = (20, 40), (32, 44), (26, 44)
    swapped = fiducials.copy()
    swapped[0, [16, 17]] = swapped[0, [17, 16]]
    np.testing.assert_array_equal(landmarks68_from_fiducials(fiducials), landmarks68_from_fiducials(swapped))


def test_mirror_is_an_involution():
    assert np.array_equal(MIRROR_68[MIRROR_68], np.arange(68))
    assert len(set(MEDIAPIPE_68.tolist())) == 68


def test_inner_error_by_hand():
    reference = np.zeros((1, 68, 2))
    reference[0, 0], reference[0, 16] = (0, 0), (40, 10)  # box 40 × 10: unit 20
    reference[0, 50:] = np.nan
    moved = np.nan_to_num(reference) + np.array([3, 4])
    moved[0, :17] += 1000  # the contour does not count
    np.testing.assert_allclose(inner_error(moved, reference), [5 / 20])
