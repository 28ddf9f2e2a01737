//! Light and albedo of areas whose colours are known, each by a least-squares problem.

use crate::illumination::ILLUMINATION;
use crate::simd::{self, Kernel, Lanes};

/// After the light alone, light and albedo are solved so many times in turn.
const ROUNDS: usize = 2;
/// Deviation of an area's colour from albedo times light that counts as one.
const COLOR_SIGMA: f32 = 0.04;
/// What an area's deviation weighs against the priors of light and of albedo; neighbouring areas are not independent.
const LIGHT_WEIGHT: f32 = 0.01;
const ALBEDO_WEIGHT: f32 = 0.5;
/// Deviation of the light from what is expected, of its grey part and of what each channel has more: tinted light would
/// explain the tone of the skin, or something in front of it.
const GREY_SIGMA: f64 = 0.2;
const TINT_SIGMA: f64 = 0.04;
/// Deviations of more than so many [`COLOR_SIGMA`] are taken for something in front of the face; of more medians, where
/// most areas deviate more than that.
const ROBUST: f32 = 2.5;
const MEDIANS: f32 = 1.7;
/// Rows of the albedo's problem that are taken together, so that they stay in the nearest cache.
const PANEL: usize = 96;
/// Columns of a tile of the albedo's problem.
const WIDTH: usize = 16;
/// The nine bands of a light, padded to a register.
pub(super) const BANDS: usize = 16;

/// Albedo of areas as a linear function of its coefficients.
#[derive(Debug)]
pub(super) struct Areas {
    columns: usize,
    /// Mean albedo of each area.
    mean: Vec<[f32; 3]>,
    /// `(areas, 3, padded columns)`.
    basis: Vec<f32>,
}

impl Areas {
    /// No area yet, of so many coefficients.
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, mean: Vec::new(), basis: Vec::new() }
    }

    /// Adds an area with its mean albedo and `(3, columns)` basis.
    pub(super) fn push(&mut self, mean: [f32; 3], basis: &[f32]) {
        self.mean.push(mean);
        for row in basis.chunks(self.columns.max(1)) {
            self.basis.extend(row);
            self.basis.resize(self.basis.len().next_multiple_of(WIDTH), 0.0);
        }
    }

    /// Coefficients.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of the basis as it is stored.
    fn padded(&self) -> usize {
        self.columns.next_multiple_of(WIDTH)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.mean.len()
    }

    /// Solves light and albedo in turn; both hold the expected values at first.
    pub(super) fn solve(&self, seen: &[Seen], albedo: &mut [f32], illumination: &mut [f32; ILLUMINATION]) {
        let expected: Vec<f64> = albedo.iter().map(|&a| f64::from(a)).collect();
        let expected_light = *illumination;
        let mut reflected = self.reflected(seen, albedo);
        let mut trust = trusted(seen, &reflected, illumination);
        *illumination = solved_light(seen, &trust, &reflected, &expected_light);
        for round in 0..ROUNDS {
            if round > 0 {
                reflected = self.reflected(seen, albedo);
            }
            trust = trusted(seen, &reflected, illumination);
            *illumination = solved_light(seen, &trust, &reflected, &expected_light);
            self.solve_albedo(seen, &trust, illumination, &expected, albedo);
        }
    }

    /// The albedo with which areas under known light look as they do.
    fn solve_albedo(
        &self,
        seen: &[Seen],
        trust: &[f32],
        illumination: &[f32; ILLUMINATION],
        expected: &[f64],
        albedo: &mut [f32],
    ) {
        let (n, padded) = (self.columns, self.padded());
        let mut rows = Vec::with_capacity(3 * seen.len());
        for (s, trust) in seen.iter().zip(trust) {
            let root = (ALBEDO_WEIGHT * s.weight * trust).sqrt() / COLOR_SIGMA;
            for (channel, shade) in s.shade(illumination).into_iter().enumerate() {
                let target = root * (s.color[channel] - shade * self.mean[s.area][channel]);
                rows.push(AlbedoRow { row: 3 * s.area + channel, scale: root * shade, target });
            }
        }
        let mut gram = vec![0.0; padded * padded];
        let mut right = vec![0.0; padded];
        simd::run(Gram { basis: &self.basis, padded, rows: &rows, gram: &mut gram, right: &mut right });
        let mut system = vec![0.0; n * n];
        for (i, (row, gram)) in system.chunks_mut(n.max(1)).zip(gram.chunks(padded.max(1))).enumerate() {
            // Read is the upper half.
            for (value, &sum) in row[i..].iter_mut().zip(&gram[i..n]) {
                *value = f64::from(sum);
            }
        }
        let mut solution: Vec<_> = right.iter().zip(expected).map(|(&r, e)| f64::from(r) + e).collect();
        (0..n).for_each(|i| system[i * n + i] += 1.0);
        simd::run(SolveSymmetric { n, system: &mut system, right: &mut solution });
        for (albedo, solved) in albedo.iter_mut().zip(solution) {
            *albedo = solved as f32;
        }
    }

    /// Albedo of the areas that are seen.
    fn reflected(&self, seen: &[Seen], albedo: &[f32]) -> Vec<[f32; 3]> {
        let mut padded = albedo.to_vec();
        padded.resize(self.padded(), 0.0);
        let mut out: Vec<_> = seen.iter().map(|s| self.mean[s.area]).collect();
        simd::run(Reflected { basis: &self.basis, seen, albedo: &padded, out: &mut out });
        out
    }
}

