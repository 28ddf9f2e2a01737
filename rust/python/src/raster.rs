//! The rasterizer's functions.

use numpy::PyArrayDyn;
use pyo3::prelude::*;
use wm3dr_core::raster::{self, Meshes, Raster, RasterView, View};

use crate::arrays::{Any, Array, Is, array, corners, points};
use crate::errors::raised;

type Out<'py, T> = Bound<'py, PyArrayDyn<T>>;

/// triangle_id, face_id, depth, barycentric
pub(crate) type Maps<'py> = (Out<'py, i32>, Out<'py, i32>, Out<'py, f32>, Out<'py, f32>);

#[pyfunction]
#[pyo3(signature = (vertices_camera, triangles, focal, principal_point, size, threads, split=false))]
#[allow(clippy::too_many_arguments)] // meshes and a camera
pub(crate) fn rasterize<'py>(
    py: Python<'py>,
    vertices_camera: &Bound<'py, PyAny>,
    triangles: &Bound<'py, PyAny>,
    focal: f32,
    principal_point: (f32, f32),
    size: (usize, usize),
    threads: usize,
    split: bool,
) -> PyResult<Maps<'py>> {
    let vertices = points("vertices_camera", vertices_camera)?;
    let triangles = corners("triangles", triangles)?;
    let (faces, vertices_camera, triangles) = (vertices.len(0), vertices.rows()?, triangles.rows()?);
    let meshes = Meshes { vertices_camera, faces, triangles, split };
    let view = View { focal, principal_point: principal_point.into(), size: size.into() };
    let raster = py.detach(|| raster::rasterize(&meshes, &view, threads)).map_err(raised)?;
    maps(py, raster)
}

pub(crate) fn maps(py: Python<'_>, raster: Raster) -> PyResult<Maps<'_>> {
    let [width, height] = raster.size;
    Ok((
        array(py, raster.triangle_id, &[height, width])?,
        array(py, raster.face_id, &[height, width])?,
        array(py, raster.depth, &[height, width])?,
        array(py, raster.barycentric.into_flattened(), &[height, width, 3])?,
    ))
}

#[pyfunction]
pub(crate) fn interpolate<'py>(
    py: Python<'py>,
    triangle_id: &Bound<'py, PyAny>,
    face_id: &Bound<'py, PyAny>,
    barycentric: &Bound<'py, PyAny>,
    triangles: &Bound<'py, PyAny>,
    attributes: &Bound<'py, PyAny>,
    threads: usize,
) -> PyResult<Out<'py, f32>> {
    let triangle_id = Array::<i32>::new("triangle_id", triangle_id, &[Any("H"), Any("W")])?;
    let (height, width) = (triangle_id.len(0), triangle_id.len(1));
    let face_id = Array::<i32>::new("face_id", face_id, &[Is(height), Is(width)])?;
    let barycentric = Array::<f32>::new("barycentric", barycentric, &[Is(height), Is(width), Is(3)])?;
    let triangles = corners("triangles", triangles)?;
    let attributes = Array::<f32>::new("attributes", attributes, &[Any("F"), Any("N"), Any("C")])?;
    let (faces, channels) = (attributes.len(0), attributes.len(2));
    let view =
        RasterView { triangle_id: triangle_id.values()?, face_id: face_id.values()?, barycentric: barycentric.rows()? };
    let (t, a) = (triangles.rows()?, attributes.values()?);
    let out = py.detach(|| raster::interpolate(view, t, a, faces, channels, threads)).map_err(raised)?;
    array(py, out, &[height, width, channels])
}
