"""Faces with another expression, light and pose; edited faces back in their photo."""

import dataclasses

import numpy as np
import pytest
from builders import K_EXPRESSION, photo_with_faces, synthetic_arrays

import wm3dr
from wm3dr import _native
from wm3dr.edit import AMBIENT_SHARE, LIGHTS, expression_from_weights, illumination_from_direction, own_names
from wm3dr.texture import shading_of

ONE = np.eye(K_EXPRESSION, dtype=np.float32)


def model_with_names(*names):
    metadata, arrays = synthetic_arrays()
    return wm3dr.FaceModel.from_arrays(dataclasses.replace(metadata, expression_names=names), arrays)


def test_expression_moves_the_vertices_by_its_basis(result, face_model):
    face = result[1]
    edited = face.with_expression({"expression2": 0.75})
    assert edited.blendshapes["expression2"] == 0.75
    others = [name for name in face.blendshapes if name != "expression2"]
    assert [edited.blendshapes[name] for name in others] == [face.blendshapes[name] for name in others]
    _, arrays = synthetic_arrays()
    change = 0.75 - face.blendshapes["expression2"]
    moved = edited.mesh("model").vertices - face.mesh("model").vertices
    stored = len(arrays["mean_shape"])  # the first vertices are the stored ones
    np.testing.assert_allclose(moved[:stored], change * arrays["expression_basis"][:, :, 2].astype(float), atol=1e-3)
    # Sparse values follow; place, identity and light stay.
    np.testing.assert_allclose(edited.vertices[face_model.landmark_vertices], edited.landmarks_camera, atol=2e-3)
    assert not np.allclose(edited.landmarks, face.landmarks, atol=0.1)
    for name in ("rotation", "translation", "center"):
        np.testing.assert_array_equal(getattr(edited, name), getattr(face, name))
    np.testing.assert_array_equal(edited.coefficients.identity, face.coefficients.identity)
    assert (edited.index, edited.score) == (face.index, face.score)


def test_expression_as_an_array_and_neutral(result):
    face = result[0]
    weights = np.arange(K_EXPRESSION) / 10
    edited = face.with_expression(weights)
    np.testing.assert_array_equal(edited.coefficients.expression, np.float32(weights))
    neutral = edited.neutral()
    assert not neutral.coefficients.expression.any()
    assert set(neutral.with_expression({"expression1": 1}).blendshapes.values()) == {0.0, 1.0}
    assert face.coefficients.expression.any()  # the original is untouched


def test_names_of_arkit():
    model = model_with_names("jawOpen", "mouthSmile_L", "mouthSmile_R", "jawLeft")
    assert own_names(model, "mouthSmile_L") == own_names(model, "mouthSmileLeft") == ["mouthSmile_L"]
    assert own_names(model, "mouthSmileRight") == ["mouthSmile_R"]
    assert own_names(model, "mouthSmile") == ["mouthSmile_L", "mouthSmile_R"]
    assert own_names(model, "jawLeft") == ["jawLeft"]
    zero = np.zeros(4, np.float32)
    np.testing.assert_array_equal(
        expression_from_weights(model, {"mouthSmile": 0.5, "jawOpen": 1}, zero), [1, 0.5, 0.5, 0]
    )
    with pytest.raises(ValueError, match=r"'weights' names 'mouthSmileL', .* near it: 'mouthSmile_L'"):
        own_names(model, "mouthSmileL")


