//! `FaceModel`: the core's, with its refined mesh as arrays made once.

use std::sync::Arc;

use half::f16;
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use wm3dr_core::raster::View;
use wm3dr_core::shade::{self, Surfaces};
use wm3dr_core::{FaceModel, FaceModelParts, LANDMARKS, Result, camera};

use crate::arrays::{Any, Array, Is, array, constant, illuminations, motions};
use crate::errors::{ModelError, raised};
use crate::raster::{Maps, maps};

type Out<'py, T> = PyResult<Bound<'py, PyArrayDyn<T>>>;
/// Identity and expression of F faces.
type Shape<'a> = (&'a [f32], &'a [f32]);
/// Rotations and translations of F faces.
type Motion<'a> = (&'a [[f32; 9]], &'a [[f32; 3]]);

#[pyclass(name = "FaceModel", module = "wm3dr._native", frozen)]
pub(crate) struct PyFaceModel {
    model: Arc<FaceModel>,
    #[pyo3(get)]
    mean_shape: Py<PyArrayDyn<f32>>,
    #[pyo3(get)]
    mean_albedo: Py<PyArrayDyn<f32>>,
    #[pyo3(get)]
    triangles: Py<PyArrayDyn<i32>>,
    #[pyo3(get)]
    landmark_vertices: Py<PyArrayDyn<i32>>,
    #[pyo3(get)]
    uv: Py<PyArrayDyn<f32>>,
    #[pyo3(get)]
    regions: Py<PyArrayDyn<u8>>,
    #[pyo3(get)]
    mirror: Py<PyArrayDyn<i32>>,
}

#[pymethods]
impl PyFaceModel {
    #[new]
    #[pyo3(signature = (*, mean_shape, identity_basis, expression_basis, mean_albedo, albedo_basis, triangles, landmark_vertices, uv, regions, mirror, subdivisions))]
    #[allow(clippy::too_many_arguments)] // the arrays of the file format, by name
    fn new(
        py: Python<'_>,
        mean_shape: &Bound<'_, PyAny>,
        identity_basis: &Bound<'_, PyAny>,
        expression_basis: &Bound<'_, PyAny>,
        mean_albedo: &Bound<'_, PyAny>,
        albedo_basis: &Bound<'_, PyAny>,
        triangles: &Bound<'_, PyAny>,
        landmark_vertices: &Bound<'_, PyAny>,
        uv: &Bound<'_, PyAny>,
        regions: &Bound<'_, PyAny>,
        mirror: &Bound<'_, PyAny>,
        subdivisions: usize,
    ) -> PyResult<Self> {
        // Whatever is wrong with an array of a model is an error of the model.
        let inconsistent = |e: PyErr| ModelError::new_err(format!("face model: {}", e.value(py)));
        let mean_shape = Array::<f32>::new("mean_shape", mean_shape, &[Any("N"), Is(3)]).map_err(inconsistent)?;
        let n = mean_shape.len(0);
        let basis = |name, object, width| Array::<f16>::new(name, object, &[Is(n), Is(3), Any(width)]);
        let identity_basis = basis("identity_basis", identity_basis, "K").map_err(inconsistent)?;
        let expression_basis = basis("expression_basis", expression_basis, "K").map_err(inconsistent)?;
        let mean_albedo = Array::<f32>::new("mean_albedo", mean_albedo, &[Is(n), Is(3)]).map_err(inconsistent)?;
        let albedo_basis = basis("albedo_basis", albedo_basis, "K").map_err(inconsistent)?;
        let triangles = Array::<i32>::new("triangles", triangles, &[Any("T"), Is(3)]).map_err(inconsistent)?;
        let landmarks = Array::<i32>::new("landmark_vertices", landmark_vertices, &[Is(LANDMARKS)]);
        let landmarks = landmarks.map_err(inconsistent)?;
        let uv = Array::<f32>::new("uv", uv, &[Is(triangles.len(0)), Is(3), Is(2)]).map_err(inconsistent)?;
        let regions = Array::<u8>::new("regions", regions, &[Is(n)]).map_err(inconsistent)?;
        let mirror = Array::<i32>::new("mirror", mirror, &[Is(n)]).map_err(inconsistent)?;
        let parts = FaceModelParts {
            mean_shape: mean_shape.rows()?,
            identity_basis: identity_basis.values()?,
            n_identity: identity_basis.len(2),
            expression_basis: expression_basis.values()?,
            n_expression: expression_basis.len(2),
            mean_albedo: mean_albedo.rows()?,
            albedo_basis: albedo_basis.values()?,
            n_albedo: albedo_basis.len(2),
            triangles: triangles.rows()?,
            landmark_vertices: landmarks.values()?,
            uv: uv.rows::<2>()?.as_chunks::<3>().0,
            regions: regions.values()?,
            mirror: mirror.values()?,
            subdivisions,
        };
        let model = py.detach(|| FaceModel::new(&parts)).map_err(raised)?;
        let (n, t) = (model.n_vertices(), model.n_triangles());
        Ok(Self {
            mean_shape: constant(py, model.mean_shape().as_flattened().to_vec(), &[n, 3])?,
            mean_albedo: constant(py, model.mean_albedo().as_flattened().to_vec(), &[n, 3])?,
            triangles: constant(py, model.triangles().as_flattened().to_vec(), &[t, 3])?,
            landmark_vertices: constant(py, model.landmark_vertices().to_vec(), &[LANDMARKS])?,
            uv: constant(py, model.uv().as_flattened().as_flattened().to_vec(), &[t, 3, 2])?,
            regions: constant(py, model.regions().to_vec(), &[n])?,
            mirror: constant(py, model.mirror().to_vec(), &[n])?,
            model: Arc::new(model),
        })
    }