/// An area of a face in a photo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) area: usize,
    pub(super) weight: f32,
    /// In [0, 1].
    pub(super) color: [f32; 3],
    /// Spherical harmonics of its normal, then zeros.
    pub(super) bands: [f32; BANDS],
}

impl Seen {
    fn shade(&self, illumination: &[f32; ILLUMINATION]) -> [f32; 3] {
        std::array::from_fn(|channel| {
            self.bands[..9].iter().zip(&illumination[9 * channel..]).map(|(band, light)| band * light).sum()
        })
    }
}

/// Bands, then zeros.
pub(super) fn padded(bands: [f32; 9]) -> [f32; BANDS] {
    std::array::from_fn(|band| bands.get(band).copied().unwrap_or(0.0))
}

/// How much each area counts, by how far it is from albedo times light: (1 + d²)⁻² (Geman and McClure's estimator).
fn trusted(seen: &[Seen], reflected: &[[f32; 3]], illumination: &[f32; ILLUMINATION]) -> Vec<f32> {
    let deviation = |(s, reflected): (&Seen, &[f32; 3])| {
        let shade = s.shade(illumination);
        (0..3).map(|c| (shade[c] * reflected[c] - s.color[c]).abs() / 3.0).sum::<f32>()
    };
    let deviations: Vec<_> = seen.iter().zip(reflected).map(deviation).collect();
    let mut sorted = deviations.clone();
    let (_, &mut median, _) = sorted.select_nth_unstable_by(deviations.len() / 2, f32::total_cmp);
    let scale = (ROBUST * COLOR_SIGMA).max(MEDIANS * median);
    deviations.iter().map(|d| (1.0 + (d / scale).powi(2)).powi(-2)).collect()
}

/// The light under which areas of known albedo look as they do.
fn solved_light(
    seen: &[Seen],
    trust: &[f32],
    reflected: &[[f32; 3]],
    expected: &[f32; ILLUMINATION],
) -> [f32; ILLUMINATION] {
    // Unknown are the grey part and what each channel has more.
    const N: usize = 9 + ILLUMINATION;
    let mut system = vec![0.0; N * N];
    let mut right = vec![0.0; N];
    let grey = |band: usize| (0..3).map(|channel| f64::from(expected[9 * channel + band])).sum::<f64>() / 3.0;
    for i in 0..N {
        let (value, sigma) = match i.checked_sub(9) {
            None => (grey(i), GREY_SIGMA),
            Some(k) => (f64::from(expected[k]) - grey(k % 9), TINT_SIGMA),
        };
        system[i * N + i] = sigma.powi(-2);
        right[i] = value * sigma.powi(-2);
    }
    let factors = |((s, trust), reflected): ((&Seen, &f32), &[f32; 3])| -> [[f32; 2]; 3] {
        std::array::from_fn(|channel| {
            let weight = LIGHT_WEIGHT * s.weight * trust / (COLOR_SIGMA * COLOR_SIGMA) * reflected[channel];
            [weight * reflected[channel], weight * s.color[channel]]
        })
    };
    let factors: Vec<_> = seen.iter().zip(trust).zip(reflected).map(factors).collect();
    let mut sums = [[[0.0; BANDS]; 10]; 3];
    simd::run(LightSums { seen, factors: &factors, sums: &mut sums });
    for (channel, sums) in sums.iter().enumerate() {
        let own = 9 * (channel + 1);
        for i in 0..9 {
            for j in i..9 {
                let product = f64::from(sums[i][j]);
                // Read is the upper half; in the block right of it, both.
                for (row, column) in [(i, j), (i, own + j), (own + i, own + j)] {
                    system[row * N + column] += product;
                }
                if i != j {
                    system[j * N + own + i] += product;
                }
            }
            let sum = f64::from(sums[9][i]);
            right[i] += sum;
            right[own + i] += sum;
        }
    }
    simd::run(SolveSymmetric { n: N, system: &mut system, right: &mut right });
    std::array::from_fn(|i| (right[i % 9] + right[9 + i]) as f32)
}

