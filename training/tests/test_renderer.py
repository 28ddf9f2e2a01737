"""Differentiable image formation against the native rasterizer, and its gradients by finite differences."""

import sys
import types

import numpy as np
import pytest
import torch
from synthetic import write_synthetic_model

from wm3dr import _native
from wm3dr_training.layers import FaceModel
from wm3dr_training.renderer import NativeTriangleIds, PyTorch3DTriangleIds, render

SIZE = 72
FOCAL = torch.tensor([430.0, 600.0])
POINT = torch.tensor([[41.3, 30.2], [33.0, 44.9]])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two turned faces, off the axis, camera frame; random attributes."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_synthetic_model(path)
    model = FaceModel.load(path)
    rng = np.random.default_rng(5)
    vectors = np.array([[0.2, -0.4, 0.1], [-0.3, 0.5, 0.6]], np.float32)
    rotations = torch.from_numpy(_native.rotations_from_vectors(vectors))
    translations = torch.tensor([[12.0, -20.0, 1900.0], [-15.0, 8.0, 2400.0]])
    identity = torch.from_numpy(rng.normal(0, 0.5, (2, 5)).astype(np.float32))
    vertices = model.shapes(identity, torch.zeros(2, 4)) @ rotations.transpose(1, 2) + translations[:, None]
    attributes = torch.from_numpy(rng.uniform(0, 1, (2, len(model.mean_shape), 4)).astype(np.float32))
    return vertices, model.triangles, attributes


def test_values_mask_and_depth_are_the_native_ones(scene):
    vertices, triangles, attributes = scene
    shown = render(vertices, triangles, attributes, FOCAL, POINT, SIZE, NativeTriangleIds(2))
    corners = triangles.numpy().astype(np.int32)
    for face in range(2):
        one = np.ascontiguousarray(vertices[face : face + 1].numpy())
        buffers = _native.rasterize(one, corners, float(FOCAL[face]), tuple(POINT[face].tolist()), (SIZE, SIZE), 1)
        values = _native.interpolate(
            buffers[0], buffers[1], buffers[3], corners, np.ascontiguousarray(attributes[face : face + 1].numpy()), 1
        )
        assert (buffers[0] >= 0).mean() > 0.1
        assert np.array_equal(shown.mask[face, 0].numpy() > 0, buffers[0] >= 0)
        # the native module snaps corners to 1/256 px, which a triangle of some pixels or seen edge-on shows
        difference = np.abs(shown.values[face].permute(1, 2, 0).numpy() - values).max(axis=2)[buffers[0] >= 0]
        assert np.quantile(difference, 0.98) < 1e-3 and difference.max() < 0.1
        # mm at 2 m; the same snapping times the slope of a triangle seen edge-on
        depth = np.abs(shown.depth[face, 0].numpy() - buffers[2])[buffers[0] >= 0]
        assert np.quantile(depth, 0.98) < 0.1 and depth.max() < 3.0


