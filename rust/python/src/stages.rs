//! The stages that need no face model: accept, check, take slices, detach, map the error, return.

use numpy::PyArrayDyn;
use pyo3::prelude::*;
use wm3dr_core::{camera, coefficients, illumination, mesh, peaks, pose};

use crate::arrays::{Any, Array, Is, array, corners, illuminations, motions, points};
use crate::errors::raised;

type Out<'py, T> = PyResult<Bound<'py, PyArrayDyn<T>>>;

#[pyfunction]
#[allow(clippy::type_complexity)] // cells and scores
pub(crate) fn find_peaks<'py>(
    py: Python<'py>,
    heatmap: &Bound<'py, PyAny>,
    threshold: f32,
    window: usize,
) -> PyResult<(Bound<'py, PyArrayDyn<i32>>, Bound<'py, PyArrayDyn<f32>>)> {
    let heatmap = Array::<f32>::new("heatmap", heatmap, &[Any("h"), Any("w")])?;
    let (size, values) = ([heatmap.len(0), heatmap.len(1)], heatmap.values()?);
    let peaks = py.detach(|| peaks::find_peaks(values, size, threshold, window)).map_err(raised)?;
    let cells: Vec<i32> = peaks.iter().flat_map(|p| [p.row as i32, p.column as i32]).collect();
    let scores: Vec<f32> = peaks.iter().map(|p| p.score).collect();
    Ok((array(py, cells, &[peaks.len(), 2])?, array(py, scores, &[peaks.len()])?))
}

#[pyfunction]
pub(crate) fn gather_coefficients<'py>(
    py: Python<'py>,
    coefficients: &Bound<'py, PyAny>,
    peaks: &Bound<'py, PyAny>,
) -> Out<'py, f32> {
    let map = Array::<f32>::new("coefficients", coefficients, &[Any("C"), Any("h"), Any("w")])?;
    let peaks = Array::<i32>::new("peaks", peaks, &[Any("P"), Is(2)])?;
    let (size, values, cells) = ([map.len(0), map.len(1), map.len(2)], map.values()?, peaks.rows()?);
    let rows = py.detach(|| coefficients::gather_coefficients(values, size, cells)).map_err(raised)?;
    array(py, rows, &[peaks.len(0), size[0]])
}

#[pyfunction]
pub(crate) fn gather_features<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    cells: &Bound<'py, PyAny>,
) -> Out<'py, u8> {
    let map = Array::<u8>::new("features", features, &[Any("h"), Any("w"), Any("F")])?;
    let cells = Array::<i32>::new("cells", cells, &[Any("M"), Is(2)])?;
    let (size, values, rows) = ([map.len(0), map.len(1), map.len(2)], map.values()?, cells.rows()?);
    let out = py.detach(|| coefficients::gather_features(values, size, rows)).map_err(raised)?;
    array(py, out, &[cells.len(0), size[2]])
}

#[pyfunction]
pub(crate) fn has_quantized_kernels() -> bool {
    wm3dr_core::quantized::supported()
}

#[pyfunction]
pub(crate) fn cell_centers<'py>(py: Python<'py>, cells: &Bound<'py, PyAny>, stride: f32) -> Out<'py, f32> {
    let cells = Array::<i32>::new("cells", cells, &[Any("P"), Is(2)])?;
    let rows = cells.rows()?;
    let out = py.detach(|| peaks::cell_centers(rows, stride));
    array(py, out.into_flattened(), &[cells.len(0), 2])
}

#[pyfunction]
#[allow(clippy::type_complexity)] // cells and their owners
pub(crate) fn neighbourhoods<'py>(
    py: Python<'py>,
    cells: &Bound<'py, PyAny>,
    size: (usize, usize),
    window: usize,
) -> PyResult<(Bound<'py, PyArrayDyn<i32>>, Bound<'py, PyArrayDyn<i32>>)> {
    let cells = Array::<i32>::new("cells", cells, &[Any("P"), Is(2)])?;
    let rows = cells.rows()?;
    let (around, owner) = py.detach(|| peaks::neighbourhoods(rows, size.into(), window)).map_err(raised)?;
    let count = owner.len();
    Ok((array(py, around.into_flattened(), &[count, 2])?, array(py, owner, &[count])?))
}

#[pyfunction]
pub(crate) fn averaged_rows<'py>(
    py: Python<'py>,
    rows: &Bound<'py, PyAny>,
    cells: &Bound<'py, PyAny>,
    around: &Bound<'py, PyAny>,
    owner: &Bound<'py, PyAny>,
    stride: f32,
    offsets: usize,
) -> Out<'py, f32> {
    let rows = Array::<f32>::new("rows", rows, &[Any("M"), Any("C")])?;
    let cells = Array::<i32>::new("cells", cells, &[Any("P"), Is(2)])?;
    let around = Array::<i32>::new("around", around, &[Is(rows.len(0)), Is(2)])?;
    let owner = Array::<i32>::new("owner", owner, &[Is(rows.len(0))])?;
    let (peaks, columns) = (cells.len(0), rows.len(1));
    let (table, cells) = ((rows.values()?, columns), cells.rows()?);
    let windows = (around.rows()?, owner.values()?);
    let out = py.detach(|| coefficients::averaged_rows(table, cells, windows, stride, offsets)).map_err(raised)?;
    array(py, out, &[peaks, columns])
}

