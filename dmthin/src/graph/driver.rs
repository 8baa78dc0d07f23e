//! The verbs of a graph driver, as container engines call them, over those of a [`Pool`].
//!
//! An id is a name: of an image, which is a read-only layer with all below it, or of a container, which is a layer
//! that can be written to. An id that both have means the container. A read-only layer is made of its parent and is at first the same; a diff that is
//! applied makes another one, which the id is then the name of, as a commit moves a branch. Nothing is
//! kept that the catalogue does not have.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::graph::capture::Commit;
use crate::graph::container::CreateContainer;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::prune::Parents;
use crate::graph::removal::Removing;
use crate::graph::report::{ContainerReport, Differences, ImageReport, PoolReport, WrittenLayer};
use crate::ids::{ContainerName, ImageId, ImageRef};
use crate::ioctl::LockGuard;
use crate::store::{StoreError, Timestamp, VolumeRecord};
use crate::units::Bytes;

/// A pool as a graph driver.
#[derive(Debug, Clone, Copy)]
pub struct Driver<'a> {
    pool: &'a Pool,
}

/// What is known of an id.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
#[non_exhaustive]
pub enum LayerMetadata {
    /// A layer that can be written to.
    Writable(ContainerReport),
    /// A read-only layer with all below it.
    Sealed(ImageReport),
}

/// What an id is of.
enum Found {
    Container(ContainerName),
    Image(ImageId),
}

/// A volume to be compared, and the lock of one that is in use.
struct Side {
    volume: VolumeRecord,
    image: ImageId,
    lock: Option<LockGuard>,
}

impl<'a> Driver<'a> {
    /// The verbs over a pool.
    #[must_use]
    pub const fn new(pool: &'a Pool) -> Self {
        Self { pool }
    }

    /// Makes a read-only layer that holds what its parent does, or nothing.
    ///
    /// # Errors
    /// [`PoolError::IdTaken`], [`StoreError::ImageNotFound`] for the parent.
    pub fn create(&self, id: &ImageRef, parent: Option<&str>) -> Result<(), PoolError> {
        if self.exists(id.as_str())? {
            return Err(PoolError::IdTaken { id: id.to_string() });
        }
        match parent {
            Some(parent) => self.pool.tag_image(parent, id).map(drop),
            None => self.pool.add_bare_image(id),
        }
    }

    /// Makes a layer on its parent that can be written to, at least as large as this.
    ///
    /// # Errors
    /// As of [`Pool::create_container`].
    pub fn create_read_write(
        &self,
        id: &ContainerName,
        parent: &str,
        size: Option<Bytes>,
    ) -> Result<(), PoolError> {
        let new = CreateContainer {
            image: parent.to_owned(),
            name: Some(id.clone()),
            size,
        };
        self.pool.create_container(&new).map(drop)
    }

    /// Removes a layer. What stands on a read-only one keeps what it needs of it.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`] where there is none; [`StoreError::ImageInUse`] while there are layers
    /// on it that can be written to.
    pub fn remove(&self, id: &str) -> Result<(), PoolError> {
        match self.find(id)? {
            Found::Container(name) => self.pool.remove_container(&name, Removing::Now).map(drop),
            Found::Image(_) => self.pool.remove_image(id, Parents::Keep).map(drop),
        }
    }

    /// Mounts a layer on a directory; a read-only one cannot be written to there.
    ///
    /// # Errors
    /// As of [`Pool::mount_container`] and [`Pool::mount_layer`].
    pub fn get(&self, id: &str, dir: &Path) -> Result<(), PoolError> {
        match self.find(id)? {
            Found::Container(name) => self.pool.mount_container(&name, dir).map(drop),
            Found::Image(_) => self.pool.mount_layer(id, dir),
        }
    }

    /// Unmounts a layer wherever it is mounted.
    ///
    /// # Errors
    /// As of [`Pool::unmount_container`].
    pub fn put(&self, id: &str) -> Result<(), PoolError> {
        match self.find(id)? {
            Found::Container(name) => self.pool.unmount_container(&name).map(drop),
            Found::Image(_) => self.pool.unmount_layer(id).map(drop),
        }
    }

