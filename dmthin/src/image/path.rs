//! Names of entries, made safe.

use crate::image::ImageError;
use crate::image::error::path_of;

/// A name with its empty and `.` components gone: relative, and nothing in it leads upwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct CleanPath {
    bytes: Vec<u8>,
    /// Where the last component begins.
    name_at: usize,
}

impl CleanPath {
    /// Checks the name an entry or a hard link was given.
    pub(in crate::image) fn new(given: &[u8]) -> Result<Self, ImageError> {
        if given.contains(&0) {
            return Err(ImageError::InvalidName {
                path: path_of(given),
            });
        }
        let mut bytes = Vec::with_capacity(given.len());
        let mut name_at = 0;
        for component in given.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    return Err(ImageError::PathEscape {
                        path: path_of(given),
                    });
                }
                _ => {
                    if !bytes.is_empty() {
                        bytes.push(b'/');
                    }
                    name_at = bytes.len();
                    bytes.extend_from_slice(component);
                }
            }
        }
        Ok(Self { bytes, name_at })
    }

    /// The whole, `a/b/c`; empty for the root.
    pub(in crate::image) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The last component; `.` for the root, which is beneath itself.
    pub(in crate::image) fn name(&self) -> &[u8] {
        match self.bytes.get(self.name_at..) {
            None | Some(b"") => b".",
            Some(name) => name,
        }
    }

    /// All but the last component; empty for the root and for what lies right in it.
    pub(in crate::image) fn parent(&self) -> &[u8] {
        let end = self.name_at.saturating_sub(1);
        self.bytes.get(..end).unwrap_or_default()
    }

    /// Where a symbolic link at this path leads that reads `target`; an absolute target is taken
    /// from the root. For archives, whose links are only text: `..` takes a component away.
    pub(in crate::image) fn follow(&self, target: &[u8]) -> Result<Self, ImageError> {
        let mut components: Vec<&[u8]> = if target.starts_with(b"/") {
            Vec::new()
        } else {
            let parent = self.parent().split(|b| *b == b'/');
            parent.filter(|component| !component.is_empty()).collect()
        };
        for component in target.split(|b| *b == b'/') {
            if component.is_empty() {
                continue;
            }
            if component == b".." {
                components.pop().ok_or_else(|| ImageError::PathEscape {
                    path: path_of(target),
                })?;
            } else if component != b"." {
                components.push(component);
            }
        }
        Self::new(&components.join(&b'/'))
    }

    /// Whether it is the directory all others are in.
    pub(in crate::image) fn is_root(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        for (given, whole, parent, name) in [
            (&b"a/b/c"[..], &b"a/b/c"[..], &b"a/b"[..], &b"c"[..]),
            (b"./a", b"a", b"", b"a"),
            (b"/a/", b"a", b"", b"a"),
            (b"//a//./b//", b"a/b", b"a", b"b"),
            (b"./", b"", b"", b"."),
            (b"", b"", b"", b"."),
            (b"...", b"...", b"", b"..."),
            (b"a\nb/\xff", b"a\nb/\xff", b"a\nb", b"\xff"),
        ] {
            let path = CleanPath::new(given).unwrap();
            assert_eq!(path.as_bytes(), whole);
            assert_eq!(path.parent(), parent);
            assert_eq!(path.name(), name);
            assert_eq!(path.is_root(), whole.is_empty());
        }
    }

    #[test]
    fn links_are_followed_in_the_text() {
        let at = |path: &[u8]| CleanPath::new(path).unwrap();
        for (link, target, whole) in [
            (
                &b"a/layer.tar"[..],
                &b"../b/layer.tar"[..],
                &b"b/layer.tar"[..],
            ),
            (b"a/l", b"m", b"a/m"),
            (b"a/l", b"./m", b"a/m"),
            (b"a/l", b"/m", b"m"),
            (b"l", b"m/n", b"m/n"),
        ] {
            assert_eq!(at(link).follow(target).unwrap().as_bytes(), whole);
        }
        for target in [&b"../../x"[..], b"/../x"] {
            assert!(matches!(
                at(b"a/l").follow(target),
                Err(ImageError::PathEscape { .. })
            ));
        }
    }

    #[test]
    fn names_that_lead_upwards_are_refused() {
        for given in [&b".."[..], b"../a", b"a/..", b"a/../b", b"/../a"] {
            let error = CleanPath::new(given).unwrap_err();
            assert!(
                matches!(&error, ImageError::PathEscape { path } if *path == path_of(given)),
                "{error:?}"
            );
        }
        assert!(matches!(
            CleanPath::new(b"a\0b"),
            Err(ImageError::InvalidName { .. })
        ));
    }
}
