//! What a pool has beside its volumes: the records of layers' tars, the copy of the catalogue, loops.

use crate::backing::SparseFile;
use crate::graph::error::PoolError;
use crate::graph::finding::{Finding, FindingKind, Remedy};
use crate::graph::live::Live;
use crate::graph::mirror::MirrorState;
use crate::graph::split::volume_of;
use crate::graph::survey::Survey;
use crate::ids::{DevNo, VolumeKind};
use crate::store::BackingRecord;

impl Survey<'_> {
    pub(super) fn check_splits(&mut self) -> Result<(), PoolError> {
        for path in self.pool.host().layout().splits(self.pool.name()) {
            let Some(id) = volume_of(&path).filter(|id| !self.is_known(*id)) else {
                continue;
            };
            if self.in_work(VolumeKind::Layer, id)? {
                continue;
            }
            let text = format!("{} is of a layer that is no more", path.display());
            let finding = Finding {
                volume: Some(id),
                ..self.finding(FindingKind::StrayRecord, Remedy::Remove, text)
            };
            self.found.push(finding);
        }
        Ok(())
    }

    /// What verbs that run have not written to it yet they do when they end.
    pub(super) fn check_mirror(&mut self) {
        let Some(state) = self.pool.mirror_state(&self.record) else {
            return;
        };
        if !self.open || !self.alone {
            return;
        }
        let is_mirrored = || Live::open(self.pool, self.record.clone(), None)?.is_mirrored();
        let follows = state == MirrorState::Current
            && is_mirrored().unwrap_or_else(|error| {
                tracing::warn!(%error, "the copy of the catalogue in the pool cannot be read");
                false
            });
        if !follows {
            let text = "the copy of the catalogue in the pool is behind the catalogue: should this be lost, \
                        what changed since is lost with it"
                .to_owned();
            let finding = self.finding(FindingKind::StaleMirror, Remedy::Finish, text);
            self.found.push(finding);
        }
    }

    pub(super) fn check_loops(&mut self) -> Result<(), PoolError> {
        let used: Vec<DevNo> = if self.open {
            let live = Live::open(self.pool, self.record.clone(), None)?;
            let (_, table) = live.thin_pool().table()?;
            vec![table.data, table.metadata]
        } else {
            Vec::new()
        };
        for backing in [&self.record.data, &self.record.metadata] {
            if !matches!(backing, BackingRecord::File { .. }) {
                continue;
            }
            let path = self.pool.backing_path(backing);
            for device in SparseFile::open(&path)?.loops()? {
                if used.contains(&device.dev()) {
                    continue;
                }
                let text = format!(
                    "{} is on {}, and the pool does not use it: what it writes ruins the pool",
                    device.path().display(),
                    path.display()
                );
                let finding = Finding {
                    devno: Some(device.dev()),
                    node: Some(device.path().to_owned()),
                    ..self.finding(FindingKind::StrayLoop, Remedy::Remove, text)
                };
                self.found.push(finding);
            }
        }
        Ok(())
    }
}
