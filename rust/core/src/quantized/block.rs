//! A block: expand (or the first convolution of a network), depthwise convolution, project, sum; or a part of it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::depthwise::Kernel;
use super::pointwise::{Pointwise, Source, Target};
use super::stem::Stem;
use super::sum::Sum;
use super::{Convolution, Output, Parallel, Quantization, Scratch, with_scratch};
use crate::error::{Error, Result};

/// Bytes of padded rows that a thread holds: half of a small second-level cache.
const HELD: usize = 256 << 10;
/// Pixels of a part of a pointwise convolution alone.
const PART: usize = 128;
/// Rows of a part of a map, of a small one half of them: a thread that goes on with the next part keeps the rows that both
/// need.
const BAND: usize = 8;

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

/// What comes before the depthwise convolution.
#[derive(Clone, Copy, Debug)]
pub enum First<'a> {
    /// Nothing: it reads the input.
    Nothing,
    /// A pointwise convolution.
    Expand(&'a Convolution),
    /// A first convolution over cells of neighbouring pixels: kernel 3 × 2 cells, stride 2 rows and 1 cell, padding one row
    /// below and one cell to the right; weights (outputs, channels of a cell, 3, 2). A cell gives several pixels of the row.
    Stem {
        /// Its weights.
        convolution: &'a Convolution,
        /// Pixels that a cell gives.
        pixels: usize,
    },
}

/// Convolutions that follow each other, done together.
pub struct Block {
    channels: usize,
    before: Before,
    middle: Option<Middle>,
    project: Pointwise,
    sum: Option<Sum>,
}

enum Before {
    Nothing,
    Expand(Pointwise),
    Stem(Stem),
}

struct Middle {
    kernel: Kernel,
    pads: [usize; 4],
    padding: u8,
}

/// A map of the batch that is computed: its input, sizes before and after the depthwise convolution.
#[derive(Clone, Copy)]
struct Map<'a> {
    input: &'a [u8],
    /// Rows and columns of the input.
    given: (usize, usize),
    /// Of what the depthwise convolution reads.
    height: usize,
    width: usize,
    /// Of the output.
    columns: usize,
}

/// Padded rows in a thread's scratch memory that the next part can use.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Carried {
    /// Number of the call, image, and row of the output that comes next.
    next: (u64, usize, usize),
    /// How many rows.
    ready: usize,
}

/// Padded rows that are to be filled: their first is number `begin`, counted from the top of the padding.
#[derive(Clone, Copy)]
struct Rows {
    begin: usize,
    count: usize,
    /// Rows of padding above the map.
    top: usize,
    /// Bytes of padding left of it.
    left: usize,
    padding: u8,
    /// Bytes from one to the next.
    bytes: usize,
}

impl Block {
    /// Puts a block together; `sum` is the quantization of the sum with the input.
    ///
    /// # Errors
    /// The convolutions do not fit to each other, or are of a kind that the kernels do not know.
    pub fn new(
        input: Quantization,
        first: First,
        depthwise: Option<&Depthwise>,
        project: &Convolution,
        sum: Option<Quantization>,
    ) -> Result<Self> {
        let (before, between, given) = match first {
            First::Nothing => (Before::Nothing, input, None),
            First::Expand(expand) => {
                let packed = Pointwise::new(expand, input, "expand")?;
                let widths = (packed.inputs, packed.outputs);
                (Before::Expand(packed), expand.output, Some(widths))
            }
            First::Stem { convolution, pixels } => {
                let stem = Stem::new(input, convolution, pixels)?;
                let widths = (stem.channels(), stem.outputs());
                (Before::Stem(stem), convolution.output, Some(widths))
            }
        };
        let middle = depthwise
            .map(|given| -> Result<Middle> {
                let kernel = Kernel::new(&given.convolution, given.stride, between)?;
                Ok(Middle { kernel, pads: given.pads, padding: between.zero_point })
            })
            .transpose()?;
        let last = Pointwise::new(project, depthwise.map_or(between, |given| given.convolution.output), "project")?;
        let through = middle.as_ref().map_or(last.inputs, |middle| middle.kernel.channels);
        let (channels, produced) = given.unwrap_or((through, through));
        let fits = last.inputs == through && produced == through;
        let alone = middle.is_some() || given.is_none();
        let same = sum.is_none()
            || (channels == last.outputs
                && depthwise.is_none_or(|given| given.stride == 1)
                && !matches!(before, Before::Stem(_)));
        if !(fits && alone && same) {
            return Err(Error::value(
                "block",
                "convolutions that do not fit to each other",
                "one's outputs as the next's inputs",
            ));
        }
        let sum = sum.map(|output| Sum::new(project.output, input, output));
        Ok(Self { channels, before, middle, project: last, sum })
    }

    /// Channels of the input (of a cell, with a stem) and of the output.
    pub fn channels(&self) -> (usize, usize) {
        (self.channels, self.project.outputs)
    }

    /// Columns of `channels` numbers that a row of `width` pixels of `given` channels has: cells, with a stem.
    ///
    /// # Errors
    /// They do not fit.
    pub fn columns(&self, width: usize, given: usize) -> Result<usize> {
        let cells = matches!(self.before, Before::Stem(_)) && (width * given).is_multiple_of(self.channels);
        if given == self.channels || cells {
            return Ok(width * given / self.channels);
        }
        Err(Error::shape("input", format!("{width} pixels of {given} channels"), format!("{} channels", self.channels)))
    }

