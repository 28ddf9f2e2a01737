//! Rows of the encoder's coefficient map (CONVENTIONS.md §4), read at the peaks only.

use crate::check;
use crate::error::{Error, Result};

/// The rows `(P, channels)` of a `(channels, height, width)` map at `cells` (row, column).
///
/// # Errors
/// A length that does not fit, a cell outside the map.
pub fn gather_coefficients(map: &[f32], [channels, height, width]: [usize; 3], cells: &[[i32; 2]]) -> Result<Vec<f32>> {
    check::length("coefficients", map.len(), channels * height * width, "values")?;
    let outside = |&&[row, column]: &&[i32; 2]| {
        !(0..height as i64).contains(&i64::from(row)) || !(0..width as i64).contains(&i64::from(column))
    };
    if let Some([row, column]) = cells.iter().find(outside) {
        let expected = format!("cells of a map of {height} rows and {width} columns");
        return Err(Error::value("peaks", format!("cell ({row}, {column})"), expected));
    }
    let plane = height * width;
    let row = |&[row, column]: &[i32; 2]| {
        let cell = row as usize * width + column as usize;
        (0..channels).map(move |c| map[c * plane + cell])
    };
    Ok(cells.iter().flat_map(row).collect())
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
}
