//! The stages that need no face model: accept, check, take slices, detach, map the error, return.

use numpy::PyArrayDyn;
use pyo3::prelude::*;
use wm3dr_core::{camera, pose};

use crate::arrays::{Any, Array, Is, array};
use crate::errors::raised;

type Out<'py, T> = PyResult<Bound<'py, PyArrayDyn<T>>>;

#[pyfunction]
pub(crate) fn rotations_from_vectors<'py>(py: Python<'py>, vectors: &Bound<'py, PyAny>) -> Out<'py, f32> {
    let vectors = Array::<f32>::new("vectors", vectors, &[Any("F"), Is(3)])?;
    let (faces, rows) = (vectors.len(0), vectors.rows()?);
    let out = py.detach(|| pose::rotations_from_vectors(rows)).map_err(raised)?;
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
    let vertices = Array::<f32>::new("vertices_model", vertices_model, &[Any("F"), Any("N"), Is(3)])?;
    let (faces, n) = (vertices.len(0), vertices.len(1));
    let rotations = Array::<f32>::new("rotations", rotations, &[Is(faces), Is(3), Is(3)])?;
    let translations = Array::<f32>::new("translations", translations, &[Is(faces), Is(3)])?;
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
    let points = Array::<f32>::new("points_camera", points_camera, &[Any("F"), Any("N"), Is(3)])?;
    let (faces, n, rows) = (points.len(0), points.len(1), points.rows()?);
    let out = py.detach(|| camera::project(rows, focal, principal_point.into())).map_err(raised)?;
    array(py, out.into_flattened(), &[faces, n, 2])
}
