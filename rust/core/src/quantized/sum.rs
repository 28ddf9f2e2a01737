//! Sum of two quantized tensors, rounded to a third; also of a map and a coarser one, each of whose pixels counts for four.

use super::{Output, Parallel, Quantization, with_scratch};
use crate::error::{Error, Result};

/// `a + b` with all scales divided by that of the sum: `fixed + a · first + b · second`, in this order, rounded to even.
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

/// Sum of a map and one of half its height and width, whose pixels are repeated.
pub struct UpsampleAdd(Sum);

impl UpsampleAdd {
    /// Quantizations of the fine map, the coarse one and the sum.
    pub fn new(fine: Quantization, coarse: Quantization, output: Quantization) -> Self {
        Self(Sum::new(fine, coarse, output))
    }

    /// (batch, height, width, channels) and (batch, height / 2, width / 2, channels) to the shape of the first.
    ///
    /// # Errors
    /// Lengths do not fit, or height or width is odd.
    pub fn run(
        &self,
        fine: &[u8],
        coarse: &[u8],
        [batch, height, width, channels]: [usize; 4],
        output: &mut [u8],
        parallel: &dyn Parallel,
    ) -> Result<()> {
        let bytes = batch * height * width * channels;
        let even = height.is_multiple_of(2) && width.is_multiple_of(2);
        if !even || (fine.len(), 4 * coarse.len(), output.len()) != (bytes, bytes, bytes) {
            return Err(Error::shape(
                "coarse",
                format!("{} bytes beside {} of {height} by {width}", coarse.len(), fine.len()),
                "half the height and width of 'fine', which are even",
            ));
        }
        if bytes == 0 {
            return Ok(());
        }
        let (row, half) = (width * channels, width / 2 * channels);
        let written = Output::new(output);
        let pairs = batch * height / 2;
        let parts = pairs.div_ceil(8);
        parallel.run(parts, &|part| {
            with_scratch(row.div_ceil(64), |scratch| {
                let scratch: &mut [u8] = bytemuck::cast_slice_mut(scratch);
                let repeated = &mut scratch[..row];
                for pair in part * 8..pairs.min((part + 1) * 8) {
                    let pixels = coarse[pair * half..][..half].chunks_exact(channels);
                    for (two, one) in repeated.chunks_exact_mut(2 * channels).zip(pixels) {
                        two[..channels].copy_from_slice(one);
                        two[channels..].copy_from_slice(one);
                    }
                    // SAFETY: each part has its own pairs of rows.
                    let output = unsafe { written.piece(2 * pair * row, 2 * row) };
                    output.copy_from_slice(&fine[2 * pair * row..][..2 * row]);
                    output.chunks_exact_mut(row).for_each(|row| self.0.run(row, repeated));
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
                let value = _mm512_add_ps(_mm512_add_ps(fixed, _mm512_mul_ps(x, first)), _mm512_mul_ps(y, second));
                let value = _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512());
                _mm512_mask_cvtusepi32_storeu_epi8(a.as_mut_ptr().cast(), mask, value);
            }
        }
    }
}