def test_gradients_by_finite_differences(scene):
    vertices, triangles, attributes = (tensor.double() if tensor.is_floating_point() else tensor for tensor in scene)
    with torch.no_grad():
        ids = NativeTriangleIds(1)(vertices.float(), triangles, FOCAL, POINT, SIZE)
    weights = torch.rand((2, 4, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def fixed(*_arguments):  # coverage has no gradient: hold it
        return ids

    def value(moved, colors, focal, point):
        shown = render(moved, triangles, colors, focal, point, SIZE, fixed)
        return (shown.values * weights).sum() + 1e-3 * shown.depth.sum()

    inputs = [tensor.clone().requires_grad_() for tensor in (vertices, attributes, FOCAL.double(), POINT.double())]
    total = value(*inputs)
    gradients = torch.autograd.grad(total, inputs)
    generator = torch.Generator().manual_seed(2)
    steps = (1e-3, 1e-4, 1e-3, 1e-4)
    # pixels on a triangle's edge are clamped to it: their one-sided derivative is the rest of the difference
    for tensor, gradient, step in zip(inputs, gradients, steps, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [t.detach() + sign * step * direction if t is tensor else t.detach() for t in inputs]
            ends.append(float(value(*moved)))
        numeric = (ends[0] - ends[1]) / (2 * step)
        analytic = float((gradient * direction).sum())
        assert analytic == pytest.approx(numeric, rel=2e-2, abs=2e-2)


def test_gradients_pull_a_moved_mesh_back(scene):
    """Descent on the photometric difference recovers a translation of some millimetres."""
    vertices, triangles, _ = scene
    smooth = torch.stack([torch.sin(vertices[..., 0] / 30), torch.cos(vertices[..., 1] / 25)], dim=-1).detach()
    backend = NativeTriangleIds(1)
    target = render(vertices, triangles, smooth, FOCAL, POINT, SIZE, backend)
    shift = torch.tensor([[5.0, -4.0, 0.0], [-3.0, 6.0, 0.0]], requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.4)
    for _ in range(60):
        shown = render(vertices + shift[:, None], triangles, smooth, FOCAL, POINT, SIZE, backend)
        both = shown.mask * target.mask
        loss = ((shown.values - target.values) ** 2 * both).sum() / both.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shift[:, :2].abs().max() < 0.7


def test_no_faces_render_nothing(scene):
    _, triangles, attributes = scene
    shown = render(torch.zeros(0, 169, 3), triangles, attributes[:0], FOCAL[:0], POINT[:0], 16, NativeTriangleIds(1))
    assert shown.values.shape == (0, 4, 16, 16) and shown.mask.shape == (0, 1, 16, 16)


class MeshesByTheDocs:
    """PyTorch3D's `Meshes`, as far as its rasterizer reads it: (N, V, 3) vertices and (N, F, 3) triangles, packed."""

    def __init__(self, verts, faces):
        self.count, self.per_mesh = faces.shape[0], faces.shape[1]
        first = torch.arange(self.count)[:, None, None] * verts.shape[1]
        self.corners = verts.reshape(-1, 3)[(faces + first).reshape(-1, 3)]  # (N F, 3, 3)


def rasterize_meshes_by_the_docs(
    meshes,
    image_size,
    blur_radius=0.0,
    faces_per_pixel=8,
    max_faces_per_bin=None,
    perspective_correct=False,
    cull_backfaces=False,
):
    """The conventions that PyTorch3D documents for `rasterize_meshes`, slowly: +x left, +y up, packed ids."""
    assert blur_radius == 0.0 and faces_per_pixel == 1 and max_faces_per_bin >= meshes.per_mesh
    ids = torch.full((meshes.count, image_size, image_size, 1), -1)
    end = -1 + (2 * torch.arange(image_size) + 1.0) / image_size
    for mesh in range(meshes.count):
        nearest = torch.full((image_size, image_size), float("inf"))
        for face in range(mesh * meshes.per_mesh, (mesh + 1) * meshes.per_mesh):
            (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = meshes.corners[face]
            area = (x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)
            if min(z0, z1, z2) < 1e-8 or area.abs() <= 1e-8 or (cull_backfaces and area < 0):
                continue
            y, x = torch.meshgrid(end.flip(0), end.flip(0), indexing="ij")
            w = [
                ((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / area
                for ax, ay, bx, by in ((x1, y1, x2, y2), (x2, y2, x0, y0), (x0, y0, x1, y1))
            ]
            inside = (w[0] > 0) & (w[1] > 0) & (w[2] > 0)
            if perspective_correct:
                w = [w[0] * z1 * z2, z0 * w[1] * z2, z0 * z1 * w[2]]
                w = [one / sum(w) for one in w]
            z = w[0] * z0 + w[1] * z1 + w[2] * z2
            closer = inside & (z < nearest)
            nearest[closer] = z[closer]
            ids[mesh, :, :, 0][closer] = face
    return ids, None, None, None


@pytest.fixture()
def documented_pytorch3d(monkeypatch):
    """Modules named as PyTorch3D's with its documented conventions: the package itself cannot be installed here."""
    structures, mesh = types.ModuleType("pytorch3d.structures"), types.ModuleType("pytorch3d.renderer.mesh")
    structures.Meshes, mesh.rasterize_meshes = MeshesByTheDocs, rasterize_meshes_by_the_docs
    for name in ("pytorch3d", "pytorch3d.renderer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "pytorch3d.structures", structures)
    monkeypatch.setitem(sys.modules, "pytorch3d.renderer.mesh", mesh)


def assert_same_ids(scene, backend):
    vertices, triangles, attributes = scene
    a = render(vertices, triangles, attributes, FOCAL, POINT, SIZE, NativeTriangleIds(1))
    b = render(vertices, triangles, attributes, FOCAL, POINT, SIZE, backend)
    both = (a.mask * b.mask)[:, 0] > 0
    assert both.float().mean() > 0.1
    assert (a.mask != b.mask).float().mean() < 0.01  # pixels whose centre is on an outline
    assert (a.values - b.values).abs().amax(1)[both].quantile(0.99) < 1e-3


def test_a_missing_pytorch3d_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    with pytest.raises(ImportError, match="the raster backend 'pytorch3d' needs PyTorch3D"):
        PyTorch3DTriangleIds()


def test_pytorch3d_agrees_where_it_is_installed(scene):
    pytest.importorskip("pytorch3d", reason="PyTorch3D, the second backend, is not installed")
    assert_same_ids(scene, PyTorch3DTriangleIds())


def test_the_second_backend_speaks_the_conventions_that_pytorch3d_documents(scene, documented_pytorch3d):
    backend = PyTorch3DTriangleIds()
    assert_same_ids(scene, backend)
    vertices, triangles, _ = scene
    # turned inside out nothing is left; a corner behind the camera takes its triangles away, in both backends alike
    assert (backend(vertices, triangles.flip(1), FOCAL, POINT, 24) == -1).all()
    cut = vertices.clone()
    cut[0, 84, 2] = -5.0  # the middle vertex of the patch
    ids, native = (b(cut, triangles, FOCAL, POINT, SIZE)[0] for b in (backend, NativeTriangleIds(1)))
    gone = (triangles == 84).any(1).nonzero()[:, 0]
    assert not torch.isin(ids, gone).any() and not torch.isin(native, gone).any()
    assert ((ids >= 0) != (native >= 0)).float().mean() < 0.01
    assert backend(vertices[:0], triangles, FOCAL[:0], POINT[:0], 16).shape == (0, 16, 16)
