"""The shipped face model, models/wm3dr-face.safetensors: what its file must hold, checked with NumPy alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

PATH = Path(__file__).parents[1] / "models" / "wm3dr-face.safetensors"
N_COARSE, T_COARSE = 9035, 17692
N_REFINED, T_REFINED = 35764, 70768
LANDMARK_PAIRS = [
    *zip(range(0, 8), range(16, 8, -1), strict=True),
    (8, 8),
    *zip(range(17, 22), range(26, 21, -1), strict=True),
    *((k, k) for k in range(27, 31)),
    (31, 35), (32, 34), (33, 33),
    (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),
    (48, 54), (49, 53), (50, 52), (51, 51), (59, 55), (58, 56), (57, 57),
    (60, 64), (61, 63), (62, 62), (67, 65), (66, 66),
]  # fmt: skip
"""Left-right pairs of the 68 landmarks in the Multi-PIE order."""
ARKIT_UNSIDED = {
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
}  # fmt: skip
ARKIT_SIDED = {
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn",
    "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress",
    "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
}  # fmt: skip
FLIP = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def model() -> dict[str, np.ndarray]:
    with safe_open(PATH, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    with safe_open(PATH, framework="numpy") as file:
        return file.metadata()


@pytest.fixture(scope="module")
def edges(model) -> np.ndarray:
    return np.unique(np.sort(model["triangles"][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)


def refined(model, edges, values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, (values[edges[:, 0]] + values[edges[:, 1]]) / 2])


def refined_mirror(model, edges) -> np.ndarray:
    number = {edge: N_COARSE + k for k, edge in enumerate(map(tuple, edges.tolist()))}
    midpoints = [number[tuple(sorted(edge))] for edge in model["mirror"][edges].tolist()]
    return np.concatenate([model["mirror"], midpoints])


def test_shapes_and_types(model):
    expected = {
        "mean_shape": ((N_COARSE, 3), np.float32),
        "identity_basis": ((N_COARSE, 3, 80), np.float16),
        "expression_basis": ((N_COARSE, 3, 53), np.float16),
        "mean_albedo": ((N_COARSE, 3), np.float32),
        "albedo_basis": ((N_COARSE, 3, 80), np.float16),
        "triangles": ((T_COARSE, 3), np.int32),
        "landmark_vertices": ((68,), np.int32),
        "uv": ((T_COARSE, 3, 2), np.float32),
        "regions": ((N_COARSE,), np.uint8),
        "mirror": ((N_COARSE,), np.int32),
    }
    assert {name: (array.shape, array.dtype) for name, array in model.items()} == expected
    for name, array in model.items():
        assert np.isfinite(array.astype(np.float64)).all(), name


def test_metadata(metadata):
    assert (metadata["format"], metadata["version"], metadata["units"]) == ("wm3dr-face-model", "1", "mm")
    assert (metadata["name"], metadata["subdivisions"], metadata["albedo_space"]) == ("wm3dr-face", "1", "srgb")
    assert metadata["expression_kind"] == "blendshape"
    sources = " ".join(json.loads(metadata["sources"]))
    for source in ("ICT-FaceKit", "MIT", "London", "DeBruine", "CC-BY 4.0"):
        assert source in sources


def test_expression_names_are_arkit(metadata, model):
    names = json.loads(metadata["expression_names"])
    assert set(names) == ARKIT_UNSIDED | {f"{name}_{side}" for name in ARKIT_SIDED for side in "LR"}
    assert len(names) == model["expression_basis"].shape[2] == 53


def test_one_subdivision_gives_the_published_size(model, edges):
    assert N_COARSE + len(edges) == N_REFINED
    assert 4 * len(model["triangles"]) == T_REFINED
    assert model["triangles"].min() == 0 and model["triangles"].max() == N_COARSE - 1
    assert len(np.unique(model["triangles"])) == N_COARSE


def test_origin_is_the_centroid_of_the_refined_vertices(model, edges):
    assert np.abs(refined(model, edges, model["mean_shape"].astype(np.float64)).mean(axis=0)).max() < 1e-3


def test_triangles_face_outwards(model):
    directed = model["triangles"][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(np.unique(directed, axis=0)) == len(directed), "neighbouring triangles turn opposite ways"
    a, b, c = model["mean_shape"].astype(np.float64)[model["triangles"]].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    assert (np.linalg.norm(normal, axis=1) > 1e-4).all()
    middle = (a + b + c) / 3
    front = (middle[:, 2] > 20) & (np.abs(middle[:, 0]) < 40) & (middle[:, 1] > 55)  # the forehead has no folds
    assert front.sum() > 200 and (normal[front, 2] > 0).all()


def test_mirror(model, edges):
    mirror = model["mirror"]
    np.testing.assert_array_equal(mirror[mirror], np.arange(N_COARSE))
    mean = model["mean_shape"]
    np.testing.assert_allclose(mean[mirror] * FLIP, mean, atol=1e-5)
    known = set(map(tuple, edges.tolist()))
    mirrored = np.sort(mirror[edges], axis=1)
    assert all(tuple(edge) in known for edge in mirrored.tolist()), "a midpoint would have no mirror image"


def test_landmarks_are_symmetric_and_in_place(model, edges):
    landmarks, mirror = model["landmark_vertices"], refined_mirror(model, edges)
    mean = refined(model, edges, model["mean_shape"])
    for a, b in LANDMARK_PAIRS:
        assert mirror[landmarks[a]] == landmarks[b], (a, b)
    x, y, z = mean[landmarks].T
    assert (np.diff(x[:17]) > 0).all(), "jaw runs from the image's left to its right"
    assert z[30] == z.max(), "the tip of the nose is foremost"
    assert y[17:27].min() > y[36:48].max() > y[48:68].max() > y[8]
    assert y[51] > y[62] >= y[66] > y[57]


def test_identity_modes_are_orthogonal_and_without_translation(model, edges):
    basis = refined(model, edges, model["identity_basis"].astype(np.float64))
    np.testing.assert_allclose(basis.mean(axis=0), 0, atol=1e-3)
    flat = basis.reshape(-1, basis.shape[2])
    gram = flat.T @ flat
    size = np.sqrt(np.diag(gram))
    assert (np.diff(size) < 0).all(), "largest first"
    correlation = gram / np.outer(size, size) - np.eye(len(size))
    assert np.abs(correlation).max() < 0.01  # float16
    assert 2 < size[0] / np.sqrt(len(basis)) < 8, "mm rms of the first standard deviation"


def test_expression_sides_mirror_each_other(model, metadata):
    names = json.loads(metadata["expression_names"])
    basis, mirror = model["expression_basis"].astype(np.float64), model["mirror"]
    other = {"jawLeft": "jawRight", "mouthLeft": "mouthRight"}
    other |= {right: left for left, right in other.items()}
    for k, name in enumerate(names):
        partner = name[:-1] + "LR"["RL".index(name[-1])] if name[-2:] in ("_L", "_R") else other.get(name, name)
        reflected = basis[mirror][:, :, names.index(partner)] * FLIP
        np.testing.assert_allclose(reflected, basis[..., k], atol=0.02, err_msg=name)


def test_expressions_move_what_they_name(model, metadata, edges):
    names = json.loads(metadata["expression_names"])
    basis = refined(model, edges, model["expression_basis"].astype(np.float64))
    landmarks = model["landmark_vertices"]
    assert basis[landmarks[8], 1, names.index("jawOpen")] < -15  # mm: the chin drops
    assert (
        basis[landmarks[54], 1, names.index("mouthSmile_L")]
        > 3
        > abs(basis[landmarks[48], 1, names.index("mouthSmile_L")])
    )
    assert basis[landmarks[44], 1, names.index("eyeBlink_L")] < -3 < basis[landmarks[37], 1, names.index("eyeBlink_L")]


def test_albedo_is_skin(model, metadata):
    mean, regions = model["mean_albedo"], model["regions"]
    names = json.loads(metadata["region_names"])
    assert mean.min() >= 0 and mean.max() <= 1
    np.testing.assert_allclose(mean[model["mirror"]], mean, atol=1e-4)
    color = {name: mean[regions == k].mean(axis=0) for k, name in enumerate(names)}
    skin = color["skin"]
    assert skin[0] > skin[1] > skin[2] and 0.4 < skin[0] < 0.9
    for name in ("left_ear", "right_ear", "neck", "scalp", "nose"):
        assert np.abs(color[name] - skin).max() < 0.15, f"{name} is not skin-like: {color[name]} against {skin}"
    brightness = {name: value.mean() for name, value in color.items()}
    for brow in ("left_brow", "right_brow"):
        assert brightness[brow] < 0.85 * skin.mean()
    redness = {name: value[0] / value[1] for name, value in color.items()}
    for lip in ("upper_lip", "lower_lip"):
        assert redness[lip] > 1.05 * redness["skin"]


def test_albedo_modes_are_ordered_and_reach_dark_and_light_skin(model):
    basis = model["albedo_basis"].astype(np.float64)
    size = np.linalg.norm(basis.reshape(-1, basis.shape[2]), axis=0)
    assert size[0] == size.max() and size[0] > 20 * size[-1] > 0
    skin = model["regions"] == 0
    mean, first = model["mean_albedo"][skin].mean(axis=0), basis[skin, :, 0].mean(axis=0)
    assert (mean - 3 * first < (0.35, 0.25, 0.2)).all() and (mean + 2 * first > (0.8, 0.65, 0.6)).all()


def test_regions(model, metadata, edges):
    names, regions, mirror = json.loads(metadata["region_names"]), model["regions"], model["mirror"]
    assert set(np.unique(regions)) == set(range(len(names)))
    swapped = [names.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in names]
    np.testing.assert_array_equal(np.array(swapped)[regions], regions[mirror])
    x = model["mean_shape"][:, 0]
    for part in ("brow", "eyelids", "ear"):
        assert (x[regions == names.index(f"left_{part}")] > 0).all()
    landmarks = model["landmark_vertices"]
    part = [names[label] for label in np.concatenate([regions, regions[edges[:, 0]]])[landmarks]]
    assert (
        set(part[27:36]) == {"nose"} and set(part[36:42]) == {"right_eyelids"} and set(part[42:48]) == {"left_eyelids"}
    )
    assert set(part[49:54]) == {"upper_lip"} and set(part[55:60]) == {"lower_lip"}


def test_uv_lies_in_the_unit_square(model):
    assert model["uv"].min() >= 0 and model["uv"].max() <= 1
