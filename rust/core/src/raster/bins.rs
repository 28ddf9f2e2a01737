//! Triangles sorted into bands of rows, so that a band meets only its own.

use super::BAND_ROWS;
use super::kernel::{self, Corner, Facet, LANES};

/// The triangles of one run of a mesh that are to be drawn, and which of them each band needs.
#[derive(Default)]
pub(super) struct Bins {
    /// In the order of the triangles.
    facets: Vec<Facet>,
    /// Positions in `facets`, band after band, ascending within each.
    positions: Vec<u32>,
    /// Where each band starts in `positions`, and the end.
    starts: Vec<u32>,
}

impl Bins {
    /// Sorts a run of triangles of a face, `first` = the face and the run's first triangle.
    pub(super) fn new(triangles: &[[i32; 3]], corners: &[Corner], first: [usize; 2], size: [usize; 2]) -> Self {
        let side = size.map(|side| side as i32);
        // Every position is written, and overwritten by the next one unless the triangle is to be drawn: no branch to
        // mispredict, where the answers are as good as random.
        let mut drawn = vec![0; triangles.len() + 1];
        let mut count = 0;
        let mut keep = |position: usize, bit: u32| {
            drawn[count] = position as u32;
            count += (bit & 1) as usize;
        };
        let (fours, rest) = triangles.as_chunks::<LANES>();
        for (k, four) in fours.iter().enumerate() {
            let bits = kernel::drawn(corners, four, side);
            (0..LANES).for_each(|l| keep(k * LANES + l, bits >> l));
        }
        for (k, triangle) in rest.iter().enumerate() {
            keep(fours.len() * LANES + k, u32::from(kernel::is_drawn(corners, triangle, side)));
        }
        let facet = |&position: &u32| {
            let ids = [first[0] as i32, first[1] as i32 + position as i32];
            Facet::new(corners, &triangles[position as usize], ids)
        };
        let facets: Vec<_> = drawn[..count].iter().map(facet).collect();

        let bands = |facet: &Facet| {
            let [y0, y1] = facet.rows(side);
            y0 / BAND_ROWS..=y1 / BAND_ROWS
        };
        let mut starts = vec![0; size[1].div_ceil(BAND_ROWS) + 1];
        for facet in &facets {
            starts[bands(facet)].iter_mut().for_each(|start| *start += 1);
        }
        // From the number in each band to the end of each, which filling from behind turns into the start.
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut positions = vec![0; total as usize];
        for (position, facet) in facets.iter().enumerate().rev() {
            for start in &mut starts[bands(facet)] {
                *start -= 1;
                positions[*start as usize] = position as u32;
            }
        }
        Self { facets, positions, starts }
    }

    #[inline(always)]
    pub(super) fn facet(&self, position: usize) -> &Facet {
        &self.facets[position]
    }

    /// The facets of a band with their positions, in ascending order.
    pub(super) fn band(&self, band: usize) -> impl Iterator<Item = (usize, &Facet)> {
        let positions = &self.positions[self.starts[band] as usize..self.starts[band + 1] as usize];
        positions.iter().map(|&p| (p as usize, &self.facets[p as usize]))
    }
}
