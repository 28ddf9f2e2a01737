//! Sum of two quantized tensors, rounded to a third; also of a map and a coarser one, whose pixels are repeated.

use super::{Output, Parallel, Quantization, with_scratch};
use crate::error::{Error, Result};

/// `a + b` with all scales divided by that of the sum: `a · first + (b · second + fixed)`, each product and sum rounded once,
/// then to even.
pub(super) struct Sum {
    first: f32,
    second: f32,
    fixed: f32,
}

impl Sum {
    pub(super) fn new(a: Quantization, b: Quantization, output: Quantization) -> Self {
        let (first, second) = (a.scale / output.scale, b.scale / output.scale);
        let fixed = f32::from(output.zero_point) - (first * f32::from(a.zero_point) + second * f32::from(b.zero_point));
        Self { first, second, fixed }
    }

    /// Adds `b` to `a`, in place.
    ///
    /// # Panics
    /// The lengths differ, or the processor lacks the instructions.
    pub(super) fn run(&self, a: &mut [u8], b: &[u8]) {
        assert_eq!(a.len(), b.len());
        assert!(super::supported());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions.
        unsafe {
            x86::run(self, a, b);
        }
    }
}

/// Rows of a part.
const PART: usize = 16;

/// Sum of a map and a coarser one, each of whose pixels stands for those that it covers.
pub struct ResizeAdd(Sum);

impl ResizeAdd {
    /// Quantizations of the fine map, the coarse one and the sum.
    pub fn new(fine: Quantization, coarse: Quantization, output: Quantization) -> Self {
        Self(Sum::new(fine, coarse, output))
    }

    /// (batch, height, width, channels) and (batch, rows, columns, channels) to the shape of the first. Pixel (y, x) takes
    /// the coarse one at (⌊y · rows / height⌋, ⌊x · columns / width⌋).
    ///
    /// # Errors
    /// Lengths or shapes do not fit.
    pub fn run(
        &self,
        (fine, shape): (&[u8], [usize; 4]),
        (coarse, coarse_shape): (&[u8], [usize; 4]),
        output: &mut [u8],
        parallel: &dyn Parallel,
    ) -> Result<()> {
        let [batch, height, width, channels] = shape;
        let [images, rows, columns, depth] = coarse_shape;
        let bytes = |shape: [usize; 4]| shape.iter().product::<usize>();
        let lengths = (fine.len(), coarse.len(), output.len()) == (bytes(shape), bytes(coarse_shape), bytes(shape));
        if !lengths || (images, depth) != (batch, channels) || rows > height || columns > width {
            return Err(Error::shape(
                "coarse",
                format!("{coarse_shape:?}"),
                format!("that of a map coarser than {shape:?}"),
            ));
        }
        if output.is_empty() || coarse.is_empty() {
            return Ok(());
        }
        let (row, coarse_row) = (width * channels, columns * channels);
        let written = Output::new(output);
        parallel.run((batch * height).div_ceil(PART), &|part| {
            with_scratch(|scratch| {
                let repeated = &mut scratch.bytes(row)[..row];
                let mut there = None; // the coarse row that is repeated
                for y in part * PART..(batch * height).min((part + 1) * PART) {
                    let source = y / height * rows + y % height * rows / height;
                    if there != Some(source) {
                        let coarse = &coarse[source * coarse_row..][..coarse_row];
                        for (x, pixel) in repeated.chunks_exact_mut(channels).enumerate() {
                            pixel.copy_from_slice(&coarse[x * columns / width * channels..][..channels]);
                        }
                        there = Some(source);
                    }
                    // SAFETY: each part has its own rows.
                    let output = unsafe { written.piece(y * row, row) };
                    output.copy_from_slice(&fine[y * row..][..row]);
                    self.0.run(output, repeated);
                }
            });
        });
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Sum;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn run(sum: &Sum, a: &mut [u8], b: &[u8]) {
        let (first, second) = (_mm512_set1_ps(sum.first), _mm512_set1_ps(sum.second));
        let fixed = _mm512_set1_ps(sum.fixed);
        for (a, b) in a.chunks_mut(16).zip(b.chunks(16)) {
            let mask = 0xffff_u16 >> (16 - a.len());
            // SAFETY: as many bytes are read and written as the two chunks, of the same length, have.
            unsafe {
                let x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, a.as_ptr().cast())));
                let y = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, b.as_ptr().cast())));
                let value = _mm512_fmadd_ps(x, first, _mm512_fmadd_ps(y, second, fixed));
                let value = _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512());
                _mm512_mask_cvtusepi32_storeu_epi8(a.as_mut_ptr().cast(), mask, value);
            }
        }
    }
}
