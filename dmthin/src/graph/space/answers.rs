//! Asks the pool's metadata, or what was answered before while nothing has changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::ids::PoolUuid;
use crate::thinmeta::{Answers, Kept, Questions};
use crate::units::Bytes;

/// A longer file is not ours: it is some hundred bytes for each device, of which there are 2^24.
const LONGEST: Bytes = Bytes::from_gib(4);

/// What an earlier command left; `None` where there is nothing to be read.
fn load(path: &Path, pool: PoolUuid) -> Option<Kept> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    if Bytes::new(length) > LONGEST {
        return None;
    }
    let mut text = String::new();
    file.take(length).read_to_string(&mut text).ok()?;
    Kept::decode(&text, pool)
}

/// Leaves it for the next one, who sees the old file or the new one. It is not flushed: one that a power
/// cut tore is not understood.
fn save(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
}

impl Live<'_> {
    /// Answers about the pool's space as it is now.
    ///
    /// # Errors
    /// As of [`Live::read_metadata`].
    pub(crate) fn answers(&self, questions: &Questions) -> Result<Answers, PoolError> {
        let pool = self.pool();
        let path = pool.host().layout().space(pool.name());
        let uuid = self.record().uuid;
        let kept = load(&path, uuid);
        let (answers, kept) = self.read_metadata(|metadata| metadata.answer(questions, kept))?;
        if let Some(kept) = kept
            && let Err(error) = save(&path, &kept.encode(uuid))
        {
            tracing::debug!(path = %path.display(), %error, "the answers are not kept");
        }
        Ok(answers)
    }
}
