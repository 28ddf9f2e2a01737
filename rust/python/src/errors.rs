//! Core error → Python exception, here only.

use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use wm3dr_core::Error;

create_exception!(wm3dr, ModelError, PyValueError, "A model file is inconsistent, unreadable or does not fit.");

/// The Python exception for what the core found.
pub(crate) fn raised(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Model { .. } => ModelError::new_err(message),
        Error::Threads { .. } => PyRuntimeError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}
