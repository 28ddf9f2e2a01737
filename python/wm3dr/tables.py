"""Faces as Arrow tables and pandas data frames (docs/adapters.md has the columns).

Arrow is imported when a table is made.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .face_model import FaceModel
from .optional import require
from .result import Face, Result

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMAT, VERSION = "wm3dr-faces", "1"
N_LANDMARKS = 68


def face_type(face_model: FaceModel) -> "pa.StructType":
    """Return the Arrow type of a face: the columns of `to_table` from `face` on.

    Lists have fixed sizes; `expression` is a struct with the names of the face model's expressions.
    """
    pa = require("pyarrow", "table")
    f32 = pa.float32()
    widths = face_model.widths
    return pa.struct(
        [
            pa.field("face", pa.int32(), nullable=False),
            *(
                pa.field(name, f32, nullable=False)
                for name in ("score", "x0", "y0", "x1", "y1", "yaw", "pitch", "roll")
            ),
            pa.field("metric", pa.bool_(), nullable=False),
            pa.field("landmarks", pa.list_(pa.list_(f32, 2), N_LANDMARKS), nullable=False),
            pa.field("landmarks_camera", pa.list_(pa.list_(f32, 3), N_LANDMARKS), nullable=False),
            pa.field("rotation", pa.list_(f32, 9), nullable=False),
            pa.field("translation", pa.list_(f32, 3), nullable=False),
            pa.field("identity", pa.list_(f32, widths["identity"]), nullable=False),
            pa.field("expression", pa.struct([(name, f32) for name in face_model.expression_names]), nullable=False),
            pa.field("albedo", pa.list_(f32, widths["albedo"]), nullable=False),
            pa.field("illumination", pa.list_(f32, 27), nullable=False),
        ]
    )


def photo_fields() -> "list[pa.Field]":
    """Return the Arrow columns of a photo: its name, size and camera; null where it could not be done."""
    pa = require("pyarrow", "table")
    return [
        pa.field("photo", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("focal", pa.float64()),
        pa.field("cx", pa.float64()),
        pa.field("cy", pa.float64()),
    ]


def face_schema(face_model: FaceModel) -> "pa.Schema":
    """Return the schema of `to_table`: a row per face."""
    pa = require("pyarrow", "table")
    return pa.schema([*photo_fields(), *face_type(face_model)], metadata=_metadata(face_model))


def photo_schema(face_model: FaceModel) -> "pa.Schema":
    """Return the schema of `photo_rows`: a row per photo with its faces in a list, or an error."""
    pa = require("pyarrow", "table")
    rest = [pa.field("error", pa.string()), pa.field("faces", pa.list_(face_type(face_model)))]
    return pa.schema([*photo_fields(), *rest], metadata=_metadata(face_model))


def to_table(result: Result, photo: str | None = None) -> "pa.Table":
    """Return the faces of a photo as an Arrow table, a row per face, best score first.

    Tables of several photos have the same schema: `pyarrow.concat_tables` joins them.

    Parameters
    ----------
    result : Result
        What `reconstruct` returned.
    photo : str, optional
        Name of the photo, for the column `photo`.

    Raises
    ------
    ImportError
        pyarrow is not installed.
    """
    pa = require("pyarrow", "table")
    schema = face_schema(result.face_model)
    repeated = [pa.repeat(pa.scalar(value, field.type), len(result)) for value, field in _photo_values(result, photo)]
    return pa.Table.from_arrays([*repeated, *_faces_array(result.faces, result.face_model).flatten()], schema=schema)


def to_pandas(result: Result, photo: str | None = None) -> "pd.DataFrame":
    """Return the faces of a photo as a pandas data frame, a row per face; see `to_table`.

    Every expression is a column of its own, `expression.NAME`; landmarks are (68, 2) and (68, 3) arrays.

    Raises
    ------
    ImportError
        pandas or pyarrow is not installed.
    """
    require("pandas", "table")
    frame = to_table(result, photo).flatten().to_pandas()
    for name in ("landmarks", "landmarks_camera"):
        frame[name] = [getattr(face, name) for face in result]
    return frame


def photo_rows(
    results: Sequence[Result | None], photos: Sequence[str | None], errors: Sequence[str | None], face_model: FaceModel
) -> "pa.Table":
    """Return a row per photo: the photo with its faces in a list, or None with the text of its error."""
    pa = require("pyarrow", "table")
    schema = photo_schema(face_model)
    columns: list[list[Any]] = [[] for _ in photo_fields()]
    for result, photo in zip(results, photos, strict=True):
        values = [photo] + [None] * 5 if result is None else [value for value, _ in _photo_values(result, photo)]
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, photo_fields(), strict=True)]
    faces = _faces_array([face for result in results if result is not None for face in result], face_model)
    offsets: list[int | None] = [0]
    total = 0
    for result in results:
        total += 0 if result is None else len(result)
        offsets.append(total)
    missing = pa.array([result is None for result in results], pa.bool_())
    listed = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), faces, mask=missing)
    return pa.Table.from_arrays([*arrays, pa.array(list(errors), pa.string()), listed], schema=schema)


def faces_from_photos(photos: "pa.Table") -> "pa.Table":
    """Turn rows of photos (`photo_rows`) into rows of faces, as `to_table` has them.

    Raises
    ------
    ValueError
        The table lacks a column of `photo_schema`.
    """
    pa = require("pyarrow", "table")
    pc = require("pyarrow.compute", "table")
    names = [field.name for field in photo_fields()]
    absent = [name for name in (*names, "faces") if name not in photos.column_names]
    if absent:
        raise ValueError(f"'photos' has no column {', '.join(absent)}; it has {', '.join(photos.column_names)}")
    lists = photos.column("faces").combine_chunks()
    faces, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    head = photos.select(names).take(rows)
    schema = pa.schema([*photo_fields(), *faces.type], metadata=photos.schema.metadata)
    return pa.Table.from_arrays(
        [*(column.combine_chunks() for column in head.columns), *faces.flatten()], schema=schema
    )


def _metadata(face_model: FaceModel) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "face_model": face_model.name,
        "face_model_sha256": face_model.sha256,
    }


def _photo_values(result: Result, photo: str | None) -> "list[tuple[Any, pa.Field]]":
    values = [photo, *result.size, result.camera.focal, *result.camera.principal_point]
    return list(zip(values, photo_fields(), strict=True))


def _faces_array(faces: Sequence[Face], face_model: FaceModel) -> "pa.StructArray":
    """Return the faces, in their order, as an array of `face_type`."""
    pa = require("pyarrow", "table")
    wanted = face_type(face_model)
    columns = {
        "face": [face.index for face in faces],
        "score": [face.score for face in faces],
        **{name: [face.box[k] for face in faces] for k, name in enumerate(("x0", "y0", "x1", "y1"))},
        **{name: [face.pose[k] for face in faces] for k, name in enumerate(("yaw", "pitch", "roll"))},
        "metric": [face.metric for face in faces],
        "landmarks": [face.landmarks for face in faces],
        "landmarks_camera": [face.landmarks_camera for face in faces],
        "rotation": [face.rotation for face in faces],
        "translation": [face.translation for face in faces],
        "identity": [face.coefficients.identity for face in faces],
        "expression": [face.coefficients.expression for face in faces],
        "albedo": [face.coefficients.albedo for face in faces],
        "illumination": [face.coefficients.illumination for face in faces],
    }
    arrays = [_column(np.asarray(columns[field.name]), field.type) for field in wanted]
    return pa.StructArray.from_arrays(arrays, fields=list(wanted))


def _column(values: Any, kind: "pa.DataType") -> "pa.Array":
    """Return F values, or F equal blocks of them, as an array of `kind`."""
    pa = require("pyarrow", "table")
    if pa.types.is_struct(kind):
        table = values.reshape(-1, kind.num_fields).astype(np.float32)
        parts = [pa.array(np.ascontiguousarray(table[:, k])) for k in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(kind))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_column(values.reshape(-1), kind.value_type), kind.list_size)
    return pa.array(values.reshape(-1), kind, safe=False)
