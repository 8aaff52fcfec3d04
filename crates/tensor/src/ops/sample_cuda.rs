//! Sampling on a GPU: the launch, and what comes back. The kernel's layouts are in
//! crates/kernels/cu/sample.cu and beside the rows ([`super::cuda_rows`]).

use super::super::misuse;
use super::cuda_rows::{BatchMaker, TOP_MAX};
use super::{Draw, SampleBatch, SampleRows, not_finite};
use crate::cuda::{Arg, Cuda, Event, Grid, Pinned, checked};
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::result;
use std::fmt;
use std::sync::Arc;
use types::output::{Logprob, OutputToken};
use types::{Error, Result, TokenId};

/// The kernel's blocks for a row, where there are clusters; elsewhere only the first of them works.
const BLOCKS_PER_ROW: usize = 8;
/// The first generation of GPUs with clusters.
const CLUSTERS_SINCE: (i32, i32) = (9, 0);
const THREADS: u32 = 512;
/// Logits that are copied at a time: a block's part is a multiple of them.
const GROUP: usize = 4;
/// Shared memory that the kernel has besides the logits.
const OWN_SHARED_BYTES: usize = 20 << 10;
/// The sum of so many weights does not overflow.
const VOCAB_MAX: usize = 1 << 18;

/// Results that may be under way at a time: one is read while the next is computed.
const N_COPIES: usize = 2;

const STATUS_TOKEN: u32 = 0;
const STATUS_TOKEN_AND_LOGPROBS: u32 = 1;

/// A row's token, as the kernel writes it.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ResultRecord {
    token: TokenId,
    status: u32,
    logprob: f32,
    n_top: u32,
    top: [TopRecord; TOP_MAX],
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TopRecord {
    token: TokenId,
    logprob: f32,
}

const RESULT_WORDS: usize = size_of::<ResultRecord>() / size_of::<u32>();

/// Samples rows of logits on a GPU, in the order of its stream.
pub struct DeviceSampler {
    pub(super) cuda: Arc<Cuda>,
    vocab: usize,
    n_rows_max: usize,
    maker: BatchMaker,
    /// u32 `[n_rows_max, RESULT_WORDS]`
    results: Tensor,
    /// u32 `[n_rows_max]`
    tokens: Tensor,
    copies: [Copied; N_COPIES],
    next_copy: usize,
}

/// Results on the host, once the event has come.
struct Copied {
    results: Pinned,
    done: Event,
}

/// Results that are on their way to the host.
#[derive(Debug)]
pub struct Sampled {
    copy_idx: usize,
    n_rows: usize,
}

impl DeviceSampler {
    /// For up to `n_rows_max` rows at a time, each of `vocab` logits.
    ///
    /// Errors: no memory left; a vocabulary of more than 2^18 tokens.
    pub fn new(cuda: &Arc<Cuda>, n_rows_max: usize, vocab: usize) -> Result<Self> {
        if vocab > VOCAB_MAX {
            return Err(Error::invalid("a GPU samples from 262144 tokens at most"));
        }
        let device = Device::Cuda(Arc::clone(cuda));
        let zeros = |shape: &[usize]| Tensor::zeros::<u32>(shape).to_device_for_good(&device);
        let copied = || {
            let results = Pinned::new(cuda.context(), n_rows_max * size_of::<ResultRecord>())?;
            Ok::<_, Error>(Copied { results, done: Event::new(cuda.context(), false)? })
        };
        Ok(Self {
            results: zeros(&[n_rows_max, RESULT_WORDS])?,
            tokens: zeros(&[n_rows_max])?,
            copies: [copied()?, copied()?],
            next_copy: 0,
            maker: BatchMaker::new(vocab),
            cuda: Arc::clone(cuda),
            vocab,
            n_rows_max,
        })
    }

