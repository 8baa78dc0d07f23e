//! Paths in JSON, which takes text only: a name that is no UTF-8 is told with U+FFFD for what is none,
//! as people see it everywhere else. Who acts on such a path has the bytes in the record.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// A path.
///
/// # Errors
/// The serializer's.
pub fn path<S: Serializer>(path: impl AsRef<Path>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().to_string_lossy().serialize(to)
}

/// A path or nothing.
///
/// # Errors
/// The serializer's.
pub fn option<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref()
        .map(|path| path.to_string_lossy())
        .serialize(to)
}

/// Paths.
///
/// # Errors
/// The serializer's.
pub fn list<S: Serializer>(paths: impl AsRef<[PathBuf]>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.as_ref().iter().map(|path| path.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[derive(Serialize)]
    struct Paths {
        #[serde(serialize_with = "path")]
        one: PathBuf,
        #[serde(serialize_with = "option")]
        none: Option<PathBuf>,
        #[serde(serialize_with = "option")]
        some: Option<PathBuf>,
        #[serde(serialize_with = "list")]
        all: Vec<PathBuf>,
    }

    #[test]
    fn what_is_no_text_is_told_all_the_same() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/mnt/\xff"));
        let paths = Paths {
            one: odd.clone(),
            none: None,
            some: Some(odd.clone()),
            all: vec!["/mnt/a".into(), odd],
        };
        assert_eq!(
            serde_json::to_string(&paths).unwrap(),
            "{\"one\":\"/mnt/\u{fffd}\",\"none\":null,\"some\":\"/mnt/\u{fffd}\",\
             \"all\":[\"/mnt/a\",\"/mnt/\u{fffd}\"]}"
        );
    }
}
