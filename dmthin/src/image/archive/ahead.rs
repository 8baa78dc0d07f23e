//! Layers that are read ahead of who applies them.
//!
//! While a layer is applied, which is mostly the file system's work, the next ones are read, decompressed and summed, as
//! far as the buffers of each go. What is wrong with one is told in its turn: those before it may be wanted all the same.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::thread::Scope;

use super::descriptor::LayerDescriptor;
use super::open::Archive;
use crate::image::layer::{BUFFERS, Stream};
use crate::image::{Applied, Control, ImageError};

/// Layers that are read while another one is applied.
const AHEAD: usize = 2;
/// The most memory that the buffers of an import may take.
const MEMORY: usize = 64 << 20;

// Those that are read ahead, the one that is applied, and a second reading of that.
const _: () = assert!((AHEAD + 2) * BUFFERS <= MEMORY, "too much memory");

/// Layers of an archive that wait to be applied, the next ones of them being read.
#[derive(Debug)]
pub struct Ahead<'scope, 'env> {
    archive: &'env Archive,
    scope: &'scope Scope<'scope, 'env>,
    pub(super) layers: VecDeque<Waiting<'scope>>,
}

/// A layer that waits. An error that it has already is told in its turn.
#[derive(Debug)]
pub(super) struct Waiting<'scope> {
    layer: LayerDescriptor,
    pub(super) stream: Option<Result<Stream<'scope>, ImageError>>,
}

impl Ahead<'_, '_> {
    /// Applies a layer to the directory `root`, as [`Archive::apply_layer`] does, and keeps in `split`, which is written
    /// anew, what [`rebuild_layer`](crate::image::rebuild_layer) gives the layer's tar back from. Layers that
    /// were to come before it are not wanted any more.
    ///
    /// # Errors
    /// Those; [`ImageError::Split`] where it cannot be written.
    pub fn apply_layer_recorded(
        &mut self,
        layer: &LayerDescriptor,
        root: BorrowedFd<'_>,
        control: &Control<'_>,
        split: &File,
    ) -> Result<Applied, ImageError> {
        let at = self.layers.iter().position(|known| known.layer == *layer);
        let waiting = at.and_then(|at| self.layers.drain(..=at).next_back());
        let stream = match waiting.and_then(|waiting| waiting.stream) {
            Some(begun) => begun?,
            None => self.archive.begin(self.scope, layer)?,
        };
        self.begin_next();
        let open = || layer.open(&self.archive.source).map(|(_, bytes)| bytes);
        stream.apply_recorded(open, root, control, split)
    }

    fn begin_next(&mut self) {
        for waiting in self.layers.iter_mut().take(AHEAD) {
            waiting
                .stream
                .get_or_insert_with(|| self.archive.begin(self.scope, &waiting.layer));
        }
    }
}

impl Archive {
    /// Begins to read a layer.
    fn begin<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        layer: &LayerDescriptor,
    ) -> Result<Stream<'scope>, ImageError> {
        let (blob, bytes) = layer.open(&self.source)?;
        Stream::begin(scope, bytes, layer.promise(blob.compression))
    }

    /// These layers, to be applied in this order, with later ones read while an earlier one is applied. What that takes
    /// has threads in `scope`, which end when it is dropped.
    pub fn ahead<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        layers: impl IntoIterator<Item = LayerDescriptor>,
    ) -> Ahead<'scope, 'env> {
        let mut ahead = Ahead {
            archive: self,
            scope,
            layers: layers
                .into_iter()
                .map(|layer| Waiting {
                    layer,
                    stream: None,
                })
                .collect(),
        };
        ahead.begin_next();
        ahead
    }
}
