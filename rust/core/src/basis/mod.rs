//! A linear basis, packed so that one walk over it serves all faces.
//!
//! Rows (vertex · 3 + axis) are cut into blocks of [`ROWS`]; within a block the columns follow each other, so that the
//! kernel reads memory once, in order, and keeps one accumulator per face and row in registers. Storage is float16,
//! arithmetic float32, and every row is summed in the order of the columns, whatever the instruction set, the number of
//! faces or of threads.
//!
//! Against a row-major product (one dot product per row and face) this saves the horizontal sums; against a float32 basis
//! half of the memory traffic, which is what one face costs.

mod kernel;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::Result;
use crate::parallel;
pub(crate) use kernel::ROWS;
use kernel::{Block, Isa};

/// Blocks that one thread takes at a time: whole points of three rows, and whole fours of them.
const BLOCKS_PER_PART: usize = 30;

/// `mean + basis · coefficients` for any number of faces.
#[derive(Debug)]
pub(crate) struct PackedBasis {
    rows: usize,
    columns: usize,
    /// Padded with zeros to whole blocks.
    mean: Vec<[f32; ROWS]>,
    /// Column c of block b is element `b · columns + c`.
    blocks: Vec<Block>,
}

impl PackedBasis {
    /// Packs `groups` of columns, each `(rows, k)` row-major, side by side. The caller has checked the lengths.
    pub(crate) fn new(mean: &[f32], groups: &[(&[f16], usize)]) -> Self {
        let rows = mean.len();
        let columns = groups.iter().map(|g| g.1).sum();
        let count = rows.div_ceil(ROWS);
        let mut packed = Self {
            rows,
            columns,
            mean: vec![[0.0; ROWS]; count],
            blocks: vec![Block([f16::ZERO; ROWS]); count * columns],
        };
        for (row, &value) in mean.iter().enumerate() {
            let (block, lane) = (row / ROWS, row % ROWS);
            packed.mean[block][lane] = value;
            let mut column = block * columns;
            for &(values, k) in groups {
                for &v in &values[row * k..(row + 1) * k] {
                    packed.blocks[column].0[lane] = v;
                    column += 1;
                }
            }
        }
        packed
    }

    /// The basis restricted to `rows`.
    pub(crate) fn select(&self, rows: impl ExactSizeIterator<Item = usize>) -> Self {
        let count = rows.len();
        let blocks = count.div_ceil(ROWS);
        let mut out = Self {
            rows: count,
            columns: self.columns,
            mean: vec![[0.0; ROWS]; blocks],
            blocks: vec![Block([f16::ZERO; ROWS]); blocks * self.columns],
        };
        let rows: Vec<_> = rows.collect();
        for (block, rows) in rows.chunks(ROWS).enumerate() {
            for (lane, row) in rows.iter().enumerate() {
                out.mean[block][lane] = self.mean[row / ROWS][row % ROWS];
            }
            // Column by column: rows that were neighbours are read from one place.
            for (column, to) in out.blocks[block * self.columns..].iter_mut().take(self.columns).enumerate() {
                for (lane, row) in rows.iter().enumerate() {
                    to.0[lane] = self.blocks[row / ROWS * self.columns + column].0[row % ROWS];
                }
            }
        }
        out
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Faces that are decoded in one go.
    pub(crate) fn most_faces() -> usize {
        Isa::detect().faces()
    }

    /// One row, without the mean.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let columns = &self.blocks[row / ROWS * self.columns..][..self.columns];
        columns.iter().map(move |block| block.0[row % ROWS].to_f32())
    }

    /// Rows of a block: the mean, and each column.
    pub(crate) fn block(&self, block: usize) -> (&[f32; ROWS], impl Iterator<Item = [f32; ROWS]>) {
        let columns = &self.blocks[block * self.columns..(block + 1) * self.columns];
        let column = |block: &Block| {
            let mut out = [0.0; ROWS];
            block.0.convert_to_f32_slice(&mut out);
            out
        };
        (&self.mean[block], columns.iter().map(column))
    }

    /// One block of one face. `coefficients` is `(columns,)`.
    pub(crate) fn decoded_block(&self, block: usize, coefficients: &[f32]) -> [f32; ROWS] {
        let mut sums = [[0.0; ROWS]];
        let columns = &self.blocks[block * self.columns..(block + 1) * self.columns];
        kernel::block(Isa::detect(), &self.mean[block], columns, coefficients, &mut sums);
        sums[0]
    }

    /// Few rows of F faces, `(faces, rows)`, on the calling thread. `coefficients` is `(faces, columns)`.
    pub(crate) fn decoded(&self, coefficients: &[f32], faces: usize) -> Vec<f32> {
        let mut out = vec![0.0; faces * self.rows];
        let isa = Isa::detect();
        let mut outputs: Vec<_> = out.chunks_mut(self.rows.max(1)).collect();
        self.write(isa, &self.groups(coefficients, faces, isa.faces()), 0, &mut outputs);
        out
    }

    /// Writes face f, all rows, to `outputs[f]`. `coefficients` is `(faces, columns)`; the caller has checked both.
    pub(crate) fn decode(&self, coefficients: &[f32], outputs: &mut [&mut [f32]], threads: usize) -> Result<()> {
        self.decode_with(Isa::detect(), coefficients, outputs, threads, |_, _| ())
    }

