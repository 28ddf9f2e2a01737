"""What a caller can get wrong: the type of the error, and the name, what came and what was wanted in its message."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from builders import planted_encoder, synthetic_arrays

import wm3dr
from wm3dr.face_model import FaceModel, serialize_face_model, write_face_model

PHOTO = np.zeros((40, 60, 3), np.uint8)


def png_header(width, height):
    """A PNG file that claims a size and ends where its pixels should begin."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\x09IDAT"
    )


def jpeg():
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    PIL.Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (PHOTO.astype(np.float32), TypeError, r"'image' has dtype float32, not uint8"),
        (np.full((4, 4, 3), np.nan), TypeError, r"'image' has dtype float64, not uint8"),
        (PHOTO[0, 0], ValueError, r"'image' has shape \(3,\), not \(H, W\)"),
        (PHOTO[None], ValueError, r"'image' has shape \(1, 40, 60, 3\), not \(H, W\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"'image' has shape \(4, 4, 2\), not \(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"'image' is 4 x 0 pixels"),
        (np.zeros((4, 0, 3), np.uint8), ValueError, r"'image' is 0 x 4 pixels"),
        (np.broadcast_to(np.uint8(0), (10001, 10000, 3)), ValueError, r"10000 x 10001 pixels, more than 100000000"),
        (png_header(10001, 10000), ValueError, r"'image'.*more than 100000000"),
        (png_header(40000, 30000), ValueError, r"'image'.*more than 100000000"),
        (png_header(40, 30), ValueError, r"'image' cannot be decoded: 41 bytes"),
        (jpeg()[:4000], ValueError, r"'image' cannot be decoded: 4000 bytes: .*truncated"),
        (b"", ValueError, r"'image': 0 bytes: empty"),
        (b"no image at all", ValueError, r"'image': 15 bytes: not an image"),
        (12, TypeError, r"'image' must be a uint8 array, a path, .* not int"),
        (None, TypeError, r"'image' must be a uint8 array, a path, .* not NoneType"),
        ([[1, 2], [3, 4]], TypeError, r"'image' must be a uint8 array, a path, .* not list"),
        ("nowhere/photo.jpg", FileNotFoundError, r"'image': no such file: nowhere/photo.jpg"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images(reconstructor, image, error, message):
    with pytest.raises(error, match=message):
        reconstructor.reconstruct(image)


def test_image_files(reconstructor, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not a photo")
    with pytest.raises(ValueError, match=r"'image': .*text\.jpg: not an image"):
        reconstructor.reconstruct(text)
    with pytest.raises(ValueError, match=r"'image': .* is a folder"):
        reconstructor.reconstruct(tmp_path)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(jpeg()[:3000])
    with pytest.raises(ValueError, match=r"'image' cannot be decoded: .*cut\.jpg: .*truncated"):
        reconstructor.reconstruct(cut)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"color": "hsv"}, ValueError, r"'color' must be 'rgb' or 'bgr', not 'hsv'"),
        ({"camera": 1015.0}, TypeError, r"'camera' must be a wm3dr.Camera or None, not float"),
        ({"camera": wm3dr.Camera(900.0, (30.0, 20.0), (61, 40))}, ValueError, r"size \(61, 40\), but the image is"),
    ],
)
def test_options_of_a_call(reconstructor, options, error, message):
    with pytest.raises(error, match=message):
        reconstructor.reconstruct(PHOTO, **options)


