//! Mean of two by two pixels.

use super::{Output, Parallel, Quantization};
use crate::error::{Error, Result};

/// Means of 2 × 2 pixels; what lies beyond the right or lower edge of an odd map counts as 0.
pub struct AveragePool {
    /// What the bytes of the input mean.
    values: [f32; 256],
    output: Quantization,
}

impl AveragePool {
    /// Quantizations of the input and of the output.
    pub fn new(input: Quantization, output: Quantization) -> Self {
        let of = |q: usize| (q as f32 - f32::from(input.zero_point)) * input.scale;
        Self { values: std::array::from_fn(of), output }
    }

    /// (batch, height, width, channels) to (batch, ⌈height / 2⌉, ⌈width / 2⌉, channels).
    ///
    /// # Errors
    /// Lengths do not fit.
    pub fn run(
        &self,
        input: &[u8],
        [batch, height, width, channels]: [usize; 4],
        output: &mut [u8],
        parallel: &dyn Parallel,
    ) -> Result<()> {
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        let wanted = (batch * height * width * channels, batch * rows * columns * channels);
        if (input.len(), output.len()) != wanted {
            let got = format!("{} bytes in, {} out", input.len(), output.len());
            return Err(Error::shape("input", got, format!("{} in, {} out", wanted.0, wanted.1)));
        }
        if output.is_empty() {
            return Ok(());
        }
        let written = Output::new(output);
        parallel.run(batch * rows, &|part| {
            let (image, y) = (part / rows, 2 * (part % rows));
            // SAFETY: each part has its own row.
            let output = unsafe { written.piece(part * columns * channels, columns * channels) };
            for (x, pixel) in output.chunks_exact_mut(channels).enumerate() {
                let at = |row: usize, column: usize| {
                    let inside = row < height && column < width;
                    inside.then(|| &input[((image * height + row) * width + column) * channels..][..channels])
                };
                let four = [at(y, 2 * x), at(y, 2 * x + 1), at(y + 1, 2 * x), at(y + 1, 2 * x + 1)];
                for (channel, mean) in pixel.iter_mut().enumerate() {
                    let sum = four.iter().flatten().fold(0.0, |sum, of| sum + self.values[usize::from(of[channel])]);
                    let value = sum / 4.0 / self.output.scale + f32::from(self.output.zero_point);
                    *mean = value.round_ties_even().clamp(0.0, 255.0) as u8;
                }
            }
        });
        Ok(())
    }
}