    /// Rows and columns of what the depthwise convolution reads.
    fn inner(&self, (height, width): (usize, usize)) -> (usize, usize) {
        match &self.before {
            Before::Stem(stem) => (height / 2, width * stem.pixels()),
            _ => (height, width),
        }
    }

    /// Rows and columns of the output for those of the input.
    pub fn size(&self, given: (usize, usize)) -> (usize, usize) {
        let (height, width) = self.inner(given);
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
        static CALLS: AtomicU64 = AtomicU64::new(0);
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
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let (inner_height, inner_width) = self.inner((height, width));
        let bands = if rows < BAND { 1 } else { rows.div_ceil(BAND).max(2) };
        let (size, given) = (columns * self.project.outputs, height * width * self.channels);
        parallel.run(batch * bands, &|part| {
            let (image, band) = (part / bands, part % bands);
            let (from, to) = (band * rows / bands, (band + 1) * rows / bands);
            // SAFETY: each part has its own rows of its own image.
            let output = unsafe { written.piece((image * rows + from) * size, (to - from) * size) };
            let input = &input[image * given..][..given];
            let map = Map { input, given: (height, width), height: inner_height, width: inner_width, columns };
            with_scratch(|scratch| self.band(middle, map, (call, image, from), output, scratch));
        });
        Ok(())
    }

    /// Some rows of one map, from row `at.2` of the output on.
    fn band(&self, middle: &Middle, map: Map, at: (u64, usize, usize), output: &mut [u8], scratch: &mut Scratch) {
        let Middle { kernel, pads: [top, left, _, right], padding } = middle;
        let (channels, stride, columns) = (kernel.channels, kernel.stride, map.columns);
        let line = columns * self.project.outputs;
        let first = at.2;
        // Padded rows. What the kernel reads beyond the padding is of results that are not used.
        let bytes = ((left + map.width + right).max(kernel.padded(columns)) * channels).next_multiple_of(64);
        let together = (HELD.saturating_sub(kernel.size * bytes) / (stride * bytes) + 1).min(BAND);
        let held = ((together - 1) * stride + kernel.size) * bytes;
        let between = (together * columns * channels).next_multiple_of(64);
        let own = if let Before::Stem(stem) = &self.before { stem.scratch(map.given.1) } else { 0 };
        let carried = scratch.carried.take().filter(|carried| carried.next == at);
        let (above, rest) = scratch.bytes(held + between + own).split_at_mut(held);
        let (between, own) = rest.split_at_mut(between);
        let mut ready = carried.map_or(0, |carried| carried.ready); // padded rows that are there already
        if carried.is_none() {
            for row in above.chunks_exact_mut(bytes) {
                row[..left * channels].fill(*padding);
                row[(left + map.width) * channels..][..right * channels].fill(*padding);
            }
        }
        for (k, output) in output.chunks_mut(together * line).enumerate() {
            let rows = output.len() / line;
            let begin = (first + k * together) * stride; // in padded rows, of which `top` are above the map
            let read = (rows - 1) * stride + kernel.size;
            let new = Rows {
                begin: begin + ready,
                count: read - ready,
                top: *top,
                left: left * channels,
                padding: *padding,
                bytes,
            };
            self.fill(map, new, &mut above[ready * bytes..read * bytes], own);
            kernel.run(above, bytes, rows, columns, between);
            self.project.run_dense(between, rows * columns, output);
            if let Some(sum) = &self.sum {
                let row = map.width * self.channels;
                sum.run(output, &map.input[(first + k * together) * row..][..rows * row]);
            }
            ready = read.saturating_sub(rows * stride);
            above.copy_within(rows * stride * bytes..(rows * stride + ready) * bytes, 0);
        }
        scratch.carried = Some(Carried { next: (at.0, at.1, first + output.len() / line), ready });
    }

    /// Fills padded rows: the input, expanded, and padding above and below.
    fn fill(&self, map: Map, new: Rows, rows: &mut [u8], own: &mut [u8]) {
        let Rows { begin, count, top, left, padding, bytes } = new;
        let end = begin + count;
        let (from, to) = (top.clamp(begin, end), (top + map.height).clamp(begin, end)); // those that the map has
        rows[..(from - begin) * bytes].fill(padding);
        rows[(to - begin) * bytes..].fill(padding);
        if from >= to {
            return;
        }
        let inside = &mut rows[(from - begin) * bytes + left..];
        let row = map.given.1 * self.channels;
        let given = || &map.input[(from - top) * row..(to - top) * row];
        match &self.before {
            Before::Stem(stem) => stem.fill(map.input, map.given, from - top..to - top, inside, bytes, own),
            Before::Expand(expand) => {
                let source = Source { pixel: self.channels, segments: 1, segment: 0 };
                let target = Target { width: map.width, pixel: expand.outputs, row: bytes };
                expand.run(given(), source, (to - from) * map.width, inside, target);
            }
            Before::Nothing => {
                for (copy, given) in inside.chunks_mut(bytes).zip(given().chunks_exact(row)) {
                    copy[..row].copy_from_slice(given);
                }
            }
        }
    }
}
