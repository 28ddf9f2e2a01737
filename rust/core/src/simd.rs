//! Kernels compiled for several instruction sets, of which the processor's widest is taken at run time.
//!
//! Nothing is contracted or reordered, so the results do not depend on the instruction set, [`Lanes::mul_add`] excepted.

use wide::{f32x4, i32x4};

/// A hot loop. Its `run` must be `#[inline(always)]`, and what it calls inlined, to be compiled for the caller's
/// instruction set.
pub(crate) trait Kernel {
    /// Whether it wants the longest registers, and not what suits a row of a small triangle.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // others have one length
    const LONG: bool = false;

    /// Does the work, with the registers of `L`.
    fn run<L: Lanes>(self);
}

/// Neighbouring pixels of a row in one register.
pub(crate) trait Lanes {
    /// How many.
    const COUNT: usize;
    /// A whole number for each.
    type Ints: Copy;
    /// A float32 for each.
    type Floats: Copy;

    /// `start`, `start + step`, `start + 2 step`, …
    fn ints(start: i32, step: i32) -> Self::Ints;
    /// `start`, `start + step`, `start + 2 step`, …, each product rounded before the sum.
    fn floats(start: f32, step: f32) -> Self::Floats;
    /// Sums.
    fn add_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Sums.
    fn add_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Products.
    fn mul_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b + c`, rounded once where the processor does so in one instruction (x86-64 with AVX2, ARM), else twice.
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The same value in every lane.
    fn splat(value: f32) -> Self::Floats;
    /// The first [`Self::COUNT`] of values that are as many.
    fn load(values: &[f32]) -> Self::Floats;
    /// Writes into the first [`Self::COUNT`] of values that are as many.
    fn store(value: Self::Floats, values: &mut [f32]);
    /// Where no edge function is negative and `value` is greater than the one that is there: replaces that and its number,
    /// in the first [`Self::COUNT`] elements of two slices that have as many.
    fn replace(
        edges: [Self::Ints; 3],
        value: Self::Floats,
        number: Self::Ints,
        values: &mut [f32],
        numbers: &mut [i32],
    );
}

/// Point `index` of points with three coordinates each, and a lane to spare that may hold anything.
#[inline(always)]
pub(crate) fn point(values: &[f32], index: usize) -> f32x4 {
    match values[3 * index..].first_chunk::<4>() {
        Some(&four) => f32x4::new(four),
        None => last_point(values),
    }
}

/// Apart, since the compiler would take every point number by number if it could do so for the last one.
#[cold]
#[inline(never)]
fn last_point(values: &[f32]) -> f32x4 {
    values.last_chunk::<3>().map_or(f32x4::ZERO, |&[x, y, z]| f32x4::new([x, y, z, 0.0]))
}

/// Runs a kernel with the widest instruction set that this processor has. The tests are cached by the standard library.
#[inline]
pub(crate) fn run(kernel: impl Kernel) {
    #[cfg(test)]
    if tests::PORTABLE.get() {
        return kernel.run::<Portable>();
    }
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("fma")
        {
            // SAFETY: the processor has the features, by the tests above.
            return unsafe { x86::avx512(kernel) };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both, by the tests above.
            return unsafe { x86::avx2(kernel) };
        }
    }
    kernel.run::<Portable>();
}

/// Four lanes: registers of every target.
struct Portable;

impl Lanes for Portable {
    const COUNT: usize = 4;
    type Ints = i32x4;
    type Floats = f32x4;

    #[inline(always)]
    fn ints(start: i32, step: i32) -> i32x4 {
        i32x4::new([start, start + step, start + 2 * step, start + 3 * step])
    }

    #[inline(always)]
    fn floats(start: f32, step: f32) -> f32x4 {
        f32x4::splat(start) + f32x4::splat(step) * f32x4::new([0.0, 1.0, 2.0, 3.0])
    }

    #[inline(always)]
    fn add_ints(a: i32x4, b: i32x4) -> i32x4 {
        a + b
    }

    #[inline(always)]
    fn add_floats(a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }

    #[inline(always)]
    fn mul_floats(a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }

    #[inline(always)]
    fn mul_add(a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(value: f32) -> f32x4 {
        f32x4::splat(value)
    }

    #[inline(always)]
    fn load(values: &[f32]) -> f32x4 {
        f32x4::new([values[0], values[1], values[2], values[3]])
    }

    #[inline(always)]
    fn store(value: f32x4, values: &mut [f32]) {
        values[..4].copy_from_slice(&value.to_array());
    }

    #[inline(always)]
    fn replace(edges: [i32x4; 3], value: f32x4, number: i32x4, values: &mut [f32], numbers: &mut [i32]) {
        let (Some(values), Some(numbers)) = (values.first_chunk_mut::<4>(), numbers.first_chunk_mut::<4>()) else {
            return;
        };
        let old = f32x4::new(*values);
        let outside: f32x4 = bytemuck::cast((edges[0] | edges[1] | edges[2]).is_negative());
        let keep = outside | old.simd_ge(value);
        *values = keep.bitselect(old, value).to_array();
        *numbers = bytemuck::cast::<_, i32x4>(keep).bitselect(i32x4::new(*numbers), number).to_array();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, Lanes};

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) fn avx512<K: Kernel>(kernel: K) {
        if K::LONG {
            kernel.run::<Avx512>();
        } else {
            kernel.run::<Avx2>();
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(kernel: impl Kernel) {
        kernel.run::<Avx2>();
    }

    /// Eight lanes. Private to this module, whose two functions alone run with it, where the processor has AVX2 and FMA.
    struct Avx2;

    impl Lanes for Avx2 {
        const COUNT: usize = 8;
        type Ints = __m256i;
        type Floats = __m256;

        #[inline(always)]
        fn ints(start: i32, step: i32) -> __m256i {
            // SAFETY: the processor has AVX2.
            unsafe {
                let steps = _mm256_mullo_epi32(_mm256_set1_epi32(step), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
                _mm256_add_epi32(_mm256_set1_epi32(start), steps)
            }
        }

        #[inline(always)]
        fn floats(start: f32, step: f32) -> __m256 {
            // SAFETY: the processor has AVX2.
            unsafe {
                let steps = _mm256_mul_ps(_mm256_set1_ps(step), _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0));
                _mm256_add_ps(_mm256_set1_ps(start), steps)
            }
        }

        #[inline(always)]
        fn add_ints(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the processor has AVX2.
            unsafe { _mm256_add_epi32(a, b) }
        }

        #[inline(always)]
        fn add_floats(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the processor has AVX2.
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        fn mul_floats(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the processor has AVX2.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the processor has FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn splat(value: f32) -> __m256 {
            // SAFETY: the processor has AVX2.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        fn load(values: &[f32]) -> __m256 {
            // SAFETY: the processor has AVX2; the slice has the 32 bytes that are read, in any alignment.
            unsafe { _mm256_loadu_ps(values[..8].as_ptr()) }
        }

        #[inline(always)]
        fn store(value: __m256, values: &mut [f32]) {
            // SAFETY: the processor has AVX2; the slice has the 32 bytes that are written, in any alignment.
            unsafe { _mm256_storeu_ps(values[..8].as_mut_ptr(), value) }
        }

        #[inline(always)]
        fn replace(edges: [__m256i; 3], value: __m256, number: __m256i, values: &mut [f32], numbers: &mut [i32]) {
            let (Some(values), Some(numbers)) = (values.first_chunk_mut::<8>(), numbers.first_chunk_mut::<8>()) else {
                return;
            };
            // SAFETY: the processor has AVX2; the arrays have the 32 bytes each that are read and written, in any alignment.
            unsafe {
                let old = _mm256_loadu_ps(values.as_ptr());
                let outside = _mm256_or_si256(_mm256_or_si256(edges[0], edges[1]), edges[2]);
                let farther = _mm256_cmp_ps::<_CMP_LE_OQ>(value, old);
                // Of a mask, blends read the sign.
                let keep = _mm256_or_ps(_mm256_castsi256_ps(outside), farther);
                _mm256_storeu_ps(values.as_mut_ptr(), _mm256_blendv_ps(value, old, keep));
                let seen = _mm256_loadu_ps(numbers.as_ptr().cast());
                _mm256_storeu_ps(
                    numbers.as_mut_ptr().cast(),
                    _mm256_blendv_ps(_mm256_castsi256_ps(number), seen, keep),
                );
            }
        }
    }

    /// Sixteen lanes. Private to this module, whose function for AVX-512 alone runs with it, where the processor has that.
    struct Avx512;

    impl Lanes for Avx512 {
        const COUNT: usize = 16;
        type Ints = __m512i;
        type Floats = __m512;

        #[inline(always)]
        fn ints(start: i32, step: i32) -> __m512i {
            // SAFETY: the processor has AVX-512.
            unsafe {
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                _mm512_add_epi32(_mm512_set1_epi32(start), _mm512_mullo_epi32(_mm512_set1_epi32(step), lanes))
            }
        }

        #[inline(always)]
        fn floats(start: f32, step: f32) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe {
                let lanes = _mm512_cvtepi32_ps(Self::ints(0, 1));
                _mm512_add_ps(_mm512_set1_ps(start), _mm512_mul_ps(_mm512_set1_ps(step), lanes))
            }
        }

        #[inline(always)]
        fn add_ints(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_add_epi32(a, b) }
        }

        #[inline(always)]
        fn add_floats(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        fn mul_floats(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn splat(value: f32) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(values: &[f32]) -> __m512 {
            // SAFETY: the processor has AVX-512; the slice has the 64 bytes that are read, in any alignment.
            unsafe { _mm512_loadu_ps(values[..16].as_ptr()) }
        }

        #[inline(always)]
        fn store(value: __m512, values: &mut [f32]) {
            // SAFETY: the processor has AVX-512; the slice has the 64 bytes that are written, in any alignment.
            unsafe { _mm512_storeu_ps(values[..16].as_mut_ptr(), value) }
        }

        #[inline(always)]
        fn replace(edges: [__m512i; 3], value: __m512, number: __m512i, values: &mut [f32], numbers: &mut [i32]) {
            let (Some(values), Some(numbers)) = (values.first_chunk_mut::<16>(), numbers.first_chunk_mut::<16>())
            else {
                return;
            };
            // SAFETY: the processor has AVX-512; the arrays have the 64 bytes each that are read and written, in any alignment.
            unsafe {
                let edges = _mm512_or_si512(_mm512_or_si512(edges[0], edges[1]), edges[2]);
                let inside = _mm512_cmpge_epi32_mask(edges, _mm512_setzero_si512());
                let old = _mm512_loadu_ps(values.as_ptr());
                let nearer = _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(inside, value, old);
                _mm512_mask_storeu_ps(values.as_mut_ptr(), nearer, value);
                _mm512_mask_storeu_epi32(numbers.as_mut_ptr(), nearer, number);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use crate::raster::{Meshes, Patch, Shader, View, render};

    /// A colour for every corner of every triangle.
    struct Painted;

    impl Shader for Painted {
        fn shade(&self, _: usize, triangle: usize) -> Patch {
            let color = |corner: usize| {
                let [red, green, blue] = [0.1, 0.6, 1.7].map(|shift| ((6 * triangle + corner) as f32 * shift).sin());
                [red, green, blue, 0.0].map(|value| 0.5 + 0.4 * value)
            };
            [0, 1, 2, 3, 4, 5].map(color)
        }
    }

    thread_local! {
        /// Whether this thread takes the registers of every target.
        pub(crate) static PORTABLE: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        let sides = 12;
        // Triangles from a fraction of a pixel to some hundred pixels.
        for step in [0.4f32, 3.0, 11.0, 90.0] {
            let vertices: Vec<_> = (0..sides * sides)
                .map(|i| {
                    let (x, y) = ((i % sides) as f32, (i / sides) as f32);
                    [(x - 5.3 + 0.3 * y.sin()) * step, (y - 5.7 + 0.2 * x.cos()) * step, 400.0 + (x * y).sin()]
                })
                .collect();
            let quads = (0..sides * sides).filter(|i| i % sides < sides - 1 && i / sides < sides - 1);
            let triangles: Vec<_> =
                quads.flat_map(|i| [[i, i + sides, i + sides + 1], [i, i + sides + 1, i + 1]]).collect();
            let view = View { focal: 400.0, principal_point: [30.5, 20.0], size: [61, 43] };
            for split in [false, true] {
                let meshes = Meshes { vertices_camera: &vertices, faces: 1, triangles: &triangles, split };
                let drawn = |portable| {
                    PORTABLE.set(portable);
                    let out = render(&meshes, &view, &Painted, 1).unwrap();
                    PORTABLE.set(false);
                    out
                };
                let (raster, color) = drawn(true);
                assert!(raster.triangle_id.iter().any(|&id| id >= 0));
                assert!(color.iter().any(|&color| color != [0; 3]));
                assert!(drawn(false) == (raster, color), "{step}");
            }
        }
    }
}