def test_bgr_is_for_arrays(reconstructor):
    with pytest.raises(ValueError, match="color='bgr' is for arrays"):
        reconstructor.reconstruct(jpeg(), color="bgr")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ((0.0, (1, 1), (2, 2)), ValueError, "'focal' must be positive"),
        ((float("nan"), (1, 1), (2, 2)), ValueError, "'focal' must be positive and finite"),
        (("wide", (1, 1), (2, 2)), TypeError, "must be numbers"),
        ((900, (1, float("inf")), (2, 2)), ValueError, "'principal_point' must be finite"),
        ((900, 1.0, (2, 2)), TypeError, "'principal_point' must be a pair"),
        ((900, (1, 1), (2, 0)), ValueError, "'size' must be whole pixels, at least 1 x 1"),
        ((900, (1, 1), (2.5, 3)), ValueError, "'size' must be whole pixels"),
    ],
)
def test_cameras(values, error, message):
    with pytest.raises(error, match=message):
        wm3dr.Camera(*values)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, ValueError, "'threads' must be at least 1, not 0"),
        ({"threads": 1.5}, TypeError, "'threads' must be an int or None, not float"),
        ({"threads": True}, TypeError, "'threads' must be an int or None, not bool"),
        ({"max_side": 31}, ValueError, "'max_side' must be at least 32 pixels, not 31"),
        ({"max_side": "640"}, TypeError, "'max_side' must be an int"),
        ({"score_threshold": 0.0}, ValueError, "'score_threshold' must be above 0 and at most 1, not 0.0"),
        ({"score_threshold": float("nan")}, ValueError, "'score_threshold' must be above 0"),
        ({"score_threshold": "high"}, TypeError, "'score_threshold' must be a number, not str"),
        ({"providers": "CUDAExecutionProvider"}, TypeError, "'providers' must be a list"),
        ({"providers": []}, ValueError, "'providers' is empty"),
    ],
)
def test_options_of_a_reconstructor(encoder, face_model, options, error, message):
    with pytest.raises(error, match=message):
        wm3dr.Reconstructor(encoder, face_model, **options)


def test_missing_models(encoder, face_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'encoder': .*none\.onnx: no such file"):
        wm3dr.Reconstructor(tmp_path / "none.onnx", face_model)
    with pytest.raises(FileNotFoundError, match=r"'face_model': .*none\.safetensors: no such file"):
        wm3dr.Reconstructor(encoder, tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"'face_model': .*: it is a folder"):
        wm3dr.Reconstructor(encoder, tmp_path)


def test_unreadable_models(encoder, face_model, tmp_path):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"neither one nor the other")
    with pytest.raises(wm3dr.ModelError, match=r"broken\.bin: onnxruntime cannot open it"):
        wm3dr.Reconstructor(broken, face_model)
    with pytest.raises(wm3dr.ModelError, match=r"broken\.bin: not a safetensors file"):
        wm3dr.Reconstructor(encoder, broken)


def test_an_encoder_of_another_face_model(encoder, tmp_path):
    metadata, arrays = synthetic_arrays()
    moved = write_face_model(
        tmp_path / "moved.safetensors", metadata, arrays | {"mean_shape": arrays["mean_shape"] + 1}
    )
    with pytest.raises(wm3dr.ModelError, match=r"trained with face model 'synthetic-for-tests' \(sha256"):
        wm3dr.Reconstructor(encoder, moved)
    fewer = arrays | {"identity_basis": arrays["identity_basis"][:, :, :4]}
    with pytest.raises(wm3dr.ModelError, match=r"'identity': 5.* do not fit face model .*'identity': 4"):
        wm3dr.Reconstructor(encoder, FaceModel.from_arrays(metadata, fewer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wm3dr_format": "other"}, "not a wm3dr encoder"),
        ({"wm3dr_version": "9"}, "contract version is '9'; this wm3dr runs versions 1, 2, 3"),
        ({"layout": "[]"}, "'layout' has groups"),
        ({"layout": "{"}, "'layout' is not JSON"),
        ({"stride": "5"}, "'stride' is 5, which does not divide 32"),
        ({"stride": "eight"}, "'stride' is 'eight', not a number"),
        ({"depth_offset": "9.0"}, "'depth_offset' is '9.0'; version 1 has 10.0"),
        ({"peak_threshold": "2"}, "peak_threshold 2.0"),
        ({"rotation_frame": "world"}, "'rotation_frame' is 'world'"),
    ],
)
def test_encoders_that_break_the_contract(face_model, tmp_path, changes, message):
    path = planted_encoder(tmp_path / "encoder.onnx", face_model, **changes)
    with pytest.raises(wm3dr.ModelError, match=message):
        wm3dr.Reconstructor(path, face_model)


