//! Triangles sorted into bands of rows, so that a band meets only its own.

use super::BAND_ROWS;
use super::facet::{self, Corner, Facet, Large, TOGETHER};
use crate::simd::{Kernel, Lanes};

/// The triangles of one run of a mesh that are to be drawn, and which of them each band needs.
#[derive(Default)]
pub(super) struct Bins {
    /// In the order of the triangles.
    facets: Vec<Facet>,
    /// Those whose facets say so.
    large: Vec<Large>,
    /// Positions in `facets`, band after band, ascending within each.
    positions: Vec<u32>,
    /// Where each band starts in `positions`, and the end.
    starts: Vec<u32>,
}

/// Fills the bins with a run of triangles of a face.
pub(super) struct Sort<'a> {
    pub(super) bins: &'a mut Bins,
    pub(super) triangles: &'a [[i32; 3]],
    pub(super) corners: &'a [Corner],
    /// The face and the run's first triangle.
    pub(super) first: [usize; 2],
    /// Width and height of the image.
    pub(super) size: [usize; 2],
}

impl Kernel for Sort<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { bins, triangles, corners, first, size } = self;
        bins.prepare(triangles, corners, first, size.map(|side| side as i32));
        bins.sort(size[1]);
    }
}

impl Bins {
    #[inline(always)]
    fn prepare(&mut self, triangles: &[[i32; 3]], corners: &[Corner], first: [usize; 2], size: [i32; 2]) {
        let ids = |position: usize| [first[0] as i32, (first[1] + position) as i32];
        // About half of a face looks away; memory for the rest would be cleared in vain.
        self.facets.reserve(triangles.len() / 2 + TOGETHER);
        let (fours, rest) = triangles.as_chunks::<TOGETHER>();
        for (k, four) in fours.iter().enumerate() {
            let position = k * TOGETHER;
            match facet::prepare(corners, four, ids(position), size) {
                Some((0, _)) => {}
                Some((drawn, facets)) => {
                    // Each is appended, and overwritten by the next one unless it is to be drawn: no branch to mispredict,
                    // where the answers are as good as random.
                    for (l, facet) in facets.into_iter().enumerate() {
                        let count = self.facets.len() + (drawn >> l & 1) as usize;
                        self.facets.push(facet);
                        self.facets.truncate(count);
                    }
                }
                None => (0..TOGETHER).for_each(|l| self.push(corners, four[l], ids(position + l), size)),
            }
        }
        for (k, &triangle) in rest.iter().enumerate() {
            self.push(corners, triangle, ids(fours.len() * TOGETHER + k), size);
        }
    }

    fn push(&mut self, corners: &[Corner], triangle: [i32; 3], ids: [i32; 2], size: [i32; 2]) {
        if let Some((facet, large)) = facet::prepare_one(corners, triangle, ids, size, self.large.len()) {
            self.facets.push(facet);
            self.large.extend(large);
        }
    }

    #[inline(always)]
    fn sort(&mut self, height: usize) {
        let bands = |facet: &Facet| {
            let [_, _, y0, y1] = facet.pixel_box();
            y0 / BAND_ROWS..=y1 / BAND_ROWS
        };
        self.starts = vec![0; height.div_ceil(BAND_ROWS) + 1];
        for facet in &self.facets {
            for start in &mut self.starts[bands(facet)] {
                *start += 1;
            }
        }
        // From the number in each band to the end of each, which filling from behind turns into the start.
        let mut total = 0;
        for start in &mut self.starts {
            total += *start;
            *start = total;
        }
        self.positions = vec![0; total as usize];
        for (position, facet) in self.facets.iter().enumerate().rev() {
            for start in &mut self.starts[bands(facet)] {
                *start -= 1;
                self.positions[*start as usize] = position as u32;
            }
        }
    }

    #[inline(always)]
    pub(super) fn facet(&self, position: usize) -> &Facet {
        &self.facets[position]
    }

    #[inline(always)]
    pub(super) fn large(&self, position: usize) -> &Large {
        &self.large[position]
    }

    /// The facets of a band with their positions, in ascending order.
    #[inline(always)]
    pub(super) fn band(&self, band: usize) -> impl Iterator<Item = (usize, &Facet)> {
        let positions = &self.positions[self.starts[band] as usize..self.starts[band + 1] as usize];
        positions.iter().map(|&p| (p as usize, &self.facets[p as usize]))
    }
}
