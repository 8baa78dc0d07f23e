//! What a caller holds on to while a layer is applied.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ImageError;
use crate::units::Bytes;

/// Progress and cancellation of one operation; the default reports nothing and is never cancelled.
#[derive(Clone, Copy, Default)]
pub struct Control<'a> {
    progress: Option<&'a dyn Fn(Bytes)>,
    cancel: Option<&'a AtomicBool>,
}

impl<'a> Control<'a> {
    /// Calls `progress` on the caller's thread with the bytes of the layer's blob, as the archive
    /// holds it, read since the last call: over a whole layer they add up to the blob's size.
    #[must_use]
    pub fn with_progress(self, progress: &'a dyn Fn(Bytes)) -> Self {
        Self {
            progress: Some(progress),
            ..self
        }
    }

    /// Stops with [`ImageError::Cancelled`] soon after `cancel` turns true.
    #[must_use]
    pub fn with_cancel(self, cancel: &'a AtomicBool) -> Self {
        Self {
            cancel: Some(cancel),
            ..self
        }
    }

    /// The same, with nothing to report.
    pub(super) fn without_progress(&self) -> Self {
        Self {
            progress: None,
            ..*self
        }
    }

    pub(super) fn check(&self) -> Result<(), ImageError> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(ImageError::Cancelled),
            _ => Ok(()),
        }
    }

    pub(super) fn report(&self, bytes: u64) {
        if let Some(progress) = self.progress
            && bytes > 0
        {
            progress(Bytes::new(bytes));
        }
    }
}

impl fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("progress", &self.progress.is_some())
            .field("cancel", &self.cancel)
            .finish()
    }
}
