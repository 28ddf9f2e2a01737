"""Small models for tests: a synthetic face model and encoders whose answers are known.

None of them has seen a face; names say so.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wm3dr import FaceModel
from wm3dr.face_model import FaceModelMetadata, write_face_model

K_IDENTITY, K_EXPRESSION, K_ALBEDO = 5, 4, 3
LAYOUT = [
    ["identity", K_IDENTITY],
    ["expression", K_EXPRESSION],
    ["albedo", K_ALBEDO],
    ["rotation", 3],
    ["illumination", 27],
    ["translation", 3],
]
N_COEFFICIENTS = sum(width for _, width in LAYOUT)
GRID = 13
FOCAL = 1015.0


def synthetic_arrays(
    identity: int = K_IDENTITY,
    expression: int = K_EXPRESSION,
    albedo: int = K_ALBEDO,
    kind: str = "blendshape",
    subdivisions: int = 1,
) -> tuple[FaceModelMetadata, dict[str, NDArray[Any]]]:
    """A mask-like patch of 13 x 13 coarse vertices, refined once to 625; random bases of the given widths."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    x = (columns / (GRID - 1) - 0.5) * 150.0
    y = (0.5 - rows / (GRID - 1)) * 200.0
    z = 70.0 - 0.010 * x**2 - 0.004 * y**2
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    number = np.arange(GRID * GRID).reshape(GRID, GRID)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    # Counter-clockwise seen from +z; the diagonal is mirrored on the right half.
    left, right = np.stack([a, c, b, b, c, d], -1), np.stack([a, c, d, a, d, b], -1)
    middle = (GRID - 1) // 2
    triangles = np.concatenate([left[:, :middle], right[:, middle:]], axis=1).reshape(-1, 3)
    n = len(points)
    uv = np.stack([columns / (GRID - 1), 1 - rows / (GRID - 1)], -1).reshape(-1, 2)
    regions = np.where(np.abs(points[:, 0]) > 60, 2, np.where(points[:, 1] > 40, 1, 0))
    arrays: dict[str, NDArray[Any]] = {
        "mean_shape": points.astype(np.float32),
        "identity_basis": rng.normal(0, 2.0, (n, 3, identity)).astype(np.float16),
        "expression_basis": rng.normal(0, 3.0, (n, 3, expression)).astype(np.float16),
        "mean_albedo": rng.uniform(0.4, 0.8, (n, 3)).astype(np.float32),
        "albedo_basis": rng.normal(0, 0.03, (n, 3, albedo)).astype(np.float16),
        "triangles": triangles.astype(np.int32),
        "landmark_vertices": (np.arange(68) * 2 + 7).astype(np.int32),
        "uv": uv[triangles].astype(np.float32),
        "regions": regions.astype(np.uint8),
        "mirror": number[:, ::-1].reshape(-1).astype(np.int32),
    }
    metadata = FaceModelMetadata(
        name="synthetic-for-tests",
        licence="CC0-1.0",
        sources=("made by the tests",),
        subdivisions=subdivisions,
        expression_names=tuple(f"expression{k}" for k in range(expression)),
        expression_kind=kind,
        region_names=("skin", "forehead", "side"),
    )
    return metadata, arrays


def synthetic_face_model(path: Path) -> FaceModel:
    """Write the synthetic face model and return it."""
    return write_face_model(path, *synthetic_arrays())


def encoder_metadata(face_model: FaceModel, **changes: str) -> dict[str, str]:
    """The metadata of an encoder of contract version 1 for a face model."""
    return {
        "wm3dr_format": "wm3dr-encoder",
        "wm3dr_version": "1",
        "face_model": face_model.name,
        "face_model_sha256": face_model.sha256,
        "layout": json.dumps(LAYOUT),
        "stride": "8",
        "focal": str(FOCAL),
        "depth_offset": "10.0",
        "unit_mm": "100.0",
        "rotation_frame": "ray",
        "peak_window": "5",
        "peak_threshold": "0.5",
        "licence": "CC0-1.0",
        "training": json.dumps({"note": "not trained; for tests"}),
    } | changes


