//! Triangles sorted into bands of rows, so that a band meets only its own.

use super::kernel::{self, Corner, Facet};

/// The facets of one run of a mesh that are to be drawn, and which of them each band needs.
#[derive(Debug, Default)]
pub(super) struct Bins {
    facets: Vec<Facet>,
    /// Positions in `facets`, band after band, ascending within each.
    positions: Vec<u32>,
    /// Where each band starts in `positions`, and the end.
    starts: Vec<u32>,
}

impl Bins {
    /// Sorts `triangles`, whose numbers start at `number`.
    pub(super) fn new(
        triangles: &[[i32; 3]],
        corners: &[Corner],
        number: usize,
        size: [usize; 2],
        band_rows: usize,
    ) -> Self {
        let side = size.map(|side| side as i32);
        // Every triangle is written, and overwritten by the next one unless it is to be drawn: no branch to mispredict.
        let mut facets = vec![Facet::default(); triangles.len() + 1];
        let mut bands = vec![[0u16; 2]; triangles.len() + 1];
        let mut count = 0;
        for (i, triangle) in triangles.iter().enumerate() {
            let (facet, rows, drawn) = kernel::facet(corners, triangle, (number + i + 1) as i32, side);
            facets[count] = facet;
            bands[count] = rows.map(|row| (row as usize / band_rows) as u16);
            count += usize::from(drawn);
        }
        let bands: Vec<_> =
            bands[..count].iter().map(|&[first, last]| usize::from(first)..=usize::from(last)).collect();
        facets.truncate(count);

        let mut starts = vec![0; size[1].div_ceil(band_rows) + 1];
        for range in &bands {
            for start in &mut starts[range.start() + 1..=range.end() + 1] {
                *start += 1;
            }
        }
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut positions = vec![0; total as usize];
        let mut next = starts.clone();
        for (position, range) in bands.into_iter().enumerate() {
            for next in &mut next[range] {
                positions[*next as usize] = position as u32;
                *next += 1;
            }
        }
        Self { facets, positions, starts }
    }

    /// The facets of a band, in ascending order.
    pub(super) fn band(&self, band: usize) -> impl Iterator<Item = &Facet> {
        let positions = &self.positions[self.starts[band] as usize..self.starts[band + 1] as usize];
        positions.iter().map(|&p| &self.facets[p as usize])
    }
}
