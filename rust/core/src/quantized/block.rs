//! A block: expand, depthwise convolution, project, sum; or a part of it.

use super::depthwise::Kernel;
use super::pointwise::{Pointwise, Source, Target};
use super::sum::Sum;
use super::{Convolution, Output, Parallel, Quantization, with_scratch};
use crate::error::{Error, Result};

/// Bytes of padded rows that a thread holds: half of a small second-level cache.
const HELD: usize = 256 << 10;
/// Pixels of a part of a pointwise convolution alone.
const PART: usize = 1024;

/// A depthwise convolution and where it stands.
#[derive(Clone, Debug)]
pub struct Depthwise {
    /// Weights (channels, 1, size, size).
    pub convolution: Convolution,
    /// 1 or 2.
    pub stride: usize,
    /// Rows and columns of padding: top, left, bottom, right.
    pub pads: [usize; 4],
}

/// Convolutions that follow each other, done together.
pub struct Block {
    channels: usize,
    expand: Option<Pointwise>,
    middle: Option<Middle>,
    project: Pointwise,
    sum: Option<Sum>,
}

struct Middle {
    kernel: Kernel,
    pads: [usize; 4],
    padding: u8,
}

/// Sizes of a batch of maps.
#[derive(Clone, Copy)]
struct Extent {
    height: usize,
    width: usize,
    columns: usize,
}

/// Padded rows that are held: their first is number `begin`, counted from the top of the padding.
#[derive(Clone, Copy)]
struct Held {
    begin: usize,
    /// Rows of padding above the map.
    top: usize,
    /// Bytes of padding left of it.
    left: usize,
    padding: u8,
    /// Bytes from one to the next.
    row: usize,
}

impl Block {
    /// Puts a block together; `sum` is the quantization of the sum with the input.
    ///
    /// # Errors
    /// The convolutions do not fit to each other, or are of a kind that the kernels do not know.
    pub fn new(
        input: Quantization,
        expand: Option<&Convolution>,
        depthwise: Option<&Depthwise>,
        project: &Convolution,
        sum: Option<Quantization>,
    ) -> Result<Self> {
        let before = expand.map_or(input, |expand| expand.output);
        let packed = expand.map(|expand| Pointwise::new(expand, input, "expand")).transpose()?;
        let middle = depthwise
            .map(|given| -> Result<Middle> {
                let kernel = Kernel::new(&given.convolution, given.stride, before)?;
                Ok(Middle { kernel, pads: given.pads, padding: before.zero_point })
            })
            .transpose()?;
        let last = Pointwise::new(project, depthwise.map_or(before, |given| given.convolution.output), "project")?;
        let through = middle.as_ref().map_or(last.inputs, |middle| middle.kernel.channels);
        let fits = last.inputs == through && packed.as_ref().is_none_or(|expand| expand.outputs == through);
        let channels = packed.as_ref().map_or(through, |expand| expand.inputs);
        let alone = middle.is_some() || packed.is_none();
        let same = sum.is_none() || (channels == last.outputs && depthwise.is_none_or(|given| given.stride == 1));
        if !(fits && alone && same) {
            return Err(Error::value(
                "block",
                "convolutions that do not fit to each other",
                "one's outputs as the next's inputs",
            ));
        }
        let sum = sum.map(|output| Sum::new(project.output, input, output));
        Ok(Self { channels, expand: packed, middle, project: last, sum })
    }

    /// Channels of the input and of the output.
    pub fn channels(&self) -> (usize, usize) {
        (self.channels, self.project.outputs)
    }

    /// Rows and columns of the output for those of the input.
    pub fn size(&self, (height, width): (usize, usize)) -> (usize, usize) {
        match &self.middle {
            None => (height, width),
            Some(Middle { kernel, pads: [top, left, bottom, right], .. }) => {
                let along =
                    |n: usize, pad: usize| (n + pad + kernel.stride).saturating_sub(kernel.size) / kernel.stride;
                (along(height, top + bottom), along(width, left + right))
            }
        }
    }

