//! Pointwise convolution: a matrix product of uint8 and int8, rounded to uint8.

use super::{Convolution, Line, Quantization, interleaved};
use crate::error::{Error, Result};

/// Pixels of a register tile, by its width in registers of 16 outputs: accumulators, weights and a broadcast fit into 32.
const PIXELS: [usize; 5] = [0, 12, 12, 8, 6];

/// Weights in the order in which the kernel reads them.
pub(super) struct Pointwise {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    zero_point: u8,
    tiles: Vec<Tile>,
    lines: Vec<Line>,
}

/// Some outputs: `registers` · 16 of them from `first` on. In `lines` from `at` on lie, a line each: starts of the sums,
/// scales (`registers` each), then for every four inputs the weights of each register.
struct Tile {
    first: usize,
    registers: usize,
    at: usize,
}

/// Where the pixels of a product lie. A row of the matrix is `segments` times `inputs` / `segments` bytes, so that a
/// dense convolution that reads neighbouring rows is a product, too.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// Bytes from one pixel to the next.
    pub(super) pixel: usize,
    pub(super) segments: usize,
    /// Bytes from one segment to the next.
    pub(super) segment: usize,
}

/// Where the results go: rows of `width` pixels.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) width: usize,
    /// Bytes from one pixel to the next.
    pub(super) pixel: usize,
    /// Bytes from one row to the next.
    pub(super) row: usize,
}

impl Pointwise {
    /// # Errors
    /// The number of inputs is no multiple of 4, or lengths do not fit.
    pub(super) fn new(convolution: &Convolution, input: Quantization, name: &'static str) -> Result<Self> {
        let inputs = convolution.taps(name)?;
        if !inputs.is_multiple_of(4) {
            return Err(Error::value(name, format!("{inputs} inputs"), "a multiple of 4"));
        }
        let outputs = convolution.outputs();
        let (scale, start) = convolution.rescaling(input, inputs);
        let (mut tiles, mut lines) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < outputs {
            let registers = (outputs - first).div_ceil(16).min(4);
            tiles.push(Tile { first, registers, at: lines.len() });
            let channel = |register: usize, place: usize| {
                let inside = if registers == 4 { interleaved(register, place) } else { 16 * register + place };
                Some(first + inside).filter(|&channel| channel < outputs)
            };
            for register in 0..registers {
                lines.push(Line::of_ints(std::array::from_fn(|i| channel(register, i).map_or(0, |c| start[c]))));
            }
            for register in 0..registers {
                lines.push(Line::of_floats(std::array::from_fn(|i| channel(register, i).map_or(0.0, |c| scale[c]))));
            }
            for four in (0..inputs).step_by(4) {
                for register in 0..registers {
                    lines.push(Line(std::array::from_fn(|i| {
                        channel(register, i / 4)
                            .map_or(0, |c| convolution.weight[c * inputs + four + i % 4].cast_unsigned())
                    })));
                }
            }
            first += 16 * registers;
        }
        Ok(Self { inputs, outputs, zero_point: convolution.output.zero_point, tiles, lines })
    }

    /// Multiplies pixels that lie one behind the other on both sides.
    ///
    /// # Panics
    /// As `run`.
    pub(super) fn run_dense(&self, input: &[u8], pixels: usize, output: &mut [u8]) {
        let source = Source { pixel: self.inputs, segments: 1, segment: 0 };
        let target = Target { width: pixels, pixel: self.outputs, row: pixels * self.outputs };
        self.run(input, source, pixels, output, target);
    }

