//! The 8-bit kernels against the definition, one product at a time.

use proptest::prelude::*;
use wm3dr_core::quantized::{
    AveragePool, Block, Convolution, Depthwise, First, Heatmap, Parallel, Quantization, ResizeAdd, Sequential,
    supported,
};

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A convolution whose results fill the range of a byte.
    fn convolution(&mut self, outputs: usize, taps: usize, zero_point: u8) -> Convolution {
        let weight = (0..outputs * taps).map(|_| self.next() as i8).collect();
        let weight_scale = (0..outputs).map(|_| 0.001 + (self.next() % 100) as f32 * 1e-5).collect();
        let bias = (0..outputs).map(|_| (self.next() % 4001) as i32 - 2000).collect();
        let scale = 0.002 * (taps as f32).sqrt();
        Convolution { weight, weight_scale, bias, output: Quantization { scale, zero_point } }
    }
}

/// A map (height, width, channels) and what its numbers mean.
#[derive(Clone)]
struct Map {
    values: Vec<u8>,
    height: usize,
    width: usize,
    channels: usize,
    quantization: Quantization,
}

impl Map {
    fn at(&self, row: isize, column: isize, channel: usize) -> i32 {
        let (height, width) = (self.height as isize, self.width as isize);
        if row < 0 || column < 0 || row >= height || column >= width {
            return 0; // padding: what the zero point means
        }
        let value = self.values[(row as usize * self.width + column as usize) * self.channels + channel];
        i32::from(value) - i32::from(self.quantization.zero_point)
    }
}

/// ONNX's QLinearConv; `group` is 1 or the number of channels.
fn convolve(
    map: &Map,
    given: &Convolution,
    size: (usize, usize),
    stride: (usize, usize),
    pads: [usize; 4],
    depthwise: bool,
) -> Map {
    let outputs = given.bias.len();
    let height = (map.height + pads[0] + pads[2] - size.0) / stride.0 + 1;
    let width = (map.width + pads[1] + pads[3] - size.1) / stride.1 + 1;
    let inputs = if depthwise { 1 } else { map.channels };
    let mut values = Vec::with_capacity(height * width * outputs);
    for y in 0..height {
        for x in 0..width {
            for o in 0..outputs {
                let mut sum = given.bias[o];
                for i in 0..inputs {
                    for ky in 0..size.0 {
                        for kx in 0..size.1 {
                            let (row, column) = (y * stride.0 + ky, x * stride.1 + kx);
                            let weight = given.weight[((o * inputs + i) * size.0 + ky) * size.1 + kx];
                            let (row, column) = (row as isize - pads[0] as isize, column as isize - pads[1] as isize);
                            sum += i32::from(weight) * map.at(row, column, if depthwise { o } else { i });
                        }
                    }
                }
                let scale = map.quantization.scale * given.weight_scale[o] / given.output.scale;
                values.push(rounded(sum as f32 * scale, given.output.zero_point));
            }
        }
    }
    Map { values, height, width, channels: outputs, quantization: given.output }
}

fn rounded(value: f32, zero_point: u8) -> u8 {
    (value.round_ties_even() + f32::from(zero_point)).clamp(0.0, 255.0) as u8
}

/// ONNX's QLinearAdd, in the order in which onnxruntime computes it.
fn add(a: &Map, b: &Map, output: Quantization) -> Vec<u8> {
    let (first, second) = (a.quantization.scale / output.scale, b.quantization.scale / output.scale);
    let zero = |map: &Map| f32::from(map.quantization.zero_point);
    let fixed = f32::from(output.zero_point) - (first * zero(a) + second * zero(b));
    let of = |(&a, &b): (&u8, &u8)| rounded(f32::from(a).mul_add(first, f32::from(b).mul_add(second, fixed)), 0);
    a.values.iter().zip(&b.values).map(of).collect()
}

/// Every part in a thread of its own, the last first.
struct Threads;

