//! Cases of rows: every copy moves exactly what it says and nothing else, on every device.

use super::*;
use crate::Slab;
use crate::ops::cases::{Random, cuda_device};
use std::sync::Arc;

/// Lengths of rows: around the units that are copied, odd ones, real ones.
const ROW_LENS: &[usize] = &[1, 2, 3, 4, 5, 15, 16, 17, 64, 127, 1176, 1280, 3584];

/// The processor.
fn cpu() -> Vec<Device> {
    vec![Device::all_cpus()]
}

/// A GPU, if there is one. Free memory is filled with NaN before each use.
fn gpu() -> Vec<Device> {
    cuda_device(DType::F32).into_iter().collect()
}

fn poison(device: &Device) {
    if let Device::Cuda(cuda) = device {
        cuda.poison_scratch().unwrap();
    }
}

/// Any bytes as a tensor of `dtype` in host memory.
fn any(dtype: DType, shape: &[usize]) -> Tensor {
    let mut tensor = match dtype {
        DType::F32 => Tensor::scratch::<f32>(shape),
        DType::Bf16 => Tensor::scratch::<bf16>(shape),
        DType::F16 => Tensor::scratch::<f16>(shape),
        DType::U8 => Tensor::scratch::<u8>(shape),
        DType::U32 => Tensor::scratch::<u32>(shape),
    };
    let mut random = Random(shape.iter().sum::<usize>() as u64);
    tensor.bytes_mut().iter_mut().for_each(|byte| *byte = (random.unit() * 128.0) as i8 as u8);
    tensor
}

fn check_gather(device: &Device, dtype: DType, (n_rows, row_len): (usize, usize)) {
    let x = any(dtype, &[n_rows, row_len]);
    let picked: Vec<u32> = (0..2 * n_rows + 1).map(|i| (i * 7 % n_rows) as u32).collect();
    let rows = Tensor::from_slice(&[picked.len()], &picked).to_device(device).unwrap();
    let on_device = x.to_device(device).unwrap();
    poison(device);
    let y = gather_rows(device, &on_device, &rows).unwrap().to_host(device).unwrap();
    let row_bytes = row_len * dtype.n_bytes();
    let expected: Vec<u8> = picked
        .iter()
        .flat_map(|&row| &x.bytes()[row as usize * row_bytes..][..row_bytes])
        .copied()
        .collect();
    assert_eq!(y.shape(), [picked.len(), row_len]);
    assert_eq!(y.bytes(), expected, "{} {n_rows} x {row_len}", dtype.name());
}

fn gather_on(devices: Vec<Device>) {
    for device in devices {
        for dtype in [DType::F32, DType::Bf16, DType::U8, DType::U32] {
            for &row_len in ROW_LENS {
                check_gather(&device, dtype, (1, row_len));
                check_gather(&device, dtype, (33, row_len));
            }
        }
    }
}

#[test]
fn rows_are_picked() {
    gather_on(cpu());
}

#[test]
fn cuda_rows_are_picked() {
    gather_on(gpu());
}

#[test]
fn a_row_outside_is_refused() {
    let device = Device::all_cpus();
    let x = Tensor::zeros::<f32>(&[3, 2]);
    let pick = |rows: &[u32]| gather_rows(&device, &x, &Tensor::from_slice(&[rows.len()], rows));
    assert!(pick(&[2, 0]).is_ok());
    assert!(pick(&[0, 3]).is_err());
    assert!(gather_rows(&device, &x, &x).is_err(), "rows are numbers");
}

#[test]
fn cuda_a_row_outside_becomes_zeros() {
    for device in gpu() {
        let x = any(DType::U32, &[3, 40]).to_device(&device).unwrap();
        let rows = Tensor::from_slice(&[3], &[1, 3, u32::MAX]).to_device(&device).unwrap();
        poison(&device);
        let y = gather_rows(&device, &x, &rows).unwrap().to_host(&device).unwrap();
        assert_eq!(y.as_slice::<u32>()[40..], [0; 80]);
    }
}

/// Memory for rows that peers would read.
fn slab(device: &Device) -> Arc<Slab> {
    Slab::new(device.arena(1 << 20).unwrap())
}