    /// Multiplies `pixels` pixels that begin with `input`, and writes from the start of `output` on.
    ///
    /// # Panics
    /// `input` or `output` is too short, or the processor lacks the instructions.
    pub(super) fn run(&self, input: &[u8], source: Source, pixels: usize, output: &mut [u8], target: Target) {
        if pixels == 0 {
            return;
        }
        assert!(super::supported());
        let read = self.inputs / source.segments;
        assert!(self.inputs == read * source.segments && read.is_multiple_of(4) && target.width > 0);
        assert!((pixels - 1) * source.pixel + (source.segments - 1) * source.segment + read <= input.len());
        let last = (pixels - 1) / target.width * target.row + (target.width.min(pixels) - 1) * target.pixel;
        assert!(last + self.outputs <= output.len() && target.row >= target.width * target.pixel);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions; the last pixel read and the last written lie inside, and so do
        // all before them.
        unsafe {
            x86::run(self, input.as_ptr(), source, pixels, output.as_mut_ptr(), target);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::x86::{line, pack, rescale};
    use super::{Line, PIXELS, Pointwise, Source, Target, Tile};

    /// A column of register tiles: what is the same for all pixels.
    struct Column {
        source: Source,
        /// Bytes of a segment.
        read: usize,
        lines: *const Line,
        zero_point: i16,
        /// Which of the last register's outputs exist.
        mask: __mmask16,
    }

    /// Place of the next pixel of the result.
    struct Cursor {
        place: *mut u8,
        column: usize,
        target: Target,
    }

    impl Cursor {
        /// The place; the cursor goes on to the next, which may lie outside after the last pixel and is not touched then.
        #[inline]
        fn next(&mut self) -> *mut u8 {
            let place = self.place;
            self.column += 1;
            let mut step = self.target.pixel;
            if self.column == self.target.width {
                self.column = 0;
                step = self.target.row - (self.target.width - 1) * self.target.pixel;
            }
            self.place = place.wrapping_add(step);
            place
        }
    }

    /// # Safety
    /// As `Pointwise::run` checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn run(
        product: &Pointwise,
        input: *const u8,
        source: Source,
        pixels: usize,
        output: *mut u8,
        target: Target,
    ) {
        for tile in &product.tiles {
            let Tile { first, registers, at } = *tile;
            let missing = (first + 16 * registers).saturating_sub(product.outputs);
            let column = Column {
                source,
                read: product.inputs / source.segments,
                lines: product.lines[at..].as_ptr(),
                zero_point: i16::from(product.zero_point),
                mask: 0xffff_u16 >> missing,
            };
            // SAFETY: the tile has outputs that exist; pixels by this function's contract.
            unsafe {
                let cursor = Cursor { place: output.add(first), column: 0, target };
                match registers {
                    4 => walk::<{ PIXELS[4] }, 4>(&column, input, pixels, cursor),
                    3 => walk::<{ PIXELS[3] }, 3>(&column, input, pixels, cursor),
                    2 => walk::<{ PIXELS[2] }, 2>(&column, input, pixels, cursor),
                    _ => walk::<{ PIXELS[1] }, 1>(&column, input, pixels, cursor),
                }
            }
        }
    }

    /// All pixels of a column of tiles, P at a time.
    ///
    /// # Safety
    /// So many pixels from `from` on exist, and so many places of the cursor.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn walk<const P: usize, const R: usize>(
        column: &Column,
        mut from: *const u8,
        pixels: usize,
        mut cursor: Cursor,
    ) {
        // SAFETY: by this function's contract; no more than `pixels` are done.
        unsafe {
            for _ in 0..pixels / P {
                product::<P, R>(column, from, &mut cursor);
                from = from.wrapping_add(P * column.source.pixel);
            }
            match pixels % P {
                0 => {}
                1 => rest::<1, R>(column, from, cursor),
                2 => rest::<2, R>(column, from, cursor),
                3 => rest::<3, R>(column, from, cursor),
                4 => rest::<4, R>(column, from, cursor),
                5 => rest::<5, R>(column, from, cursor),
                6 => rest::<6, R>(column, from, cursor),
                7 => rest::<7, R>(column, from, cursor),
                8 => rest::<8, R>(column, from, cursor),
                9 => rest::<9, R>(column, from, cursor),
                10 => rest::<10, R>(column, from, cursor),
                _ => rest::<11, R>(column, from, cursor),
            }
        }
    }

