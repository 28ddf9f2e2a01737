//! First convolution: pixels to the first map, at half the resolution.

use super::pointwise::{Pointwise, Source, Target};
use super::{Convolution, Output, Parallel, Quantization, with_scratch};
use crate::error::{Error, Result};

/// Rows of outputs that a thread does at once.
const BAND: usize = 16;
/// Rows of the kernel; columns, in cells.
const ROWS: usize = 3;
const CELLS: usize = 2;

/// Convolution over cells of neighbouring pixels of a row: kernel 3 × 2 cells, stride 2 rows and 1 cell, padding one row
/// below and one cell to the right. A cell gives several outputs of the row at once.
pub struct Stem {
    product: Pointwise,
    channels: usize,
    padding: u8,
}

impl Stem {
    /// `channels` numbers of uint8 make a cell; the weights are (outputs, channels, 3, 2).
    ///
    /// # Errors
    /// Weights of another shape, or channels that are no multiple of 4.
    pub fn new(input: Quantization, channels: usize, convolution: &Convolution) -> Result<Self> {
        let taps = convolution.taps("stem")?;
        if taps != channels * ROWS * CELLS || !channels.is_multiple_of(4) {
            return Err(Error::value("stem", format!("{taps} weights an output"), format!("{channels} · 3 · 2")));
        }
        let mut ordered = convolution.clone();
        for (to, from) in ordered.weight.chunks_exact_mut(taps).zip(convolution.weight.chunks_exact(taps)) {
            for (place, weight) in to.iter_mut().enumerate() {
                let (row, cell, channel) = (place / (CELLS * channels), place / channels % CELLS, place % channels);
                *weight = from[(channel * ROWS + row) * CELLS + cell];
            }
        }
        Ok(Self { product: Pointwise::new(&ordered, input, "stem")?, channels, padding: input.zero_point })
    }

    /// Outputs of a cell.
    pub fn outputs(&self) -> usize {
        self.product.outputs
    }

    /// Cells of a row of `width` pixels of `channels` numbers, and pixels of a cell.
    ///
    /// # Errors
    /// The row cannot be cut into cells, or a cell has an odd number of pixels.
    pub fn cells(&self, (width, channels): (usize, usize)) -> Result<(usize, usize)> {
        let across = self.channels / channels.max(1);
        if across % 2 == 1 || across * channels != self.channels || !width.is_multiple_of(across) {
            let got = format!("{width} pixels of {channels} channels");
            return Err(Error::value(
                "input",
                got,
                format!("cells of {} numbers, an even number of pixels", self.channels),
            ));
        }
        Ok((width / across, across))
    }

    /// (batch, height, cells, channels) to (batch, height / 2, cells, outputs).
    ///
    /// # Errors
    /// Lengths do not fit, or the height is odd.
    pub fn run(
        &self,
        input: &[u8],
        (batch, height, cells): (usize, usize, usize),
        output: &mut [u8],
        parallel: &dyn Parallel,
    ) -> Result<()> {
        let (row, rows) = (cells * self.channels, height / 2);
        let wanted = (batch * height * row, batch * rows * cells * self.product.outputs);
        if height % 2 == 1 || (input.len(), output.len()) != wanted {
            return Err(Error::shape(
                "input",
                format!("{} bytes in, {} out, height {height}", input.len(), output.len()),
                format!("{} in, {} out, an even height", wanted.0, wanted.1),
            ));
        }
        let bands = rows.div_ceil(BAND);
        let written = Output::new(output);
        parallel.run(batch * bands, &|part| {
            let (image, band) = (part / bands, part % bands);
            let (from, to) = (band * BAND, rows.min((band + 1) * BAND));
            let padded = row + self.channels;
            let read = 2 * (to - from) + 1;
            with_scratch((read * padded).div_ceil(64), |scratch| {
                let scratch: &mut [u8] = bytemuck::cast_slice_mut(scratch);
                for (k, copy) in scratch.chunks_exact_mut(padded).take(read).enumerate() {
                    let y = 2 * from + k;
                    copy.fill(self.padding);
                    if y < height {
                        copy[..row].copy_from_slice(&input[(image * height + y) * row..][..row]);
                    }
                }
                let size = cells * self.product.outputs;
                // SAFETY: each part has its own rows of its own image.
                let output = unsafe { written.piece((image * rows + from) * size, (to - from) * size) };
                let source = Source { pixel: self.channels, segments: ROWS, segment: padded };
                for (k, output) in output.chunks_exact_mut(size).enumerate() {
                    let target = Target { width: cells, pixel: self.product.outputs, row: size };
                    self.product.run(&scratch[2 * k * padded..], source, cells, output, target);
                }
            });
        });
        Ok(())
    }
}
