//! Sum of two quantized tensors, rounded to a third.

use super::Quantization;

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