def planted_rows() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Row of a planted face: base + green · slope, with green in [0, 1]; (C,) each."""
    rng = np.random.default_rng(11)
    base, slope = rng.normal(0, 0.5, N_COEFFICIENTS), rng.normal(0, 0.4, N_COEFFICIENTS)
    ends = np.cumsum([width for _, width in LAYOUT])
    rotation, illumination = slice(ends[2], ends[3]), slice(ends[3], ends[4])
    base[rotation], slope[rotation] = (0.15, -0.25, 0.1), (-0.3, 0.5, -0.2)
    base[illumination], slope[illumination] = rng.normal(0, 0.05, 27), 0.0
    base[ends[4] :], slope[ends[4] :] = (3.0, -2.0, 1.5), (-4.0, 5.0, 6.0)
    return base.astype(np.float32), slope.astype(np.float32)


def planted_encoder(path: Path, face_model: FaceModel, **metadata: str) -> Path:
    """An encoder that finds a face wherever a cell of the photo is red, its coefficients given by the green there.

    heatmap = mean red of the cell / 255; coefficients = base + mean green / 255 · slope (`planted_rows`).
    """
    base, slope = planted_rows()
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Mul", ["cells", "scale"], ["unit"]),
        helper.make_node("Slice", ["unit", "zero", "one", "channel"], ["heatmap"]),
        helper.make_node("Slice", ["unit", "one", "two", "channel"], ["green"]),
        helper.make_node("Mul", ["green", "slope"], ["varied"]),
        helper.make_node("Add", ["varied", "base"], ["coefficients"]),
    ]
    constants = {
        "scale": np.float32(1 / 255.0),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "channel": np.array([1]),
        "slope": slope.reshape(1, -1, 1, 1),
        "base": base.reshape(1, -1, 1, 1),
    }
    return _save(path, nodes, constants, encoder_metadata(face_model, **metadata))


def planted_encoder_with_head(path: Path, face_model: FaceModel, **metadata: str) -> Path:
    """`planted_encoder` by contract version 2: the graph returns the green, a head in the metadata makes the rows."""
    base, slope = planted_rows()
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Mul", ["cells", "scale"], ["unit"]),
        helper.make_node("Slice", ["unit", "zero", "one", "channel"], ["heatmap"]),
        helper.make_node("Slice", ["unit", "one", "two", "channel"], ["features"]),
    ]
    constants = {
        "scale": np.float32(1 / 255.0),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "channel": np.array([1]),
    }
    head_nodes = [
        helper.make_node("Mul", ["features", "slope"], ["varied"]),
        helper.make_node("Add", ["varied", "base"], ["coefficients"]),
    ]
    carried = {"wm3dr_version": "2", "head": _head(head_nodes, {"slope": slope, "base": base}, TensorProto.FLOAT)}
    return _save(path, nodes, constants, encoder_metadata(face_model, **(carried | metadata)), "features")


def planted_encoder_of_pixels(path: Path, face_model: FaceModel, **metadata: str) -> Path:
    """`planted_encoder` by contract version 3: pixels in, the green as uint8 out."""
    base, slope = planted_rows()
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Split", ["cells"], ["red", "green", "blue"], axis=1),
        helper.make_node("Mul", ["red", "scale"], ["heatmap"]),
        helper.make_node("Round", ["green"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["stored"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["stored"], ["features"], perm=[0, 2, 3, 1]),
    ]
    head_nodes = [
        helper.make_node("Cast", ["features"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "slope"], ["varied"]),
        helper.make_node("Add", ["varied", "base"], ["coefficients"]),
    ]
    head = _head(head_nodes, {"slope": slope / np.float32(255), "base": base}, TensorProto.UINT8)
    carried = encoder_metadata(face_model, **({"wm3dr_version": "3", "head": head} | metadata))
    return _save(path, nodes, {"scale": np.float32(1 / 255.0)}, carried, "features", TensorProto.UINT8)


def _head(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], stored: int) -> str:
    """A graph features -> coefficients as metadata carries it."""
    features = helper.make_tensor_value_info("features", stored, ["M", None])
    coefficients = helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["M", None])
    weights = [numpy_helper.from_array(value.reshape(1, -1), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "head_for_tests", [features], [coefficients], weights)
    head = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(head)
    return base64.b64encode(head.SerializeToString()).decode()


def random_encoder_for_tests(path: Path, face_model: FaceModel, **metadata: str) -> Path:
    """A convolution with random weights: its faces mean nothing, its work is real."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["logits"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Sigmoid", ["logits"], ["heatmap"]),
        helper.make_node("Conv", ["image", "kernels"], ["coefficients"], kernel_shape=[8, 8], strides=[8, 8]),
    ]
    kernel = rng.normal(0, 1e-3, (1, 3, 8, 8)).astype(np.float32)
    constants = {
        "kernel": kernel - kernel.mean(),
        "kernels": rng.normal(0, 2e-5, (N_COEFFICIENTS, 3, 8, 8)).astype(np.float32),
    }
    return _save(path, nodes, constants, encoder_metadata(face_model, **metadata))


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    metadata: dict[str, str],
    maps: str = "coefficients",
    stored: int = TensorProto.FLOAT,
) -> Path:
    planes = stored == TensorProto.FLOAT
    image = helper.make_tensor_value_info("image", stored, ["B", 3, "H", "W"] if planes else ["B", "H", "W", 3])
    outputs = [
        helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["B", 1, "h", "w"]),
        helper.make_tensor_value_info(maps, stored, ["B", "C", "h", "w"] if planes else ["B", "h", "w", "C"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "for_tests", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def photo_with_faces(
    size: tuple[int, int], faces: list[tuple[int, int, int, int]], background: int = 40
) -> NDArray[np.uint8]:
    """A blue photo (width, height) with an 8 x 8 cell in each (column, row, red, green) of `faces`."""
    photo = np.zeros((size[1], size[0], 3), np.uint8)
    photo[:, :, 2] = background
    for column, row, red, green in faces:
        photo[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8, :2] = (red, green)
    return photo


Maker = Callable[..., Path]
