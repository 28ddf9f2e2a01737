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
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (&self.tiles, &self.lines, self.zero_point, PIXELS, target);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::x86::{line, pack, rescale};
    use super::{Line, PIXELS, Pointwise, Source, Target, Tile};

    /// One register tile's surroundings.
    struct Call {
        source: Source,
        /// Bytes of a segment.
        read: usize,
        lines: *const Line,
        zero_point: i32,
        /// Which of the last register's outputs exist.
        mask: __mmask16,
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
            let call = Call {
                source,
                read: product.inputs / source.segments,
                lines: product.lines[at..].as_ptr(),
                zero_point: i32::from(product.zero_point),
                mask: 0xffff_u16 >> missing,
            };
            let mut done = 0;
            while done < pixels {
                let count = PIXELS[registers].min(pixels - done);
                let mut places = [std::ptr::null_mut(); 12];
                let (mut row, mut column) = (done / target.width, done % target.width);
                for place in &mut places[..count] {
                    // SAFETY: a pixel of the output, and an output of it that exists.
                    *place = unsafe { output.add(row * target.row + column * target.pixel + first) };
                    column += 1;
                    if column == target.width {
                        (row, column) = (row + 1, 0);
                    }
                }
                // SAFETY: `count` pixels from here on exist, in the input and in the output.
                unsafe {
                    let from = input.add(done * source.pixel);
                    match registers {
                        4 => tile_of::<4>(&call, from, count, &places),
                        3 => tile_of::<3>(&call, from, count, &places),
                        2 => tile_of::<2>(&call, from, count, &places),
                        _ => tile_of::<1>(&call, from, count, &places),
                    }
                }
                done += count;
            }
        }
    }

    /// # Safety
    /// As `product`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn tile_of<const R: usize>(call: &Call, from: *const u8, count: usize, places: &[*mut u8; 12]) {
        // SAFETY: by this function's contract.
        unsafe {
            match count {
                1 => product::<1, R>(call, from, places),
                2 => product::<2, R>(call, from, places),
                3 => product::<3, R>(call, from, places),
                4 => product::<4, R>(call, from, places),
                5 => product::<5, R>(call, from, places),
                6 => product::<6, R>(call, from, places),
                7 => product::<7, R>(call, from, places),
                8 => product::<8, R>(call, from, places),
                9 => product::<9, R>(call, from, places),
                10 => product::<10, R>(call, from, places),
                11 => product::<11, R>(call, from, places),
                _ => product::<12, R>(call, from, places),
            }
        }
    }

    /// P pixels by 16 R outputs.
    ///
    /// # Safety
    /// P pixels from `from` on exist, and the first P places have room for the tile's outputs.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn product<const P: usize, const R: usize>(call: &Call, from: *const u8, places: &[*mut u8; 12]) {
        // SAFETY: the lines are as many as `Pointwise::new` pushed for R registers; pixels and places by this function's
        // contract.
        unsafe {
            let starts: [__m512i; R] = std::array::from_fn(|r| line(call.lines, r));
            let mut sums = [starts; P];
            let mut weights = call.lines.add(2 * R);
            let stride = call.source.pixel;
            for segment in 0..call.source.segments {
                let mut at = from.add(segment * call.source.segment);
                let end = at.add(call.read);
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
            let scales: [__m512i; R] = std::array::from_fn(|r| line(call.lines, R + r));
            for (p, sum) in sums.iter().enumerate() {
                if R == 4 {
                    let values = std::array::from_fn(|r| rescale(sum[r % R], scales[r % R]));
                    let bytes = pack(values, _mm512_set1_epi16(call.zero_point as i16));
                    let mask = ((u64::from(call.mask) << 48) | 0xffff_ffff_ffff) as __mmask64;
                    _mm512_mask_storeu_epi8(places[p].cast(), mask, bytes);
                } else {
                    let zero_point = _mm512_set1_epi32(call.zero_point);
                    for r in 0..R {
                        let value = _mm512_add_epi32(rescale(sum[r], scales[r]), zero_point);
                        let value = _mm512_max_epi32(value, _mm512_setzero_si512());
                        let mask = if r + 1 == R { call.mask } else { 0xffff };
                        _mm512_mask_cvtusepi32_storeu_epi8(places[p].add(16 * r).cast(), mask, value);
                    }
                }
            }
        }
    }
}
