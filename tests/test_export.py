"""Files to take away, read back by other software: trimesh and the json module."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh

import wm3dr


def glb_json(path):
    content = path.read_bytes()
    magic, version, total = struct.unpack_from("<III", content)
    assert (magic, version, total) == (0x46546C67, 2, len(content))
    length, kind = struct.unpack_from("<II", content, 12)
    assert kind == 0x4E4F534A and length % 4 == 0
    return json.loads(content[20 : 20 + length])


def face_meshes(scene):
    """The geometry of each face node in the scene's frame, by name."""
    found = {}
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        found[node] = (scene.geometry[name], transform)
    return found


def test_glb_scene_in_trimesh(result, tmp_path, face_model):
    """The vertices, placed by their nodes and seen through the scene's camera, fall on `vertices_px`."""
    path = tmp_path / "scene.glb"
    result.save(path)
    document = glb_json(path)
    lens = document["cameras"][0]["perspective"]
    width, height = result.size
    focal = height / 2 / np.tan(lens["yfov"] / 2)
    assert lens["aspectRatio"] == pytest.approx(width / height)
    camera_node = next(node for node in document["nodes"] if node["name"] == "camera")
    assert camera_node["camera"] == 0 and not {"matrix", "rotation", "translation"} & set(camera_node)
    meshes = face_meshes(trimesh.load_scene(path, process=False))
    assert sorted(meshes) == ["face_0", "face_1", "face_2"]
    for face in result:
        mesh, transform = meshes[f"face_{face.index}"]
        assert mesh.vertices.shape == (face_model.n_vertices, 3)
        np.testing.assert_array_equal(mesh.faces, face_model.triangles)
        x, y, z = trimesh.transform_points(mesh.vertices, transform).T  # OpenGL frame, metres
        pixels = np.stack([width / 2 + focal * x / -z, height / 2 - focal * y / -z], 1)
        assert np.abs(pixels - face.vertices_px).max() <= 0.01
        np.testing.assert_allclose(np.stack([x, -y, -z], 1) * 1000, face.vertices, atol=5e-3)


def test_glb_colours_are_linear(result, tmp_path):
    path = tmp_path / "scene.glb"
    result.save(path)
    mesh, _ = face_meshes(trimesh.load_scene(path, process=False))["face_0"]
    srgb = result[0].colors.astype(np.float64)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    # trimesh keeps the file's uint16 or makes bytes of it, depending on its version
    stored = mesh.visual.vertex_attributes["color"] if hasattr(mesh.visual, "vertex_attributes") else None
    colors = np.asarray(stored if stored is not None else mesh.visual.vertex_colors, np.float64)[:, :3]
    top = 65535.0 if colors.max() > 255 else 255.0
    assert np.abs(colors / top - linear).max() <= 1.0 / 255
    document = glb_json(path)
    assert "KHR_materials_unlit" in document["materials"][0]["extensions"]


def test_glb_is_valid_gltf(result, tmp_path):
    """The rules that validators check first: ranges, alignment, bounds, unit quaternions and normals."""
    path = tmp_path / "scene.glb"
    result.save(path)
    document = glb_json(path)
    size = document["buffers"][0]["byteLength"]
    binary = path.read_bytes()[-size:]
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= size
    for accessor in document["accessors"]:
        kind = {5126: np.float32, 5123: np.uint16, 5125: np.uint32}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteLength"] == accessor["count"] * width * np.dtype(kind).itemsize
        values = np.frombuffer(binary, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
        if "min" in accessor:
            np.testing.assert_array_equal(values.min(axis=0), np.float32(accessor["min"]))
            np.testing.assert_array_equal(values.max(axis=0), np.float32(accessor["max"]))
    for node, face in zip(document["nodes"][1:], result, strict=True):
        assert np.linalg.norm(node["rotation"]) == pytest.approx(1)
        assert node["extras"]["blendshapes"] == face.blendshapes


def test_glb_without_faces(reconstructor, tmp_path):
    empty = reconstructor.reconstruct(np.zeros((40, 60, 3), np.uint8))
    empty.save(tmp_path / "empty.glb")
    document = glb_json(tmp_path / "empty.glb")
    assert [node["name"] for node in document["nodes"]] == ["camera"] and "meshes" not in document


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_mesh_files_in_trimesh(result, tmp_path, suffix, face_model):
    path = tmp_path / f"faces.{suffix}"
    result.save(path)
    mesh = trimesh.load_mesh(path, process=False, maintain_order=True)
    n = face_model.n_vertices
    assert len(mesh.vertices) == 3 * n and len(mesh.faces) == 3 * face_model.n_triangles
    for face in result:
        part = slice(face.index * n, (face.index + 1) * n)
        points = mesh.vertices[part] * [1, -1, -1]
        assert np.abs(result.camera.project(points) - face.vertices_px).max() <= 0.01
        colors = mesh.visual.vertex_colors[part, :3]
        assert np.abs(colors.astype(float) - 255 * face.colors).max() <= 1.0
    if suffix == "obj":
        first = next(line for line in path.read_text().splitlines() if line.startswith("v "))
        assert len(first.split()) == 7  # x y z r g b


def test_one_face_alone(result, tmp_path, face_model):
    result[1].save(tmp_path / "face.glb")
    assert [node["name"] for node in glb_json(tmp_path / "face.glb")["nodes"]] == ["camera", "face_1"]
    mesh = result[1].to_trimesh()
    assert mesh.vertices.shape == (face_model.n_vertices, 3)
    np.testing.assert_allclose(mesh.vertices * [1, -1, -1], result[1].vertices, atol=1e-4)


def test_json_file(result, tmp_path):
    result.save(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result.to_dict()))


def test_other_suffixes_and_empty_meshes_are_refused(result, reconstructor, tmp_path):
    with pytest.raises(ValueError, match=r"'path' ends in '\.stl', not \.json, \.glb, \.obj or \.ply"):
        result.save(tmp_path / "faces.stl")
    empty = reconstructor.reconstruct(np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(ValueError, match=r"no face to write as \.ply"):
        empty.save(tmp_path / "faces.ply")
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_whole_or_not_at_all(result, tmp_path, monkeypatch):
    from wm3dr.files import whole_file

    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), whole_file(path) as file:
        file.write(b"half of it")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["result.json"]
    result.save(path)
    assert json.loads(path.read_text())["format"] == "wm3dr-result"
    with pytest.raises(FileNotFoundError, match=r"cannot write .*result\.json"):
        result.save(tmp_path / "missing" / "result.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        result.save(tmp_path / "folder.json")


def test_png_pictures_open(result, photo):
    for kind in ("overlay", "attributes", "views"):
        stream = io.BytesIO()
        result.draw(photo, kind).save(stream, "PNG")
        assert wm3dr.image.read_rgb(stream.getvalue()).ndim == 3