    /// The tokens sampled last, u32 `[n_rows_max]`, in the order of the batch; always in the same
    /// place. 0 where there was none.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// What a launch for `draws` must know, each with its row among `n_logits_rows`.
    ///
    /// Errors: a row outside the logits; more draws than the sampler is for.
    pub fn prepare(
        &mut self,
        draws: &[(usize, Draw<'_>)],
        n_logits_rows: usize,
    ) -> Result<SampleBatch> {
        if draws.len() > self.n_rows_max {
            return Err(misuse("sample", "more rows than the sampler is for"));
        }
        self.maker.batch(draws, n_logits_rows)
    }

    /// Samples `rows` of f32 `logits` `[_, vocab or more]`, whose last elements beyond the
    /// vocabulary are ignored. May be recorded: all that changes from step to step lies in `rows`,
    /// which were [prepared](Self::prepare) for as many rows of logits.
    ///
    /// Errors: shapes that do not fit; the device fails.
    pub fn launch(&mut self, logits: &Tensor, rows: &SampleRows) -> Result<()> {
        let n_rows = rows.rows.n_rows();
        let fits = logits.dtype() == DType::F32
            && logits.row_len() >= self.vocab
            && n_rows <= self.n_rows_max;
        if !fits {
            return Err(misuse("sample", "the logits do not fit the sampler"));
        }
        let shared_bytes = self.shared_bytes();
        let grid = Grid::line(n_rows * BLOCKS_PER_ROW, THREADS);
        let mut args = vec![
            Arg::tensor(logits),
            Arg::tensor(&rows.rows),
            Arg::tensor(&rows.adjustments),
            Arg::mut_tensor(&mut self.results),
            Arg::mut_tensor(&mut self.tokens),
        ];
        let sizes = [self.vocab, logits.row_len()].map(|n| Arg::U32(n as u32));
        if let Some(shared_bytes) = shared_bytes {
            args.extend(sizes);
            return self.cuda.launch("sample", "sample_f32", Grid { shared_bytes, ..grid }, &args);
        }
        let device = Device::Cuda(Arc::clone(&self.cuda));
        let shape = [n_rows, self.vocab.next_multiple_of(GROUP)];
        let mut copy = Tensor::scratch_on(&device, DType::F32, &shape)?;
        args.push(Arg::mut_tensor(&mut copy));
        args.extend(sizes);
        self.cuda.launch("sample", "sample_f32_scratch", grid, &args)
    }

    /// Shared memory of a block for its part of a row; `None` where that is too small.
    fn shared_bytes(&self) -> Option<u32> {
        let context = self.cuda.context();
        let has_clusters = context.compute_capability() >= CLUSTERS_SINCE;
        let n_blocks = if has_clusters { BLOCKS_PER_ROW } else { 1 };
        let n_bytes = self.vocab.div_ceil(n_blocks * GROUP) * GROUP * size_of::<f32>();
        (n_bytes + OWN_SHARED_BYTES <= context.shared_bytes_max()).then_some(n_bytes as u32)
    }

    /// Begins to copy the results of the last launch, of `n_rows` rows, to the host. The results
    /// must be [taken](Self::take) before the launch after the next.
    ///
    /// Errors: more rows than the sampler is for; the device fails.
    pub fn fetch(&mut self, n_rows: usize) -> Result<Sampled> {
        if n_rows > self.n_rows_max {
            return Err(misuse("sample", "more rows than the sampler is for"));
        }
        let copy_idx = self.next_copy;
        self.next_copy = (copy_idx + 1) % N_COPIES;
        let copied = &mut self.copies[copy_idx];
        let to = &mut copied.results.as_mut_slice::<u8>()[..n_rows * size_of::<ResultRecord>()];
        let (from, stream) = (self.results.address(), self.cuda.stream());
        self.cuda.context().bind()?;
        if !to.is_empty() {
            // SAFETY: both have that many bytes; the host's are page-locked, are not looked at
            // before the event has come, and are kept until then (`drop` waits).
            let given = unsafe { result::memcpy_dtoh_async(to, from, stream.raw()) };
            checked(given, "copy from a GPU")?;
        }
        stream.record(&copied.done)?;
        Ok(Sampled { copy_idx, n_rows })
    }

    /// The tokens of a launch; waits for them.
    ///
    /// Errors: the device failed. Inside (`Internal`): a logit is not a number, or no token is
    /// possible.
    pub fn take(&mut self, sampled: &Sampled) -> Result<Vec<Result<OutputToken>>> {
        let copied = &self.copies[sampled.copy_idx];
        copied.done.synchronize()?;
        let n_bytes = sampled.n_rows * size_of::<ResultRecord>();
        let records = bytemuck::cast_slice(&copied.results.as_slice::<u8>()[..n_bytes]);
        Ok(records.iter().map(ResultRecord::token).collect())
    }
}

impl ResultRecord {
    fn token(&self) -> Result<OutputToken> {
        let logprob = match self.status {
            STATUS_TOKEN => None,
            STATUS_TOKEN_AND_LOGPROBS => Some(self.logprob),
            _ => return Err(not_finite()),
        };
        let top = self.top.iter().take(logprob.map_or(0, |_| self.n_top as usize));
        let named = |top: &TopRecord| Logprob { token: top.token, logprob: top.logprob };
        Ok(OutputToken { token: self.token, logprob, top_logprobs: top.map(named).collect() })
    }
}

impl Drop for DeviceSampler {
    fn drop(&mut self) {
        // A copy may still write to the memory that is freed now.
        for copied in &self.copies {
            let _ = copied.done.synchronize();
        }
    }
}

impl fmt::Debug for DeviceSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSampler({} rows of {})", self.n_rows_max, self.vocab)
    }
}
