//! Last layers of the heatmap: a pointwise convolution to 8 bits, and a dot product in float32.

use super::pointwise::Pointwise;
use super::{Convolution, Output, Parallel, Quantization, with_scratch};
use crate::error::{Error, Result};

/// Pixels of a part.
const PART: usize = 512;

/// Logits of a map: what is to be passed through a sigmoid.
pub struct Heatmap {
    hidden: Pointwise,
    quantization: Quantization,
    weight: Vec<f32>,
    bias: f32,
}

impl Heatmap {
    /// # Errors
    /// There are not as many weights as the convolution has outputs, or those are no multiple of 4.
    pub fn new(input: Quantization, hidden: &Convolution, weight: Vec<f32>, bias: f32) -> Result<Self> {
        let product = Pointwise::new(hidden, input, "hidden")?;
        if weight.len() != product.outputs || !weight.len().is_multiple_of(4) {
            let wanted = format!("{}, a multiple of 4", product.outputs);
            return Err(Error::shape("weight", weight.len(), wanted));
        }
        Ok(Self { hidden: product, quantization: hidden.output, weight, bias })
    }

    /// Channels of the input.
    pub fn channels(&self) -> usize {
        self.hidden.inputs
    }

    /// (pixels, channels) to (pixels): `bias + Σ scale (q − zero_point) w`, channel after channel, each product and sum
    /// rounded once.
    ///
    /// # Errors
    /// Lengths do not fit.
    pub fn run(&self, input: &[u8], output: &mut [f32], parallel: &dyn Parallel) -> Result<()> {
        let (pixels, outputs) = (output.len(), self.hidden.outputs);
        if input.len() != pixels * self.hidden.inputs {
            return Err(Error::shape("input", input.len(), pixels * self.hidden.inputs));
        }
        if pixels == 0 {
            return Ok(());
        }
        let written = Output::new(bytemuck::cast_slice_mut(output));
        parallel.run(pixels.div_ceil(PART), &|part| {
            let (from, to) = (part * PART, pixels.min((part + 1) * PART));
            with_scratch(|scratch| {
                let hidden = scratch.bytes(PART * outputs);
                self.hidden.run_dense(&input[from * self.hidden.inputs..to * self.hidden.inputs], to - from, hidden);
                // SAFETY: each part has its own pixels, four bytes each.
                let output = unsafe { written.piece(4 * from, 4 * (to - from)) };
                assert!(super::supported());
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor has the instructions.
                unsafe {
                    x86::dot(self, hidden, bytemuck::cast_slice_mut(output));
                }
            });
        });
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Heatmap;

    /// `hidden` has at least as many pixels as `output`, rounded up to 16.
    #[target_feature(enable = "avx512f")]
    pub(super) fn dot(heatmap: &Heatmap, hidden: &[u8], output: &mut [f32]) {
        let channels = heatmap.weight.len();
        assert!(hidden.len() >= output.len().next_multiple_of(16) * channels);
        let places = _mm512_mullo_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            _mm512_set1_epi32(channels as i32),
        );
        let zero_point = _mm512_set1_epi32(i32::from(heatmap.quantization.zero_point));
        let scale = _mm512_set1_ps(heatmap.quantization.scale);
        let byte = _mm512_set1_epi32(255);
        for (k, output) in output.chunks_mut(16).enumerate() {
            let mut sum = _mm512_setzero_ps();
            for (four, weights) in heatmap.weight.chunks_exact(4).enumerate() {
                // SAFETY: 16 pixels from 16 k on are there, by the assertion above, and four channels of each.
                let mut values = unsafe {
                    _mm512_i32gather_epi32::<1>(places, hidden.as_ptr().add(16 * k * channels + 4 * four).cast())
                };
                for &weight in weights {
                    let value = _mm512_sub_epi32(_mm512_and_si512(values, byte), zero_point);
                    let value = _mm512_mul_ps(_mm512_cvtepi32_ps(value), scale);
                    sum = _mm512_fmadd_ps(value, _mm512_set1_ps(weight), sum);
                    values = _mm512_srli_epi32::<8>(values);
                }
            }
            let sum = _mm512_add_ps(sum, _mm512_set1_ps(heatmap.bias));
            // SAFETY: as many numbers are written as the chunk has.
            unsafe { _mm512_mask_storeu_ps(output.as_mut_ptr(), 0xffff_u16 >> (16 - output.len()), sum) };
        }
    }
}
