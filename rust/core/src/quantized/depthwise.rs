//! Depthwise convolution of rows, four taps to a lane.
//!
//! Bytes of four rows (or, for the fifth row of a 5 × 5 kernel, of four columns) are interleaved, so that one inner product
//! adds four taps of a channel. Four neighbouring outputs are computed together: each interleaved column serves all of them
//! whose kernels reach it. Channels go by 64; a rest of 32 or 16 shares its register with other outputs of the row.

use super::{Convolution, Line, Quantization, interleaved};
use crate::error::{Error, Result};

/// Outputs of a row that are computed together.
const TOGETHER: usize = 4;

/// Weights in the order in which the kernel reads them.
pub(super) struct Kernel {
    pub(super) channels: usize,
    /// Rows and columns: 3 or 5.
    pub(super) size: usize,
    /// 1 or 2.
    pub(super) stride: usize,
    zero_point: u8,
    groups: Vec<Group>,
    lines: Vec<Line>,
}

/// `width` channels from `first` on. In `lines` from `at` on lie four lines each: starts of the sums, scales, the taps of
/// the upper rows for each column, and for 5 × 5 those of the last row, shifted by 0 to 3 columns, in two steps.
struct Group {
    first: usize,
    width: usize,
    at: usize,
}

impl Kernel {
    /// # Errors
    /// Other kernels than 3 × 3 and 5 × 5, other strides than 1 and 2, channels that are no multiple of 16.
    pub(super) fn new(convolution: &Convolution, stride: usize, input: Quantization) -> Result<Self> {
        const NAME: &str = "depthwise";
        let taps = convolution.taps(NAME)?;
        let (channels, size) = (convolution.outputs(), if taps == 9 { 3 } else { 5 });
        if taps != size * size || !(1..=2).contains(&stride) || !channels.is_multiple_of(16) {
            return Err(Error::value(
                NAME,
                format!("{channels} channels, {taps} taps, stride {stride}"),
                "a multiple of 16 channels, 9 or 25 taps, stride 1 or 2",
            ));
        }
        let (scale, start) = convolution.rescaling(input, taps);
        let (mut groups, mut lines) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < channels {
            let width = *[64, 32, 16].iter().find(|&&width| first + width <= channels).unwrap_or(&16);
            groups.push(Group { first, width, at: lines.len() });
            let channel = |register: usize, place: usize| first + interleaved(register, place) % width;
            let registers = |line: &dyn Fn(usize) -> Line| (0..4).map(line).collect::<Vec<_>>();
            lines.extend(registers(&|r| Line::of_ints(std::array::from_fn(|i| start[channel(r, i)]))));
            lines.extend(registers(&|r| Line::of_floats(std::array::from_fn(|i| scale[channel(r, i)]))));
            // Byte `tap` of a lane is weight (row, column) of `at(tap)`, or 0.
            let taps_of = |at: &dyn Fn(usize) -> Option<(usize, usize)>| {
                registers(&|r| {
                    Line(std::array::from_fn(|i| {
                        at(i % 4).map_or(0, |(row, column)| {
                            convolution.weight[channel(r, i / 4) * taps + row * size + column].cast_unsigned()
                        })
                    }))
                })
            };
            let upper = size.min(4);
            for column in 0..size {
                lines.extend(taps_of(&|tap| (tap < upper).then_some((tap, column))));
            }
            if size == 5 {
                for shift in 0..4 {
                    lines.extend(taps_of(&|tap| (tap >= shift).then(|| (4, tap - shift))));
                    lines.extend(taps_of(&|tap| (tap + 4 - shift < 5).then_some((4, tap + 4 - shift))));
                }
            }
            first += width;
        }
        Ok(Self { channels, size, stride, zero_point: convolution.output.zero_point, groups, lines })
    }

    /// Pixels that a padded row must have for so many outputs: some are read whose results are not used.
    pub(super) fn padded(&self, outputs: usize) -> usize {
        let narrowest = self.groups.iter().map(|group| group.width).min().unwrap_or(64);
        (outputs.next_multiple_of(TOGETHER * 64 / narrowest) - 1) * self.stride + self.size
    }