/// One row of the albedo's problem: `scale` times a row of the basis, times the coefficients, is to be `target`.
struct AlbedoRow {
    row: usize,
    scale: f32,
    target: f32,
}

/// Normal equations of the albedo: adds to `gram` (padded, padded), from the diagonal's blocks to the right, and `right`.
struct Gram<'a> {
    basis: &'a [f32],
    padded: usize,
    rows: &'a [AlbedoRow],
    gram: &'a mut [f32],
    right: &'a mut [f32],
}

impl Kernel for Gram<'_> {
    const LONG: bool = true;

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { basis, padded, rows, gram, right } = self;
        // (tiles, rows, columns of a tile), so that a block reads what lies together.
        let mut panel = vec![[0.0f32; WIDTH]; padded / WIDTH * PANEL];
        for rows in rows.chunks(PANEL) {
            for (tile, (panel, right)) in panel.chunks_mut(PANEL).zip(right.chunks_exact_mut(WIDTH)).enumerate() {
                for lane in (0..WIDTH).step_by(L::COUNT) {
                    let mut sum = L::load(&right[lane..]);
                    for (scaled, row) in panel.iter_mut().zip(rows) {
                        let basis = L::load(&basis[row.row * padded + tile * WIDTH + lane..]);
                        let value = L::mul_floats(L::splat(row.scale), basis);
                        L::store(value, &mut scaled[lane..]);
                        sum = L::mul_add(L::splat(row.target), value, sum);
                    }
                    L::store(sum, &mut right[lane..]);
                }
            }
            for (top, above) in panel.chunks(PANEL).enumerate() {
                for (tile, beside) in panel.chunks(PANEL).enumerate().skip(top) {
                    let gram = &mut gram[top * WIDTH * padded + tile * WIDTH..];
                    add_products::<L>(&above[..rows.len()], &beside[..rows.len()], gram, padded);
                }
            }
        }
    }
}

/// Adds the products of every column of a tile with every one of another to `gram`, whose rows are `stride` apart.
#[inline(always)]
fn add_products<L: Lanes>(above: &[[f32; WIDTH]], beside: &[[f32; WIDTH]], gram: &mut [f32], stride: usize) {
    // As many sums as registers hold: sixteen of the 32 of AVX-512, else eight.
    if L::COUNT == WIDTH {
        add_block::<L, 16, 1>(above, beside, gram, stride);
    } else {
        add_block::<L, 4, 2>(above, beside, gram, stride);
    }
}

/// [`add_products`] with the sums of so many rows, and registers of a row, at a time.
#[inline(always)]
fn add_block<L: Lanes, const HEIGHT: usize, const ACROSS: usize>(
    above: &[[f32; WIDTH]],
    beside: &[[f32; WIDTH]],
    gram: &mut [f32],
    stride: usize,
) {
    for first in (0..WIDTH).step_by(HEIGHT) {
        for column in (0..WIDTH).step_by(ACROSS * L::COUNT) {
            let mut sums = [[L::splat(0.0); ACROSS]; HEIGHT];
            for (above, beside) in above.iter().zip(beside) {
                let values: [_; ACROSS] = std::array::from_fn(|k| L::load(&beside[column + k * L::COUNT..]));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(above[first + i]);
                    for (sum, &value) in sums.iter_mut().zip(&values) {
                        *sum = L::mul_add(factor, value, *sum);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (k, &sum) in sums.iter().enumerate() {
                    let gram = &mut gram[(first + i) * stride + column + k * L::COUNT..];
                    L::store(L::add_floats(L::load(gram), sum), gram);
                }
            }
        }
    }
}

/// Adds the basis times the coefficients to the mean albedo of the areas.
struct Reflected<'a> {
    basis: &'a [f32],
    seen: &'a [Seen],
    /// Padded.
    albedo: &'a [f32],
    out: &'a mut [[f32; 3]],
}