    /// (batch, height, width, channels) to (batch, rows, columns, outputs).
    ///
    /// # Errors
    /// Lengths do not fit.
    pub fn run(
        &self,
        input: &[u8],
        (batch, height, width): (usize, usize, usize),
        output: &mut [u8],
        parallel: &dyn Parallel,
    ) -> Result<()> {
        let (rows, columns) = self.size((height, width));
        let wanted = (batch * height * width * self.channels, batch * rows * columns * self.project.outputs);
        let reaches = self.sum.is_none() || (rows, columns) == (height, width);
        if (input.len(), output.len()) != wanted || !reaches {
            return Err(Error::shape(
                "input",
                format!("{} bytes in, {} out", input.len(), output.len()),
                format!("{} in, {} out", wanted.0, wanted.1),
            ));
        }
        if output.is_empty() {
            return Ok(());
        }
        let written = Output::new(output);
        let Some(middle) = &self.middle else {
            let pixels = batch * height * width;
            parallel.run(pixels.div_ceil(PART), &|part| {
                let (from, to) = (part * PART, pixels.min((part + 1) * PART));
                // SAFETY: each part has its own pixels.
                let output = unsafe { written.piece(from * self.project.outputs, (to - from) * self.project.outputs) };
                let input = &input[from * self.channels..to * self.channels];
                self.project.run_dense(input, to - from, output);
                if let Some(sum) = &self.sum {
                    sum.run(output, input);
                }
            });
            return Ok(());
        };
        let extent = Extent { height, width, columns };
        let bands = bands(rows);
        parallel.run(batch * bands, &|part| {
            let (image, band) = (part / bands, part % bands);
            let (from, to) = (band * rows / bands, (band + 1) * rows / bands);
            let size = columns * self.project.outputs;
            // SAFETY: each part has its own rows of its own image.
            let output = unsafe { written.piece((image * rows + from) * size, (to - from) * size) };
            let input = &input[image * height * width * self.channels..][..height * width * self.channels];
            self.band(middle, input, extent, from, output);
        });
        Ok(())
    }

    /// Some rows of one map, from row `first` of the output on.
    fn band(&self, middle: &Middle, input: &[u8], extent: Extent, first: usize, output: &mut [u8]) {
        let Middle { kernel, pads: [top, left, _, _], padding } = middle;
        let Extent { height, width, columns } = extent;
        let (channels, stride) = (kernel.channels, kernel.stride);
        let line = columns * self.project.outputs;
        let count = output.len() / line;
        // Padded rows: what the kernel reads beside the map is padding, or of results that are not used.
        let padded = ((left + width).max(kernel.padded(columns)) * channels).next_multiple_of(64);
        let most = HELD.saturating_sub(kernel.size * padded) / (stride * padded) + 1;
        let together = most.min(count);
        let held = (together - 1) * stride + kernel.size;
        let middle_bytes = (together * columns * channels).next_multiple_of(64);
        with_scratch((held * padded + middle_bytes) / 64, |scratch| {
            let scratch: &mut [u8] = bytemuck::cast_slice_mut(scratch);
            let (above, between) = scratch.split_at_mut(held * padded);
            for row in above.chunks_exact_mut(padded) {
                row[..left * channels].fill(*padding);
                row[(left + width) * channels..].fill(*padding);
            }
            let mut ready = 0; // padded rows that are there already
            for (k, output) in output.chunks_mut(together * line).enumerate() {
                let rows = output.len() / line;
                let begin = (first + k * together) * stride; // in padded rows, of which `top` are above the map
                let read = (rows - 1) * stride + kernel.size;
                let held =
                    Held { begin: begin + ready, top: *top, left: left * channels, padding: *padding, row: padded };
                self.fill(input, (height, width), held, &mut above[ready * padded..read * padded]);
                kernel.run(above, padded, rows, columns, between);
                self.project.run_dense(between, rows * columns, output);
                if let Some(sum) = &self.sum {
                    let row = width * self.channels;
                    sum.run(output, &input[(first + k * together) * row..][..rows * row]);
                }
                ready = read.saturating_sub(rows * stride);
                above.copy_within(rows * stride * padded..(rows * stride + ready) * padded, 0);
            }
        });
    }

    /// Fills padded rows: the input, expanded, and padding above and below.
    fn fill(&self, input: &[u8], (height, width): (usize, usize), held: Held, rows: &mut [u8]) {
        let Held { begin, top, left, padding, row: padded } = held;
        let end = begin + rows.len() / padded;
        let (from, to) = (top.clamp(begin, end), (top + height).clamp(begin, end)); // those that the map has
        rows[..(from - begin) * padded].fill(padding);
        rows[(to - begin) * padded..].fill(padding);
        if from >= to {
            return;
        }
        let inside = &mut rows[(from - begin) * padded + left..];
        let row = width * self.channels;
        let input = &input[(from - top) * row..(to - top) * row];
        if let Some(expand) = &self.expand {
            let source = Source { pixel: self.channels, segments: 1, segment: 0 };
            let target = Target { width, pixel: expand.outputs, row: padded };
            expand.run(input, source, (to - from) * width, inside, target);
        } else {
            for (copy, given) in inside.chunks_mut(padded).zip(input.chunks_exact(row)) {
                copy[..row].copy_from_slice(given);
            }
        }
    }
}

/// Parts of a map of so many rows: each begins with rows that the one before has computed, too.
fn bands(rows: usize) -> usize {
    match rows {
        0..=7 => 1,
        8..=47 => 2,
        48..=95 => 4,
        _ => 8,
    }
}