def test_an_encoder_that_returns_nan(face_model, tmp_path):
    import onnx
    from builders import N_COEFFICIENTS
    from onnx import numpy_helper

    path = planted_encoder(tmp_path / "encoder.onnx", face_model)
    model = onnx.load(path)
    base = next(tensor for tensor in model.graph.initializer if tensor.name == "base")
    values = np.full((1, N_COEFFICIENTS, 1, 1), np.nan, np.float32)
    base.CopyFrom(numpy_helper.from_array(values, "base"))
    onnx.save(model, path)
    photo = PHOTO.copy()
    photo[8:16, 8:16, 0] = 255
    with pytest.raises(ValueError, match="finite"):
        wm3dr.Reconstructor(path, face_model).reconstruct(photo)


def _changed(name, change):
    return lambda metadata, arrays: (metadata, arrays | {name: change(arrays[name].copy())})


def _put(value, *place):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed("mean_shape", _put(np.nan, 5, 1)), "mean_shape.*finite"),
        (_changed("identity_basis", _put(np.inf, 5, 1, 0)), "identity_basis.*finite"),
        (_changed("mean_shape", lambda a: a[:, :2]), "mean_shape.*shape"),
        (_changed("mean_shape", lambda a: a.astype(np.float64)), "'mean_shape' has dtype float64, not float32"),
        (_changed("albedo_basis", lambda a: a[1:]), "albedo_basis"),
        (_changed("triangles", _put(10_000, 0, 0)), "triangles.*10000"),
        (_changed("triangles", _put(-1, 0, 0)), "triangles.*-1"),
        (_changed("triangles", lambda a: np.ascontiguousarray(a[:, ::-1])), "triangles.*faces -z"),
        (_changed("landmark_vertices", lambda a: a[:67]), "landmark_vertices"),
        (_changed("landmark_vertices", _put(999_999, 3)), "landmark_vertices.*999999"),
        (_changed("mirror", _put(-2, 3)), "mirror.*-2"),
        (_changed("regions", _put(7, 3)), "'regions' holds label 7, but 'region_names' names only 3"),
        (_changed("uv", lambda a: a[1:]), "uv"),
    ],
)
def test_face_models_that_are_inconsistent(change, message):
    with pytest.raises(wm3dr.ModelError, match=message):
        FaceModel.from_arrays(*change(*synthetic_arrays()))


def test_face_model_files_that_are_broken(tmp_path):
    import json

    content = serialize_face_model(*synthetic_arrays())
    length = int.from_bytes(content[:8], "little")

    def with_header(change):
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    cases = {
        "truncated": (content[:-100], "not a safetensors file"),
        "empty": (b"", "not a safetensors file"),
        "format": (with_header(lambda h: h["__metadata__"].pop("format")), "not a face-model file"),
        "version": (with_header(lambda h: h["__metadata__"].update(version="7")), "version is '7'"),
        "licence": (with_header(lambda h: h["__metadata__"].pop("licence")), "'licence' is missing"),
        "units": (with_header(lambda h: h["__metadata__"].update(units="cm")), "'units' is 'cm'"),
        "subdivisions": (with_header(lambda h: h["__metadata__"].update(subdivisions="2")), "'subdivisions' is '2'"),
        "names": (with_header(lambda h: h["__metadata__"].update(expression_names='["a"]')), "has 1 names"),
        "json": (with_header(lambda h: h["__metadata__"].update(region_names="skin")), "'region_names' is not JSON"),
        "metadata": (with_header(lambda h: h.pop("__metadata__")), "not a face-model file"),
    }
    for name, (broken, message) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(broken)
        with pytest.raises(wm3dr.ModelError, match=message) as caught:
            FaceModel.load(path)
        assert str(path) in str(caught.value)
