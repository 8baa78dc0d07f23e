//! Which machine an image is for.

use std::fmt;
use std::str::FromStr;

use crate::ids::IdError;

/// An operating system and an architecture, in Go's words: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`; where the architecture has such.
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this was built for.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    pub(super) fn of_descriptor(platform: &oci_spec::image::Platform) -> Self {
        Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone(),
        }
    }

    /// Whether an image for `other` runs here. A variant that either side leaves out fits, and
    /// `arm64` is `arm64/v8`.
    #[must_use]
    pub fn takes(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && match (&self.variant, &other.variant) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant)
                if !os.is_empty() && !architecture.is_empty() && variant.as_deref() != Some("") =>
            {
                Ok(Self {
                    os,
                    architecture,
                    variant,
                })
            }
            _ => Err(IdError {
                what: "a platform",
                text: text.to_owned(),
                rule: "os/architecture, as in linux/arm64",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_shown() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        let host = Platform::host();
        assert_eq!(host.to_string().parse(), Ok(host));
    }

    #[test]
    fn a_left_out_variant_fits() {
        let p = |text: &str| text.parse::<Platform>().unwrap();
        assert!(p("linux/arm64").takes(&p("linux/arm64/v8")));
        assert!(p("linux/arm64/v8").takes(&p("linux/arm64")));
        assert!(!p("linux/arm/v6").takes(&p("linux/arm/v7")));
        assert!(!p("linux/amd64").takes(&p("linux/arm64")));
        assert!(!p("linux/amd64").takes(&p("windows/amd64")));
    }
}
