"""The authors' checkpoint: a random one of their form, against their pipeline written out in NumPy."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import write_synthetic_model
from torch.nn import functional

import wm3dr
from wm3dr_training.cli import main
from wm3dr_training.import_checkpoint import import_authors_checkpoint, renamed_state, rotation_vectors_from_euler

SIZE = 64  # px, side of the square test image
FOCAL = 1015.0
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
BLOCKS = {1: (3, 64, 64), 2: (4, 128, 256), 3: (6, 256, 512), 4: (3, 512, 1024)}  # count, width, input width


def random_authors_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of kalyo-zjl/WM3DR's form with random weights that keep activations in range."""
    generator = torch.Generator().manual_seed(seed)

    def convolution(out: int, into: int, size: int, gain: float = 1.4) -> torch.Tensor:
        return gain * torch.randn((out, into, size, size), generator=generator) / (into * size * size) ** 0.5

    state: dict[str, torch.Tensor] = {}

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 0.5 + 0.5 * torch.rand(width, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_var"] = 0.7 + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    state["conv1.weight"] = convolution(64, 3, 7)
    norm("bn1", 64)
    for layer, (count, width, inputs) in BLOCKS.items():
        for block in range(count):
            name, into = f"layer{layer}.{block}", inputs if block == 0 else 4 * width
            for number, (a, b, size) in enumerate([(width, into, 1), (width, width, 3), (4 * width, width, 1)], 1):
                state[f"{name}.conv{number}.weight"] = convolution(a, b, size)
                norm(f"{name}.bn{number}", a)
            if block == 0:
                state[f"{name}.downsample.0.weight"] = convolution(4 * width, into, 1)
                norm(f"{name}.downsample.1", 4 * width)
    state["p3.weight"] = convolution(256, 512, 3)
    state["p4.weight"] = torch.randn((1024, 256, 4, 4), generator=generator) / 64
    state["p5.weight"] = torch.randn((2048, 256, 4, 4), generator=generator) / 64
    for level in (3, 4, 5):
        state[f"p{level}.bias"] = 0.05 * torch.randn(256, generator=generator)
        state[f"p{level}_l2.weight"] = 8 + 4 * torch.rand(256, generator=generator)
    state["feat.weight"] = convolution(256, 768, 3)
    norm("feat_bn", 256)
    for head, width, gain in (("hm", 1, 3.0), ("params", 257, 1.0)):
        state[f"{head}.0.weight"], state[f"{head}.0.bias"] = convolution(256, 256, 3), torch.zeros(256)
        state[f"{head}.2.weight"], state[f"{head}.2.bias"] = convolution(width, 256, 1, gain), torch.zeros(width)
    return state


def authors_network(state: dict[str, torch.Tensor], image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Their network, operation by operation: normalised image (1, 3, H, W) -> heatmap logits and 257 raw numbers."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts)

    def level(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / x.pow(2).sum(1, keepdim=True).sqrt() * state[f"{name}_l2.weight"].view(1, -1, 1, 1)

    x = functional.relu(norm(functional.conv2d(image, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    outputs = {}
    for layer, (count, _, _) in BLOCKS.items():
        for block in range(count):
            name, stride = f"layer{layer}.{block}", 2 if block == 0 and layer > 1 else 1
            y = functional.relu(norm(functional.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
            y = functional.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = functional.conv2d(functional.relu(norm(y, f"{name}.bn2")), state[f"{name}.conv3.weight"])
            if block == 0:
                x = norm(
                    functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1"
                )
            x = functional.relu(norm(y, f"{name}.bn3") + x)
        outputs[layer] = x
    p3 = level(functional.conv2d(outputs[2], state["p3.weight"], state["p3.bias"], padding=1), "p3")
    p4 = level(functional.conv_transpose2d(outputs[3], state["p4.weight"], state["p4.bias"], stride=2, padding=1), "p4")
    p5 = level(functional.conv_transpose2d(outputs[4], state["p5.weight"], state["p5.bias"], stride=4), "p5")
    x = functional.conv2d(torch.cat([p3, p4, p5], 1), state["feat.weight"], padding=1)
    x = functional.relu(norm(x, "feat_bn"))
    heads = []
    for head in ("hm", "params"):
        y = functional.relu(functional.conv2d(x, state[f"{head}.0.weight"], state[f"{head}.0.bias"], padding=1))
        heads.append(functional.conv2d(y, state[f"{head}.2.weight"], state[f"{head}.2.bias"]).numpy())
    return heads[0], heads[1]


def authors_vertices_px(model: wm3dr.FaceModel, row: np.ndarray, column_cell: int, row_cell: int) -> np.ndarray:
    """Their decoder and camera in their frame (y up, z forward, units of 100 mm), float64; pixels with y down."""
    tensors = model.native
    identity, expression = row[:80].astype(np.float32)[None], row[80:144].astype(np.float32)[None]
    shape = tensors.shapes(identity, expression, 1)[0].astype(np.float64) / 100.0
    a, b, c = row[224:227].astype(np.float64)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    points = shape @ (rz @ ry @ rx).T
    points[:, 2] *= -1
    dx, dy, dz = row[254:257].astype(np.float64)
    x, y = (column_cell + 0.5) * 8, (row_cell + 0.5) * 8
    depth = dz + 10
    points += [depth * (dx + x - SIZE / 2) / FOCAL, depth * (dy + SIZE / 2 - y) / FOCAL, depth]
    u = SIZE / 2 + FOCAL * points[:, 0] / points[:, 2]
    v = SIZE / 2 - FOCAL * points[:, 1] / points[:, 2]
    return np.stack([u, v], axis=1)


@pytest.fixture(scope="module")
def bfm_like(tmp_path_factory):
    path = tmp_path_factory.mktemp("bfm") / "bfm_like.safetensors"
    return write_synthetic_model(path, identity=80, expression=64, albedo=80, kind="pca", subdivisions=0)


def test_projected_vertices_agree_with_the_authors_pipeline(tmp_path, bfm_like):
    state = random_authors_state()
    torch.save({"epoch": 12, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "final.pth")
    arguments = ["import-checkpoint", str(tmp_path / "final.pth"), "--face-model", str(bfm_like.path)]
    outcome = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "authors.onnx")])
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.output)["epoch"] == 12
    photo = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    bgr = photo[:, :, ::-1].astype(np.float32) / 255.0  # what their demo reads, normalised in RGB's order
    image = torch.from_numpy(((bgr - MEAN) / STD).transpose(2, 0, 1)[None].copy())
    logits, raw = authors_network(state, image)
    probability = 1 / (1 + np.exp(-logits[0, 0].astype(np.float64)))
    threshold = float(np.sort(probability.ravel())[-3]) * 0.999
    model = wm3dr.Reconstructor(tmp_path / "authors.onnx", bfm_like, threads=1, score_threshold=threshold)
    result = model.reconstruct(photo)
    assert len(result) >= 1
    for face in result.faces:
        column, row = np.floor(face.center / 8).astype(int)
        assert face.score == pytest.approx(probability[row, column], abs=2e-4)
        expected = authors_vertices_px(bfm_like, raw[0, :, row, column], column, row)
        assert np.abs(raw[0, 224:227, row, column]).min() > 0.01  # the three angles take part
        assert np.abs(face.vertices_px - expected).max() < 0.05  # px, on a face of about 150
        np.testing.assert_allclose(face.coefficients.albedo, raw[0, 144:224, row, column], atol=2e-3)
        light = raw[0, 227:254, row, column].reshape(3, 9) + np.eye(9)[0] * 0.8
        np.testing.assert_allclose(face.coefficients.illumination, light, atol=2e-3)


def test_rotation_vectors_are_those_of_the_conjugated_euler_rotation():
    rng = np.random.default_rng(2)
    angles = np.concatenate([rng.uniform(-3, 3, (40, 3)), np.zeros((1, 3)), [[np.pi, 0, 0], [1e-6, 0, 2e-6]]])
    vectors = rotation_vectors_from_euler(torch.from_numpy(angles.T[None, :, None].astype(np.float32)))[0, :, 0].T
    found = wm3dr._native.rotations_from_vectors(np.ascontiguousarray(vectors.numpy()))
    for (a, b, c), rotation in zip(angles, found, strict=True):
        rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        np.testing.assert_allclose(rotation, np.diag([1.0, -1, -1]) @ rz @ ry @ rx, atol=2e-5)


def test_names_that_are_not_theirs_are_refused():
    with pytest.raises(ValueError, match=r"'backbone.conv1.weight', which is no parameter of WM3DR"):
        renamed_state({"backbone.conv1.weight": torch.zeros(1)})


def test_missing_tensors_and_other_models_are_named(tmp_path, bfm_like):
    state = random_authors_state()
    del state["p4.bias"]
    torch.save({"state_dict": state}, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"1 tensors are missing \['neck.p4.bias'\]"):
        import_authors_checkpoint(tmp_path / "short.pth", bfm_like.path, tmp_path / "x.onnx")
    small = write_synthetic_model(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"widths .*'identity': 5.* the checkpoint needs .*'identity': 80"):
        import_authors_checkpoint(tmp_path / "short.pth", small.path, tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError, match=r"nothing.pth does not exist"):
        import_authors_checkpoint(tmp_path / "nothing.pth", bfm_like.path, tmp_path / "x.onnx")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text.pth cannot be read"):
        import_authors_checkpoint(tmp_path / "text.pth", bfm_like.path, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
