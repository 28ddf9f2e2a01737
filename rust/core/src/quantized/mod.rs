//! Blocks of an 8-bit convolutional network: expand, depthwise convolution, project, sum.
//!
//! A general runtime computes a block's layers one after the other: each writes its whole map and the next reads it, and
//! the depthwise ones use a fraction of each register. Here a thread walks a band of rows through the whole block, so that
//! what lies between stays in its cache, and four taps of a depthwise kernel go into each lane of the inner product of
//! 8-bit numbers (AVX-512 VNNI). The numbers are those of ONNX's QLinearConv and QLinearAdd as onnxruntime computes them on
//! x86-64, to the bit: sums are integers, and `round(sum · scale)` is one float32 product, rounded to even.
//!
//! Tensors are uint8, (batch, height, width, channels).

mod block;
mod depthwise;
mod heatmap;
mod pointwise;
mod pool;
mod stem;
mod sum;

use crate::error::{Error, Result};

pub use block::{Block, Depthwise, First};
pub use heatmap::Heatmap;
pub use pool::AveragePool;
pub use sum::ResizeAdd;

/// Calls a function once for each of so many parts, on whatever threads.
pub trait Parallel: Sync {
    /// Calls `work` with 0 … `parts` − 1, each once, and returns when all have returned.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
pub struct Sequential;

impl Parallel for Sequential {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(work);
    }
}

/// Whether this processor can run the kernels: AVX-512 with VNNI.
pub fn supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Scale and zero point of a uint8 tensor: its numbers mean `scale · (q − zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// Greater than 0.
    pub scale: f32,
    /// What means 0.
    pub zero_point: u8,
}

/// Weights of a convolution by ONNX, (outputs, inputs of a group, rows, columns), and how its result is rounded.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// As many as outputs · inputs of a group · rows · columns.
    pub weight: Vec<i8>,
    /// One for each output.
    pub weight_scale: Vec<f32>,
    /// In units of the input's scale times the weight's; one for each output.
    pub bias: Vec<i32>,
    /// Of the result.
    pub output: Quantization,
}

impl Convolution {
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Checks the lengths; returns the weights per output.
    fn taps(&self, name: &'static str) -> Result<usize> {
        let outputs = self.outputs();
        let fits = outputs > 0 && self.weight_scale.len() == outputs && self.weight.len().is_multiple_of(outputs);
        if !fits || self.weight.is_empty() {
            return Err(Error::value(
                name,
                format!("{} weights, {} scales, {outputs} biases", self.weight.len(), self.weight_scale.len()),
                "as many scales as biases, and a multiple of weights",
            ));
        }
        Ok(self.weight.len() / outputs)
    }

    /// What the sums of products are multiplied by, and what they start from: the bias less what the input's zero point
    /// adds to each.
    fn rescaling(&self, input: Quantization, taps: usize) -> (Vec<f32>, Vec<i32>) {
        let scale = self.weight_scale.iter().map(|w| input.scale * w / self.output.scale).collect();
        let start = self.weight.chunks_exact(taps).zip(&self.bias).map(|(weights, bias)| {
            let sum: i32 = weights.iter().map(|&w| i32::from(w)).sum();
            bias.wrapping_sub(sum.wrapping_mul(i32::from(input.zero_point)))
        });
        (scale, start.collect())
    }
}

/// A cache line, and a register.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Line {
    const ZERO: Self = Self([0; 64]);

    fn of_ints(values: [i32; 16]) -> Self {
        Self(bytemuck::cast(values))
    }

    fn of_floats(values: [f32; 16]) -> Self {
        Self(bytemuck::cast(values))
    }
}

/// The order of 64 channels in four registers from which `pack` makes 64 bytes in their natural order: register j has in
/// its lane l (four numbers of 32 bits) the channels 16 l + 4 j … 16 l + 4 j + 3.
fn interleaved(register: usize, place: usize) -> usize {
    16 * (place / 4) + 4 * register + place % 4
}

/// Memory of a thread.
struct Scratch {
    lines: Vec<Line>,
    /// What a block has left in it.
    carried: Option<block::Carried>,
}

impl Scratch {
    /// So many bytes. They are as the last user left them, who may have taken note of that in `carried`.
    fn bytes(&mut self, count: usize) -> &mut [u8] {
        self.carried = None;
        let lines = count.div_ceil(64);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::ZERO);
        }
        bytemuck::cast_slice_mut(&mut self.lines[..lines])
    }
}

fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Scratch> =
            const { std::cell::RefCell::new(Scratch { lines: Vec::new(), carried: None }) };
    }
    SCRATCH.with_borrow_mut(work)
}

/// Disjoint pieces of one output, written by several threads.
struct Output {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: `piece` hands out parts of a slice that is borrowed mutably for as long as the threads run; who calls it sees to
// it that no two parts overlap.
unsafe impl Sync for Output {}

impl Output {
    fn new(values: &mut [u8]) -> Self {
        Self { start: values.as_mut_ptr(), bytes: values.len() }
    }

    /// # Safety
    /// No other piece that is alive overlaps this one, and the slice of `new` is still borrowed.
    #[allow(clippy::mut_from_ref)]
    unsafe fn piece(&self, from: usize, bytes: usize) -> &mut [u8] {
        assert!(from.checked_add(bytes).is_some_and(|end| end <= self.bytes));
        // SAFETY: within the slice, by the line above; disjoint and alive, by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), bytes) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Line;

    /// A register of line `index`.
    ///
    /// # Safety
    /// `lines` has more than `index` lines.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn line(lines: *const Line, index: usize) -> __m512i {
        // SAFETY: inside, by this function's contract; lines are aligned.
        unsafe { _mm512_load_si512(lines.add(index).cast()) }
    }

    /// `round(sum · scale)`, to even.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn rescale(sum: __m512i, scale: __m512i) -> __m512i {
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_castsi512_ps(scale)))
    }

    /// 64 numbers in the order of `interleaved`, plus the zero point, saturated to bytes in their natural order.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn pack(values: [__m512i; 4], zero_point: __m512i) -> __m512i {
        let low = _mm512_adds_epi16(_mm512_packs_epi32(values[0], values[1]), zero_point);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(values[2], values[3]), zero_point);
        _mm512_packus_epi16(low, high)
    }
}
