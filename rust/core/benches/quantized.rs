//! The 8-bit blocks of the default encoder on a photo of 512 x 512, one thread: `cargo bench -p wm3dr-core --bench quantized`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wm3dr_core::quantized::{Block, Convolution, Depthwise, First, Quantization, Sequential, supported};

/// Side of the map, inputs, expanded channels (0: none), size and stride of the depthwise kernel, outputs, sum.
const BLOCKS: [(usize, usize, usize, usize, usize, usize, bool); 12] = [
    (256, 32, 0, 3, 1, 16, false),
    (256, 16, 96, 3, 2, 24, false),
    (128, 24, 144, 3, 1, 24, true),
    (128, 24, 144, 5, 2, 40, false),
    (64, 40, 240, 5, 1, 40, true),
    (64, 40, 240, 3, 2, 80, false),
    (32, 80, 480, 3, 1, 80, true),
    (32, 112, 672, 5, 1, 112, true),
    (32, 112, 672, 5, 2, 192, false),
    (16, 192, 1152, 5, 1, 192, true),
    (16, 192, 1152, 3, 1, 320, false),
    (64, 160, 0, 5, 1, 160, false),
];

fn convolution(outputs: usize, taps: usize) -> Convolution {
    Convolution {
        weight: (0..outputs * taps).map(|i| (i * 37 % 127) as i8 - 63).collect(),
        weight_scale: vec![1e-3; outputs],
        bias: vec![5; outputs],
        output: Quantization { scale: 0.05, zero_point: 3 },
    }
}

fn blocks(c: &mut Criterion) {
    if !supported() {
        eprintln!("this processor has no AVX-512 VNNI: there is nothing to time");
        return;
    }
    let input = Quantization { scale: 0.02, zero_point: 7 };
    let mut group = c.benchmark_group("blocks");
    for (side, inputs, expanded, size, stride, outputs, sums) in BLOCKS {
        let channels = if expanded == 0 { inputs } else { expanded };
        let expand = convolution(channels, inputs);
        let pads = match (size, stride) {
            (3, 1) => [1; 4],
            (3, _) => [0, 0, 1, 1],
            (_, 1) => [2; 4],
            _ => [1, 1, 2, 2],
        };
        let depthwise = Depthwise { convolution: convolution(channels, size * size), stride, pads };
        let first = if expanded == 0 { First::Nothing } else { First::Expand(&expand) };
        let project = convolution(outputs, channels);
        let block = Block::new(input, first, Some(&depthwise), &project, sums.then_some(input)).expect("fits");
        let (rows, columns) = block.size((side, side));
        let map: Vec<u8> = (0..side * side * inputs).map(|i| (i * 131 % 251) as u8).collect();
        let mut output = vec![0; rows * columns * outputs];
        let products = side * side * inputs * expanded + rows * columns * channels * (size * size + outputs);
        group.throughput(Throughput::Elements(products as u64));
        group.bench_function(format!("{side}: {inputs} > {expanded} > {size}x{size}/{stride} > {outputs}"), |b| {
            b.iter(|| block.run(black_box(&map), (1, side, side), &mut output, &Sequential).expect("fits"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(1));
    targets = blocks
}
criterion_main!(benches);
