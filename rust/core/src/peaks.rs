//! Heatmap → peaks (METHOD.md, peaks).

use crate::check;
use crate::error::{Error, Result};

/// A cell of the heatmap that is a face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Row of the map.
    pub row: usize,
    /// Column of the map.
    pub column: usize,
    /// Value there.
    pub score: f32,
}

/// The cells of a `(height, width)` heatmap that are at least `threshold` and not below any cell of the `window` × `window`
/// cells around them, best score first, then by row and column. Equal neighbours within a window of each other are one peak,
/// the first of them by row and column.
///
/// # Errors
/// A length that does not fit, a non-finite value, an even or zero window.
pub fn find_peaks(heatmap: &[f32], size: [usize; 2], threshold: f32, window: usize) -> Result<Vec<Peak>> {
    let [height, width] = size;
    check::length("heatmap", heatmap.len(), height * width, "cells")?;
    check::finite("heatmap", heatmap)?;
    if !threshold.is_finite() {
        return Err(Error::value("threshold", threshold, "a finite number"));
    }
    if window.is_multiple_of(2) {
        return Err(Error::value("window", window, "an odd number of cells"));
    }
    let map = Map { values: heatmap, height, width, reach: window / 2 };
    // Maxima in reading order; ties are joined to the first one that reaches them.
    let mut maxima = Vec::new();
    for (cell, &score) in heatmap.iter().enumerate() {
        if score >= threshold && map.around(cell).all(|other| heatmap[other] <= score) {
            maxima.push(cell);
        }
    }
    let mut peaks: Vec<_> = map.without_ties(&maxima).into_iter().map(|cell| map.peak(cell)).collect();
    peaks.sort_by(|p, q| q.score.total_cmp(&p.score).then((p.row, p.column).cmp(&(q.row, q.column))));
    Ok(peaks)
}

/// The centres `(x, y)` of cells (row, column) with sides of `stride` network pixels.
pub fn cell_centers(cells: &[[i32; 2]], stride: f32) -> Vec<[f32; 2]> {
    cells.iter().map(|&[row, column]| [(column as f32 + 0.5) * stride, (row as f32 + 0.5) * stride]).collect()
}

/// The cells of a window around each of `cells` (row, column), as far as they are on a `(height, width)` map, and the number
/// of the cell that each belongs to: each cell's own window in reading order, one after the other.
///
/// # Errors
/// A cell outside the map, an even or zero window.
pub fn neighbourhoods(
    cells: &[[i32; 2]],
    [height, width]: [usize; 2],
    window: usize,
) -> Result<(Vec<[i32; 2]>, Vec<i32>)> {
    if window.is_multiple_of(2) {
        return Err(Error::value("window", window, "an odd number of cells"));
    }
    check::cells("cells", cells, [height, width])?;
    let reach = (window / 2) as i32;
    let side =
        |at: i32, count: usize| (at.saturating_sub(reach)).max(0)..=at.saturating_add(reach).min(count as i32 - 1);
    let (mut around, mut owner) = (Vec::with_capacity(9 * cells.len()), Vec::with_capacity(9 * cells.len()));
    for (number, &[row, column]) in cells.iter().enumerate() {
        for row in side(row, height) {
            around.extend(side(column, width).map(|column| [row, column]));
        }
        owner.resize(around.len(), number as i32);
    }
    Ok((around, owner))
}

struct Map<'a> {
    values: &'a [f32],
    height: usize,
    width: usize,
    reach: usize,
}

