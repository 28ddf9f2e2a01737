"""The UV texture: geometry of the atlas, what is seen, what is filled in, and files read back by trimesh.

The truth is made here: a face painted with a known pattern in UV, drawn by ray casting in float64, is the photo.
"""

import io
import json

import numpy as np
import pytest
import trimesh
from builders import photo_with_faces, synthetic_arrays
from PIL import Image

import wm3dr
from wm3dr.sampling import bilinear, blurred, continued
from wm3dr.texture import MIRRORED, MODEL, NOTHING, SEEN, Texture, atlas_raster
from wm3dr.unwrap import unwrapped

SIZE = 128


def pattern(uv):
    """A smooth colour (…, 3), 0 to 255, of texture coordinates; different in each channel and on the two sides."""
    u, v = uv[..., 0], uv[..., 1]
    return np.stack([60 + 130 * u, 200 - 120 * v, 110 + 60 * np.sin(6 * u) * np.cos(5 * v)], axis=-1)


def painted(result, background=(10, 10, 10)):
    """The photo of the faces of a result painted with `pattern`: perspective interpolation of UV at pixel centres."""
    raster = result.render()
    photo = np.full((*raster.triangle_id.shape, 3), background, np.float64)
    hit = raster.triangle_id >= 0
    photo[hit] = pattern(np.einsum("mk,mkc->mc", result.dense.raster.barycentric[hit], uv_of(result, hit)))
    return np.rint(np.clip(photo, 0, 255)).astype(np.uint8)


def uv_of(result, hit):
    return result.face_model.uv[result.render().triangle_id[hit]].astype(np.float64)


def texel_uv(size):
    rows, columns = np.mgrid[0:size, 0:size]
    return np.stack([(columns + 0.5) / size, 1 - (rows + 0.5) / size], axis=-1)


def with_pose(result, *, yaw=0.0, distance=None):
    """The first face alone, frontal but for its yaw, in the middle of its photo."""
    a = np.radians(yaw)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    rotation = np.diag([1.0, -1.0, -1.0]) @ turn
    dense = result[0].dense
    one = dense.changed(
        **{
            name: np.ascontiguousarray(getattr(dense, attribute)[:1])
            for name, attribute in (
                ("identity", "identity"),
                ("expression", "expression"),
                ("albedo", "albedo_coefficients"),
                ("scales", "scales"),
                ("metric", "metric"),
            )
        },
        illumination=np.tile(np.r_[1.0, 0.1, 0.2, -0.15, np.zeros(5)], (1, 3, 1)).astype(np.float32),
        rotations=rotation[None].astype(np.float32),
        translations=np.array([[0, 0, distance or 1100.0]], np.float32),
    )
    from dataclasses import replace

    return replace(result, faces=result.faces[:1]).with_dense(one)


@pytest.fixture(scope="module")
def frontal(reconstructor):
    return with_pose(reconstructor.reconstruct(photo_with_faces((420, 400), [(26, 25, 250, 0)])))


@pytest.fixture(scope="module")
def turned(frontal):
    return with_pose(frontal, yaw=60.0)


def test_atlas_knows_its_triangles(face_model):
    """Texture coordinates of the texels, from the triangle and the weights found, are those of their centres."""
    buffers = atlas_raster(face_model, 96, 2)
    inside = buffers.triangle_id >= 0
    assert inside.mean() > 0.97  # the synthetic chart fills the square
    uv = np.einsum("mk,mkc->mc", buffers.barycentric[inside], face_model.uv[buffers.triangle_id[inside]])
    # Corners are snapped to 1/256 texel by the rasterizer.
    assert np.abs(uv - texel_uv(96)[inside]).max() <= 0.01 / 96


def test_atlas_of_mirrored_triangles(tmp_path):
    """Charts may run either way round: the right half mirrored onto the left's neighbour is drawn as well."""
    metadata, arrays = synthetic_arrays()
    uv = arrays["uv"].copy()
    uv[..., 1] = 1 - uv[..., 1]
    model = wm3dr.FaceModel.from_arrays(metadata, arrays | {"uv": uv})
    buffers = atlas_raster(model, 64, 1)
    inside = buffers.triangle_id >= 0
    assert inside.mean() > 0.97
    found = np.einsum("mk,mkc->mc", buffers.barycentric[inside], model.uv[buffers.triangle_id[inside]])
    assert np.abs(found - texel_uv(64)[inside]).max() <= 0.01 / 64


