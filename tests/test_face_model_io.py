"""Face-model files: round trip, checksum, and the importer of BFM 2009 on a synthetic file of its form."""

import hashlib

import numpy as np
import pytest
from builders import GRID, synthetic_arrays

import wm3dr
from wm3dr.bfm import LICENCE, import_bfm
from wm3dr.face_model import parse_face_model, serialize_face_model, write_face_model


def test_round_trip(tmp_path):
    metadata, arrays = synthetic_arrays()
    path = tmp_path / "model.safetensors"
    written = write_face_model(path, metadata, arrays)
    read = wm3dr.FaceModel.load(path)
    assert read.metadata == metadata
    assert read.sha256 == written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (read.n_vertices, read.n_triangles) == ((2 * GRID - 1) ** 2, 8 * (GRID - 1) ** 2)
    assert read.widths == {"identity": 5, "expression": 4, "albedo": 3}
    stored_metadata, stored = parse_face_model(path.read_bytes())
    assert stored_metadata == metadata
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored[name], array)
        assert stored[name].dtype == array.dtype


def test_equal_models_have_equal_bytes():
    assert serialize_face_model(*synthetic_arrays()) == serialize_face_model(*synthetic_arrays())


def test_safetensors_reads_the_file(tmp_path, face_model):
    from safetensors import safe_open

    with safe_open(face_model.path, framework="numpy") as file:
        assert set(file.keys()) == set(synthetic_arrays()[1])
        assert file.metadata()["name"] == "synthetic-for-tests"
        np.testing.assert_array_equal(file.get_tensor("triangles"), synthetic_arrays()[1]["triangles"])


def test_nothing_is_written_of_a_broken_model(tmp_path):
    metadata, arrays = synthetic_arrays()
    with pytest.raises(wm3dr.ModelError):
        write_face_model(tmp_path / "model.safetensors", metadata, arrays | {"mirror": arrays["mirror"] - 1})
    assert list(tmp_path.iterdir()) == []


def test_refinement_is_that_of_the_conventions(face_model):
    arrays = synthetic_arrays()[1]
    pairs = np.sort(arrays["triangles"][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges = np.unique(pairs, axis=0)
    expected = np.concatenate([arrays["mean_shape"], arrays["mean_shape"][edges].mean(axis=1)])
    np.testing.assert_allclose(face_model.mean_shape, expected, atol=1e-4)
    number = {tuple(edge): len(arrays["mean_shape"]) + k for k, edge in enumerate(edges)}
    a, b, c = arrays["triangles"][3]
    ab, bc, ca = (number[tuple(sorted(edge))] for edge in ((a, b), (b, c), (c, a)))
    wanted = [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]]
    np.testing.assert_array_equal(face_model.triangles[12:16], wanted)
    np.testing.assert_array_equal(face_model.mirror[face_model.mirror], np.arange(face_model.n_vertices))


def synthetic_bfm():
    """The variables of BFM_model_front.mat with synthetic numbers, and the points behind them in mm."""
    rng = np.random.default_rng(5)
    arrays = synthetic_arrays()[1]
    points = arrays["mean_shape"].astype(np.float64)
    n = len(points)
    return {
        "meanshape": (points / 100 + [0.01, -0.02, 0.03]).reshape(1, -1),
        "idBase": rng.normal(0, 0.02, (3 * n, 80)),
        "exBase": rng.normal(0, 0.02, (3 * n, 64)),
        "meantex": rng.uniform(60, 220, (1, 3 * n)),
        "texBase": rng.normal(0, 5, (3 * n, 80)),
        "tri": arrays["triangles"].astype(np.float64) + 1,
        "point_buf": rng.integers(1, 100, (n, 8)),
        "keypoints": np.arange(1, 69, dtype=np.float64)[None],
        "skinmask": (rng.random((1, n)) > 0.5).astype(np.uint8),
    }, points


def test_import_bfm(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="reading MATLAB files needs SciPy")
    mat, points = synthetic_bfm()
    scipy_io.savemat(tmp_path / "BFM_model_front.mat", mat)
    model = import_bfm(tmp_path / "BFM_model_front.mat", tmp_path / "bfm.safetensors")
    assert model.widths == {"identity": 80, "expression": 64, "albedo": 80}
    assert (model.n_vertices, model.metadata.subdivisions, model.metadata.expression_kind) == (len(points), 0, "pca")
    assert model.metadata.licence == LICENCE and "not be redistributed" in LICENCE
    np.testing.assert_allclose(model.mean_shape, points - points.mean(axis=0), atol=1e-3)  # centred, mm
    np.testing.assert_array_equal(model.landmark_vertices, np.arange(68))  # counted from 0
    np.testing.assert_array_equal(model.triangles, mat["tri"].astype(int) - 1)
    np.testing.assert_allclose(model.mean_albedo, mat["meantex"].reshape(-1, 3) / 255, atol=1e-6)
    np.testing.assert_array_equal(model.regions, mat["skinmask"].reshape(-1))
    unit = np.zeros((1, 80), np.float32)
    unit[0, 7] = 1
    shape = model.native.shapes(unit, np.zeros((1, 64), np.float32), 1)[0]
    expected = model.mean_shape + 100 * mat["idBase"][:, 7].reshape(-1, 3)
    np.testing.assert_allclose(shape, expected, atol=5e-3)  # float16 of a few mm
    mirrored = model.mean_shape[model.mirror] * [-1, 1, 1]
    np.testing.assert_allclose(mirrored, model.mean_shape, atol=1e-2)
    assert wm3dr.FaceModel.load(tmp_path / "bfm.safetensors").sha256 == model.sha256


def test_import_bfm_turns_triangles_out(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="reading MATLAB files needs SciPy")
    mat, _ = synthetic_bfm()
    mat["tri"] = mat["tri"][:, ::-1]
    scipy_io.savemat(tmp_path / "in.mat", mat)
    import_bfm(tmp_path / "in.mat", tmp_path / "out.safetensors")  # inward ones would be refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"idBase": None}, "no variable idBase"),
        ({"exBase": np.zeros((7, 64))}, r"'exBase' has shape \(7, 64\), not \(507, K\)"),
        ({"tri": np.array([[1, 2, 508]])}, "'tri' must hold vertex numbers from 1 to 169"),
        ({"keypoints": np.array([[0, 1]])}, "'keypoints' must hold vertex numbers from 1 to 169"),
        ({"skinmask": np.zeros(3)}, "'skinmask' has 3 values, not 169"),
    ],
)
def test_import_bfm_refuses_other_files(tmp_path, change, message):
    scipy_io = pytest.importorskip("scipy.io", reason="reading MATLAB files needs SciPy")
    mat = {name: value for name, value in (synthetic_bfm()[0] | change).items() if value is not None}
    scipy_io.savemat(tmp_path / "in.mat", mat)
    with pytest.raises(wm3dr.ModelError, match=message):
        import_bfm(tmp_path / "in.mat", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_import_bfm_of_something_else(tmp_path):
    pytest.importorskip("scipy.io", reason="reading MATLAB files needs SciPy")
    (tmp_path / "in.mat").write_bytes(b"not MATLAB")
    with pytest.raises(wm3dr.ModelError, match="not a MATLAB file"):
        import_bfm(tmp_path / "in.mat", tmp_path / "out.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        import_bfm(tmp_path / "none.mat", tmp_path / "out.safetensors")
