//! A promise that ends when it is dropped: a registration, a served address.

/// Runs its action once, when dropped.
#[must_use = "dropping it withdraws at once"]
pub struct Withdraw(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Withdraw {
    /// What to do when the promise ends.
    pub fn on_drop(action: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(action)))
    }
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        if let Some(action) = self.0.take() {
            action();
        }
    }
}
