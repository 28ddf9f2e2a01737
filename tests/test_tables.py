"""Faces in Arrow and pandas: values, types, files, and several photos in one table."""

import sys

import numpy as np
import pytest

from wm3dr import tables

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'wm3dr[table]'")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def empty(reconstructor):
    return reconstructor.reconstruct(np.zeros((64, 96, 3), np.uint8))


def test_table_holds_what_the_result_holds(result, face_model):
    table = result.to_table("group.jpg")
    assert table.schema.equals(tables.face_schema(face_model), check_metadata=True)
    assert table.schema.metadata[b"face_model_sha256"].decode() == face_model.sha256
    rows = table.to_pylist()
    assert [row["face"] for row in rows] == [0, 1, 2]
    for row, face in zip(rows, result, strict=True):
        assert (row["photo"], row["width"], row["height"]) == ("group.jpg", 236, 180)
        assert (row["focal"], row["cx"], row["cy"]) == (result.camera.focal, *result.camera.principal_point)
        assert row["score"] == np.float32(face.score) and row["metric"] is False
        np.testing.assert_array_equal([row[name] for name in ("x0", "y0", "x1", "y1")], face.box)
        np.testing.assert_array_equal([row[name] for name in ("yaw", "pitch", "roll")], np.float32(face.pose))
        np.testing.assert_array_equal(row["landmarks"], face.landmarks)
        np.testing.assert_array_equal(row["landmarks_camera"], face.landmarks_camera)
        np.testing.assert_array_equal(row["rotation"], face.rotation.reshape(9))
        np.testing.assert_array_equal(row["translation"], face.translation)
        assert row["expression"] == face.blendshapes | row["expression"]
        np.testing.assert_array_equal(list(row["expression"].values()), face.coefficients.expression)
        for name in ("identity", "albedo"):
            np.testing.assert_array_equal(row[name], getattr(face.coefficients, name))
        np.testing.assert_array_equal(row["illumination"], face.coefficients.illumination.reshape(27))


def test_parquet_round_trip(result, empty, tmp_path):
    """Tables of any photo, also one without faces, go into one file and come back."""
    whole = pa.concat_tables([result.to_table("a"), empty.to_table("b"), result.to_table()])
    assert whole.num_rows == 6 and empty.to_table().num_rows == 0
    pq.write_table(whole, tmp_path / "faces.parquet")
    assert pq.read_table(tmp_path / "faces.parquet").equals(whole)


def test_rows_of_photos(result, empty, face_model):
    """A photo that could not be done is a row with its error; the faces come out again as `to_table` has them."""
    rows = tables.photo_rows(
        [result, None, empty, result], ["a", "bad", "none", "c"], [None, "ValueError: broken", None, None], face_model
    )
    assert rows.schema.equals(tables.photo_schema(face_model), check_metadata=True)
    assert rows["error"].to_pylist() == [None, "ValueError: broken", None, None]
    assert [None if faces is None else len(faces) for faces in rows["faces"].to_pylist()] == [3, None, 0, 3]
    assert rows["width"].to_pylist() == [236, None, 96, 236]
    faces = tables.faces_from_photos(rows)
    assert faces.equals(pa.concat_tables([result.to_table("a"), result.to_table("c")]))
    assert tables.faces_from_photos(pa.concat_tables([rows.slice(1), rows])).num_rows == 9
    assert tables.faces_from_photos(rows.slice(1, 2)).equals(empty.to_table())
    with pytest.raises(ValueError, match=r"'photos' has no column width, height, focal, cx, cy, faces; it has photo"):
        tables.faces_from_photos(rows.select(["photo"]))


def test_pandas_frame(result, empty):
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'wm3dr[table]'")
    frame = result.to_pandas("group.jpg")
    assert frame["expression.expression2"].dtype == np.float32
    assert frame["expression.expression2"][1] == result[1].coefficients.expression[2]
    assert frame["landmarks"][2].shape == (68, 2) and frame["photo"].tolist() == ["group.jpg"] * 3
    assert frame.loc[frame.score.idxmax(), "yaw"] == np.float32(result[0].pose.yaw)
    assert list(empty.to_pandas().columns) == list(frame.columns)


def test_without_pyarrow(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"'pyarrow' is not installed: pip install 'wm3dr\[table\]'"):
        result.to_table()