@pytest.mark.parametrize(
    "direction", [(0, 0, 1), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0.3, -0.5, 0.8), (2.0, 1.0, -0.7), (0, 0, 0)]
)
def test_light_from_a_direction(direction):
    """Its shading is the second-order expansion of a lamp, for any normal: every coefficient has its sign and size."""
    rng = np.random.default_rng(5)
    normals = rng.normal(size=(200, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    light = np.tile(illumination_from_direction(direction, 0.25), (3, 1))
    shading = _native.shading(normals[None].astype(np.float32), light[None].astype(np.float32), 1)[0]
    length = np.linalg.norm(direction)
    cosine = normals @ direction / (length or 1)
    lamp = 0.25 + 0.75 * (0.25 + 0.5 * cosine + 5 / 32 * (3 * cosine**2 - 1)) if length else np.ones(200)
    np.testing.assert_allclose(shading, np.tile(lamp[:, None], 3), atol=2e-5)


@pytest.mark.parametrize("name", LIGHTS)
def test_presets_keep_brightness_and_tint(result, name):
    face = result[0]
    lit = face.with_illumination(name)
    before, after = (np.maximum(shading_of(f), 0).mean(axis=0) for f in (face, lit))
    np.testing.assert_allclose(after, before, rtol=1e-3)
    shading = shading_of(lit)
    toward = face.normals * [1, -1, -1] @ np.array(LIGHTS[name])
    if name == "ambient":
        assert np.ptp(shading, axis=0).max() < 1e-4
    else:
        assert np.corrcoef(toward, shading[:, 0])[0, 1] > 0.9
    assert 0 < AMBIENT_SHARE < 1
    np.testing.assert_array_equal(lit.vertices, face.vertices)


def test_light_of_another_face_and_of_an_array(result):
    a, b = result[0], result[2]
    mine = np.arange(27, dtype=np.float32).reshape(3, 9) / 20
    np.testing.assert_array_equal(a.with_illumination(mine).coefficients.illumination, mine)
    assert not np.array_equal(a.coefficients.illumination, mine)
    lit = a.with_illumination(mine)
    b_lit = b.with_illumination(lit)
    np.testing.assert_array_equal(b_lit.coefficients.illumination, mine)
    expected = _native.colors(b.albedo[None].copy(), b.normals[None].copy(), mine[None], 1)[0]
    np.testing.assert_allclose(b_lit.colors, expected, atol=1e-6)


def test_retarget(result):
    source, target = result[0], result[2]
    edited = wm3dr.retarget(source, target)
    assert edited.blendshapes == source.blendshapes and edited.index == 2
    np.testing.assert_array_equal(edited.coefficients.identity, target.coefficients.identity)
    np.testing.assert_array_equal(edited.rotation, target.rotation)
    posed = wm3dr.retarget(source, target, pose=True)
    np.testing.assert_array_equal(posed.translation, target.translation)
    # The angle between the viewing ray and the nose is the source's: the head is seen from the same side.
    for axis in range(3):
        ray_s, ray_t = (t / np.linalg.norm(t) for t in (source.translation, target.translation))
        assert posed.rotation[:, axis] @ ray_t == pytest.approx(source.rotation[:, axis] @ ray_s, abs=1e-5)
    assert not np.allclose(posed.rotation, target.rotation, atol=0.05)
    np.testing.assert_allclose(wm3dr.retarget(target, target, pose=True).rotation, target.rotation, atol=1e-6)
    assert np.linalg.det(posed.rotation) == pytest.approx(1, abs=1e-5)


def test_with_faces_exchanges_those_and_keeps_the_others(result):
    edited = [result[2].neutral(), result[0].with_illumination("left").with_expression(ONE[1])]
    new = result.with_faces(edited)
    assert [face.index for face in new] == [0, 1, 2] and len(result.with_faces([])) == 3
    np.testing.assert_array_equal(new[1].vertices, result[1].vertices)
    np.testing.assert_array_equal(new[2].vertices, edited[0].vertices)
    np.testing.assert_array_equal(new[0].colors, edited[1].colors)
    np.testing.assert_array_equal(new[0].landmarks, edited[1].landmarks)
    assert [face.score for face in new] == [face.score for face in result]
    assert (new.render().color != result.render().color).any()
    twice = new.with_faces([new[1].neutral()])  # edits add up
    assert not twice[1].coefficients.expression.any()
    np.testing.assert_array_equal(twice[0].vertices, new[0].vertices)


def test_composite_of_nothing_is_the_photo(result, photo):
    for mode in ("photo", "model"):
        for nothing in ([], result, result[1].with_expression(result[1].coefficients.expression)):
            np.testing.assert_array_equal(np.asarray(result.composite(photo, nothing, mode=mode)), photo)


def test_relit_photo_is_the_photo_times_the_change_of_light(result, face_model):
    """In the middle of the face, pixel by pixel; far from it nothing changes."""
    photo = np.full((180, 236, 3), 100, np.uint8)
    face = max(result, key=lambda face: np.prod(face.box[2:] - face.box[:2]))
    brighter = face.coefficients.illumination * np.float32(1.5)
    picture = np.asarray(result.composite(photo, face.with_illumination(brighter)))
    nearest = result.render().face_id == face.index
    x, y = np.floor(face.vertices_px.mean(axis=0)).astype(int)
    assert nearest[y - 5 : y + 5, x - 5 : x + 5].all()
    assert np.abs(picture[y - 5 : y + 5, x - 5 : x + 5].astype(int) - 150).max() <= 1
    far = np.ones(nearest.shape, bool)
    x0, y0, x1, y1 = face.box.astype(int) + np.array([-12, -12, 13, 13])
    far[max(y0, 0) : y1, max(x0, 0) : x1] = False
    assert far.any() and (picture[far] == 100).all()
    for other in result:  # nothing of the light reaches the other faces
        if other.index != face.index:
            assert (picture[result.render().face_id == other.index] == 100).all()


def test_moved_photo_shows_the_same_points(reconstructor):
    """A photo whose colour is its x coordinate: after an edit every pixel has the x that its point had before."""
    result = reconstructor.reconstruct(photo_with_faces((420, 400), [(26, 25, 250, 0)]))
    width, height = result.size
    ramp = np.round(np.linspace(0, 255, width))[None, :, None]
    photo = np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)
    light = np.zeros((3, 9), np.float32)
    light[:, 0] = 1.0  # constant, so that only places change
    plain = result.with_faces([result[0].with_illumination(light)])
    edited = plain.with_faces([plain[0].with_expression(plain[0].coefficients.expression + 0.6 * ONE[3])])
    displaced = np.abs(edited[0].vertices_px - plain[0].vertices_px).max(axis=1)
    assert displaced.max() > 1.5
    picture = np.asarray(plain.composite(photo, edited)).astype(float)
    visible = plain[0].visible & edited[0].visible
    column, row = np.floor(edited[0].vertices_px[visible]).astype(int).T
    x_before = plain[0].vertices_px[visible, 0]
    found = picture[row, column, 0] * (width - 1) / 255 + 0.5
    error = np.abs(found - x_before - (column + 0.5 - edited[0].vertices_px[visible, 0]))
    assert (
        np.median(error) <= 0.6 and np.percentile(error, 95) <= 2.0
    )  # a grey level is 1.6 px; folds of the random basis
    moved = np.abs(x_before - edited[0].vertices_px[visible, 0])
    assert np.median(error) < 0.5 * np.percentile(moved, 90)


def test_model_mode_draws_the_model(result, photo):
    edited = result[0].with_illumination("top")
    picture = np.asarray(result.composite(photo, edited, mode="model")).astype(int)
    color = result.with_faces([edited]).render().color.astype(int)
    raster = result.render()
    inner = [raster.face_id == number for number in range(3)]
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):  # away from the antialiased border
        inner = [own & (np.roll(raster.face_id, shift, (0, 1)) == number) for number, own in enumerate(inner)]
    assert min(own.sum() for own in inner) > 50 and np.abs(picture - color)[inner[0]].mean() < 4
    for number in (1, 2):
        np.testing.assert_array_equal(picture[inner[number]], photo[inner[number]])


