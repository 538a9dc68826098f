//! Writes what `torch.save` writes, and what it never would.
#![allow(dead_code, reason = "every test file uses a part of it")]

/// An entry of an archive: its name, its bytes, its compression method, and the size that it claims to unpack to.
pub struct Entry {
    pub name: String,
    pub bytes: Vec<u8>,
    pub method: u16,
    pub size: u32,
}

pub fn entry(name: &str, bytes: &[u8]) -> Entry {
    let size = bytes.len() as u32;
    Entry { name: name.into(), bytes: bytes.into(), method: 0, size }
}

/// A zip archive. `start_of` moves an entry to where another one begins.
pub fn zip(entries: &[Entry], start_of: impl Fn(usize) -> usize) -> Vec<u8> {
    let header = |entry: &Entry, directory: bool| {
        let mut bytes = if directory { b"PK\x01\x02\0\0".to_vec() } else { b"PK\x03\x04".to_vec() };
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(entry.method.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend((entry.bytes.len() as u32).to_le_bytes());
        bytes.extend(entry.size.to_le_bytes());
        bytes.extend((entry.name.len() as u16).to_le_bytes());
        bytes.extend([0, 0]);
        bytes
    };
    let (mut file, mut starts) = (Vec::new(), Vec::new());
    for entry in entries {
        starts.push(file.len() as u32);
        file.extend(header(entry, false));
        file.extend(entry.name.bytes());
        file.extend(&entry.bytes);
    }
    let directory = file.len() as u32;
    for (i, entry) in entries.iter().enumerate() {
        file.extend(header(entry, true));
        file.extend([0; 10]);
        file.extend(starts[start_of(i)].to_le_bytes());
        file.extend(entry.name.bytes());
    }
    let size = file.len() as u32 - directory;
    file.extend(b"PK\x05\x06\0\0\0\0");
    let count = (entries.len() as u16).to_le_bytes();
    file.extend([count, count].concat());
    file.extend(size.to_le_bytes());
    file.extend(directory.to_le_bytes());
    file.extend([0, 0]);
    file
}

/// An archive of this pickle and these storages.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut entries = vec![entry("a/data.pkl", pickle)];
    entries.extend(storages.iter().map(|(key, bytes)| entry(&format!("a/data/{key}"), bytes)));
    zip(&entries, |i| i)
}

/// A pickle of protocol 2, written instruction by instruction.
#[derive(Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn op(mut self, op: u8) -> Self {
        self.0.push(op);
        self
    }

    pub fn text(mut self, text: &str) -> Self {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
        self
    }

    pub fn int(mut self, n: i64) -> Self {
        self.0.extend([0x8a, 8]);
        self.0.extend(n.to_le_bytes());
        self
    }

    pub fn global(mut self, module: &str, name: &str) -> Self {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
        self
    }

    pub fn numbers(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.op(b'('), |pickle, &n| pickle.int(n)).op(b't')
    }

    /// A tensor as torch writes it.
    pub fn tensor(
        self,
        class: &str,
        key: &str,
        held: i64,
        at: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b'(')
            .op(b'(')
            .text("storage")
            .global("torch", class)
            .text(key)
            .text("cpu")
            .int(held)
            .op(b't')
            .op(b'Q')
            .int(at)
            .numbers(shape)
            .numbers(strides)
            .op(0x89)
            .global("collections", "OrderedDict")
            .op(b')')
            .op(b'R')
            .op(b't')
            .op(b'R')
    }

    /// A dict of one value, and the end.
    pub fn only(name: &str, value: impl FnOnce(Self) -> Self) -> Vec<u8> {
        let start = Self(vec![0x80, 2]).op(b'}').text(name);
        value(start).op(b's').op(b'.').0
    }
}

/// A tensor: its name, shape, storage class, bytes, and the bytes of one number.
pub type Saved = (String, Vec<i64>, &'static str, Vec<u8>, usize);

/// The file that `torch.save` makes of a dict of tensors.
pub fn save(tensors: &[Saved]) -> Vec<u8> {
    let mut pickle = Pickle(vec![0x80, 2]).op(b'}').op(b'(');
    let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
    for ((name, shape, class, bytes, size), key) in tensors.iter().zip(&keys) {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let held = (bytes.len() / size) as i64;
        pickle = pickle.text(name).tensor(class, key, held, 0, shape, &strides);
    }
    let pickle = pickle.op(b'u').op(b'.').0;
    let storages: Vec<_> = tensors
        .iter()
        .zip(&keys)
        .map(|((_, _, _, bytes, _), key)| (key.as_str(), &bytes[..]))
        .collect();
    archive(&pickle, &storages)
}
