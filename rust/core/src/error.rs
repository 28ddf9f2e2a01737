//! The one error type of the core. Every message names the argument, what came and what was wanted.

use thiserror::Error;

/// What can be wrong with the input of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// An array has the wrong number of elements along some axis.
    #[error("'{name}' has shape {got}, expected {expected}")]
    Shape {
        /// The argument.
        name: &'static str,
        /// The shape that came.
        got: String,
        /// The shape that was wanted.
        expected: String,
    },
    /// A value is out of range.
    #[error("'{name}' has {got}, expected {expected}")]
    Value {
        /// The argument.
        name: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        expected: String,
    },
    /// A value is NaN or infinite.
    #[error("'{name}' has a non-finite value at flat index {index}, expected finite values")]
    NonFinite {
        /// The argument.
        name: &'static str,
        /// Flat index of the first such value.
        index: usize,
    },
    /// The parts of a face model do not fit together.
    #[error("face model: '{name}' has {got}, expected {expected}")]
    Model {
        /// The part.
        name: &'static str,
        /// What came.
        got: String,
        /// What was wanted.
        expected: String,
    },
    /// The operating system refused to start the worker threads.
    #[error("{wanted} worker threads could not be started: {reason}")]
    Threads {
        /// How many were wanted.
        wanted: usize,
        /// What the system said.
        reason: String,
    },
}

/// Result of a stage.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn shape(name: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Shape { name, got: got.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn value(name: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Value { name, got: got.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn model(name: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Model { name, got: got.to_string(), expected: expected.to_string() }
    }

    /// The same finding, said of a part of a face model.
    pub(crate) fn in_model(self) -> Self {
        match self {
            Self::Shape { name, got, expected } => Self::Model { name, got: format!("shape {got}"), expected },
            Self::Value { name, got, expected } => Self::Model { name, got, expected },
            Self::NonFinite { name, index } => Self::Model {
                name,
                got: format!("a non-finite value at flat index {index}"),
                expected: "finite values".into(),
            },
            other => other,
        }
    }
}
