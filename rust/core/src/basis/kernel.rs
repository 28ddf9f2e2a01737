//! The hot loop of the decoder: one block of rows for up to [`MAX_FACES`] faces.

use half::f16;

/// Rows of a block: two AVX-512 registers of float32, enough independent sums to hide the latency of the
/// multiply-add even for one face.
pub(crate) const ROWS: usize = 32;

/// Faces whose sums fit the registers of the widest instruction set: 2 · 12 of 32 AVX-512 registers.
pub(super) const MAX_FACES: usize = 12;

/// One column of a block of rows.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Block(pub(super) [f16; ROWS]);

/// The instruction sets the kernel is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// Plain Rust, vectorised by the compiler for the build's target.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The widest one this processor has. The tests are cached by the standard library.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c")
            {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }

    /// How many faces one call of [`block`] takes.
    pub(super) fn faces(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => MAX_FACES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            Self::Scalar => 4,
        }
    }

    #[cfg(test)]
    pub(super) fn available() -> Vec<Self> {
        let widest = Self::detect();
        #[cfg(target_arch = "x86_64")]
        let all = [Self::Scalar, Self::Avx2, Self::Avx512];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [Self::Scalar];
        let last = all.iter().position(|&isa| isa == widest).unwrap_or(0);
        all[..=last].to_vec()
    }
}

/// Calls `$kernel::<F>` for the F that equals `sums.len()`.
macro_rules! by_faces {
    ($kernel:ident, $mean:ident, $columns:ident, $coefficients:ident, $sums:ident, $($faces:literal)+) => {
        match $sums.len() {
            $($faces => {
                if let Ok(sums) = <&mut [[f32; ROWS]; $faces]>::try_from($sums) {
                    $kernel::<$faces>($mean, $columns, $coefficients, sums);
                }
            })+
            other => unreachable!("a group of {other} faces"),
        }
    };
}

/// `sums[f] = mean + Σ_c columns[c] · coefficients[c][f]`, with `coefficients` `(columns, sums.len())`.
pub(super) fn block(isa: Isa, mean: &[f32; ROWS], columns: &[Block], coefficients: &[f32], sums: &mut [[f32; ROWS]]) {
    match isa {
        // SAFETY: `Isa::detect` and `Isa::available` name an instruction set only after the processor said that it
        // has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::avx512(mean, columns, coefficients, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::avx2(mean, columns, coefficients, sums) },
        Isa::Scalar => by_faces!(scalar, mean, columns, coefficients, sums, 1 2 3 4),
    }
}

fn scalar<const F: usize>(mean: &[f32; ROWS], columns: &[Block], coefficients: &[f32], sums: &mut [[f32; ROWS]; F]) {
    use half::slice::HalfFloatSliceExt;
    sums.fill(*mean);
    let mut column = [0.0; ROWS];
    for (block, coefficients) in columns.iter().zip(coefficients.as_chunks::<F>().0) {
        block.0.convert_to_f32_slice(&mut column);
        for (sum, &coefficient) in sums.iter_mut().zip(coefficients) {
            for (sum, &value) in sum.iter_mut().zip(&column) {
                // Fused where the build's target has the instruction; a library call would cost 50 times as much.
                *sum = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                    value.mul_add(coefficient, *sum)
                } else {
                    *sum + value * coefficient
                };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::{Block, ROWS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(mean: &[f32; ROWS], columns: &[Block], coefficients: &[f32], sums: &mut [[f32; ROWS]]) {
        by_faces!(avx512_faces, mean, columns, coefficients, sums, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2(mean: &[f32; ROWS], columns: &[Block], coefficients: &[f32], sums: &mut [[f32; ROWS]]) {
        by_faces!(avx2_faces, mean, columns, coefficients, sums, 1 2 3 4 5 6);
    }

    #[target_feature(enable = "avx512f")]
    fn avx512_faces<const F: usize>(
        mean: &[f32; ROWS],
        columns: &[Block],
        coefficients: &[f32],
        sums: &mut [[f32; ROWS]; F],
    ) {
        let mean = lanes::<16, f32>(mean);
        let mut low = [load512(&mean[0]); F];
        let mut high = [load512(&mean[1]); F];
        for (block, coefficients) in columns.iter().zip(coefficients.as_chunks::<F>().0) {
            let values = lanes::<16, f16>(&block.0);
            let a = _mm512_cvtph_ps(load256_f16(&values[0]));
            let b = _mm512_cvtph_ps(load256_f16(&values[1]));
            for f in 0..F {
                let coefficient = _mm512_set1_ps(coefficients[f]);
                low[f] = _mm512_fmadd_ps(a, coefficient, low[f]);
                high[f] = _mm512_fmadd_ps(b, coefficient, high[f]);
            }
        }
        for f in 0..F {
            let sum = sums[f].as_chunks_mut::<16>().0;
            store512(&mut sum[0], low[f]);
            store512(&mut sum[1], high[f]);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2_faces<const F: usize>(
        mean: &[f32; ROWS],
        columns: &[Block],
        coefficients: &[f32],
        sums: &mut [[f32; ROWS]; F],
    ) {
        let mean = lanes::<8, f32>(mean);
        // Half a block at a time: 2 · 6 sums, 2 values and a coefficient are 15 of the 16 registers.
        for half in [0, 2] {
            let mut low = [load256(&mean[half]); F];
            let mut high = [load256(&mean[half + 1]); F];
            for (block, coefficients) in columns.iter().zip(coefficients.as_chunks::<F>().0) {
                let values = lanes::<8, f16>(&block.0);
                let a = _mm256_cvtph_ps(load128_f16(&values[half]));
                let b = _mm256_cvtph_ps(load128_f16(&values[half + 1]));
                for f in 0..F {
                    let coefficient = _mm256_set1_ps(coefficients[f]);
                    low[f] = _mm256_fmadd_ps(a, coefficient, low[f]);
                    high[f] = _mm256_fmadd_ps(b, coefficient, high[f]);
                }
            }
            for f in 0..F {
                let sum = sums[f].as_chunks_mut::<8>().0;
                store256(&mut sum[half], low[f]);
                store256(&mut sum[half + 1], high[f]);
            }
        }
    }

    #[inline(always)]
    fn lanes<const L: usize, T>(values: &[T; ROWS]) -> &[[T; L]] {
        values.as_chunks::<L>().0
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load512(values: &[f32; 16]) -> __m512 {
        // SAFETY: the array has the 64 bytes that are read; the load asks for no alignment.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store512(values: &mut [f32; 16], register: __m512) {
        // SAFETY: the array has the 64 bytes that are written; the store asks for no alignment.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn load256(values: &[f32; 8]) -> __m256 {
        // SAFETY: the array has the 32 bytes that are read; the load asks for no alignment.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn store256(values: &mut [f32; 8], register: __m256) {
        // SAFETY: the array has the 32 bytes that are written; the store asks for no alignment.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), register) }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn load256_f16(values: &[f16; 16]) -> __m256i {
        // SAFETY: `f16` is a transparent u16, so the array has the 32 bytes that are read; the load asks for no alignment.
        unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load128_f16(values: &[f16; 8]) -> __m128i {
        // SAFETY: `f16` is a transparent u16, so the array has the 16 bytes that are read; the load asks for no alignment.
        unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
    }
}
