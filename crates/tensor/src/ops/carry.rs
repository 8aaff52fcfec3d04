//! Tokens that one step hands to the next on the device, before the host has seen them.
//!
//! Contract. `tokens`, `sampled` and `sources` are u32; where `sources[i]` is an index of
//! `sampled`, `tokens[i]` becomes that element; elsewhere ([`KNOWN`]) it stays as it is. On a GPU
//! the work is given to the device's stream and nobody waits for it.

use super::misuse;
use crate::cuda::{Arg, Grid};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use types::Result;

/// The source of a token that is known already.
pub const KNOWN: u32 = u32::MAX;

const THREADS: u32 = 128;

/// Puts sampled tokens where `sources` says.
///
/// Errors: not as many sources as tokens; the device refuses.
pub fn carry(
    device: &Device,
    tokens: &mut Tensor,
    sampled: &Tensor,
    sources: &Tensor,
) -> Result<()> {
    let are_words = [&*tokens, sampled, sources].iter().all(|one| one.dtype() == DType::U32);
    let n = tokens.n_elements();
    if !are_words || sources.n_elements() != n {
        return Err(misuse("carry", "the tokens do not fit their sources"));
    }
    match device {
        Device::Cpu(_) => {
            let sampled = sampled.as_slice::<u32>();
            let sources = sources.as_slice::<u32>();
            for (token, &source) in tokens.as_mut_slice::<u32>().iter_mut().zip(sources) {
                *token = sampled.get(source as usize).copied().unwrap_or(*token);
            }
            Ok(())
        }
        Device::Cuda(cuda) => {
            let n_sampled = Arg::U32(sampled.n_elements() as u32);
            let (sampled, sources) = (Arg::tensor(sampled), Arg::tensor(sources));
            let args = [Arg::mut_tensor(tokens), sampled, sources, Arg::U32(n as u32), n_sampled];
            let grid = Grid::line(n.div_ceil(THREADS as usize), THREADS);
            cuda.launch("carry", "carry_u32", grid, &args)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cases::cuda_device;

    const SIZES: [usize; 7] = [1, 2, 31, 127, 128, 129, 1000];

    /// Every third token of `n` comes from the samples, backwards.
    fn check(device: &Device, n: usize) {
        let n_sampled = n as u32 + 3;
        let source = |idx: u32| if idx.is_multiple_of(3) { n_sampled - 1 - idx } else { KNOWN };
        let sources: Vec<u32> = (0..n as u32).map(source).collect();
        let known: Vec<u32> = (0..n as u32).map(|idx| 1000 + idx).collect();
        let sampled: Vec<u32> = (0..n_sampled).map(|idx| 5 * idx + 1).collect();
        let on_device =
            |words: &[u32]| Tensor::from_slice(&[words.len()], words).to_device(device).unwrap();
        let mut tokens = on_device(&known);
        carry(device, &mut tokens, &on_device(&sampled), &on_device(&sources)).unwrap();
        let expected = known.iter().zip(&sources).map(|(&token, &source)| {
            if source == KNOWN { token } else { sampled[source as usize] }
        });
        let found = tokens.to_host(device).unwrap();
        assert_eq!(found.as_slice::<u32>(), expected.collect::<Vec<_>>());
        let short = on_device(&sources[..n - 1]);
        assert!(carry(device, &mut tokens, &on_device(&sampled), &short).is_err());
    }

    #[test]
    fn sampled_tokens_go_where_they_are_wanted() {
        SIZES.into_iter().for_each(|n| check(&Device::all_cpus(), n));
    }

    #[test]
    fn cuda_sampled_tokens_go_where_they_are_wanted() {
        if let Some(device) = cuda_device(DType::F32) {
            SIZES.into_iter().for_each(|n| check(&device, n));
        }
    }
}
