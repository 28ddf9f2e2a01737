"""Scene maps: each against its definition, all from one raster pass, and their files read back."""

import json

import numpy as np
import pytest
from builders import photo_with_faces, synthetic_face_model
from click.testing import CliRunner
from conftest import REPOSITORY
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import wm3dr
from wm3dr import _native
from wm3dr.cli import main
from wm3dr.decode import faces_from_dense
from wm3dr.draw import region_palette
from wm3dr.mapfiles import FILES
from wm3dr.maps import ncc_bounds, ncc_from_face_model


@pytest.fixture(scope="module")
def crowd(reconstructor):
    """Two faces, the nearer in front of a part of the other."""
    return reconstructor.reconstruct(photo_with_faces((400, 320), [(25, 20, 250, 0), (31, 20, 200, 255)]))


def sampled(raster, step=151):
    """Rows and columns of some pixels on faces."""
    return np.argwhere(raster.face_id >= 0)[::step]


def test_all_maps_come_from_one_raster_pass(reconstructor, photo, monkeypatch, tmp_path):
    calls, rasterize = [], _native.rasterize
    monkeypatch.setattr(_native, "rasterize", lambda *args, **kw: calls.append(1) or rasterize(*args, **kw))
    result = reconstructor.reconstruct(photo)
    assert not calls  # nothing until a map is asked for
    raster = result.render()
    assert not calls
    for name in ("depth", "face_id", "triangle_id", "barycentric", "normals", "pncc", "region", "color", "alpha"):
        assert getattr(raster, name) is getattr(result.render(), name), name  # computed once, then kept
        assert not getattr(raster, name).flags.writeable
    for face in result:
        assert face.visible.any() and face.landmarks_visible.shape == (68,)
    result.save_maps(tmp_path / "maps")
    assert len(calls) == 1


def test_maps_alone_need_no_colours(reconstructor, photo, monkeypatch):
    monkeypatch.setattr(_native, "colors", lambda *_: pytest.fail("colours were computed"))
    raster = reconstructor.reconstruct(photo).render()
    assert (raster.depth > 0).any() and raster.normals.any() and raster.pncc.any() and raster.region.max() >= 0


def test_every_pixel_is_the_point_that_its_weights_say(crowd, face_model):
    """Barycentric weights, triangle, face and depth against the projection of the camera (CONVENTIONS.md §3)."""
    raster = crowd.render()
    for row, column in sampled(raster):
        face = crowd[raster.face_id[row, column]]
        corners = face.vertices[face_model.triangles[raster.triangle_id[row, column]]].astype(np.float64)
        weights = raster.barycentric[row, column].astype(np.float64)
        assert weights.sum() == pytest.approx(1, abs=1e-5) and weights.min() >= -1e-4
        point = weights @ corners
        np.testing.assert_allclose(crowd.camera.project(point), [column + 0.5, row + 0.5], atol=0.02)
        assert raster.depth[row, column] == pytest.approx(point[2], abs=0.02)
        # and back: a pixel and its depth are the point
        pixel = [column + 0.5, row + 0.5, raster.depth[row, column]]
        np.testing.assert_allclose(crowd.camera.unproject(pixel), point, atol=0.05)


def test_normals_are_those_of_the_surface_in_the_camera_frame(crowd, face_model):
    raster = crowd.render()
    hit = raster.face_id >= 0
    np.testing.assert_allclose(np.linalg.norm(raster.normals[hit], axis=1), 1, atol=1e-5)
    assert not raster.normals[~hit].any()
    for row, column in sampled(raster):
        face = crowd[raster.face_id[row, column]]
        corners = face_model.triangles[raster.triangle_id[row, column]]
        expected = raster.barycentric[row, column].astype(np.float64) @ face.normals[corners]
        np.testing.assert_allclose(raster.normals[row, column], expected / np.linalg.norm(expected), atol=1e-4)
    towards = np.einsum("pc,pc->p", raster.normals[hit], crowd.camera.unproject(_image_points(raster)))
    assert (towards < 0).mean() > 0.99  # seen surfaces look at the camera


def _image_points(raster):
    rows, columns = np.nonzero(raster.face_id >= 0)
    return np.stack([columns + 0.5, rows + 0.5, raster.depth[rows, columns]], axis=1)


def test_pncc_is_the_place_on_the_mean_face(crowd, face_model):
    raster = crowd.render()
    code = ncc_from_face_model(face_model)
    np.testing.assert_array_equal([code.min(axis=0), code.max(axis=0)], [[0, 0, 0], [1, 1, 1]])
    low, high = ncc_bounds(face_model)
    np.testing.assert_allclose(low + code * (high - low), face_model.mean_shape, atol=1e-4)
    hit = raster.face_id >= 0
    assert not raster.pncc[~hit].any()
    for row, column in sampled(raster):
        corners = face_model.triangles[raster.triangle_id[row, column]]
        expected = raster.barycentric[row, column].astype(np.float64) @ code[corners]
        np.testing.assert_allclose(raster.pncc[row, column], expected, atol=1e-5)
    # Whoever's face it is: a landmark's pixel has the colour of its vertex.
    for face in crowd:
        for vertex, (x, y) in zip(face_model.landmark_vertices, face.landmarks, strict=True):
            column, row = int(np.floor(x)), int(np.floor(y))
            if face.visible[vertex] and raster.face_id[row, column] == face.index:
                np.testing.assert_allclose(raster.pncc[row, column], code[vertex], atol=0.03)


