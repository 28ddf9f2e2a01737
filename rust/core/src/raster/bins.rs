//! Triangles sorted into bands of rows, so that a band meets only its own.

use super::kernel::{self, Corner};

/// The visible triangles of one run of a mesh, by band, in ascending order within each.
#[derive(Debug, Default)]
pub(super) struct Bins {
    /// Triangle numbers, band after band.
    numbers: Vec<u32>,
    /// Where each band starts in `numbers`, and the end.
    starts: Vec<u32>,
}

/// A triangle and the bands that it touches.
struct Entry {
    number: u32,
    first: u16,
    last: u16,
}

impl Bins {
    /// Sorts `triangles`, whose numbers start at `number`.
    pub(super) fn sort(
        &mut self,
        triangles: &[[i32; 3]],
        corners: &[Corner],
        number: usize,
        size: [usize; 2],
        band_rows: usize,
        bands: usize,
    ) {
        let size = size.map(|side| side as i32);
        let mut entries = Vec::with_capacity(triangles.len());
        self.starts = vec![0; bands + 1];
        for (i, triangle) in triangles.iter().enumerate() {
            if let Some((y0, y1)) = kernel::rows(kernel::corners_of(corners, triangle), size) {
                let (first, last) = (y0 as usize / band_rows, y1 as usize / band_rows);
                entries.push(Entry { number: (number + i) as u32, first: first as u16, last: last as u16 });
                for band in first..=last {
                    self.starts[band + 1] += 1;
                }
            }
        }
        for band in 0..bands {
            self.starts[band + 1] += self.starts[band];
        }
        self.numbers = vec![0; self.starts[bands] as usize];
        let mut next = self.starts.clone();
        for entry in entries {
            for next in &mut next[usize::from(entry.first)..=usize::from(entry.last)] {
                self.numbers[*next as usize] = entry.number;
                *next += 1;
            }
        }
    }

    pub(super) fn band(&self, band: usize) -> &[u32] {
        &self.numbers[self.starts[band] as usize..self.starts[band + 1] as usize]
    }
}