    /// Computes rows of `outputs` pixels each. Row k of the result reads the padded rows from `stride` · k on, `row` bytes
    /// apart.
    ///
    /// # Panics
    /// `input` or `output` is too short, or the processor lacks the instructions.
    pub(super) fn run(&self, input: &[u8], row: usize, rows: usize, outputs: usize, output: &mut [u8]) {
        if rows == 0 || outputs == 0 {
            return;
        }
        assert!(super::supported());
        assert!(self.padded(outputs) * self.channels <= row);
        assert!(((rows - 1) * self.stride + self.size) * row <= input.len());
        assert!(rows * outputs * self.channels <= output.len());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions; all padded rows lie inside, and so does all that is written.
        unsafe {
            x86::run(self, input.as_ptr(), row, rows, outputs, output.as_mut_ptr());
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::x86::{line, pack, rescale};
    use super::{Group, Kernel, Line, TOGETHER};

    /// A group's surroundings.
    struct Call {
        lines: *const Line,
        /// Bytes from one padded row to the next.
        row: usize,
        channels: usize,
        outputs: usize,
        zero_point: i16,
    }

    /// # Safety
    /// As `Kernel::run` checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn run(
        kernel: &Kernel,
        input: *const u8,
        row: usize,
        rows: usize,
        outputs: usize,
        output: *mut u8,
    ) {
        let channels = kernel.channels;
        for &Group { first, width, at } in &kernel.groups {
            let lines = kernel.lines[at..].as_ptr();
            let call = Call { lines, row, channels, outputs, zero_point: i16::from(kernel.zero_point) };
            for k in 0..rows {
                // SAFETY: rows and results exist, by this function's contract.
                unsafe {
                    let from = input.add(k * kernel.stride * row + first);
                    let to = output.add(k * outputs * channels + first);
                    match (kernel.size, kernel.stride, width) {
                        (3, 1, 64) => group::<3, 1, 64>(&call, from, to),
                        (3, 1, 32) => group::<3, 1, 32>(&call, from, to),
                        (3, 1, _) => group::<3, 1, 16>(&call, from, to),
                        (3, _, 64) => group::<3, 2, 64>(&call, from, to),
                        (3, _, 32) => group::<3, 2, 32>(&call, from, to),
                        (3, _, _) => group::<3, 2, 16>(&call, from, to),
                        (_, 1, 64) => group::<5, 1, 64>(&call, from, to),
                        (_, 1, 32) => group::<5, 1, 32>(&call, from, to),
                        (_, 1, _) => group::<5, 1, 16>(&call, from, to),
                        (_, _, 64) => group::<5, 2, 64>(&call, from, to),
                        (_, _, 32) => group::<5, 2, 32>(&call, from, to),
                        (_, _, _) => group::<5, 2, 16>(&call, from, to),
                    }
                }
            }
        }
    }

    /// W channels of 64 / W pixels, `apart` bytes from each other, in one register.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load<const W: usize>(from: *const u8, apart: usize) -> __m512i {
        // SAFETY: by this function's contract.
        unsafe {
            match W {
                64 => _mm512_loadu_si512(from.cast()),
                32 => {
                    let low = _mm512_castsi256_si512(_mm256_loadu_si256(from.cast()));
                    _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(from.add(apart).cast()))
                }
                _ => {
                    let of = |k: usize| _mm_loadu_si128(from.add(k * apart).cast());
                    let low = _mm512_castsi128_si512(of(0));
                    let two = _mm512_inserti32x4::<1>(low, of(1));
                    let three = _mm512_inserti32x4::<2>(two, of(2));
                    _mm512_inserti32x4::<3>(three, of(3))
                }
            }
        }
    }

    /// Four bytes to a lane, one of each register, in the order of `interleaved`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn interleave(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
        let (low_ab, high_ab) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
        let (low_cd, high_cd) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
        [
            _mm512_unpacklo_epi16(low_ab, low_cd),
            _mm512_unpackhi_epi16(low_ab, low_cd),
            _mm512_unpacklo_epi16(high_ab, high_cd),
            _mm512_unpackhi_epi16(high_ab, high_cd),
        ]
    }

    /// The body once for each constant.
    macro_rules! each {
        ($name:ident in [$($value:literal)*] $body:block) => { $({ const $name: usize = $value; $body })* };
    }

    /// One row of a group of W channels: kernel K × K, stride S.
    ///
    /// # Safety
    /// As many padded pixels of K rows exist as `Kernel::padded` says, and the row of results.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn group<const K: usize, const S: usize, const W: usize>(call: &Call, from: *const u8, to: *mut u8) {
        let channels = call.channels;
        let apart = TOGETHER * S * channels; // from the pixel of one sharer of a register to that of the next
        let reach = (TOGETHER - 1) * S + K; // columns that the outputs together read
        let zero = _mm512_setzero_si512();
        let mut x = 0;
        while x < call.outputs {
            // SAFETY: columns up to `Kernel::padded` exist, and lines as `Kernel::new` pushed them; stores are bounded by
            // the number of outputs.
            unsafe {
                // Hidden from the compiler: it would copy all weights to the stack before the loop.
                let lines = std::hint::black_box(call.lines);
                let mut rows: [*const u8; K] = std::array::from_fn(|k| from.add(x * S * channels + k * call.row));
                let starts: [__m512i; 4] = std::array::from_fn(|r| line(lines, r));
                let mut sums = [starts; TOGETHER];
                let mut last = [zero; 4]; // of the fifth row, up to four columns
                each!(C in [0 1 2 3 4 5 6 7 8 9 10] {
                    if C < reach {
                        let of = |row: usize| load::<W>(rows[row], apart);
                        let fourth = if K == 5 { of(3) } else { zero };
                        let column = interleave(of(0), of(1), of(2), fourth);
                        each!(I in [0 1 2 3] {
                            if (I * S..I * S + K).contains(&C) {
                                let taps = lines.add(8 + 4 * (C - I * S));
                                for r in 0..4 {
                                    sums[I][r] = _mm512_dpbusd_epi32(sums[I][r], column[r], line(taps, r));
                                }
                            }
                        });
                        if K == 5 {
                            if C.is_multiple_of(4) {
                                last = [zero; 4];
                            }
                            last[C % 4] = of(K - 1);
                            if C % 4 == 3 || C + 1 == reach {
                                let four = interleave(last[0], last[1], last[2], last[3]);
                                let group = C / 4;
                                each!(I in [0 1 2 3] {
                                    let (step, shift) = (I * S / 4, I * S % 4);
                                    if group == step || group == step + 1 {
                                        let taps = lines.add(8 + 4 * (K + 2 * shift + group - step));
                                        for r in 0..4 {
                                            sums[I][r] = _mm512_dpbusd_epi32(sums[I][r], four[r], line(taps, r));
                                        }
                                    }
                                });
                            }
                        }
                        rows = rows.map(|row| row.wrapping_add(channels));
                    }
                });
                let scales: [__m512i; 4] = std::array::from_fn(|r| line(lines, 4 + r));
                let zero_point = _mm512_set1_epi16(call.zero_point);
                for (i, sum) in sums.iter().enumerate() {
                    let bytes = pack(std::array::from_fn(|r| rescale(sum[r], scales[r])), zero_point);
                    let exists = |sharer: usize| x + i + sharer * TOGETHER < call.outputs;
                    let place = |sharer: usize| to.wrapping_add((x + i + sharer * TOGETHER) * channels);
                    match W {
                        64 => {
                            if exists(0) {
                                _mm512_storeu_si512(place(0).cast(), bytes);
                            }
                        }
                        32 => {
                            if exists(0) {
                                _mm256_storeu_si256(place(0).cast(), _mm512_castsi512_si256(bytes));
                            }
                            if exists(1) {
                                _mm256_storeu_si256(place(1).cast(), _mm512_extracti64x4_epi64::<1>(bytes));
                            }
                        }
                        _ => {
                            let quarters = [
                                _mm512_castsi512_si128(bytes),
                                _mm512_extracti32x4_epi32::<1>(bytes),
                                _mm512_extracti32x4_epi32::<2>(bytes),
                                _mm512_extracti32x4_epi32::<3>(bytes),
                            ];
                            for (sharer, &quarter) in quarters.iter().enumerate() {
                                if exists(sharer) {
                                    _mm_storeu_si128(place(sharer).cast(), quarter);
                                }
                            }
                        }
                    }
                }
            }
            x += TOGETHER * 64 / W;
        }
    }
}