impl Parallel for Threads {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| (0..parts).rev().for_each(|part| drop(scope.spawn(move || work(part)))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn blocks_are_their_layers(
        seed in any::<u64>(),
        height in 1_usize..40,
        width in 1_usize..40,
        inputs in 1_usize..12,
        channels in 1_usize..12,
        outputs in 1_usize..90,
        large in any::<bool>(),
        stride in 1_usize..=2,
        expands in any::<bool>(),
        sums in any::<bool>(),
    ) {
        if !supported() {
            return Ok(()); // a processor without the instructions takes onnxruntime's kernels
        }
        let mut numbers = Numbers(seed);
        let size = if large { 5 } else { 3 };
        let pads = match (size, stride) {
            (3, 1) => [1; 4],
            (3, _) => [0, 0, 1, 1],
            (_, 1) => [2; 4],
            _ => [1, 1, 2, 2],
        };
        prop_assume!(height.min(width) + pads[0] + pads[2] >= size);
        let channels = 16 * channels;
        let inputs = if expands { 4 * inputs } else { channels };
        let sums = sums && stride == 1;
        let outputs = if sums { inputs } else { outputs };
        let quantization = Quantization { scale: 0.02, zero_point: numbers.next() as u8 };
        let map = |numbers: &mut Numbers| Map { values: numbers.bytes(height * width * inputs), height, width, channels: inputs, quantization };
        let maps = [map(&mut numbers), map(&mut numbers)];
        let expand = expands.then(|| numbers.convolution(channels, inputs, 0));
        let zero_point = numbers.next() as u8 % 3 * 60;
        let depthwise = Depthwise { convolution: numbers.convolution(channels, size * size, zero_point), stride, pads };
        let project = numbers.convolution(outputs, channels, 120);
        let total = sums.then_some(Quantization { scale: 0.05, zero_point: 111 });
        let wanted: Vec<u8> = maps.iter().flat_map(|map| {
            let wide = expand.as_ref().map_or_else(|| map.clone(), |e| convolve(map, e, (1, 1), (1, 1), [0; 4], false));
            let middle = convolve(&wide, &depthwise.convolution, (size, size), (stride, stride), pads, true);
            let last = convolve(&middle, &project, (1, 1), (1, 1), [0; 4], false);
            total.map_or_else(|| last.values.clone(), |total| add(&last, map, total))
        }).collect();
        let block = Block::new(quantization, expand.as_ref().map_or(First::Nothing, First::Expand), Some(&depthwise), &project, total).unwrap();
        prop_assert_eq!(block.channels(), (inputs, outputs));
        let (rows, columns) = block.size((height, width));
        let input = [maps[0].values.clone(), maps[1].values.clone()].concat();
        for parallel in [&Sequential as &dyn Parallel, &Threads] {
            let mut output = vec![0; 2 * rows * columns * outputs];
            block.run(&input, (2, height, width), &mut output, parallel).unwrap();
            prop_assert!(output == wanted, "differs first at {:?}", output.iter().zip(&wanted).position(|(a, b)| a != b));
        }
    }

    #[test]
    fn pointwise_convolutions_alone(seed in any::<u64>(), pixels in 1_usize..3000, inputs in 1_usize..40, outputs in 1_usize..90) {
        if !supported() {
            return Ok(());
        }
        let mut numbers = Numbers(seed);
        let quantization = Quantization { scale: 0.02, zero_point: 90 };
        let map = Map { values: numbers.bytes(pixels * 4 * inputs), height: 1, width: pixels, channels: 4 * inputs, quantization };
        let project = numbers.convolution(outputs, 4 * inputs, 0);
        let wanted = convolve(&map, &project, (1, 1), (1, 1), [0; 4], false).values;
        let mut output = vec![0; pixels * outputs];
        Block::new(quantization, First::Nothing, None, &project, None).unwrap().run(&map.values, (1, 1, pixels), &mut output, &Threads).unwrap();
        prop_assert!(output == wanted);
    }

    #[test]
    fn the_first_convolution(seed in any::<u64>(), rows in 2_usize..40, cells in 1_usize..30) {
        if !supported() {
            return Ok(());
        }
        let mut numbers = Numbers(seed);
        let quantization = Quantization { scale: 0.02, zero_point: 127 };
        let map = Map { values: numbers.bytes(2 * rows * cells * 12), height: 2 * rows, width: cells, channels: 12, quantization };
        let stem = numbers.convolution(64, 12 * 6, 0);
        let depthwise = Depthwise { convolution: numbers.convolution(32, 9, 0), stride: 1, pads: [1; 4] };
        let project = numbers.convolution(16, 32, 100);
        let first = convolve(&map, &stem, (3, 2), (2, 1), [0, 0, 1, 1], false);
        let first = Map { width: 2 * cells, channels: 32, ..first };
        let middle = convolve(&first, &depthwise.convolution, (3, 3), (1, 1), [1; 4], true);
        let wanted = convolve(&middle, &project, (1, 1), (1, 1), [0; 4], false).values;
        let first = First::Stem { convolution: &stem, pixels: 2 };
        let block = Block::new(quantization, first, Some(&depthwise), &project, None).unwrap();
        prop_assert_eq!(block.columns(4 * cells, 3).unwrap(), cells);
        prop_assert_eq!(block.size((2 * rows, cells)), (rows, 2 * cells));
        for parallel in [&Sequential as &dyn Parallel, &Threads] {
            let mut output = vec![0; wanted.len()];
            block.run(&map.values, (1, 2 * rows, cells), &mut output, parallel).unwrap();
            prop_assert!(output == wanted);
        }
    }

    #[test]
    fn sums_with_a_coarser_map(seed in any::<u64>(), height in 1_usize..40, width in 1_usize..40, channels in 1_usize..70) {
        if !supported() {
            return Ok(());
        }
        let mut numbers = Numbers(seed);
        let map = |numbers: &mut Numbers, height: usize, width: usize, scale: f32| Map {
            values: numbers.bytes(2 * height * width * channels),
            height,
            width,
            channels,
            quantization: Quantization { scale, zero_point: numbers.next() as u8 },
        };
        let fine = map(&mut numbers, height, width, 0.037);
        let coarse = map(&mut numbers, height.div_ceil(2), width.div_ceil(2), 0.021);
        let mut repeated = Map { quantization: coarse.quantization, values: Vec::new(), ..fine.clone() };
        for image in 0..2 {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let row = (image * coarse.height + y * coarse.height / height) * coarse.width;
                let at = (row + x * coarse.width / width) * channels;
                repeated.values.extend_from_slice(&coarse.values[at..at + channels]);
            }
        }
        let total = Quantization { scale: 0.05, zero_point: 90 };
        let wanted = add(&fine, &repeated, total);
        let mut output = vec![0; wanted.len()];
        let sum = ResizeAdd::new(fine.quantization, coarse.quantization, total);
        let (shape, coarse_shape) = ([2, height, width, channels], [2, coarse.height, coarse.width, channels]);
        sum.run((&fine.values, shape), (&coarse.values, coarse_shape), &mut output, &Threads).unwrap();
        prop_assert!(output == wanted);
    }