    #[getter]
    fn n_vertices(&self) -> usize {
        self.model.n_vertices()
    }

    #[getter]
    fn n_stored(&self) -> usize {
        self.model.n_stored()
    }

    #[getter]
    fn n_triangles(&self) -> usize {
        self.model.n_triangles()
    }

    #[getter]
    fn n_identity(&self) -> usize {
        self.model.n_identity()
    }

    #[getter]
    fn n_expression(&self) -> usize {
        self.model.n_expression()
    }

    #[getter]
    fn n_albedo(&self) -> usize {
        self.model.n_albedo()
    }

    fn shapes<'py>(
        &self,
        py: Python<'py>,
        identity: &Bound<'py, PyAny>,
        expression: &Bound<'py, PyAny>,
        threads: usize,
    ) -> Out<'py, f32> {
        let (identity, expression) = self.shape_coefficients(identity, expression)?;
        let (faces, id, exp) = (identity.len(0), identity.values()?, expression.values()?);
        let out = py.detach(|| self.model.shapes(faces, id, exp, threads)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, self.model.n_vertices(), 3])
    }

    fn albedos<'py>(&self, py: Python<'py>, albedo: &Bound<'py, PyAny>, threads: usize) -> Out<'py, f32> {
        let albedo = Array::<f32>::new("albedo", albedo, &[Any("F"), Is(self.model.n_albedo())])?;
        let (faces, values) = (albedo.len(0), albedo.values()?);
        let out = py.detach(|| self.model.albedos(faces, values, threads)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, self.model.n_vertices(), 3])
    }

    fn landmarks<'py>(
        &self,
        py: Python<'py>,
        identity: &Bound<'py, PyAny>,
        expression: &Bound<'py, PyAny>,
    ) -> Out<'py, f32> {
        let (identity, expression) = self.shape_coefficients(identity, expression)?;
        let (faces, id, exp) = (identity.len(0), identity.values()?, expression.values()?);
        let out = py.detach(|| self.model.landmarks(faces, id, exp)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, LANDMARKS, 3])
    }

    fn vertices_camera<'py>(
        &self,
        py: Python<'py>,
        identity: &Bound<'py, PyAny>,
        expression: &Bound<'py, PyAny>,
        rotations: &Bound<'py, PyAny>,
        translations: &Bound<'py, PyAny>,
        threads: usize,
    ) -> Out<'py, f32> {
        let decode = |shape: Shape<'_>, motion: Motion<'_>| self.model.vertices_camera(shape, motion, threads);
        self.placed(py, (identity, expression), (rotations, translations), self.model.n_vertices(), decode)
    }

    fn stored_vertices<'py>(
        &self,
        py: Python<'py>,
        identity: &Bound<'py, PyAny>,
        expression: &Bound<'py, PyAny>,
        rotations: &Bound<'py, PyAny>,
        translations: &Bound<'py, PyAny>,
        threads: usize,
    ) -> Out<'py, f32> {
        let decode = |shape: Shape<'_>, motion: Motion<'_>| self.model.stored_vertices(shape, motion, threads);
        self.placed(py, (identity, expression), (rotations, translations), self.model.n_stored(), decode)
    }

    fn refine<'py>(&self, py: Python<'py>, stored: &Bound<'py, PyAny>, threads: usize) -> Out<'py, f32> {
        let stored = Array::<f32>::new("stored", stored, &[Any("F"), Is(self.model.n_stored()), Is(3)])?;
        let (faces, rows) = (stored.len(0), stored.rows()?);
        let out = py.detach(|| self.model.refine(rows, faces, threads)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, self.model.n_vertices(), 3])
    }

    fn stored_normals<'py>(&self, py: Python<'py>, vertices: &Bound<'py, PyAny>, threads: usize) -> Out<'py, f32> {
        let n = self.model.n_stored();
        let vertices = Array::<f32>::new("vertices", vertices, &[Any("F"), Is(n), Is(3)])?;
        let (faces, rows) = (vertices.len(0), vertices.rows()?);
        let out = py.detach(|| self.model.stored_normals(rows, faces, threads)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, n, 3])
    }

    #[allow(clippy::too_many_arguments)] // surfaces, their colours and a camera
    fn render<'py>(
        &self,
        py: Python<'py>,
        vertices: &Bound<'py, PyAny>,
        normals: &Bound<'py, PyAny>,
        albedo: &Bound<'py, PyAny>,
        illumination: &Bound<'py, PyAny>,
        focal: f32,
        principal_point: (f32, f32),
        size: (usize, usize),
        threads: usize,
    ) -> PyResult<(Maps<'py>, Bound<'py, PyArrayDyn<u8>>)> {
        let n = self.model.n_stored();
        let vertices = Array::<f32>::new("vertices", vertices, &[Any("F"), Is(n), Is(3)])?;
        let faces = vertices.len(0);
        let normals = Array::<f32>::new("normals", normals, &[Is(faces), Is(n), Is(3)])?;
        let albedo = Array::<f32>::new("albedo", albedo, &[Is(faces), Is(self.model.n_albedo())])?;
        let illumination = illuminations(illumination, faces)?;
        let surfaces = Surfaces { vertices: vertices.rows()?, normals: normals.rows()? };
        let colors = (albedo.values()?, illumination.rows()?);
        let view = View { focal, principal_point: principal_point.into(), size: size.into() };
        let drawn = py.detach(|| shade::render(&self.model, &surfaces, colors, &view, threads));
        let (raster, color) = drawn.map_err(raised)?;
        let [width, height] = raster.size;
        Ok((maps(py, raster)?, array(py, color.into_flattened(), &[height, width, 3])?))
    }

    fn normals<'py>(&self, py: Python<'py>, vertices: &Bound<'py, PyAny>, threads: usize) -> Out<'py, f32> {
        let vertices = Array::<f32>::new("vertices", vertices, &[Any("F"), Is(self.model.n_vertices()), Is(3)])?;
        let (faces, rows) = (vertices.len(0), vertices.rows()?);
        let out = py.detach(|| self.model.normals(rows, faces, threads)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, self.model.n_vertices(), 3])
    }

    #[allow(clippy::too_many_arguments)] // a shape, a motion and a camera
    fn boxes<'py>(
        &self,
        py: Python<'py>,
        identity: &Bound<'py, PyAny>,
        expression: &Bound<'py, PyAny>,
        rotations: &Bound<'py, PyAny>,
        translations: &Bound<'py, PyAny>,
        focal: f32,
        principal_point: (f32, f32),
        threads: usize,
    ) -> Out<'py, f32> {
        let (identity, expression) = self.shape_coefficients(identity, expression)?;
        let faces = identity.len(0);
        let (rotations, translations) = motions(rotations, translations, faces)?;
        let shape = (identity.values()?, expression.values()?);
        let motion = (rotations.rows()?, translations.rows()?);
        let out = py
            .detach(|| camera::boxes(&self.model, shape, motion, focal, principal_point.into(), threads))
            .map_err(raised)?;
        array(py, out.into_flattened(), &[faces, 4])
    }
}