impl Kernel for Reflected<'_> {
    const LONG: bool = true;

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let padded = self.albedo.len();
        for (s, out) in self.seen.iter().zip(self.out) {
            for (channel, out) in out.iter_mut().enumerate() {
                let row = &self.basis[(3 * s.area + channel) * padded..][..padded];
                let mut sums = [0.0; WIDTH];
                for lane in (0..WIDTH).step_by(L::COUNT) {
                    let mut sum = L::splat(0.0);
                    for (row, albedo) in row.chunks_exact(WIDTH).zip(self.albedo.chunks_exact(WIDTH)) {
                        sum = L::mul_add(L::load(&row[lane..]), L::load(&albedo[lane..]), sum);
                    }
                    L::store(sum, &mut sums[lane..]);
                }
                for half in [WIDTH / 2, WIDTH / 4, WIDTH / 8, WIDTH / 16] {
                    (0..half).for_each(|i| sums[i] += sums[i + half]);
                }
                *out += sums[0];
            }
        }
    }
}

/// Sums over areas, for each channel: of the products of every band with all, times the first factor, and of the bands times
/// the second.
struct LightSums<'a> {
    seen: &'a [Seen],
    factors: &'a [[[f32; 2]; 3]],
    sums: &'a mut [[[f32; BANDS]; 10]; 3],
}

impl Kernel for LightSums<'_> {
    const LONG: bool = true;

    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (channel, out) in self.sums.iter_mut().enumerate() {
            for first in (0..BANDS).step_by(L::COUNT) {
                let mut sums = [L::splat(0.0); 10];
                for (s, factors) in self.seen.iter().zip(self.factors) {
                    let [product, sum] = factors[channel];
                    let bands = L::load(&s.bands[first..]);
                    for (row, &band) in sums.iter_mut().zip(&s.bands[..9]) {
                        *row = L::mul_add(L::splat(product * band), bands, *row);
                    }
                    sums[9] = L::mul_add(L::splat(sum), bands, sums[9]);
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    L::store(sum, &mut out[first..]);
                }
            }
        }
    }
}

/// Solves `system` · x = `right` for a symmetric, positive-definite system `(n, n)` of which the upper half is read, by
/// Cholesky's decomposition; x is left in `right`, which may be longer.
struct SolveSymmetric<'a> {
    n: usize,
    system: &'a mut [f64],
    right: &'a mut [f64],
}

/// Rows that [`SolveSymmetric`] takes together; it stops after fewer, which are the last.
const TOGETHER: usize = 4;
/// float64 of the longest register.
const REGISTER: usize = 8;

impl Kernel for SolveSymmetric<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { n, system, right } = self;
        // Uᵀ U = system, some rows at a time, so that what is left of the system is read and written less often.
        for first in (0..n).step_by(TOGETHER) {
            let last = (first + TOGETHER).min(n);
            for k in first..last {
                let pivot = 1.0 / system[k * n + k].sqrt();
                for value in &mut system[k * n + k..(k + 1) * n] {
                    *value *= pivot;
                }
                let (done, rest) = system.split_at_mut((k + 1) * n);
                let row = &done[k * n..];
                for (i, rest) in (k + 1..last).zip(rest.chunks_mut(n)) {
                    let factor = row[i];
                    for (value, above) in rest[i..].iter_mut().zip(&row[i..]) {
                        *value -= factor * above;
                    }
                }
            }
            let (done, rest) = system.split_at_mut(last * n);
            let mut rows = done[first * n..].chunks(n);
            let (Some(a), Some(b), Some(c), Some(d)) = (rows.next(), rows.next(), rows.next(), rows.next()) else {
                break;
            };
            for (i, rest) in (last..n).zip(rest.chunks_mut(n)) {
                // From the register that holds the diagonal: nobody reads what is left of it.
                let from = i / REGISTER * REGISTER;
                let factors = [a[i], b[i], c[i], d[i]];
                let (values, tail) = rest[from..].as_chunks_mut::<REGISTER>();
                let (above, below) = (a[from..].as_chunks().0.iter().zip(b[from..].as_chunks().0), values.len());
                let others = c[from..].as_chunks().0.iter().zip(d[from..].as_chunks().0);
                for (values, ((a, b), (c, d))) in values.iter_mut().zip(above.zip(others)) {
                    subtract(values, factors, [a, b, c, d]);
                }
                for (k, value) in (from + REGISTER * below..).zip(tail) {
                    *value -= (factors[0] * a[k] + factors[1] * b[k]) + (factors[2] * c[k] + factors[3] * d[k]);
                }
            }
        }
        for k in 0..n {
            right[k] /= system[k * n + k];
            let value = right[k];
            for (right, factor) in right[k + 1..].iter_mut().zip(&system[k * n + k + 1..(k + 1) * n]) {
                *right -= value * factor;
            }
        }
        for k in (0..n).rev() {
            let (row, rest) = (&system[k * n + k + 1..(k + 1) * n], &right[k + 1..n]);
            let (rows, solved) = (row.as_chunks::<REGISTER>(), rest.as_chunks::<REGISTER>());
            let mut sums = [0.0; REGISTER];
            for (row, solved) in rows.0.iter().zip(solved.0) {
                for ((sum, u), x) in sums.iter_mut().zip(row).zip(solved) {
                    *sum += u * x;
                }
            }
            let tail: f64 = rows.1.iter().zip(solved.1).map(|(u, x)| u * x).sum();
            right[k] = (right[k] - sums.iter().sum::<f64>() - tail) / system[k * n + k];
        }
    }
}