    #[test]
    fn logits(seed in any::<u64>(), pixels in 1_usize..1200, inputs in 1_usize..20, hidden in 1_usize..20) {
        if !supported() {
            return Ok(());
        }
        let mut numbers = Numbers(seed);
        let quantization = Quantization { scale: 0.02, zero_point: 17 };
        let map = Map { values: numbers.bytes(pixels * 4 * inputs), height: 1, width: pixels, channels: 4 * inputs, quantization };
        let convolution = numbers.convolution(4 * hidden, 4 * inputs, 100);
        let weight: Vec<f32> = (0..4 * hidden).map(|_| (numbers.next() % 2001) as f32 * 1e-3 - 1.0).collect();
        let between = convolve(&map, &convolution, (1, 1), (1, 1), [0; 4], false);
        let logit = |values: &[u8]| {
            let of = |&q: &u8| (f32::from(q) - 100.0) * convolution.output.scale;
            values.iter().zip(&weight).fold(0.0_f32, |sum, (q, w)| of(q).mul_add(*w, sum)) - 4.5
        };
        let wanted: Vec<f32> = between.values.chunks_exact(4 * hidden).map(logit).collect();
        let heatmap = Heatmap::new(quantization, &convolution, weight.clone(), -4.5).unwrap();
        let mut output = vec![0.0; pixels];
        heatmap.run(&map.values, &mut output, &Threads).unwrap();
        prop_assert_eq!(output, wanted);
    }
}

/// What lies beyond the edges of an odd map counts as 0; half of a unit goes to the even number.
#[test]
fn means_of_two_by_two() {
    let quantization = Quantization { scale: 0.5, zero_point: 10 };
    let pool = AveragePool::new(quantization, quantization);
    let mut output = [0; 4];
    pool.run(&[11, 13, 18, 14, 16, 10, 30, 50, 2], [1, 3, 3, 1], &mut output, &Sequential).unwrap();
    // (1 + 3 + 4 + 6) / 4 = 3.5, (8 + 0) / 4 = 2, (20 + 40) / 4 = 15, −8 / 4 = −2
    assert_eq!(output, [14, 12, 25, 8]);
    let said = pool.run(&[0; 9], [1, 3, 3, 1], &mut [0; 3], &Sequential).unwrap_err().to_string();
    assert_eq!(said, "'input' has shape 9 bytes in, 3 out, expected 9 in, 4 out");
}

#[test]
fn what_does_not_fit_is_said() {
    let mut numbers = Numbers(1);
    let input = Quantization { scale: 0.1, zero_point: 0 };
    let project = numbers.convolution(8, 32, 0);
    let odd = numbers.convolution(8, 30, 0);
    let message = |result: wm3dr_core::Result<Block>| result.err().unwrap().to_string();
    assert_eq!(
        message(Block::new(input, First::Nothing, None, &odd, None)),
        "'project' has 30 inputs, expected a multiple of 4"
    );
    let depthwise = |channels, taps, stride| Depthwise {
        convolution: Numbers(2).convolution(channels, taps, 0),
        stride,
        pads: [1; 4],
    };
    for (channels, taps, stride) in [(24, 9, 1), (32, 49, 1), (32, 9, 3)] {
        let given = depthwise(channels, taps, stride);
        let said = message(Block::new(input, First::Nothing, Some(&given), &project, None));
        assert!(said.contains(&format!("{channels} channels, {taps} taps, stride {stride}")), "{said}");
    }
    let said = message(Block::new(input, First::Nothing, Some(&depthwise(16, 9, 1)), &project, None));
    assert!(said.contains("do not fit to each other"), "{said}");
    let block = Block::new(input, First::Nothing, None, &project, None).unwrap();
    let said = block.run(&[0; 64], (1, 2, 2), &mut [0; 32], &Sequential).unwrap_err().to_string();
    assert_eq!(said, "'input' has shape 64 bytes in, 32 out, expected 128 in, 32 out");
}
