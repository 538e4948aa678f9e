//! The filter with two flaws put in: a VM that takes a certain answer of the control plane traps, or
//! never comes back. Only the VM that fetches the ring takes answers, so the flaw hits the leader.
//!
//! The filter has no such flaw that we know of. What must hold is that it would not matter.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// An answer with a body of so many bytes makes the VM trap.
pub(crate) const TRAPS: usize = 31_337;
/// An answer with a body of so many bytes keeps the VM, and its thread, for ever.
pub(crate) const HANGS: usize = 31_338;

const CALLBACK: &str = "proxy_on_http_call_response";

pub(crate) struct Fragile {
    pub(crate) wasm: PathBuf,
    _dir: TempDir,
}

impl Fragile {
    /// Writes a copy of the filter whose callback for answers looks at their length first.
    pub(crate) fn of(filter: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("fragile.wasm");
        std::fs::write(&wasm, wrap(&std::fs::read(filter).unwrap())).unwrap();
        Self { wasm, _dir: dir }
    }
}

const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;

/// Appends a function that calls the callback, and exports it in the callback's place.
fn wrap(module: &[u8]) -> Vec<u8> {
    let sections = sections(module);
    let section = |id| sections.iter().find(|(of, _)| *of == id).map(|(_, body)| *body).unwrap();
    let imported = imported_functions(section(IMPORTS));
    let mut functions = Reader(section(FUNCTIONS));
    let types: Vec<u32> = (0..functions.number()).map(|_| functions.number()).collect();
    let added = imported + u32::try_from(types.len()).unwrap();
    let (exports, wrapped) = export_instead(section(EXPORTS), added);
    let of_type = types[(wrapped - imported) as usize];

    let mut out = module[..8].to_vec();
    for (id, body) in &sections {
        let body = match *id {
            FUNCTIONS => appended(body, &number(of_type)),
            EXPORTS => exports.clone(),
            CODE => {
                let code = wrapper(wrapped);
                appended(body, &[number(u32::try_from(code.len()).unwrap()), code].concat())
            }
            _ => body.to_vec(),
        };
        out.push(*id);
        out.extend(number(u32::try_from(body.len()).unwrap()));
        out.extend(body);
    }
    out
}

/// `(context, token, headers, body_size, trailers)`, as the callback takes them.
fn wrapper(wrapped: u32) -> Vec<u8> {
    const LOCAL_GET: u8 = 0x20;
    const CONST: u8 = 0x41;
    const EQUAL: u8 = 0x46;
    const IF: [u8; 2] = [0x04, 0x40];
    const LOOP_FOR_EVER: [u8; 5] = [0x03, 0x40, 0x0c, 0x00, 0x0b];
    const UNREACHABLE: u8 = 0x00;
    const END: u8 = 0x0b;
    let mut code = vec![0];
    for (length, then) in [(TRAPS, &[UNREACHABLE][..]), (HANGS, &LOOP_FOR_EVER)] {
        code.extend([LOCAL_GET, 3, CONST]);
        code.extend(number(u32::try_from(length).unwrap()));
        code.push(EQUAL);
        code.extend(IF);
        code.extend(then);
        code.push(END);
    }
    for parameter in 0..5 {
        code.extend([LOCAL_GET, parameter]);
    }
    code.push(0x10);
    code.extend(number(wrapped));
    code.push(END);
    code
}

/// The export section with another function under the callback's name, and which it was.
fn export_instead(body: &[u8], added: u32) -> (Vec<u8>, u32) {
    let mut reader = Reader(body);
    let count = reader.number();
    let (mut out, mut wrapped) = (number(count), None);
    for _ in 0..count {
        let (name, kind, mut index) = (reader.text(), reader.byte(), reader.number());
        if name == CALLBACK.as_bytes() {
            wrapped = Some(std::mem::replace(&mut index, added));
        }
        out.extend(number(u32::try_from(name.len()).unwrap()));
        out.extend(name);
        out.push(kind);
        out.extend(number(index));
    }
    (out, wrapped.expect("the filter exports the callback for answers"))
}

fn imported_functions(body: &[u8]) -> u32 {
    let mut reader = Reader(body);
    let mut functions = 0;
    for _ in 0..reader.number() {
        let (_, name) = (reader.text(), reader.text());
        assert_eq!(reader.byte(), 0, "{} is no function", String::from_utf8_lossy(name));
        reader.number();
        functions += 1;
    }
    functions
}

/// A section that is a list, with one item more.
fn appended(body: &[u8], item: &[u8]) -> Vec<u8> {
    let mut reader = Reader(body);
    let count = reader.number() + 1;
    [&number(count), reader.0, item].concat()
}

fn sections(module: &[u8]) -> Vec<(u8, &[u8])> {
    let mut reader = Reader(&module[8..]);
    let mut sections = Vec::new();
    while !reader.0.is_empty() {
        let id = reader.byte();
        sections.push((id, reader.text()));
    }
    sections
}

/// Reads what a module is made of; it is our own, so that anything unexpected is a failed test.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap();
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }

    /// Bytes behind their length.
    fn text(&mut self) -> &'a [u8] {
        let length = self.number() as usize;
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        text
    }
}

/// A number as a module writes it: seven bits to a byte. Below 2^31 with a bit to spare, so that it may
/// be read as signed too.
fn number(mut value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 && low & 0x40 == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}
