//! Arrays in and out: type, dtype, shape, memory layout. The values are checked by the core.

use numpy::ndarray::{ArrayD, IxDyn};
use numpy::{
    Element, IntoPyArray, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An axis of an expected shape.
#[derive(Clone, Copy)]
pub(crate) enum Axis {
    /// Any length, with the letter that the message shows.
    Any(&'static str),
    /// This length.
    Is(usize),
}

pub(crate) use Axis::{Any, Is};

/// An argument that has the wanted dtype, shape and layout.
pub(crate) struct Array<'py, T: Element> {
    name: &'static str,
    array: PyReadonlyArrayDyn<'py, T>,
}

impl<'py, T: Element> Array<'py, T> {
    /// Checks `object` against `shape`.
    pub(crate) fn new(name: &'static str, object: &Bound<'py, PyAny>, shape: &[Axis]) -> PyResult<Self> {
        let dtype = numpy::dtype::<T>(object.py());
        let Ok(untyped) = object.cast::<PyUntypedArray>() else {
            let got = object.get_type().name()?.to_string();
            return Err(PyTypeError::new_err(format!("'{name}' has type {got}, expected a NumPy array of {dtype}")));
        };
        if !untyped.dtype().is_equiv_to(&dtype) {
            return Err(PyTypeError::new_err(format!("'{name}' has dtype {}, expected {dtype}", untyped.dtype())));
        }
        let fits = |(axis, &n): (&Axis, &usize)| match axis {
            Any(_) => true,
            Is(wanted) => *wanted == n,
        };
        if untyped.ndim() != shape.len() || !shape.iter().zip(untyped.shape()).all(fits) {
            let got = tuple(untyped.shape().iter().map(usize::to_string).collect());
            return Err(PyValueError::new_err(format!("'{name}' has shape {got}, expected {}", wanted(shape))));
        }
        if !untyped.is_c_contiguous() {
            return Err(PyValueError::new_err(format!(
                "'{name}' has a non-contiguous layout, expected C order (numpy.ascontiguousarray)"
            )));
        }
        let array = object.cast::<PyArrayDyn<T>>()?.try_readonly().map_err(|_| {
            PyValueError::new_err(format!("'{name}' has a writer at work, expected an array that nobody writes to"))
        })?;
        Ok(Self { name, array })
    }

    /// Length of an axis.
    pub(crate) fn len(&self, axis: usize) -> usize {
        self.array.shape()[axis]
    }

    /// All values, row-major.
    pub(crate) fn values(&self) -> PyResult<&[T]> {
        self.array.as_slice().map_err(|_| {
            let name = self.name;
            PyValueError::new_err(format!(
                "'{name}' has an unaligned layout, expected C order (numpy.ascontiguousarray)"
            ))
        })
    }

    /// All values in rows of `K`, the last axis (or the product of the last ones).
    pub(crate) fn rows<const K: usize>(&self) -> PyResult<&[[T; K]]> {
        Ok(self.values()?.as_chunks::<K>().0)
    }
}

/// `(F, N, 3)` points of F faces.
pub(crate) fn points<'py>(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py, f32>> {
    Array::new(name, object, &[Any("F"), Any("N"), Is(3)])
}

/// `(T, 3)` vertex numbers.
pub(crate) fn corners<'py>(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Array<'py, i32>> {
    Array::new(name, object, &[Any("T"), Is(3)])
}

/// Rotations `(F, 3, 3)` and translations `(F, 3)` of so many faces.
pub(crate) fn motions<'py>(
    rotations: &Bound<'py, PyAny>,
    translations: &Bound<'py, PyAny>,
    faces: usize,
) -> PyResult<(Array<'py, f32>, Array<'py, f32>)> {
    let rotations = Array::new("rotations", rotations, &[Is(faces), Is(3), Is(3)])?;
    Ok((rotations, Array::new("translations", translations, &[Is(faces), Is(3)])?))
}

/// Illuminations `(F, 3, 9)` of so many faces.
pub(crate) fn illuminations<'py>(object: &Bound<'py, PyAny>, faces: usize) -> PyResult<Array<'py, f32>> {
    Array::new("illumination", object, &[Is(faces), Is(3), Is(9)])
}

fn tuple(items: Vec<String>) -> String {
    if items.len() == 1 { format!("({},)", items[0]) } else { format!("({})", items.join(", ")) }
}

fn wanted(shape: &[Axis]) -> String {
    let item = |axis: &Axis| match axis {
        Any(letter) => (*letter).to_string(),
        Is(n) => n.to_string(),
    };
    tuple(shape.iter().map(item).collect())
}

/// A result of the core as an array that owns it.
pub(crate) fn array<'py, T: Element>(
    py: Python<'py>,
    values: Vec<T>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let array = ArrayD::from_shape_vec(IxDyn(shape), values)
        .map_err(|e| PyValueError::new_err(format!("result does not have shape {shape:?}: {e}")))?;
    Ok(array.into_pyarray(py))
}

/// The same, read-only.
pub(crate) fn constant<T: Element>(py: Python<'_>, values: Vec<T>, shape: &[usize]) -> PyResult<Py<PyArrayDyn<T>>> {
    let array = array(py, values, shape)?;
    drop(array.readwrite().make_nonwriteable());
    Ok(array.unbind())
}