def test_texture_of_a_painted_face(frontal):
    photo = painted(frontal)
    texture = frontal[0].texture(photo, SIZE)
    seen = texture.mask >= 250
    assert seen.mean() > 0.6 and (texture.source[seen] == SEEN).all()
    seen[:3] = seen[-3:] = False  # at the border of the mesh, pixels of the photo are half background
    seen[:, :3] = seen[:, -3:] = False
    error = np.abs(texture.color.astype(float) - pattern(texel_uv(SIZE)))[seen]
    # One pixel of this photo is about 1/150 of the atlas; the pattern's steepest slope is 360 per atlas.
    assert error.mean() <= 0.7 and np.percentile(error, 99) <= 3


def test_albedo_is_the_photo_without_its_light(frontal):
    """A face painted with pattern · shading gives the pattern back."""
    face, raster = frontal[0], frontal.render()
    from wm3dr.texture import shading_of

    shading = shading_of(face)
    assert shading.min() > 0.3 * shading.mean() and np.ptp(shading) > 0.2  # not flat, and no guard at work
    hit = raster.triangle_id >= 0
    corners = frontal.face_model.triangles[raster.triangle_id[hit]]
    light = np.einsum("mk,mkc->mc", frontal.dense.raster.barycentric[hit], shading[corners])
    photo = painted(frontal).astype(float)
    photo[hit] *= light
    photo = np.rint(np.clip(photo, 0, 255)).astype(np.uint8)
    texture = face.texture(photo, SIZE)
    seen = texture.mask >= 250
    unclipped = seen & (texture.color.max(axis=2) < 250)
    error = np.abs(texture.albedo.astype(float) - pattern(texel_uv(SIZE)))[unclipped]
    assert error.mean() <= 1.2


def test_division_by_little_light_is_guarded(frontal):
    """Where the estimated light vanishes, the albedo is that of a third of the mean light, not infinite."""
    dense = frontal.dense
    dark = dense.illumination.copy()
    dark[:, :, 3] = 0.9  # much light from one side, none (below 0) from the other
    result = frontal.with_dense(dense.changed(illumination=dark))
    from wm3dr.texture import shading_of

    assert shading_of(result[0]).min() < 0
    photo = np.full((400, 420, 3), 60, np.uint8)
    texture = result[0].texture(photo, SIZE)
    seen = texture.mask == 255
    mean = np.maximum(shading_of(result[0]), 0).mean()
    assert np.abs(texture.color[seen].astype(int) - 60).max() <= 1
    assert texture.albedo[seen].max() == pytest.approx(60 / (0.3 * mean), abs=2)
    black = dense.changed(illumination=np.zeros_like(dark))
    with pytest.raises(ValueError, match="nowhere positive"):
        frontal.with_dense(black)[0].texture(photo, SIZE)