#[inline(always)]
fn subtract(values: &mut [f64; REGISTER], [p, q, r, s]: [f64; 4], [a, b, c, d]: [&[f64; REGISTER]; 4]) {
    for l in 0..REGISTER {
        values[l] -= (p * a[l] + q * b[l]) + (r * c[l] + s * d[l]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::illumination::harmonics;
    use crate::mesh::normalised;
    use crate::simd::tests::PORTABLE;

    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
    }

    /// So many areas and columns, and areas that are seen with colours which no albedo and light explain.
    fn problem(count: usize, columns: usize) -> (Areas, Vec<Seen>) {
        let mut areas = Areas::new(columns);
        for area in 0..count {
            let basis: Vec<_> = (0..3 * columns).map(|i| 0.05 * number(area * 3 * columns + i)).collect();
            areas.push(std::array::from_fn(|c| 0.5 + 0.1 * number(3 * area + c)), &basis);
        }
        let seen = |area: usize| {
            let normal = normalised([number(area), number(area + 77), 1.0], f32::MIN_POSITIVE);
            let color = std::array::from_fn(|c| 0.4 + 0.2 * number(5 * area + c));
            Seen { area, weight: 3.0 + number(area), color, bands: padded(harmonics(normal)) }
        };
        (areas, (0..count).map(seen).collect())
    }

    fn light() -> [f32; ILLUMINATION] {
        std::array::from_fn(|i| if i % 9 == 0 { 0.8 } else { 0.1 * number(i) })
    }

    /// Σ weight · trust · |shade · (mean + basis · albedo) − color|² / σ², in float64.
    fn misfit(areas: &Areas, seen: &[Seen], trust: &[f32], light: &[f64], albedo: &[f64]) -> f64 {
        let padded = areas.padded();
        let mut sum = 0.0;
        for (s, trust) in seen.iter().zip(trust) {
            for c in 0..3 {
                let row = &areas.basis[(3 * s.area + c) * padded..][..areas.columns];
                let modes: f64 = row.iter().zip(albedo).map(|(&b, a)| f64::from(b) * a).sum();
                let shade: f64 = s.bands[..9].iter().zip(&light[9 * c..]).map(|(&b, l)| f64::from(b) * l).sum();
                let difference = shade * (f64::from(areas.mean[s.area][c]) + modes) - f64::from(s.color[c]);
                sum += f64::from(s.weight * trust) * difference.powi(2);
            }
        }
        sum / f64::from(COLOR_SIGMA).powi(2)
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&v| f64::from(v)).collect()
    }

    /// The objective is smaller at `best` than a little beside it, in every direction.
    fn assert_least(objective: impl Fn(&[f64]) -> f64, best: &[f64]) {
        let least = objective(best);
        for i in 0..best.len() {
            for step in [-0.02, 0.02] {
                let mut beside = best.to_vec();
                beside[i] += step;
                assert!(objective(&beside) > least, "{i} {step}");
            }
        }
    }

    #[test]
    fn the_albedo_is_the_best_one() {
        for (count, columns) in [(50, 5), (80, 16), (130, 37)] {
            let (areas, seen) = problem(count, columns);
            let trust: Vec<_> = (0..count).map(|a| 0.6 + 0.4 * number(a)).collect();
            let expected: Vec<_> = (0..columns).map(|k| f64::from(0.3 * number(k + 5))).collect();
            let mut albedo = vec![0.0; columns];
            areas.solve_albedo(&seen, &trust, &light(), &expected, &mut albedo);
            let objective = |albedo: &[f64]| {
                let prior: f64 = albedo.iter().zip(&expected).map(|(a, e)| (a - e).powi(2)).sum();
                f64::from(ALBEDO_WEIGHT) * misfit(&areas, &seen, &trust, &wide(&light()), albedo) + prior
            };
            assert_least(objective, &wide(&albedo));
        }
    }

    #[test]
    fn the_light_is_the_best_one() {
        let (areas, seen) = problem(60, 4);
        let trust: Vec<_> = (0..60).map(|a| 0.6 + 0.4 * number(a)).collect();
        let albedo = [0.5, -0.2, 0.1, 1.0];
        let reflected = areas.reflected(&seen, &albedo);
        let found = solved_light(&seen, &trust, &reflected, &light());
        // Of all greys and tints that add up to a light, its prior is that of the likeliest.
        let prior = |light_: &[f64]| -> f64 {
            let offset = |c: usize, b: usize| light_[9 * c + b] - f64::from(light()[9 * c + b]);
            let (grey, tint) = (GREY_SIGMA.powi(-2), TINT_SIGMA.powi(-2));
            (0..9)
                .map(|b| {
                    let common = (0..3).map(|c| tint * offset(c, b)).sum::<f64>() / (3.0 * tint + grey);
                    grey * common.powi(2) + (0..3).map(|c| tint * (offset(c, b) - common).powi(2)).sum::<f64>()
                })
                .sum()
        };
        let objective = |light: &[f64]| {
            f64::from(LIGHT_WEIGHT) * misfit(&areas, &seen, &trust, light, &wide(&albedo)) + prior(light)
        };
        assert_least(objective, &wide(&found));
    }

    #[test]
    fn areas_far_from_the_others_are_not_trusted() {
        let (areas, mut seen) = problem(60, 4);
        let reflected = areas.reflected(&seen, &[0.0; 4]);
        for (number, (s, reflected)) in seen.iter_mut().zip(&reflected).enumerate() {
            let shade = s.shade(&light());
            let off = if number < 15 { 0.5 } else { 0.02 };
            s.color = std::array::from_fn(|c| shade[c] * reflected[c] + off);
        }
        let trust = trusted(&seen, &reflected, &light());
        assert!(trust[..15].iter().all(|&t| t < 0.01) && trust[15..].iter().all(|&t| t > 0.9));
    }

    #[test]
    fn every_instruction_set_gives_the_same_but_for_rounding() {
        for (count, columns) in [(50, 5), (131, 37), (60, 80)] {
            let (areas, seen) = problem(count, columns);
            let solved = |portable| {
                let (mut albedo, mut light) = (vec![0.1; columns], light());
                PORTABLE.set(portable);
                areas.solve(&seen, &mut albedo, &mut light);
                PORTABLE.set(false);
                assert!(albedo.iter().any(|&a| (a - 0.1).abs() > 1e-3));
                albedo.into_iter().chain(light).collect::<Vec<_>>()
            };
            let pairs: Vec<_> = solved(true).into_iter().zip(solved(false)).collect();
            assert!(pairs.iter().all(|(a, b)| (a - b).abs() < 1e-4), "{count} {columns}");
        }
    }

    #[test]
    fn systems_are_solved() {
        for n in [1usize, 2, 7, 40] {
            let root: Vec<f64> = (0..n * n).map(|i| f64::from(number(i))).collect();
            let product = |i: usize, j: usize| (0..n).map(|k| root[k * n + i] * root[k * n + j]).sum::<f64>();
            let entry = |i: usize, j: usize| product(i, j) + if i == j { 0.5 } else { 0.0 };
            let mut system: Vec<_> = (0..n * n).map(|i| entry(i / n, i % n)).collect();
            let expected: Vec<_> = (0..n).map(|i| f64::from(number(i + 3))).collect();
            let mut right: Vec<_> = (0..n).map(|i| (0..n).map(|j| entry(i, j) * expected[j]).sum()).collect();
            simd::run(SolveSymmetric { n, system: &mut system, right: &mut right });
            assert!(right.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9));
        }
    }
}