    /// [`Self::decode`], then calls `finish` with the number of the face and some of its rows, as long as they are in the
    /// cache. Where rows are points of three, these are whole points.
    pub(crate) fn decode_and(
        &self,
        coefficients: &[f32],
        outputs: &mut [&mut [f32]],
        threads: usize,
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<()> {
        self.decode_with(Isa::detect(), coefficients, outputs, threads, finish)
    }

    fn decode_with(
        &self,
        isa: Isa,
        coefficients: &[f32],
        outputs: &mut [&mut [f32]],
        threads: usize,
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<()> {
        if outputs.is_empty() {
            return Ok(());
        }
        let groups = self.groups(coefficients, outputs.len(), isa.faces());
        let mut faces: Vec<_> = outputs.iter_mut().map(|o| o[..self.rows].chunks_mut(BLOCKS_PER_PART * ROWS)).collect();
        let parts = std::iter::from_fn(|| faces.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>()).enumerate();
        parallel::for_each(threads, parts, |(part, mut outputs)| {
            self.write(isa, &groups, part * BLOCKS_PER_PART, &mut outputs);
            outputs.iter_mut().enumerate().for_each(|(face, rows)| finish(face, rows));
        })
    }

    /// Writes blocks from `first` on, as many as the outputs have rows for.
    fn write(&self, isa: Isa, groups: &[Group], first: usize, outputs: &mut [&mut [f32]]) {
        let blocks = outputs.first().map_or(0, |o| o.len().div_ceil(ROWS));
        for block in first..first + blocks {
            let columns = &self.blocks[block * self.columns..(block + 1) * self.columns];
            let start = (block - first) * ROWS;
            let mut face = 0;
            for group in groups {
                let mut sums = [[0.0; ROWS]; kernel::MAX_FACES];
                let sums = &mut sums[..group.faces];
                kernel::block(isa, &self.mean[block], columns, &group.coefficients, sums);
                for (sum, output) in sums.iter().zip(&mut outputs[face..]) {
                    let output = &mut output[start..];
                    let n = output.len().min(ROWS);
                    output[..n].copy_from_slice(&sum[..n]);
                }
                face += group.faces;
            }
        }
    }

    /// Faces in groups that fit the registers, coefficients turned so that one column's are neighbours.
    fn groups(&self, coefficients: &[f32], faces: usize, most: usize) -> Vec<Group> {
        let count = faces.div_ceil(most);
        let mut first = 0;
        let group = |i: usize| {
            let last = faces * (i + 1) / count;
            let range = first..last;
            first = last;
            let turned = (0..self.columns).flat_map(|c| range.clone().map(move |f| coefficients[f * self.columns + c]));
            Group { faces: range.len(), coefficients: turned.collect() }
        };
        (0..count).map(group).collect()
    }
}

/// The coefficients of a few faces, `(columns, faces)`.
struct Group {
    faces: usize,
    coefficients: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn decode(basis: &PackedBasis, isa: Isa, coefficients: &[f32], faces: usize, threads: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; faces * basis.rows];
        let mut outputs: Vec<_> = out.chunks_mut(basis.rows.max(1)).collect();
        basis.decode_with(isa, coefficients, &mut outputs, threads, |_, _| ()).unwrap();
        out
    }

    proptest! {
        #[test]
        fn every_instruction_set_agrees_with_float64(
            rows in 1usize..200, first in 0usize..9, second in 0usize..5, faces in 0usize..30, seed: u32
        ) {
            let columns = first + second;
            let mean = numbers(rows, seed);
            let half = |v: Vec<f32>| v.into_iter().map(f16::from_f32).collect::<Vec<_>>();
            let (a, b) = (half(numbers(rows * first, seed ^ 1)), half(numbers(rows * second, seed ^ 2)));
            let coefficients = numbers(faces * columns, seed ^ 3);
            let basis = PackedBasis::new(&mean, &[(&a, first), (&b, second)]);
            for isa in Isa::available() {
                let one = decode(&basis, isa, &coefficients, faces, 1);
                for face in 0..faces {
                    for row in 0..rows {
                        let column = |c: usize| if c < first { a[row * first + c] } else { b[row * second + c - first] };
                        let sum: f64 = (0..columns)
                            .map(|c| f64::from(column(c)) * f64::from(coefficients[face * columns + c]))
                            .sum();
                        let expected = f64::from(mean[row]) + sum;
                        prop_assert!((f64::from(one[face * rows + row]) - expected).abs() < 1e-5, "{isa:?}");
                    }
                }
                for threads in [2, 5] {
                    prop_assert_eq!(&decode(&basis, isa, &coefficients, faces, threads), &one);
                }
            }
        }
    }

    #[test]
    fn faces_do_not_depend_on_their_neighbours() {
        let (rows, columns, faces) = (100, 7, 27);
        let values: Vec<_> = numbers(rows * columns, 5).into_iter().map(f16::from_f32).collect();
        let basis = PackedBasis::new(&numbers(rows, 6), &[(&values, columns)]);
        let coefficients = numbers(faces * columns, 7);
        for isa in Isa::available() {
            let all = decode(&basis, isa, &coefficients, faces, 1);
            for face in 0..faces {
                let alone = decode(&basis, isa, &coefficients[face * columns..][..columns], 1, 1);
                assert_eq!(alone, all[face * rows..][..rows]);
            }
        }
    }

    #[test]
    fn selected_rows_are_those_of_the_whole() {
        let (rows, columns) = (90, 5);
        let values: Vec<_> = numbers(rows * columns, 5).into_iter().map(f16::from_f32).collect();
        let basis = PackedBasis::new(&numbers(rows, 6), &[(&values, columns)]);
        let picked = [77usize, 3, 3, 40];
        let coefficients = numbers(columns, 9);
        let all = decode(&basis, Isa::detect(), &coefficients, 1, 1);
        let some = decode(&basis.select(picked.iter().copied()), Isa::detect(), &coefficients, 1, 1);
        assert_eq!(some, picked.map(|r| all[r]));
    }
}