def test_turned_away_half_comes_from_the_mirror_side(turned):
    """The far half of a turned face is not seen; its colour is the near half's, not the photo's background."""
    photo = painted(turned, background=(255, 0, 255))
    texture = turned[0].texture(photo, SIZE)
    uv = texel_uv(SIZE)
    sources = texture.source
    left, right = sources[:, : SIZE // 4], sources[:, 3 * SIZE // 4 :]
    near, far = (left, right) if (left == SEEN).mean() > (right == SEEN).mean() else (right, left)
    assert (near == SEEN).mean() > 0.7 and (far == SEEN).mean() < 0.1 and (far == MIRRORED).mean() > 0.6
    mirrored = sources == MIRRORED
    # The mirror side is matched in tone, so compare its course, channel by channel, with the mirrored pattern.
    wanted = pattern(uv * [-1, 1] + [1, 0])[mirrored]
    for channel in (0, 1):
        found = texture.color[mirrored][:, channel].astype(float)
        assert np.corrcoef(found, wanted[:, channel])[0, 1] > 0.8, channel
    magenta = (texture.color[..., 1] < 40) & (texture.color[..., 0] > 200)
    assert not magenta[sources != NOTHING].any()


def test_what_another_face_hides_is_not_taken(reconstructor):
    """Two faces, one before the other: the hidden part of the far one has none of the near one's colour."""
    result = reconstructor.reconstruct(photo_with_faces((420, 400), [(22, 25, 250, 0), (30, 25, 200, 255)]))
    near, far = sorted(result, key=lambda face: face.translation[2])
    raster = result.render()
    photo = np.full((400, 420, 3), 30, np.uint8)
    photo[raster.face_id == far.index] = (60, 160, 60)
    photo[raster.face_id == near.index] = (250, 20, 250)
    hidden = ~far.visible & (np.einsum("nc,nc->n", far.vertices, far.normals) < 0)
    assert hidden.sum() > 20
    texture = far.texture(photo, SIZE)
    reached = texture.source == SEEN
    assert reached.sum() > 500
    magenta = (texture.color[..., 0].astype(int) - texture.color[..., 1] > 100) & (texture.mask > 0)
    assert magenta.sum() <= 0.01 * reached.sum()


def test_outside_the_photo_is_not_seen(frontal):
    """A face half beyond the left edge: that half is mirrored, no edge pixel is smeared over it."""
    dense = frontal.dense
    half = frontal.with_dense(dense.changed(translations=np.array([[-227.0, 0, 1100.0]], np.float32)))
    x = half[0].vertices_px[:, 0]
    assert x.min() < -40 and x.max() > 40
    texture = half[0].texture(np.full((400, 420, 3), 120, np.uint8), SIZE)
    columns = (texture.source == SEEN).mean(axis=0)
    assert columns[: SIZE // 3].max() == 0 and columns[2 * SIZE // 3 : -20].min() > 0.5
    assert (texture.source[:, : SIZE // 3] == MIRRORED).mean() > 0.5


def test_what_nothing_shows_comes_from_the_model(turned, frontal):
    """A face beyond the photo altogether has the model's albedo in its own light."""
    away = frontal.with_dense(frontal.dense.changed(translations=np.array([[900.0, 0, 1100.0]], np.float32)))
    texture = away[0].texture(np.full((400, 420, 3), 90, np.uint8), SIZE)
    inside = texture.source != NOTHING
    assert (texture.source[inside] == MODEL).all() and not texture.mask.any()
    vertices = unwrapped(away.face_model)
    found = texture.sample(vertices.uv, delight=True)
    wanted = np.clip(away[0].albedo, 0, 1)[vertices.vertex] * 255
    # The synthetic albedo is white noise on a grid of 25 vertices: five texels from each to the next.
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.8
    assert np.abs(found.mean(axis=0) - wanted.mean(axis=0)).max() < 4
    lit = texture.sample(vertices.uv)
    colors = away[0].colors[vertices.vertex] * 255
    assert np.abs(lit.mean(axis=0) - colors.mean(axis=0)).max() < 4


def test_grey_photos_get_no_foreign_colour(turned):
    grey = np.repeat(painted(turned)[:, :, 1:2], 3, axis=2)
    texture = turned[0].texture(grey, SIZE)
    assert (texture.source == MODEL).any()
    assert np.ptp(texture.color[texture.source == MODEL].astype(int), axis=1).max() <= 6


def test_sample_reads_texel_centres():
    color = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    texture = Texture(color, 255 - color, np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8))
    uv = texel_uv(16).reshape(-1, 2)
    np.testing.assert_allclose(texture.sample(uv), color.reshape(-1, 3), atol=1e-3)
    np.testing.assert_allclose(texture.sample(uv, delight=True), 255 - color.reshape(-1, 3), atol=1e-3)


def test_files_in_trimesh(frontal, tmp_path):
    texture = frontal[0].texture(painted(frontal), SIZE)
    frontal[0].save(tmp_path / "face.obj", texture=texture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["face.mtl", "face.obj", "face_face_0.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "face_face_0.png")), texture.color)
    frontal.save(tmp_path / "scene.glb", textures=[texture])
    meshes = [
        trimesh.load_mesh(tmp_path / "face.obj", process=False, maintain_order=True),
        next(iter(trimesh.load_scene(tmp_path / "scene.glb", process=False).geometry.values())),
    ]
    images = [meshes[0].visual.material.image, meshes[1].visual.material.baseColorTexture]
    model = frontal.face_model
    for mesh, image in zip(meshes, images, strict=True):
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), texture.color)
        assert len(mesh.faces) == model.n_triangles
        np.testing.assert_allclose(mesh.visual.uv[mesh.faces], model.uv, atol=2e-6)  # trimesh's v is up, as ours
    opengl = frontal[0].mesh().vertices[model.triangles]
    np.testing.assert_allclose(meshes[0].vertices[meshes[0].faces], opengl, atol=1e-3)
    model_frame = frontal[0].mesh("model").vertices[model.triangles]
    np.testing.assert_allclose(meshes[1].vertices[meshes[1].faces] * 1000, model_frame, atol=1e-3)


def test_textured_scene_of_several_faces(result, photo, tmp_path):
    """Every face has its own image; without textures the file is as it was."""
    textures = [face.texture(photo, 32) for face in result]
    result.save(tmp_path / "scene.glb", textures=textures)
    content = (tmp_path / "scene.glb").read_bytes()
    document = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    materials = [mesh["primitives"][0]["material"] for mesh in document["meshes"]]
    assert materials == [0, 1, 2] and len(document["textures"]) == len(document["images"]) == 3
    binary = content[-document["buffers"][0]["byteLength"] :]
    for image, texture in zip(document["images"], textures, strict=True):
        view = document["bufferViews"][image["bufferView"]]
        png = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), texture.color)
    assert all("COLOR_0" not in mesh["primitives"][0]["attributes"] for mesh in document["meshes"])


def test_seams_repeat_vertices():
    """Corners at one vertex with several texture coordinates become several vertices of the file."""
    metadata, arrays = synthetic_arrays()
    uv = arrays["uv"].copy()
    half = len(uv) // 2
    uv[:half] *= 0.4
    uv[half:] = uv[half:] * 0.4 + 0.5
    model = wm3dr.FaceModel.from_arrays(metadata, arrays | {"uv": uv})
    surface = unwrapped(model)
    assert len(surface.vertex) > model.n_vertices
    np.testing.assert_array_equal(surface.vertex[surface.triangles], model.triangles)
    np.testing.assert_array_equal(surface.uv[surface.triangles], model.uv)


def test_vertices_keep_their_order_without_seams(face_model):
    surface = unwrapped(face_model)
    np.testing.assert_array_equal(surface.vertex, np.arange(face_model.n_vertices))
    np.testing.assert_array_equal(surface.triangles, face_model.triangles)


def test_bad_input(frontal, tmp_path):
    face, photo = frontal[0], painted(frontal)
    with pytest.raises(TypeError, match="'size' must be an int"):
        face.texture(photo, 64.0)
    with pytest.raises(ValueError, match="'size' must be 16 to 8192 texels, not 8"):
        face.texture(photo, 8)
    with pytest.raises(ValueError, match="'image' is 100 x 90 pixels, but the face is from a photo of 420 x 400"):
        face.texture(photo[:90, :100], 64)
    texture = face.texture(photo, 16)
    with pytest.raises(ValueError, match=r"\.ply file holds no textures"):
        face.save(tmp_path / "face.ply", texture=texture)
    with pytest.raises(ValueError, match=r"\.json file holds no textures"):
        frontal.save(tmp_path / "face.json", textures=[texture])
    with pytest.raises(ValueError, match="2 textures for 1 faces"):
        frontal.save(tmp_path / "face.glb", textures=[texture, texture])
    with pytest.raises(TypeError, match="not ndarray"):
        frontal.save(tmp_path / "face.obj", textures=[photo])
    assert list(tmp_path.iterdir()) == []


def test_bilinear_and_edges():
    image = np.array([[[0.0], [10.0]], [[20.0], [30.0]]], np.float32)
    x, y = np.array([0.5, 1.0, 1.5, -5.0], np.float32), np.array([0.5, 1.0, 0.75, 9.0], np.float32)
    np.testing.assert_allclose(bilinear(image, x, y)[:, 0], [0, 15, 15, 20])


def test_continued_keeps_what_is_known_and_spreads_it():
    values = np.zeros((13, 17, 2), np.float32)
    weights = np.zeros((13, 17), np.float32)
    assert not continued(values, weights).any()
    values[:, 0], values[:, -1] = (1, 5), (3, 5)
    weights[:, 0] = weights[:, -1] = 1
    filled = continued(values, weights)
    np.testing.assert_array_equal(filled[:, 0], values[:, 0])
    np.testing.assert_allclose(filled[..., 1], 5, atol=1e-5)
    assert (filled[..., 0] >= 1 - 1e-5).all() and (filled[..., 0] <= 3 + 1e-5).all()
    assert filled[6, 3, 0] < filled[6, 13, 0]


def test_blurred_keeps_the_mean():
    values = np.zeros((21, 21), np.float32)
    values[10, 10] = 1
    soft = blurred(values, 2)
    assert soft.sum() == pytest.approx(1, abs=1e-5) and soft[10, 10] == soft.max() == pytest.approx(0.04)
    np.testing.assert_allclose(blurred(np.full((5, 6), 3, np.float32), 3), 3, atol=1e-5)