def test_landmarks_are_hidden_by_another_face_and_by_their_own(crowd, face_model):
    near, far = sorted(crowd, key=lambda face: face.translation[2])
    owner = crowd.render().face_id
    columns, rows = np.floor(far.landmarks).astype(int).T
    inside = (columns >= 1) & (rows >= 1) & (columns < 399) & (rows < 319)
    # Landmarks with only the other face around them are hidden, those with only their own are not.
    around = np.stack(
        [owner[np.clip(rows + dy, 0, 319), np.clip(columns + dx, 0, 399)] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    )
    gap = near.vertices[:, 2].max() < far.landmarks_camera[:, 2] - 10
    covered = inside & (around == near.index).all(axis=0) & gap
    free = inside & (around == far.index).all(axis=0)
    assert covered.sum() >= 5 and free.sum() >= 5
    assert far.landmarks_visible[covered].mean() < 0.1  # but for triangles that reach out of the cover
    assert far.landmarks_visible[free].mean() > 0.9
    for face in crowd:  # the definition
        for landmark, vertex in enumerate(face_model.landmark_vertices):
            triangles = face_model.triangles[(face_model.triangles == vertex).any(axis=1)]
            assert face.landmarks_visible[landmark] == face.visible[triangles].any()


def test_turned_faces_hide_the_far_side_of_the_jaw():
    """The released models on the Solvay photo: lids and lips that look here are seen, the far jaw is not."""
    result = wm3dr.reconstruct(REPOSITORY / "docs" / "photos" / "solvay_1927.jpg")
    frontal = [face for face in result if abs(face.pose.yaw) < 15]
    assert len(frontal) > 8
    assert np.mean([face.landmarks_visible[17:] for face in frontal]) > 0.97
    turned = [face for face in result if abs(face.pose.yaw) > 20]
    assert turned
    for face in turned:  # yaw > 0: the nose points to the image's right, which hides the subject's left cheek, 9-16
        far, near = (slice(10, 17), slice(0, 7)) if face.pose.yaw > 0 else (slice(0, 7), slice(10, 17))
        assert face.landmarks_visible[near].sum() > face.landmarks_visible[far].sum()


def test_files_are_read_back(crowd, face_model, tmp_path):
    crowd.save_maps(tmp_path / "new" / "maps")
    files = {name: tmp_path / "new" / "maps" / file for name, file in FILES.items()}
    assert sorted(path.name for path in (tmp_path / "new" / "maps").iterdir()) == sorted(FILES.values())
    raster = crowd.render()
    read = {name: wm3dr.read_map(path) for name, path in files.items()}
    for name in ("face_id", "region", "depth"):
        array = getattr(raster, name)
        assert read[name].array.dtype == array.dtype
        np.testing.assert_array_equal(read[name].array, array)
    hit = raster.face_id >= 0
    cosine = np.einsum("pc,pc->p", read["normals"].array[hit].astype(np.float64), raster.normals[hit])
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.4
    np.testing.assert_allclose(read["pncc"].array[hit], raster.pncc[hit], atol=1 / 510 + 1e-6)
    for name in ("normals", "pncc"):
        assert read[name].array.dtype == np.float32
        np.testing.assert_array_equal(read[name].array.any(axis=2), hit)  # nothing stays nothing, and only that
    np.testing.assert_array_equal(read["visibility"].array, [face.visible for face in crowd])
    for name, (_, info) in read.items():
        assert (info["map"], info["metric"], info["camera"]) == (name, False, crowd.camera.to_dict())
        assert info["face_model"] == {"name": face_model.name, "sha256": face_model.sha256}
    assert read["region"].info["names"] == list(face_model.region_names)
    low, high = ncc_bounds(face_model)
    np.testing.assert_allclose([read["pncc"].info["low_mm"], read["pncc"].info["high_mm"]], [low, high])
    assert read["visibility"].info["landmark_vertices"] == face_model.landmark_vertices.tolist()


def test_files_are_what_other_software_reads(crowd, face_model, tmp_path):
    """The encodings of docs/maps.md, with Pillow alone."""
    crowd.save_maps(tmp_path)
    raster = crowd.render()
    with Image.open(tmp_path / "face_id.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), raster.face_id + 1)
        assert len({image.convert("RGB").getpixel(tuple(map(int, xy[::-1]))) for xy in sampled(raster)}) == 2
    with Image.open(tmp_path / "region.png") as image:
        np.testing.assert_array_equal(np.asarray(image), raster.region + 1)
        colors = np.array([(0, 0, 0)] + [color for _, color in region_palette(face_model.region_names)])
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colors[raster.region + 1])
    with Image.open(tmp_path / "depth.tiff") as image:
        assert image.mode == "F" and image.size == crowd.size
        np.testing.assert_array_equal(np.asarray(image), raster.depth)
    row, column = max(sampled(raster), key=lambda pixel: -raster.normals[tuple(pixel)][1])  # looks up the most
    with Image.open(tmp_path / "normals.png") as image:
        red, green, blue = image.getpixel((int(column), int(row)))
        normal = raster.normals[row, column]
        assert normal[1] < 0 and green > 128 and blue > 128
        np.testing.assert_allclose([red, green, blue], 127.5 * (normal * [1, -1, -1] + 1), atol=0.51)
    with Image.open(tmp_path / "pncc.png") as image:
        np.testing.assert_allclose(image.getpixel((int(column), int(row))), 255 * raster.pncc[row, column], atol=0.51)


def test_ids_beyond_a_palette_take_16_bits(result, tmp_path):
    dense, many = result.dense, 300
    pick = np.arange(many) % len(dense)
    names = ("identity", "expression", "illumination", "rotations", "translations")
    values = {name: np.ascontiguousarray(getattr(dense, name)[pick]) for name in names}
    values |= {"albedo": dense.albedo_coefficients[pick], "scales": None, "metric": None}
    values["translations"] += np.linspace(0, -900, many, dtype=np.float32)[:, None] * [0, 0, 1]  # the last is in front
    crowd = dense.changed(**values)
    faces = faces_from_dense(crowd, np.ones(many, np.float32), np.zeros((many, 2), np.float32))
    large = wm3dr.Result(faces, dense.camera, result.size, "none", {}, crowd)
    large.save_maps(tmp_path)
    with Image.open(tmp_path / "face_id.png") as image:
        assert image.mode == "I;16"
    read = wm3dr.read_map(tmp_path / "face_id.png").array
    np.testing.assert_array_equal(read, large.render().face_id)
    assert read.max() > 255


def test_maps_without_faces(reconstructor, result, tmp_path):
    result.save_maps(tmp_path)
    empty = reconstructor.reconstruct(np.zeros((50, 70, 3), np.uint8))
    raster = empty.render()
    assert (
        raster.normals.shape == raster.pncc.shape == (50, 70, 3) and not raster.normals.any() and not raster.pncc.any()
    )
    empty.save_maps(tmp_path)
    assert not (tmp_path / "visibility.png").exists()  # that of the earlier result would be wrong
    for name in ("face_id", "region", "depth", "normals", "pncc"):
        array, info = wm3dr.read_map(tmp_path / FILES[name])
        assert array.shape[:2] == (50, 70) and (array == (-1 if name in ("face_id", "region") else 0)).all()
        assert info["metric"] is False


def test_metric_depth_says_so(result, tmp_path):
    scaled = result.with_scale(70.0)
    scaled.save_maps(tmp_path)
    depth, info = wm3dr.read_map(tmp_path / "depth.tiff")
    assert info["metric"] is True and info["unit"] == "mm"
    np.testing.assert_array_equal(depth, scaled.render().depth)


def test_bad_files_and_folders_are_named(result, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'path'.*none\.png"):
        wm3dr.read_map(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"'path': .*text\.png cannot be read as a map"):
        wm3dr.read_map(tmp_path / "text.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other\.png is no map of wm3dr"):
        wm3dr.read_map(tmp_path / "other.png")
    text = PngInfo()
    text.add_text("wm3dr", json.dumps({"format": "wm3dr-map", "version": 9, "map": "depth"}))
    Image.new("L", (4, 4)).save(tmp_path / "later.png", pnginfo=text)
    with pytest.raises(ValueError, match="has version 9 of wm3dr-map, not 1"):
        wm3dr.read_map(tmp_path / "later.png")
    with pytest.raises(NotADirectoryError, match=r"other\.png: it is a file"):
        result.save_maps(tmp_path / "other.png")


def test_command_line_saves_maps(encoder, face_model, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    models = ["--encoder", str(encoder), "--face-model", str(tmp_path / "model.safetensors")]
    synthetic_face_model(tmp_path / "model.safetensors")
    command = ["reconstruct", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--save", "maps,json", *models]
    done = CliRunner().invoke(main, [*command, "--fov", "40", "--ipd-mm", "61"])
    assert done.exit_code == 0, done.output
    depth, info = wm3dr.read_map(tmp_path / "out" / "photo_maps" / "depth.tiff")
    assert depth.shape == photo.shape[:2] and info["metric"] is True
    written = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert written["metric"] is True
    assert written["camera"]["focal"] == pytest.approx(photo.shape[1] / 2 / np.tan(np.radians(20)))
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1 and "photo_maps" in again.output and "--overwrite" in again.output
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    without = CliRunner().invoke(main, [*command, "--overwrite", "--exif"])
    assert without.exit_code == 1 and "no 35-mm equivalent focal length" in without.output
    both = CliRunner().invoke(main, [*command, "--exif", "--fov", "40"])
    assert both.exit_code == 2 and "exclude each other" in both.output
