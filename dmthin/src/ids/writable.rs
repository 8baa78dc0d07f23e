//! The name of what somebody writes to: a container's or a data volume's.

use std::fmt;

use crate::ids::{ContainerName, VolumeKind, VolumeName};

/// What has a block device of its own that is handed out, by its name. Containers and data volumes have
/// names of their own each, so that the same one can be both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(untagged)]
pub enum WritableName {
    /// A container.
    Container(ContainerName),
    /// A data volume.
    Data(VolumeName),
}

impl WritableName {
    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Container(name) => name.as_str(),
            Self::Data(name) => name.as_str(),
        }
    }

    /// What a person calls such a thing, which is the noun of its commands too.
    #[must_use]
    pub const fn noun(&self) -> &'static str {
        match self {
            Self::Container(_) => "container",
            Self::Data(_) => "volume",
        }
    }

    /// What its volume is for.
    #[must_use]
    pub const fn kind(&self) -> VolumeKind {
        match self {
            Self::Container(_) => VolumeKind::Container,
            Self::Data(_) => VolumeKind::Data,
        }
    }
}

impl fmt::Display for WritableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<&ContainerName> for WritableName {
    fn from(name: &ContainerName) -> Self {
        Self::Container(name.clone())
    }
}

impl From<&VolumeName> for WritableName {
    fn from(name: &VolumeName) -> Self {
        Self::Data(name.clone())
    }
}

impl From<&Self> for WritableName {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}