#[pyfunction]
#[pyo3(signature = (vectors, translations=None))]
pub(crate) fn rotations_from_vectors<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    translations: Option<&Bound<'py, PyAny>>,
) -> Out<'py, f32> {
    let vectors = Array::<f32>::new("vectors", vectors, &[Any("F"), Is(3)])?;
    let (faces, rows) = (vectors.len(0), vectors.rows()?);
    let translations = translations.map(|t| Array::<f32>::new("translations", t, &[Is(faces), Is(3)])).transpose()?;
    let translations = translations.as_ref().map(Array::rows).transpose()?;
    let out = py.detach(|| pose::rotations_from_vectors(rows, translations)).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, 3, 3])
}

#[pyfunction]
pub(crate) fn translations_from_offsets<'py>(
    py: Python<'py>,
    offsets: &Bound<'py, PyAny>,
    centers: &Bound<'py, PyAny>,
    focal: f32,
    principal_point: (f32, f32),
) -> Out<'py, f32> {
    let offsets = Array::<f32>::new("offsets", offsets, &[Any("F"), Is(3)])?;
    let faces = offsets.len(0);
    let centers = Array::<f32>::new("centers", centers, &[Is(faces), Is(2)])?;
    let (offsets, centers) = (offsets.rows()?, centers.rows()?);
    let out = py
        .detach(|| pose::translations_from_offsets(offsets, centers, focal, principal_point.into()))
        .map_err(raised)?;
    array(py, out.into_flattened(), &[faces, 3])
}

#[pyfunction]
pub(crate) fn pose_from_rotations<'py>(py: Python<'py>, rotations: &Bound<'py, PyAny>) -> Out<'py, f32> {
    let rotations = Array::<f32>::new("rotations", rotations, &[Any("F"), Is(3), Is(3)])?;
    let (faces, rows) = (rotations.len(0), rotations.rows()?);
    let out = py.detach(|| pose::pose_from_rotations(rows)).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, 3])
}

#[pyfunction]
pub(crate) fn transform<'py>(
    py: Python<'py>,
    vertices_model: &Bound<'py, PyAny>,
    rotations: &Bound<'py, PyAny>,
    translations: &Bound<'py, PyAny>,
    threads: usize,
) -> Out<'py, f32> {
    let vertices = points("vertices_model", vertices_model)?;
    let (faces, n) = (vertices.len(0), vertices.len(1));
    let (rotations, translations) = motions(rotations, translations, faces)?;
    let (v, r, t) = (vertices.rows()?, rotations.rows()?, translations.rows()?);
    let out = py.detach(|| camera::transform(v, r, t, threads)).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, n, 3])
}

#[pyfunction]
pub(crate) fn project<'py>(
    py: Python<'py>,
    points_camera: &Bound<'py, PyAny>,
    focal: f32,
    principal_point: (f32, f32),
) -> Out<'py, f32> {
    let points = points("points_camera", points_camera)?;
    let (faces, n, rows) = (points.len(0), points.len(1), points.rows()?);
    let out = py.detach(|| camera::project(rows, focal, principal_point.into())).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, n, 2])
}

#[pyfunction]
pub(crate) fn vertex_normals<'py>(
    py: Python<'py>,
    vertices: &Bound<'py, PyAny>,
    triangles: &Bound<'py, PyAny>,
    threads: usize,
) -> Out<'py, f32> {
    let vertices = points("vertices", vertices)?;
    let triangles = corners("triangles", triangles)?;
    let (faces, n, v, t) = (vertices.len(0), vertices.len(1), vertices.rows()?, triangles.rows()?);
    let out = py.detach(|| mesh::vertex_normals(v, faces, t, threads)).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, n, 3])
}

#[pyfunction]
pub(crate) fn shading<'py>(
    py: Python<'py>,
    normals_opengl: &Bound<'py, PyAny>,
    illumination: &Bound<'py, PyAny>,
    threads: usize,
) -> Out<'py, f32> {
    let normals = points("normals_opengl", normals_opengl)?;
    let (faces, n) = (normals.len(0), normals.len(1));
    let illumination = illuminations(illumination, faces)?;
    let (v, i) = (normals.rows()?, illumination.rows()?);
    let out = py.detach(|| illumination::shading(v, i, threads)).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, n, 3])
}

#[pyfunction]
pub(crate) fn colors<'py>(
    py: Python<'py>,
    albedo: &Bound<'py, PyAny>,
    normals_camera: &Bound<'py, PyAny>,
    illumination: &Bound<'py, PyAny>,
    threads: usize,
) -> Out<'py, f32> {
    let albedo = points("albedo", albedo)?;
    let (faces, n) = (albedo.len(0), albedo.len(1));
    let normals = Array::<f32>::new("normals_camera", normals_camera, &[Is(faces), Is(n), Is(3)])?;
    let illumination = illuminations(illumination, faces)?;
    let (a, v, i) = (albedo.rows()?, normals.rows()?, illumination.rows()?);
    let out = py.detach(|| illumination::colors(a, v, i, threads)).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, n, 3])
}