    /// Whether there is such a layer.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn exists(&self, id: &str) -> Result<bool, PoolError> {
        match self.find(id) {
            Ok(_) => Ok(true),
            Err(PoolError::Store(StoreError::ImageNotFound { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How the pool is.
    ///
    /// # Errors
    /// As of [`Pool::status`].
    pub fn status(&self) -> Result<PoolReport, PoolError> {
        self.pool.status()
    }

    /// What is known of a layer.
    ///
    /// # Errors
    /// As of [`Pool::container`] and [`Pool::images`].
    pub fn metadata(&self, id: &str) -> Result<LayerMetadata, PoolError> {
        Ok(match self.find(id)? {
            Found::Container(name) => LayerMetadata::Writable(self.pool.container(&name)?),
            Found::Image(id) => LayerMetadata::Sealed(self.pool.image_report(id)?),
        })
    }

    /// Unmounts everything and closes the pool. What is in use stays, and so does the pool then.
    ///
    /// # Errors
    /// [`PoolError::Fs`] where a mount is in use, [`PoolError::PoolBusy`] where a device is.
    pub fn cleanup(&self) -> Result<(), PoolError> {
        for container in self.pool.catalogue().containers()? {
            self.pool.unmount_container(&container.name)?;
        }
        for layer in self.pool.catalogue().layers()? {
            self.pool.unmount_layer(&layer.layer.chain_id.to_string())?;
        }
        self.pool.host().close_pool(self.pool.name()).map(drop)
    }

    /// Writes as a layer's tar what a layer has otherwise than another one, or all that is in it.
    ///
    /// # Errors
    /// As of [`Pool::write_layer_diff`].
    pub fn diff(
        &self,
        id: &str,
        parent: Option<&str>,
        out: &mut dyn Write,
    ) -> Result<WrittenLayer, PoolError> {
        let live = self.pool.live()?;
        live.admit()?;
        let (old, new) = self.sides(&live, id, parent)?;
        let taken = || drop(new.lock);
        let written = live.write_layer_between(&old, &new.volume, taken, out)?;
        Ok(WrittenLayer::new(&written))
    }

    /// The paths that a layer has otherwise than another one, or all that it has.
    ///
    /// # Errors
    /// As of [`Pool::diff_layers`].
    pub fn changes(&self, id: &str, parent: Option<&str>) -> Result<Differences, PoolError> {
        let live = self.pool.live()?;
        live.admit()?;
        let (old, new) = self.sides(&live, id, parent)?;
        let taken = || drop(new.lock);
        Ok(live.diff_volumes(&old, &new.volume, taken)?.into())
    }

    /// Makes the read-only layer that a tar makes of its parent (`scratch` is none), and has `id` name it,
    /// whatever it named before. Gives the length of the tar, uncompressed.
    ///
    /// # Errors
    /// As of [`Pool::apply_layer`].
    pub fn apply_diff(
        &self,
        id: &ImageRef,
        parent: &str,
        tar: impl Read,
        created: Timestamp,
    ) -> Result<Bytes, PoolError> {
        let commit = Commit {
            name: Some(id.clone()),
            message: None,
            author: None,
            changes: Vec::new(),
            created,
        };
        Ok(self.pool.apply_layer_from(parent, tar, &commit)?.size)
    }

    /// The length of the tar that [`diff`](Self::diff) gives.
    ///
    /// # Errors
    /// As of [`diff`](Self::diff).
    pub fn diff_size(&self, id: &str, parent: Option<&str>) -> Result<Bytes, PoolError> {
        Ok(self.diff(id, parent, &mut io::sink())?.size)
    }

    fn find(&self, id: &str) -> Result<Found, PoolError> {
        if let Ok(name) = ContainerName::new(id) {
            match self.pool.catalogue().container(&name) {
                Ok(_) => return Ok(Found::Container(name)),
                Err(StoreError::ContainerNotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Found::Image(self.pool.catalogue().find_image(id)?.id))
    }

    fn side(&self, live: &Live<'_>, id: &str) -> Result<Side, PoolError> {
        match self.find(id)? {
            Found::Container(name) => {
                let (lock, record) = self.pool.lock_container(&name)?;
                self.pool.require_ready(&name, &record.volume)?;
                self.pool.require_going(&name, &record.volume)?;
                Ok(Side {
                    volume: record.volume,
                    image: record.image,
                    lock: Some(lock),
                })
            }
            Found::Image(image) => {
                let volume = match self.pool.catalogue().image_layers(image)?.pop() {
                    Some(top) => top.volume,
                    None => live.own_base()?,
                };
                Ok(Side {
                    volume,
                    image,
                    lock: None,
                })
            }
        }
    }

    /// What is compared with what: the older volume, and the newer.
    fn sides(
        &self,
        live: &Live<'_>,
        id: &str,
        parent: Option<&str>,
    ) -> Result<(VolumeRecord, Side), PoolError> {
        // The parent's lock goes first: two are never held at once.
        let old = match parent {
            Some(parent) => Some(self.side(live, parent)?.volume),
            None => None,
        };
        let new = self.side(live, id)?;
        let old = match old {
            Some(old) => old,
            None => match self.pool.catalogue().image_layers(new.image)?.first() {
                Some(lowest) => live.parent(&lowest.volume)?,
                None => live.own_base()?,
            },
        };
        Ok((old, new))
    }
}
