use std::cell::RefCell;
use std::collections::BTreeMap;

use keywheel_filter::credential::Headers;
use keywheel_filter::request::{Request, Unreadable};

/// A property that the host has and cannot show.
pub const UNREADABLE: &[u8] = b"\0unreadable";

/// A fake of one of Envoy's requests: its headers, its properties, and what was told of it.
#[derive(Debug, Default)]
pub struct FakeRequest {
    headers: RefCell<Vec<(String, Vec<u8>)>>,
    pub properties: BTreeMap<String, Vec<u8>>,
    pub told: RefCell<BTreeMap<String, String>>,
    stubborn: bool,
}

impl FakeRequest {
    /// A GET of a path, with these headers.
    pub fn get(path: &str, headers: &[(&str, &str)]) -> Self {
        let request = Self::default();
        for (name, value) in [(":method", "GET"), (":path", path), (":authority", "api.example.com")] {
            request.push(name, value.as_bytes());
        }
        for (name, value) in headers {
            request.push(name, value.as_bytes());
        }
        request
    }

    /// Adds a value, next to others of the same name.
    pub fn push(&self, name: &str, value: &[u8]) {
        self.headers.borrow_mut().push((name.to_owned(), value.to_vec()));
    }

    pub fn replace(self, name: &str, value: &str) -> Self {
        self.headers.borrow_mut().retain(|(held, _)| held != name);
        self.push(name, value.as_bytes());
        self
    }

    /// The same, of a host that refuses to change it.
    pub fn stubborn(mut self) -> Self {
        self.stubborn = true;
        self
    }

    pub fn with_property(mut self, path: &[&str], value: &[u8]) -> Self {
        self.properties.insert(path.join("."), value.to_vec());
        self
    }

    /// All values of a header, joined; `-` if there is none.
    pub fn header(&self, name: &str) -> String {
        self.joined(name).map_or_else(|| "-".into(), |value| String::from_utf8_lossy(&value).into_owned())
    }
}

impl Headers for FakeRequest {
    type Value = Vec<u8>;

    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let headers = self.headers.borrow();
        let values: Vec<&[u8]> =
            headers.iter().filter(|(held, _)| held == name).map(|(_, value)| value.as_slice()).collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    }

    fn first(&self, name: &str) -> Option<Vec<u8>> {
        self.headers.borrow().iter().find(|(held, _)| held == name).map(|(_, value)| value.clone())
    }

    fn set(&self, name: &str, value: &[u8]) -> bool {
        if !self.stubborn {
            self.headers.borrow_mut().retain(|(held, _)| held != name);
            self.push(name, value);
        }
        !self.stubborn
    }

    fn remove(&self, name: &str) -> bool {
        if !self.stubborn {
            self.headers.borrow_mut().retain(|(held, _)| held != name);
        }
        !self.stubborn
    }
}

impl Request for FakeRequest {
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.properties.get(&path.join(".")) {
            Some(bytes) if bytes == UNREADABLE => Err(Unreadable),
            property => Ok(property.cloned()),
        }
    }

    fn tell(&self, name: &str, value: &[u8]) {
        self.told.borrow_mut().insert(name.to_owned(), String::from_utf8_lossy(value).into_owned());
    }
}