    /// # Safety
    /// As `product`.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn rest<const P: usize, const R: usize>(column: &Column, from: *const u8, mut cursor: Cursor) {
        // SAFETY: by this function's contract.
        unsafe { product::<P, R>(column, from, &mut cursor) }
    }

    /// P pixels by 16 R outputs.
    ///
    /// # Safety
    /// P pixels from `from` on exist, and the next P places of the cursor have room for the tile's outputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn product<const P: usize, const R: usize>(column: &Column, from: *const u8, cursor: &mut Cursor) {
        // SAFETY: the lines are as many as `Pointwise::new` pushed for R registers; pixels and places by this function's
        // contract.
        unsafe {
            let starts: [__m512i; R] = std::array::from_fn(|r| line(column.lines, r));
            let mut sums = [starts; P];
            let mut weights = column.lines.add(2 * R);
            let stride = column.source.pixel;
            for segment in 0..column.source.segments {
                let mut at = from.add(segment * column.source.segment);
                let end = at.add(column.read);
                while at < end {
                    let of_four: [__m512i; R] = std::array::from_fn(|r| line(weights, r));
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let four = _mm512_set1_epi32(at.add(p * stride).cast::<i32>().read_unaligned());
                        for r in 0..R {
                            sum[r] = _mm512_dpbusd_epi32(sum[r], four, of_four[r]);
                        }
                    }
                    weights = weights.add(R);
                    at = at.add(4);
                }
            }
            let scales: [__m512i; R] = std::array::from_fn(|r| line(column.lines, R + r));
            let zero_point = _mm512_set1_epi16(column.zero_point);
            if R == 4 {
                let mask = (u64::from(column.mask) << 48) | 0xffff_ffff_ffff;
                for sum in sums {
                    let bytes = pack(std::array::from_fn(|r| rescale(sum[r % R], scales[r % R])), zero_point);
                    _mm512_mask_storeu_epi8(cursor.next().cast(), mask, bytes);
                }
                return;
            }
            // One, two or four pixels to a register; 32-bit number d of its lane l becomes number l of lane d.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let together = 4 / R;
            for p in (0..P).step_by(together) {
                let value = |k: usize| match sums.get(p + k / R) {
                    Some(sum) if k < together * R => rescale(sum[k % R], scales[k % R]),
                    _ => _mm512_setzero_si512(),
                };
                let bytes = pack([value(0), value(1), value(2), value(3)], zero_point);
                let bytes = _mm512_permutexvar_epi32(order, bytes);
                let exists = |pixel: usize| p + pixel < P;
                if R == 3 {
                    let mask = (u64::from(column.mask) << 32) | 0xffff_ffff;
                    _mm512_mask_storeu_epi8(cursor.next().cast(), mask, bytes);
                } else if R == 2 {
                    let mask = (u32::from(column.mask) << 16) | 0xffff;
                    _mm256_mask_storeu_epi8(cursor.next().cast(), mask, _mm512_castsi512_si256(bytes));
                    if exists(1) {
                        let second = _mm512_extracti64x4_epi64::<1>(bytes);
                        _mm256_mask_storeu_epi8(cursor.next().cast(), mask, second);
                    }
                } else {
                    _mm_mask_storeu_epi8(cursor.next().cast(), column.mask, _mm512_castsi512_si128(bytes));
                    if exists(1) {
                        let next = _mm512_extracti32x4_epi32::<1>(bytes);
                        _mm_mask_storeu_epi8(cursor.next().cast(), column.mask, next);
                    }
                    if exists(2) {
                        let next = _mm512_extracti32x4_epi32::<2>(bytes);
                        _mm_mask_storeu_epi8(cursor.next().cast(), column.mask, next);
                    }
                    if exists(3) {
                        let next = _mm512_extracti32x4_epi32::<3>(bytes);
                        _mm_mask_storeu_epi8(cursor.next().cast(), column.mask, next);
                    }
                }
            }
        }
    }
}
