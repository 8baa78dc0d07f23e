//! Random bytes for names and uuids.

use std::path::Path;

use crate::graph::error::PoolError;

/// `N` bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], PoolError> {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole and are never cut short by a signal (random(4)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| PoolError::io("read", Path::new("/dev/urandom"), errno.into()))?;
    Ok(bytes)
}