/// Rows go from a tensor to a slab's range and from there into another tensor.
fn check_ranges(device: &Device, slab: &Arc<Slab>, row_len: usize) {
    let source = any(DType::F32, &[9, row_len]);
    let row_bytes = row_len * 4;
    let mut range = slab.alloc(5 * row_bytes).unwrap();
    let on_device = source.to_device(device).unwrap();
    copy_to_range(device, &on_device, 3..8, &mut range).unwrap();
    let target = any(DType::F32, &[7, row_len]);
    let mut y = target.to_device(device).unwrap();
    // Rows 1, 2, 3 of the range are rows 4, 5, 6 of the source.
    put_rows(device, &mut y, 2, &range, 1..4).unwrap();
    put_rows(device, &mut y, 0, &range, 2..2).unwrap();
    let mut expected = target.bytes().to_vec();
    expected[2 * row_bytes..5 * row_bytes]
        .copy_from_slice(&source.bytes()[4 * row_bytes..7 * row_bytes]);
    assert_eq!(y.to_host(device).unwrap().bytes(), expected, "{row_len}");
    for (first_row, rows) in [(5, 0..3), (0, 4..6), (7, 0..1)] {
        assert!(put_rows(device, &mut y, first_row, &range, rows).is_err());
    }
    assert!(copy_to_range(device, &on_device, 3..9, &mut range).is_err(), "too long");
    assert!(copy_to_range(device, &on_device, 8..10, &mut range).is_err(), "no such rows");
}

#[test]
fn rows_go_through_ranges() {
    let device = Device::all_cpus();
    ROW_LENS.iter().for_each(|&row_len| check_ranges(&device, &slab(&device), row_len));
}

#[test]
fn cuda_rows_go_through_ranges_of_either_memory() {
    for device in gpu() {
        for &row_len in ROW_LENS {
            check_ranges(&device, &slab(&device), row_len);
            check_ranges(&device, &slab(&Device::all_cpus()), row_len);
        }
        let range = slab(&device).alloc(64).unwrap();
        let mut y = Tensor::zeros::<f32>(&[2, 4]);
        assert!(put_rows(&Device::all_cpus(), &mut y, 0, &range, 0..1).is_err());
    }
}

fn join_on(devices: Vec<Device>) {
    for device in devices {
        for row_len in [1, 5, 64] {
            let parts = [2, 0, 1, 33].map(|n| any(DType::Bf16, &[n, row_len]));
            let expected: Vec<u8> = parts.iter().flat_map(Tensor::bytes).copied().collect();
            let parts = parts.iter().map(|part| part.to_device(&device).unwrap()).collect();
            poison(&device);
            let whole = concatenated(&device, parts).unwrap().to_host(&device).unwrap();
            assert_eq!(whole.shape(), [36, row_len]);
            assert_eq!(whole.bytes(), expected);
        }
    }
}

#[test]
fn parts_are_joined() {
    join_on(cpu());
    let device = Device::all_cpus();
    let parts = || vec![Tensor::zeros::<f32>(&[1, 2]), Tensor::zeros::<f32>(&[1, 3])];
    assert!(concatenated(&device, parts()).is_err());
    assert!(concatenated(&device, Vec::new()).is_err());
    assert_eq!(concatenated(&device, parts().split_off(1)).unwrap().shape(), [1, 3]);
}

#[test]
fn cuda_parts_are_joined() {
    join_on(gpu());
}

/// Every value through every type, against `half`'s rounding.
fn cast_on(devices: Vec<Device>) {
    for device in devices {
        for n in [1, 3, 4, 127, 1024, 100_003] {
            let mut values = Random(n as u64).units(n);
            values[0] = 70_000.0;
            let x = || Tensor::from_slice(&[n], &values).to_device(&device).unwrap();
            let convert = |x, dtype| cast(&device, x, dtype).unwrap();
            poison(&device);
            let short = convert(x(), DType::Bf16).to_host(&device).unwrap();
            let expected: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            assert_eq!(short.as_slice::<bf16>(), expected);
            let half = convert(x(), DType::F16).to_host(&device).unwrap();
            let expected: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            assert_eq!(half.as_slice::<f16>(), expected);
            let through = convert(convert(convert(x(), DType::Bf16), DType::F16), DType::F32);
            let rounded = |v: &f32| f16::from_f32(bf16::from_f32(*v).to_f32()).to_f32();
            let expected: Vec<f32> = values.iter().map(rounded).collect();
            assert_eq!(through.to_host(&device).unwrap().as_f32(), expected);
            let back = convert(convert(convert(x(), DType::F16), DType::Bf16), DType::F32);
            let rounded = |v: &f32| bf16::from_f32(f16::from_f32(*v).to_f32()).to_f32();
            let expected: Vec<f32> = values.iter().map(rounded).collect();
            assert_eq!(back.to_host(&device).unwrap().as_f32(), expected);
        }
    }
}

#[test]
fn values_are_rounded_to_the_nearest() {
    cast_on(cpu());
    let device = Device::all_cpus();
    assert!(cast(&device, Tensor::zeros::<u8>(&[1]), DType::F32).is_err());
    assert!(cast(&device, Tensor::zeros::<f32>(&[1]), DType::U32).is_err());
}

#[test]
fn cuda_values_are_rounded_to_the_nearest() {
    cast_on(gpu());
}