impl PyFaceModel {
    pub(crate) fn model(&self) -> &FaceModel {
        &self.model
    }

    /// `n` vertices of each of F faces in the camera frame, as `decode` makes them.
    fn placed<'py>(
        &self,
        py: Python<'py>,
        (identity, expression): (&Bound<'py, PyAny>, &Bound<'py, PyAny>),
        (rotations, translations): (&Bound<'py, PyAny>, &Bound<'py, PyAny>),
        n: usize,
        decode: impl Fn(Shape<'_>, Motion<'_>) -> Result<Vec<[f32; 3]>> + Send + Sync,
    ) -> Out<'py, f32> {
        let (identity, expression) = self.shape_coefficients(identity, expression)?;
        let faces = identity.len(0);
        let (rotations, translations) = motions(rotations, translations, faces)?;
        let shape = (identity.values()?, expression.values()?);
        let motion = (rotations.rows()?, translations.rows()?);
        let out = py.detach(|| decode(shape, motion)).map_err(raised)?;
        array(py, out.into_flattened(), &[faces, n, 3])
    }

    fn shape_coefficients<'py>(
        &self,
        identity: &Bound<'py, PyAny>,
        expression: &Bound<'py, PyAny>,
    ) -> PyResult<(Array<'py, f32>, Array<'py, f32>)> {
        let identity = Array::<f32>::new("identity", identity, &[Any("F"), Is(self.model.n_identity())])?;
        let shape = [Is(identity.len(0)), Is(self.model.n_expression())];
        let expression = Array::<f32>::new("expression", expression, &shape)?;
        Ok((identity, expression))
    }
}
