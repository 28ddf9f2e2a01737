//! Rows of the encoder's coefficient map (CONVENTIONS.md §4), read at the peaks only.

use crate::check;
use crate::error::{Error, Result};

/// The rows `(P, channels)` of a `(channels, height, width)` map at `cells` (row, column).
///
/// # Errors
/// A length that does not fit, a cell outside the map.
pub fn gather_coefficients(map: &[f32], [channels, height, width]: [usize; 3], cells: &[[i32; 2]]) -> Result<Vec<f32>> {
    check::length("coefficients", map.len(), channels * height * width, "values")?;
    check::cells("peaks", cells, [height, width])?;
    let plane = height * width;
    let row = |&[row, column]: &[i32; 2]| {
        let cell = row as usize * width + column as usize;
        (0..channels).map(move |c| map[c * plane + cell])
    };
    Ok(cells.iter().flat_map(row).collect())
}

/// The values `(M, channels)` of a `(height, width, channels)` map at `cells` (row, column).
///
/// # Errors
/// As [`gather_coefficients`].
pub fn gather_features(map: &[u8], [height, width, channels]: [usize; 3], cells: &[[i32; 2]]) -> Result<Vec<u8>> {
    check::length("features", map.len(), height * width * channels, "values")?;
    check::cells("cells", cells, [height, width])?;
    let mut out = Vec::with_capacity(cells.len() * channels);
    for &[row, column] in cells {
        let first = (row as usize * width + column as usize) * channels;
        out.extend_from_slice(&map[first..first + channels]);
    }
    Ok(out)
}

/// The means `(P, columns)` of the rows `(M, columns)` that the cells `around` each of the P peaks hold for its face, as seen from
/// the peak: lateral offsets, column `offsets` (x) and the next (y), count from a row's own cell.
///
/// `owner` names the peak of each row and ascends; `stride` is the side of a cell, network pixels.
///
/// # Errors
/// A length that does not fit, an owner that is no peak or out of order, a peak without a row, columns without the
/// offsets.
pub fn averaged_rows(
    (rows, columns): (&[f32], usize),
    cells: &[[i32; 2]],
    (around, owner): (&[[i32; 2]], &[i32]),
    stride: f32,
    offsets: usize,
) -> Result<Vec<f32>> {
    check::length("rows", rows.len(), around.len() * columns, "values")?;
    check::length("owner", owner.len(), around.len(), "rows")?;
    if offsets + 2 > columns {
        return Err(Error::value("offsets", offsets, format!("two columns of {columns}")));
    }
    let mut out = vec![0.0; cells.len() * columns];
    let mut first = 0;
    for (peak, (&cell, mean)) in cells.iter().zip(out.chunks_mut(columns)).enumerate() {
        let count = owner[first..].iter().take_while(|&&o| usize::try_from(o) == Ok(peak)).count();
        if count == 0 {
            return Err(Error::value("owner", format!("no row of peak {peak}"), "the rows of each peak in turn"));
        }
        for k in first..first + count {
            for (sum, &value) in mean.iter_mut().zip(&rows[k * columns..(k + 1) * columns]) {
                *sum += value;
            }
            let [row, column] = around[k];
            mean[offsets] += stride * (column - cell[1]) as f32;
            mean[offsets + 1] += stride * (row - cell[0]) as f32;
        }
        for value in mean {
            *value /= count as f32;
        }
        first += count;
    }
    if first < owner.len() {
        return Err(Error::value("owner", format!("peak {}", owner[first]), "the rows of each peak in turn"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_at_the_cells() {
        let (channels, height, width) = (3, 2, 5);
        let map: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let rows = gather_coefficients(&map, [channels, height, width], &[[1, 4], [0, 2]]).unwrap();
        assert_eq!(rows, [9.0, 19.0, 29.0, 2.0, 12.0, 22.0]);
        let message = gather_coefficients(&map, [3, 2, 5], &[[0, -1]]).unwrap_err().to_string();
        assert_eq!(message, "'peaks' has cell (0, -1), expected cells of a map of 2 rows and 5 columns");
    }

    #[test]
    fn features_are_read_at_the_cells() {
        let map: Vec<u8> = (0..30).collect();
        let rows = gather_features(&map, [2, 5, 3], &[[1, 4], [0, 2], [1, 4]]).unwrap();
        assert_eq!(rows, [27, 28, 29, 6, 7, 8, 27, 28, 29]);
        let message = gather_features(&map, [2, 5, 3], &[[0, 5]]).unwrap_err().to_string();
        assert_eq!(message, "'cells' has cell (0, 5), expected cells of a map of 2 rows and 5 columns");
        assert!(gather_features(&map[1..], [2, 5, 3], &[]).is_err());
    }

    #[test]
    fn offsets_count_from_the_peak_before_the_mean() {
        let rows = [1.0, 10.0, 20.0, 5.0, 3.0, 2.0, 20.0, 7.0, 9.0, 1.0, 1.0, 1.0];
        let cells = [[4, 6], [2, 2]];
        let around = [[4, 6], [3, 7], [2, 2]]; // the second cell lies a cell to the right and a cell above
        let mean = averaged_rows((&rows, 4), &cells, (&around, &[0, 0, 1]), 8.0, 1).unwrap();
        assert_eq!(mean, [2.0, 10.0, 16.0, 6.0, 9.0, 1.0, 1.0, 1.0]);
        for owner in [[0, 1, 0], [0, 0, 0], [0, 0, 2], [-1, 0, 1]] {
            let message = averaged_rows((&rows, 4), &cells, (&around, &owner), 8.0, 1).unwrap_err().to_string();
            assert!(message.starts_with("'owner' has "), "{message}");
        }
        assert!(averaged_rows((&rows, 4), &cells, (&around, &[0, 0, 1]), 8.0, 3).is_err());
        assert!(averaged_rows((&rows[1..], 4), &cells, (&around, &[0, 0, 1]), 8.0, 1).is_err());
    }
}
