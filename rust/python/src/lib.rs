//! `wm3dr._native`: the core, seen from Python. No arithmetic here; the docstrings live in the Python package.

#![forbid(unsafe_code)]

mod arrays;
mod errors;
mod face_model;
mod raster;
mod stages;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use super::errors::ModelError;
    #[pymodule_export]
    use super::face_model::PyFaceModel;
    #[pymodule_export]
    use super::raster::{interpolate, rasterize};
    #[pymodule_export]
    use super::stages::{
        colors, find_peaks, gather_coefficients, pose_from_rotations, project, rotations_from_vectors, shading,
        transform, translations_from_offsets, vertex_normals,
    };
}