def test_hidden_and_outside_faces_do_no_harm(result, photo):
    """A face moved out of the photo leaves it as it is."""
    translations = np.array(result.dense.translations)
    translations[1] = (9000, 0, 1000)
    away = result.with_dense(result.dense.changed(translations=translations))
    picture = away.composite(photo, away[1].neutral())
    np.testing.assert_array_equal(np.asarray(picture), photo)


def test_bad_input(result, photo, reconstructor):
    face = result[0]
    with pytest.raises(ValueError, match=r"'weights' has shape \(3,\), not \(4,\)"):
        face.with_expression([1, 2, 3])
    with pytest.raises(ValueError, match="'weights' holds values that are not finite"):
        face.with_expression(np.full(K_EXPRESSION, np.nan))
    with pytest.raises(ValueError, match="not a finite number"):
        face.with_expression({"expression1": float("inf")})
    with pytest.raises(TypeError, match="'weights' has '1' for 'expression1', not a number"):
        face.with_expression({"expression1": "1"})
    with pytest.raises(ValueError, match="'weights' names 'jawOpen'"):
        face.with_expression({"jawOpen": 1})
    with pytest.raises(ValueError, match="'light' must be one of ambient, front"):
        face.with_illumination("sun")
    with pytest.raises(ValueError, match=r"'light' has shape \(9,\), not \(3, 9\)"):
        face.with_illumination(np.zeros(9))
    with pytest.raises(TypeError, match="'light' must hold numbers"):
        face.with_illumination([["a"] * 9] * 3)
    with pytest.raises(TypeError, match=r"'source' must be a wm3dr\.Face, not Result"):
        wm3dr.retarget(result, face)
    dense = result.dense.changed()
    dense.face_model = model_with_names("a", "b", "c", "d")
    with pytest.raises(ValueError, match="'source' has the blendshapes of synthetic"):
        wm3dr.retarget(dataclasses.replace(face, dense=dense), face)
    with pytest.raises(TypeError, match=r"'faces' must hold wm3dr\.Face, not int"):
        result.with_faces([1])
    with pytest.raises(ValueError, match="'faces' holds face 0 twice"):
        result.with_faces([face, face.neutral()])
    foreign = reconstructor.reconstruct(photo_with_faces((300, 200), [(9, 7, 250, 0)]))
    with pytest.raises(ValueError, match="face 0 was not made from a face of this result"):
        result.with_faces([foreign[0]])
    with pytest.raises(ValueError, match="'mode' must be 'photo' or 'model', not 'paint'"):
        result.composite(photo, face, mode="paint")
    with pytest.raises(ValueError, match="'image' is 100 x 90 pixels"):
        result.composite(photo[:90, :100], face.neutral())
