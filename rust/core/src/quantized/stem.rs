//! First convolution of a network: pixels to the first map, at half the resolution, row by row.

use std::ops::Range;

use super::pointwise::{Pointwise, Source, Target};
use super::{Convolution, Quantization};
use crate::error::{Error, Result};

/// Rows of the kernel; columns, in cells.
const ROWS: usize = 3;
const CELLS: usize = 2;

/// `First::Stem`, packed.
pub(super) struct Stem {
    product: Pointwise,
    channels: usize,
    pixels: usize,
    padding: u8,
}

impl Stem {
    /// # Errors
    /// Weights of another shape, channels that are no multiple of 4, outputs that are none of `pixels`.
    pub(super) fn new(input: Quantization, convolution: &Convolution, pixels: usize) -> Result<Self> {
        let taps = convolution.taps("stem")?;
        let channels = taps / (ROWS * CELLS);
        let fits = taps == channels * ROWS * CELLS && channels.is_multiple_of(4) && pixels > 0;
        if !fits || !convolution.outputs().is_multiple_of(pixels) {
            let got = format!("{taps} weights each of {} outputs, {pixels} pixels a cell", convolution.outputs());
            return Err(Error::value(
                "stem",
                got,
                "channels · 3 · 2 weights, outputs that are a multiple of the pixels",
            ));
        }
        let mut ordered = convolution.clone();
        for (to, from) in ordered.weight.chunks_exact_mut(taps).zip(convolution.weight.chunks_exact(taps)) {
            for (place, weight) in to.iter_mut().enumerate() {
                let (row, cell, channel) = (place / (CELLS * channels), place / channels % CELLS, place % channels);
                *weight = from[(channel * ROWS + row) * CELLS + cell];
            }
        }
        Ok(Self { product: Pointwise::new(&ordered, input, "stem")?, channels, pixels, padding: input.zero_point })
    }

    /// Channels of a cell.
    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// Pixels of the map that a cell gives.
    pub(super) fn pixels(&self) -> usize {
        self.pixels
    }

    /// Channels of the map.
    pub(super) fn outputs(&self) -> usize {
        self.product.outputs / self.pixels
    }

    /// Bytes of memory that `fill` needs for rows of so many cells.
    pub(super) fn scratch(&self, cells: usize) -> usize {
        (ROWS * (cells + 1) * self.channels).next_multiple_of(64)
    }

    /// Writes rows of the map, the first to the start of `output`, `bytes` apart. The input has `height` rows of `cells`.
    pub(super) fn fill(
        &self,
        input: &[u8],
        (height, cells): (usize, usize),
        rows: Range<usize>,
        output: &mut [u8],
        bytes: usize,
        scratch: &mut [u8],
    ) {
        let row = cells * self.channels;
        let padded = row + self.channels;
        let source = Source { pixel: self.channels, segments: ROWS, segment: padded };
        for (y, output) in rows.zip(output.chunks_mut(bytes)) {
            for (k, copy) in scratch.chunks_exact_mut(padded).take(ROWS).enumerate() {
                copy[row..].fill(self.padding);
                match input.get((2 * y + k) * row..(2 * y + k + 1) * row) {
                    Some(given) if 2 * y + k < height => copy[..row].copy_from_slice(given),
                    _ => copy[..row].fill(self.padding),
                }
            }
            let size = self.product.outputs;
            self.product.run(scratch, source, cells, output, Target { width: cells, pixel: size, row: cells * size });
        }
    }
}