impl Map<'_> {
    /// The window around a cell, cut to the map.
    fn around(&self, cell: usize) -> impl Iterator<Item = usize> {
        let (row, column) = (cell / self.width, cell % self.width);
        let rows = row.saturating_sub(self.reach)..(row + self.reach + 1).min(self.height);
        let columns = column.saturating_sub(self.reach)..(column + self.reach + 1).min(self.width);
        rows.flat_map(move |r| columns.clone().map(move |c| r * self.width + c))
    }

    /// The first cell of every group of equal maxima that a chain of windows connects. `maxima` ascends.
    fn without_ties(&self, maxima: &[usize]) -> Vec<usize> {
        let mut seen = vec![false; maxima.len()];
        let mut first = Vec::new();
        for (i, &cell) in maxima.iter().enumerate() {
            if seen[i] {
                continue;
            }
            first.push(cell);
            let mut open = vec![cell];
            while let Some(cell) = open.pop() {
                for other in self.around(cell).filter(|&o| self.values[o] == self.values[cell]) {
                    if let Ok(j) = maxima.binary_search(&other)
                        && !seen[j]
                    {
                        seen[j] = true;
                        open.push(other);
                    }
                }
            }
        }
        first
    }

    fn peak(&self, cell: usize) -> Peak {
        Peak { row: cell / self.width, column: cell % self.width, score: self.values[cell] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(peaks: &[Peak]) -> Vec<(usize, usize)> {
        peaks.iter().map(|p| (p.row, p.column)).collect()
    }

    #[test]
    fn best_first_then_by_row_and_column() {
        let (height, width) = (7, 20);
        let mut map = vec![0.1; height * width];
        for (row, column, score) in [(0, 19, 0.7), (6, 0, 0.9), (3, 9, 0.7), (3, 3, 0.7), (3, 13, 0.49)] {
            map[row * width + column] = score;
        }
        let peaks = find_peaks(&map, [height, width], 0.5, 5).unwrap();
        assert_eq!(cells(&peaks), [(6, 0), (0, 19), (3, 3), (3, 9)]);
        assert_eq!(peaks[0].score, 0.9);
    }

    #[test]
    fn a_higher_cell_in_the_window_hides_a_lower_one() {
        let mut map = vec![0.0; 9 * 9];
        (map[4 * 9 + 4], map[4 * 9 + 6], map[2 * 9 + 2], map[4 * 9 + 1]) = (0.9, 0.8, 0.85, 0.6);
        assert_eq!(cells(&find_peaks(&map, [9, 9], 0.5, 5).unwrap()), [(4, 4)]);
        assert_eq!(cells(&find_peaks(&map, [9, 9], 0.5, 3).unwrap()), [(4, 4), (2, 2), (4, 6), (4, 1)]);
    }

    #[test]
    fn ties_are_one_peak_however_long() {
        // A V whose arms start far from each other and meet below.
        let (height, width) = (8, 16);
        let mut map = vec![0.0; height * width];
        for i in 0..7 {
            map[i * width + i] = 0.8;
            map[i * width + 13 - i] = 0.8;
        }
        assert_eq!(cells(&find_peaks(&map, [height, width], 0.5, 3).unwrap()), [(0, 0)]);
        assert_eq!(cells(&find_peaks(&[0.6; 12], [3, 4], 0.5, 5).unwrap()), [(0, 0)]);
    }

    #[test]
    fn centres_are_x_and_y() {
        assert_eq!(cell_centers(&[[0, 3], [2, 1]], 8.0), [[28.0, 4.0], [12.0, 20.0]]);
    }

    #[test]
    fn windows_end_at_the_edge_of_the_map() {
        let (around, owner) = neighbourhoods(&[[0, 3], [2, 1]], [4, 4], 3).unwrap();
        assert_eq!(owner, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(around[..5], [[0, 2], [0, 3], [1, 2], [1, 3], [1, 0]]);
        assert_eq!(around[12], [3, 2]);
        assert_eq!(neighbourhoods(&[[2, 1]], [4, 4], 1).unwrap(), (vec![[2, 1]], vec![0]));
        let message = neighbourhoods(&[[4, 1]], [4, 4], 3).unwrap_err().to_string();
        assert_eq!(message, "'cells' has cell (4, 1), expected cells of a map of 4 rows and 4 columns");
        assert!(neighbourhoods(&[], [4, 4], 2).is_err());
    }

    #[test]
    fn an_empty_map_has_no_peaks() {
        assert_eq!(find_peaks(&[], [0, 5], 0.5, 5).unwrap(), []);
        assert_eq!(find_peaks(&[0.2; 4], [2, 2], 0.5, 5).unwrap(), []);
    }

    #[test]
    fn bad_input_is_named() {
        let message = |r: Result<Vec<Peak>>| r.unwrap_err().to_string();
        assert_eq!(message(find_peaks(&[0.0], [1, 1], 0.5, 4)), "'window' has 4, expected an odd number of cells");
        assert_eq!(
            message(find_peaks(&[0.0, f32::NAN], [1, 2], 0.5, 3)),
            "'heatmap' has a non-finite value at flat index 1, expected finite values"
        );
    }
}
