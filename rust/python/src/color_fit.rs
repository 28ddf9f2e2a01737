//! `ColorFitter`: the core's, for one face model.

use numpy::PyArrayDyn;
use pyo3::prelude::*;
use wm3dr_core::color_fit::{ColorFitter, Photo};

use crate::arrays::{Any, Array, Is, array, illuminations};
use crate::errors::raised;
use crate::face_model::PyFaceModel;

/// albedo, illumination
type Fits<'py> = (Bound<'py, PyArrayDyn<f32>>, Bound<'py, PyArrayDyn<f32>>);

#[pyclass(name = "ColorFitter", module = "wm3dr._native", frozen)]
pub(crate) struct PyColorFitter {
    fitter: ColorFitter,
    n_stored: usize,
    n_albedo: usize,
}

#[pymethods]
impl PyColorFitter {
    #[new]
    fn new(py: Python<'_>, face_model: &Bound<'_, PyFaceModel>, weights: &Bound<'_, PyAny>) -> PyResult<Self> {
        let model = face_model.get().model();
        let weights = Array::<f32>::new("weights", weights, &[Is(model.n_stored())])?;
        let values = weights.values()?;
        let fitter = py.detach(|| ColorFitter::new(model, values)).map_err(raised)?;
        Ok(Self { fitter, n_stored: model.n_stored(), n_albedo: model.n_albedo() })
    }

    #[getter]
    fn n_areas(&self) -> usize {
        self.fitter.n_areas()
    }

    #[allow(clippy::too_many_arguments)] // a photo with its camera, meshes, and what is expected of their colours
    fn fit<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'py, PyAny>,
        focal: f32,
        principal_point: (f32, f32),
        vertices_camera: &Bound<'py, PyAny>,
        normals_camera: &Bound<'py, PyAny>,
        albedo: &Bound<'py, PyAny>,
        illumination: &Bound<'py, PyAny>,
        threads: usize,
    ) -> PyResult<Fits<'py>> {
        let image = Array::<u8>::new("image", image, &[Any("H"), Any("W"), Is(3)])?;
        let albedo = Array::<f32>::new("albedo", albedo, &[Any("F"), Is(self.n_albedo)])?;
        let faces = albedo.len(0);
        let illumination = illuminations(illumination, faces)?;
        let mesh = [Is(faces), Is(self.n_stored), Is(3)];
        let vertices = Array::<f32>::new("vertices_camera", vertices_camera, &mesh)?;
        let normals = Array::<f32>::new("normals_camera", normals_camera, &mesh)?;
        let size = [image.len(1), image.len(0)];
        let photo = Photo { pixels: image.rows()?, size, focal, principal_point: principal_point.into() };
        let meshes = (vertices.rows()?, normals.rows()?);
        let expected = (albedo.values()?, illumination.rows()?);
        let fits = py.detach(|| self.fitter.fit(&photo, meshes, expected, threads)).map_err(raised)?;
        let light = array(py, fits.illumination.into_flattened(), &[faces, 3, 9])?;
        Ok((array(py, fits.albedo, &[faces, self.n_albedo])?, light))
    }
}
