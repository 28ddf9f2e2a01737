//! Checks that several stages share. They run before any kernel does.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use crate::error::{Error, Result};
use crate::simd::{self, Kernel, Lanes};

/// Values tested before the loop looks whether one of them was not finite.
const RUN: usize = 1024;
const EXPONENT_F32: u32 = 0x7f80_0000;
const EXPONENT_F16: u16 = 0x7c00;

/// Fails on the first NaN or infinity.
pub(crate) fn finite(name: &'static str, values: &[f32]) -> Result<()> {
    let mut found = None;
    simd::run(NonFinite { values, found: &mut found });
    match found {
        Some(index) => Err(Error::NonFinite { name, index }),
        None => Ok(()),
    }
}

/// [`finite`] for values that are tested part by part, each by the thread that works on it, while it is in the cache.
pub(crate) struct Parts {
    /// The lowest index of a value that is not finite.
    first: AtomicUsize,
}

impl Parts {
    /// Nothing found yet.
    pub(crate) fn new() -> Self {
        Self { first: AtomicUsize::new(usize::MAX) }
    }

    /// Whether all values of a part are finite; it begins at `index`.
    pub(crate) fn finite(&self, index: usize, values: &[f32]) -> bool {
        let mut found = None;
        simd::run(NonFinite { values, found: &mut found });
        if let Some(at) = found {
            self.first.fetch_min(index + at, Ordering::Relaxed);
        }
        found.is_none()
    }

    /// Fails if something was found.
    pub(crate) fn result(self, name: &'static str) -> Result<()> {
        match self.first.into_inner() {
            usize::MAX => Ok(()),
            index => Err(Error::NonFinite { name, index }),
        }
    }
}

/// Finds the first NaN or infinity.
struct NonFinite<'a> {
    values: &'a [f32],
    found: &'a mut Option<usize>,
}

impl Kernel for NonFinite<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (run, chunk) in self.values.chunks(RUN).enumerate() {
            // Exponent bits all set = NaN or infinity; a sum over the run is a loop without branches.
            let bad: u32 = chunk.iter().map(|v| u32::from(v.to_bits() & EXPONENT_F32 == EXPONENT_F32)).sum();
            if bad > 0 {
                *self.found = chunk.iter().position(|v| !v.is_finite()).map(|at| at + run * RUN);
                return;
            }
        }
    }
}

/// [`finite`] for half precision.
pub(crate) fn finite_f16(name: &'static str, values: &[f16]) -> Result<()> {
    match values.iter().position(|v| v.to_bits() & EXPONENT_F16 == EXPONENT_F16) {
        Some(index) => Err(Error::NonFinite { name, index }),
        None => Ok(()),
    }
}

/// Fails on the first negative value.
pub(crate) fn not_negative(name: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|&v| v < 0.0) {
        Some(index) => Err(Error::value(name, format!("{} at {index}", values[index]), "no negative value")),
        None => Ok(()),
    }
}

/// Fails unless every index is in `0..count`.
pub(crate) fn indices(name: &'static str, values: &[i32], count: usize) -> Result<()> {
    numbers(values, 0, count)
        .map_err(|bad| Error::value(name, format!("index {bad}"), format!("indices in 0..{count}")))
}

/// Fails unless every cell (row, column) is on the map.
pub(crate) fn cells(name: &'static str, values: &[[i32; 2]], [height, width]: [usize; 2]) -> Result<()> {
    let outside = |&&[row, column]: &&[i32; 2]| {
        !(0..height as i64).contains(&i64::from(row)) || !(0..width as i64).contains(&i64::from(column))
    };
    match values.iter().find(outside) {
        None => Ok(()),
        Some([row, column]) => {
            let expected = format!("cells of a map of {height} rows and {width} columns");
            Err(Error::value(name, format!("cell ({row}, {column})"), expected))
        }
    }
}

/// The first value outside `first..count`, if there is one.
pub(crate) fn numbers(values: &[i32], first: i32, count: usize) -> std::result::Result<(), i32> {
    let end = i32::try_from(count).unwrap_or(i32::MAX);
    let outside = |v: i32| (v < first) | (v >= end);
    // No early exit: a loop without branches, which the compiler turns into vector instructions.
    if !values.iter().fold(false, |bad, &v| bad | outside(v)) {
        return Ok(());
    }
    Err(values.iter().copied().find(|&v| outside(v)).unwrap_or(first))
}

/// Fails unless the focal length is positive and everything finite.
pub(crate) fn camera(focal: f32, principal_point: [f32; 2]) -> Result<()> {
    if !(focal.is_finite() && focal > 0.0) {
        return Err(Error::value("focal", focal, "a positive finite number of pixels"));
    }
    finite("principal_point", &principal_point)
}

/// How many faces `count` elements make when each face has `per_face`, given that there are `faces`.
pub(crate) fn per_face(name: &'static str, count: usize, faces: usize) -> Result<usize> {
    if faces == 0 {
        return match count {
            0 => Ok(0),
            _ => Err(Error::shape(name, format!("with {count} rows in all"), "that of 0 faces")),
        };
    }
    if !count.is_multiple_of(faces) {
        return Err(Error::shape(name, format!("with {count} rows in all"), format!("that of {faces} faces")));
    }
    Ok(count / faces)
}

/// Fails unless `got == expected` elements.
pub(crate) fn length(name: &'static str, got: usize, expected: usize, axis: &str) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::shape(name, format!("with {got} {axis}"), format!("{expected} {axis}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_non_finite_value_is_named() {
        let mut values = vec![0.5; 3000];
        assert_eq!(finite("x", &values), Ok(()));
        values[2500] = f32::NAN;
        values[2600] = f32::INFINITY;
        assert_eq!(finite("x", &values), Err(Error::NonFinite { name: "x", index: 2500 }));
        let parts = Parts::new();
        assert!(!parts.finite(2550, &values[2550..]) && !parts.finite(1000, &values[1000..2550]));
        assert!(parts.finite(0, &values[..1000]));
        assert_eq!(parts.result("x"), Err(Error::NonFinite { name: "x", index: 2500 }));
        assert_eq!(Parts::new().result("x"), Ok(()));
        let halves = [f16::ONE, f16::MAX, f16::NEG_INFINITY];
        assert_eq!(finite_f16("b", &halves), Err(Error::NonFinite { name: "b", index: 2 }));
    }

    #[test]
    fn indices_are_refused_on_both_sides() {
        assert_eq!(indices("triangles", &[0, 4], 5), Ok(()));
        assert_eq!(indices("triangles", &[], 0), Ok(()));
        let message = indices("triangles", &[0, 5], 5).unwrap_err().to_string();
        assert_eq!(message, "'triangles' has index 5, expected indices in 0..5");
        let message = indices("triangles", &[-1], 5).unwrap_err().to_string();
        assert_eq!(message, "'triangles' has index -1, expected indices in 0..5");
    }
}
