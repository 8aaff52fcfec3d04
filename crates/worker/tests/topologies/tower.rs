//! A model whose vision tower waits with certain media until the test lets it go on.

use crate::Fixture;
use media::{Image, Limits, Size};
use models::{MediaPlan, Model, ModelSpec, Positions, PreparedMedia, Processor, Step};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tensor::{Device, KvPool, Tensor};
use types::content::Digest;
use types::media::MediaKind;
use types::prompt::ExpandedPrompt;
use types::{Error, Result};

/// Longest time that the tower waits; a test that fails lets nobody go on.
const WAIT_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Tower {
    model: Arc<dyn Model>,
    held: Box<dyn Fn(&PreparedMedia) -> bool + Send + Sync>,
    is_open: Mutex<bool>,
    opened: Condvar,
    /// Media of each run that was begun.
    runs: Mutex<Vec<usize>>,
}

impl Tower {
    /// The model of `fixture`, with a tower that waits with the media for which `held` is true.
    pub(crate) fn of(
        fixture: &mut Fixture,
        held: impl Fn(&PreparedMedia) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let tower = Arc::new(Self {
            model: Arc::clone(&fixture.model),
            held: Box::new(held),
            is_open: Mutex::new(false),
            opened: Condvar::new(),
            runs: Mutex::default(),
        });
        fixture.model = Arc::<Self>::clone(&tower);
        tower
    }

    /// Lets the tower go on with everything.
    pub(crate) fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    /// The number of media in each of its runs so far.
    pub(crate) fn runs(&self) -> Vec<usize> {
        self.runs.lock().unwrap().clone()
    }
}

impl Model for Tower {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn encode(&self, device: &Device, media: &[&PreparedMedia]) -> Result<Tensor> {
        self.runs.lock().unwrap().push(media.len());
        if media.iter().any(|medium| (self.held)(medium)) {
            let is_open = self.is_open.lock().unwrap();
            let waited = self.opened.wait_timeout_while(is_open, WAIT_MAX, |is_open| !*is_open);
            if waited.unwrap().1.timed_out() {
                return Err(Error::internal("nobody let the tower go on"));
            }
        }
        self.model.encode(device, media)
    }

    fn positions(&self, prompt: &ExpandedPrompt) -> Positions {
        self.model.positions(prompt)
    }

    fn forward(&self, device: &Device, step: &Step<'_>, kv: &mut KvPool) -> Result<Tensor> {
        self.model.forward(device, step, kv)
    }
}

/// A processor that counts what it has prepared.
pub(crate) struct Counting {
    inner: Arc<dyn Processor>,
    n_prepared: AtomicUsize,
}

impl Counting {
    /// The processor of `fixture`.
    pub(crate) fn of(fixture: &mut Fixture) -> Arc<Self> {
        let inner = Arc::clone(&fixture.description.processor);
        let counting = Arc::new(Self { inner, n_prepared: AtomicUsize::new(0) });
        fixture.description.processor = Arc::<Self>::clone(&counting);
        counting
    }

    pub(crate) fn n_prepared(&self) -> usize {
        self.n_prepared.load(Ordering::Relaxed)
    }
}

impl Processor for Counting {
    fn plan(&self, kind: MediaKind, size: Size, options: &str) -> Result<MediaPlan> {
        self.inner.plan(kind, size, options)
    }

    fn prepare(&self, image: &Image, plan: &MediaPlan, options: &str) -> Result<PreparedMedia> {
        let prepared = self.inner.prepare(image, plan, options);
        self.n_prepared.fetch_add(1, Ordering::Relaxed);
        prepared
    }

    fn digest_fields(&self) -> Digest {
        self.inner.digest_fields()
    }
}

/// The picture as the tower will see it.
pub(crate) fn prepared(fixture: &Fixture, picture: &[u8]) -> PreparedMedia {
    let (processor, limits) = (&fixture.description.processor, Limits::default());
    let size = media::header(picture, &limits).unwrap().size;
    let plan = processor.plan(MediaKind::Image, size, "{}").unwrap();
    processor.prepare(&media::decode(picture, &limits).unwrap(), &plan, "{}").unwrap()
}
