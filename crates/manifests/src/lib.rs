//! The manifests of `envoy/` as values. What is checked of them is in `tests/`, in a crate of its own, so that nobody
//! else waits for the types of Kubernetes to be built.
//!
//! # Example
//!
//! ```
//! let objects = keywheel_manifests::read("istio/gateway.yaml").unwrap();
//! assert_eq!(objects[0].kind(), "WasmPlugin");
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

/// One object of Kubernetes, and where it is written.
#[derive(Debug, Clone)]
pub struct Object {
    /// Below `envoy/`.
    pub file: PathBuf,
    pub value: Value,
}

impl Object {
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    #[must_use]
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// What is at a JSON pointer; null where there is nothing.
    #[must_use]
    pub fn at(&self, pointer: &str) -> &Value {
        self.value.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A text; empty where there is none.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {}", self.file.display(), self.kind(), self.name())
    }
}

/// `envoy/` of this repository.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy")
}

/// The objects of one file below `envoy/`.
///
/// # Errors
///
/// It cannot be read, or is not YAML.
pub fn read(file: impl AsRef<Path>) -> anyhow::Result<Vec<Object>> {
    let file = file.as_ref();
    let text = fs::read_to_string(directory().join(file)).with_context(|| file.display().to_string())?;
    parse(file, &text)
}

/// The objects of a text, as if it were the content of this file.
///
/// # Errors
///
/// It is not YAML.
pub fn parse(file: &Path, text: &str) -> anyhow::Result<Vec<Object>> {
    let values: Vec<Value> = serde_saphyr::from_multiple(text).with_context(|| file.display().to_string())?;
    Ok(values.into_iter().map(|value| Object { file: file.to_owned(), value }).collect())
}

/// The objects of all files below `envoy/` that hold any: what is Envoy's own configuration has no `kind`.
///
/// # Errors
///
/// As [`read`].
pub fn all() -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in files(Path::new(""))? {
        objects.extend(read(file)?.into_iter().filter(|object| !object.kind().is_empty()));
    }
    Ok(objects)
}

/// Every YAML file below a directory of `envoy/`, in order.
///
/// # Errors
///
/// A directory cannot be read.
pub fn files(below: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let path = directory().join(below);
    for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files.extend(self::files(&name)?);
        } else if name.extension().is_some_and(|extension| extension == "yaml") {
            files.push(name);
        }
    }
    files.sort();
    Ok(files)
}
