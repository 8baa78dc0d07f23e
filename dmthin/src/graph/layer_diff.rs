//! Layers as tars: what one volume has changed of another.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;

use crate::delta::Change;
use crate::fs::DetachedMount;
use crate::graph::diff::Private;
use crate::graph::error::PoolError;
use crate::graph::layer_out::LayerTar;
use crate::graph::live::Live;
use crate::image::{ImageError, LayerWritten, record_layer, write_layer};
use crate::store::{SealedLayer, VolumeRecord};

impl Live<'_> {
    /// Sums what a volume that the caller is making has changed of another, as a layer's tar, and keeps in
    /// `split` what gives that back. The volume is active, and mounted nowhere.
    pub(crate) fn sum_own_layer(
        &self,
        old: &VolumeRecord,
        new: &VolumeRecord,
        split: &File,
    ) -> Result<LayerWritten, PoolError> {
        let mut new = Private::own(new.clone(), self.activate_internal(new)?);
        self.against(old, &mut new, |changes, was, is| {
            let written = write_layer(changes, is.root(), Some(was.root()), &mut io::sink())?;
            // Once more, now that its digest is known: what was written is kept nowhere.
            record_changes(changes, was, is, &written, split)?;
            Ok(written)
        })
    }

    /// Writes what differs between two volumes that are ready; `taken` is called once only snapshots are read.
    pub(crate) fn write_layer_between(
        &self,
        old: &VolumeRecord,
        new: &VolumeRecord,
        taken: impl FnOnce(),
        out: &mut dyn Write,
    ) -> Result<LayerWritten, PoolError> {
        let mut new = self.private_snapshot(new)?;
        taken();
        let written = self.against(old, &mut new, |changes, was, is| {
            write_layer(changes, is.root(), Some(was.root()), out)
        });
        after(written, self.drop_private(new))
    }

    /// Writes the tar of a layer, by the very bytes that its digest is of; or others and
    /// [`PoolError::LayerNotRecorded`], where there is no record of those and its files do not give them.
    pub(crate) fn write_sealed(
        &self,
        layer: &SealedLayer,
        out: &mut dyn Write,
    ) -> Result<(), PoolError> {
        let changes = match self.pool().open_split(layer.volume.id)? {
            Some(_) => None,
            // Made where nothing was kept of it, or it was lost. If it was committed there, this gives the same bytes.
            None => {
                let below = self.parent(&layer.volume)?;
                Some(self.diff_volumes(&below, &layer.volume, || ())?.changes)
            }
        };
        let SealedLayer { layer, .. } = layer;
        let tar = self
            .pool()
            .write_layer_tar(&layer.chain_id, changes.as_deref(), out)?;
        match tar {
            LayerTar::Written(written) if written.diff_id != layer.diff_id => {
                let diff_id = layer.diff_id;
                Err(PoolError::LayerNotRecorded { diff_id })
            }
            _ => Ok(()),
        }
    }

    /// Has `work` read both trees, and what differs between them.
    fn against<T>(
        &self,
        old: &VolumeRecord,
        new: &mut Private,
        work: impl FnOnce(&[Change], &DetachedMount, &DetachedMount) -> Result<T, ImageError>,
    ) -> Result<T, PoolError> {
        let mut old = self.private_snapshot(old)?;
        let read = || {
            let changes = self.diff_private(&mut old, new)?.changes;
            let (was, is) = (old.mount()?, new.mount()?);
            Ok(work(&changes, &was, &is)?)
        };
        let worked = read();
        after(worked, self.drop_private(old))
    }
}

/// Writes a layer's tar into what records it.
fn record_changes(
    changes: &[Change],
    was: &DetachedMount,
    is: &DetachedMount,
    written: &LayerWritten,
    split: &File,
) -> Result<(), ImageError> {
    let (tar, mut out) = io::pipe().map_err(ImageError::Split)?;
    let (was, is) = (was.root(), is.root());
    thread::scope(|scope| {
        let writing = thread::Builder::new()
            .name("layer-tar".to_owned())
            .spawn_scoped(scope, move || {
                write_layer(changes, is.as_fd(), Some(was.as_fd()), &mut out)
            })
            .map_err(ImageError::Thread)?;
        let recorded = record_layer(tar, written.diff_id, is, split);
        let again = writing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Who writes to a reader that has given up has an error that says less.
        recorded.and(again.map(drop))
    })
}

/// What came of something, and of clearing away after it.
fn after<T>(result: Result<T, PoolError>, cleared: Result<(), PoolError>) -> Result<T, PoolError> {
    match result {
        Ok(value) => cleared.map(|()| value),
        Err(error) => Err(error.with_undo(cleared)),
    }
}
