//! Python's pickle, read as data: nothing is imported and nothing is called.
//!
//! A pickle is a program for a stack machine, and may name and call any Python function. This machine knows the
//! instructions that build plain values, and [`GLOBALS`], the few names that a weight file needs: each has a fixed
//! meaning here, and any other name ends the reading. Instructions:
//! CPython's `Lib/pickletools.py`; what torch writes: `torch/_utils.py` and `torch/serialization.py`.

use tch::Kind;

use super::budget::Budget;

/// The error says what is wrong with the file.
type Result<T> = std::result::Result<T, String>;

/// The largest number of instructions; weight files have about 60 a tensor.
const MOST_STEPS: usize = 4 << 20;
/// The most values on the stack, and in the memo.
const MOST_VALUES: usize = 1 << 20;
const CUT: &str = "its pickle is cut off";

/// A value; a container's or tensor's content is in [`Pickle`], under this number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PickleValue<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes,
    /// A number whose value is not read: longer than 64 bits, or numpy's.
    Number,
    Global(PickleGlobal<'a>),
    Tuple(usize),
    List(usize),
    Set(usize),
    /// Keys and values in turn.
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// What a name means here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PickleGlobal<'a> {
    OrderedDict,
    Set,
    Size,
    Storage(Kind),
    RebuildTensor,
    RebuildParameter,
    /// How protocol 2 writes bytes.
    Encode,
    /// numpy's numbers and their dtypes.
    Numpy,
    /// A class that is only named, never instantiated.
    Name(&'a str),
}

/// The names that are accepted, with their meanings. lightning's class is a key of `callbacks` in the published
/// checkpoints.
const GLOBALS: [(&str, PickleGlobal<'static>); 24] = [
    ("collections.OrderedDict", PickleGlobal::OrderedDict),
    ("builtins.set", PickleGlobal::Set),
    ("__builtin__.set", PickleGlobal::Set),
    ("builtins.frozenset", PickleGlobal::Set),
    ("__builtin__.frozenset", PickleGlobal::Set),
    ("torch.Size", PickleGlobal::Size),
    ("torch._utils._rebuild_tensor_v2", PickleGlobal::RebuildTensor),
    ("torch._utils._rebuild_parameter", PickleGlobal::RebuildParameter),
    ("torch.DoubleStorage", PickleGlobal::Storage(Kind::Double)),
    ("torch.FloatStorage", PickleGlobal::Storage(Kind::Float)),
    ("torch.HalfStorage", PickleGlobal::Storage(Kind::Half)),
    ("torch.BFloat16Storage", PickleGlobal::Storage(Kind::BFloat16)),
    ("torch.LongStorage", PickleGlobal::Storage(Kind::Int64)),
    ("torch.IntStorage", PickleGlobal::Storage(Kind::Int)),
    ("torch.ShortStorage", PickleGlobal::Storage(Kind::Int16)),
    ("torch.CharStorage", PickleGlobal::Storage(Kind::Int8)),
    ("torch.ByteStorage", PickleGlobal::Storage(Kind::Uint8)),
    ("torch.BoolStorage", PickleGlobal::Storage(Kind::Bool)),
    ("_codecs.encode", PickleGlobal::Encode),
    ("numpy.core.multiarray.scalar", PickleGlobal::Numpy),
    ("numpy._core.multiarray.scalar", PickleGlobal::Numpy),
    ("numpy.dtype", PickleGlobal::Numpy),
    (LIGHTNING, PickleGlobal::Name(LIGHTNING)),
    (LIGHTNING_2, PickleGlobal::Name(LIGHTNING_2)),
];

const LIGHTNING: &str = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint";
const LIGHTNING_2: &str = "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint";

/// A block of numbers that tensors view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TorchStorage<'a> {
    pub kind: Kind,
    /// The name of its entry in the archive, without the folder.
    pub key: &'a str,
    pub numel: i64,
}

/// A tensor: a view of a storage's numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StorageView<'a> {
    pub storage: TorchStorage<'a>,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// What a pickle holds. Containers are kept in one list and refer to each other by number, so that deep nesting, or
/// a container that holds itself, costs nothing.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub root: PickleValue<'a>,
    containers: Vec<Vec<PickleValue<'a>>>,
    storages: Vec<TorchStorage<'a>>,
    tensors: Vec<StorageView<'a>>,
    /// What all of these may still take: an instruction of a byte can store a value of many, and a list can be made into a
    /// set again and again.
    budget: Budget,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle of any protocol.
    ///
    /// # Errors
    /// One that is cut off or damaged, or that names anything but tensors and plain containers.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let pickle = Self {
            root: PickleValue::None,
            containers: vec![],
            storages: vec![],
            tensors: vec![],
            budget: Budget::new(),
        };
        let memo = std::collections::HashMap::new();
        PickleMachine { bytes, at: 0, stack: vec![], marks: vec![], memo, pickle }.run()
    }

    /// The keys and values of a dict.
    pub fn dict(
        &self,
        value: PickleValue<'a>,
    ) -> Option<impl Iterator<Item = (PickleValue<'a>, PickleValue<'a>)>> {
        let PickleValue::Dict(id) = value else { return None };
        Some(self.containers.get(id)?.chunks_exact(2).map(|pair| (pair[0], pair[1])))
    }

    /// The tensor that a value is.
    pub fn tensor(&self, value: PickleValue<'a>) -> Option<&StorageView<'a>> {
        let PickleValue::Tensor(id) = value else { return None };
        self.tensors.get(id)
    }

    fn items(&self, value: PickleValue<'a>) -> &[PickleValue<'a>] {
        match value {
            PickleValue::Tuple(id)
            | PickleValue::List(id)
            | PickleValue::Set(id)
            | PickleValue::Dict(id) => self.containers.get(id).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    fn add(&mut self, items: Vec<PickleValue<'a>>) -> Result<usize> {
        self.budget.take::<PickleValue>(items.len())?;
        if self.containers.len() >= MOST_VALUES {
            return Err(format!("its pickle has more than {MOST_VALUES} containers"));
        }
        self.containers.push(items);
        Ok(self.containers.len() - 1)
    }
}

struct PickleMachine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<PickleValue<'a>>,
    /// The heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: std::collections::HashMap<u64, PickleValue<'a>>,
    pickle: Pickle<'a>,
}

impl<'a> PickleMachine<'a> {
    fn run(mut self) -> Result<Pickle<'a>> {
        for _ in 0..MOST_STEPS {
            let [op] = *self.take(1)? else { return Err(CUT.into()) };
            if op == b'.' {
                self.pickle.root = self.pop()?;
                return Ok(self.pickle);
            }
            self.step(op)?;
            if self.stack.len().max(self.memo.len()).max(self.marks.len()) > MOST_VALUES {
                return Err(format!("its pickle holds more than {MOST_VALUES} values at once"));
            }
        }
        Err(format!("its pickle has more than {MOST_STEPS} instructions"))
    }

    fn step(&mut self, op: u8) -> Result<()> {
        let value = match op {
            // PROTO and FRAME say how to read what follows, which makes no difference here.
            0x80 => return self.take(1).map(|_| ()),
            0x95 => return self.take(8).map(|_| ()),

            b'N' => PickleValue::None,
            0x88 => PickleValue::Bool(true),
            0x89 => PickleValue::Bool(false),
            b'K' => PickleValue::Int(self.number(1)? as i64),
            b'M' => PickleValue::Int(self.number(2)? as i64),
            b'J' => PickleValue::Int((self.number(4)? as u32 as i32).into()),
            b'G' => PickleValue::Float(f64::from_bits((self.number(8)?).swap_bytes())),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'I' | b'L' => self
                .line()?
                .trim_end_matches('L')
                .parse()
                .map_or(PickleValue::Number, PickleValue::Int),
            b'F' => self.line()?.parse().map_or(PickleValue::Number, PickleValue::Float),

            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'U' => self.text(1)?,
            b'T' => self.text(4)?,
            b'S' | b'V' => PickleValue::Text(self.line()?.trim_matches(['\'', '"'])),
            b'B' => self.raw(4)?,
            b'C' => self.raw(1)?,
            0x8e | 0x96 => self.raw(8)?,

            b')' => PickleValue::Tuple(self.pickle.add(vec![])?),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                PickleValue::Tuple(self.pickle.add(items)?)
            }
            b']' => PickleValue::List(self.pickle.add(vec![])?),
            b'l' => {
                let items = self.pop_mark()?;
                PickleValue::List(self.pickle.add(items)?)
            }
            b'}' => PickleValue::Dict(self.pickle.add(vec![])?),
            b'd' => {
                let items = self.pop_mark()?;
                PickleValue::Dict(self.pickle.add(items)?)
            }
            0x8f => PickleValue::Set(self.pickle.add(vec![])?),
            0x91 => {
                let items = self.pop_mark()?;
                PickleValue::Set(self.pickle.add(items)?)
            }
            b'a' => {
                let item = self.pop()?;
                return self.extend(vec![item]);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.extend(vec![key, value]);
            }
            b'e' | b'u' | 0x90 => {
                let items = self.pop_mark()?;
                return self.extend(items);
            }

            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b'0' => return self.pop().map(|_| ()),
            b'1' => return self.pop_mark().map(|_| ()),
            b'2' => self.top()?,

            b'q' => return self.number(1).and_then(|key| self.remember(key)),
            b'r' => return self.number(4).and_then(|key| self.remember(key)),
            b'p' => return self.line_number().and_then(|key| self.remember(key)),
            0x94 => return self.remember(self.memo.len() as u64),
            b'h' => self.number(1).and_then(|key| self.recall(key))?,
            b'j' => self.number(4).and_then(|key| self.recall(key))?,
            b'g' => self.line_number().and_then(|key| self.recall(key))?,

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                PickleValue::Global(global(module, name)?)
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (PickleValue::Text(name), PickleValue::Text(module)) => {
                    PickleValue::Global(global(module, name)?)
                }
                _ => {
                    return Err("its pickle names something by a value that is not a string".into());
                }
            },
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?
            }
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?
            }
            b'b' => {
                // Neither an OrderedDict's attributes nor a dtype's state are weights.
                self.pop()?;
                return match self.top()? {
                    PickleValue::Dict(_) | PickleValue::Number => Ok(()),
                    _ => Err("its pickle sets the state of an object".into()),
                };
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                return Err(refused(module, name));
            }
            b'o' | 0x81 | 0x92 => {
                return Err("its pickle makes an object of a class; nothing was executed".into());
            }
            other => {
                return Err(format!(
                    "its pickle has the instruction {other:#04x}, which torch does not write"
                ));
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).ok_or(CUT)?;
        let taken = self.bytes.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let n = rest.iter().take(4096).position(|&b| b == b'\n').ok_or(CUT)?;
        let line = self.take(n)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "its pickle holds a string that is not UTF-8".into())
    }

    fn line_number(&mut self) -> Result<u64> {
        self.line()?.parse().map_err(|_| "its pickle has a memo key that is not a number".into())
    }

    fn sized(&mut self, size_bytes: usize) -> Result<&'a [u8]> {
        let n = self.number(size_bytes)?;
        self.take(usize::try_from(n).map_err(|_| CUT)?)
    }

    fn text(&mut self, size_bytes: usize) -> Result<PickleValue<'a>> {
        let text = std::str::from_utf8(self.sized(size_bytes)?);
        text.map(PickleValue::Text)
            .map_err(|_| "its pickle holds a string that is not UTF-8".into())
    }

    fn raw(&mut self, size_bytes: usize) -> Result<PickleValue<'a>> {
        self.sized(size_bytes).map(|_| PickleValue::Bytes)
    }

    /// A two's complement number of any length.
    fn long(&mut self, size_bytes: usize) -> Result<PickleValue<'a>> {
        let digits = self.sized(size_bytes)?;
        if digits.len() > 8 {
            return Ok(PickleValue::Number);
        }
        let sign = if digits.last().is_some_and(|&b| b >= 0x80) { -1 } else { 0 };
        Ok(PickleValue::Int(
            digits.iter().rev().fold(sign, |sum, &byte| sum << 8 | i64::from(byte)),
        ))
    }

    fn top(&self) -> Result<PickleValue<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[_]>::last);
        top.copied().ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn pop(&mut self) -> Result<PickleValue<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<PickleValue<'a>>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("its pickle pops to a mark that was never set")?))
    }

    fn tuple(&mut self, n: usize) -> Result<PickleValue<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(n).filter(|&start| start >= floor);
        let items = self.stack.split_off(start.ok_or("its pickle takes from an empty stack")?);
        Ok(PickleValue::Tuple(self.pickle.add(items)?))
    }

    fn extend(&mut self, items: Vec<PickleValue<'a>>) -> Result<()> {
        let (pairs, id) = match self.top()? {
            PickleValue::List(id) | PickleValue::Set(id) => (false, id),
            PickleValue::Dict(id) => (true, id),
            _ => return Err("its pickle adds items to something that is not a container".into()),
        };
        self.pickle.budget.take::<PickleValue>(items.len())?;
        match self.pickle.containers.get_mut(id) {
            Some(container) if !pairs || items.len().is_multiple_of(2) => container.extend(items),
            _ => return Err("its pickle has a key without a value".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let value = self.top()?;
        if self.memo.insert(key, value).is_none() {
            self.pickle.budget.take::<(u64, PickleValue)>(1)?;
        }
        Ok(())
    }

    fn recall(&self, key: u64) -> Result<PickleValue<'a>> {
        self.memo
            .get(&key)
            .copied()
            .ok_or_else(|| "its pickle reads a memo entry that was never written".into())
    }

    /// A storage, from its persistent id: `("storage", class, entry, device, count)`.
    fn storage(&mut self, id: PickleValue<'a>) -> Result<PickleValue<'a>> {
        let storage = match *self.pickle.items(id) {
            [
                PickleValue::Text("storage"),
                PickleValue::Global(PickleGlobal::Storage(kind)),
                PickleValue::Text(key),
                PickleValue::Text(_),
                PickleValue::Int(numel),
            ] if numel >= 0 => TorchStorage { kind, key, numel },
            _ => return Err("its pickle refers to something that is not a storage".into()),
        };
        self.pickle.budget.take::<TorchStorage>(1)?;
        self.pickle.storages.push(storage);
        Ok(PickleValue::Storage(self.pickle.storages.len() - 1))
    }

    /// The value that a call stands for.
    fn call(
        &mut self,
        function: PickleValue<'a>,
        arguments: PickleValue<'a>,
    ) -> Result<PickleValue<'a>> {
        let PickleValue::Global(function) = function else {
            return Err(
                "its pickle calls something that is not a function; nothing was executed".into()
            );
        };
        let PickleValue::Tuple(_) = arguments else {
            return Err("its pickle calls a function with arguments that are not a tuple".into());
        };
        match (function, self.pickle.items(arguments)) {
            (PickleGlobal::OrderedDict, []) => Ok(PickleValue::Dict(self.pickle.add(vec![])?)),
            (PickleGlobal::OrderedDict, &[pairs @ PickleValue::List(_)]) => {
                let pairs = self.pickle.items(pairs).iter().map(|&pair| self.pickle.items(pair));
                let flat: Vec<_> =
                    pairs.clone().filter(|pair| pair.len() == 2).flatten().copied().collect();
                if flat.len() != 2 * pairs.len() {
                    return Err("its pickle makes a dict of items that are not pairs".into());
                }
                Ok(PickleValue::Dict(self.pickle.add(flat)?))
            }
            (
                PickleGlobal::Set,
                &[] | &[PickleValue::List(_) | PickleValue::Tuple(_) | PickleValue::Set(_)],
            ) => {
                let items = self.pickle.items(arguments).first();
                let items = items.map(|&list| self.pickle.items(list).to_vec());
                Ok(PickleValue::Set(self.pickle.add(items.unwrap_or_default())?))
            }
            (PickleGlobal::Size, &[size @ PickleValue::Tuple(_)]) => Ok(size),
            (PickleGlobal::Encode, [PickleValue::Text(_), ..]) => Ok(PickleValue::Bytes),
            (PickleGlobal::Numpy, _) => Ok(PickleValue::Number),
            (PickleGlobal::RebuildParameter, &[tensor @ PickleValue::Tensor(_), ..]) => Ok(tensor),
            (
                PickleGlobal::RebuildTensor,
                &[
                    PickleValue::Storage(id),
                    PickleValue::Int(offset),
                    size @ PickleValue::Tuple(_),
                    stride @ PickleValue::Tuple(_),
                    ..,
                ],
            ) => {
                let storage = *self.pickle.storages.get(id).ok_or("a storage is missing")?;
                let (shape, strides) = (self.sizes(size)?, self.sizes(stride)?);
                self.pickle.budget.take::<StorageView>(1)?;
                self.pickle.budget.take::<i64>(shape.len() + strides.len())?;
                self.pickle.tensors.push(StorageView { storage, offset, shape, strides });
                Ok(PickleValue::Tensor(self.pickle.tensors.len() - 1))
            }
            (function, _) => Err(format!(
                "its pickle calls {function:?} as torch never does; nothing was executed"
            )),
        }
    }

    /// A tuple of non-negative numbers: a shape, or strides.
    fn sizes(&self, tuple: PickleValue<'a>) -> Result<Vec<i64>> {
        let numbers = self.pickle.items(tuple);
        if numbers.len() > 16 {
            return Err(format!("it has a tensor of {} dimensions", numbers.len()));
        }
        let number = |value: &PickleValue| match *value {
            PickleValue::Int(n) if n >= 0 => Ok(n),
            other => Err(format!("it has a tensor with the size or stride {other:?}")),
        };
        numbers.iter().map(number).collect()
    }
}

fn global<'a>(module: &'a str, name: &'a str) -> Result<PickleGlobal<'a>> {
    let is = |full: &str| {
        full.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')) == Some(name)
    };
    let known = GLOBALS.iter().find(|(full, _)| is(full));
    known.map(|&(_, global)| global).ok_or_else(|| refused(module, name))
}

fn refused(module: &str, name: &str) -> String {
    let short = |text: &str| text.chars().take(100).collect::<String>();
    format!(
        "its pickle names `{}.{}`, which is neither a tensor nor a plain container; nothing was executed. \
         If you trust its source, convert the file to .safetensors in Python; otherwise delete it",
        short(module),
        short(name)
    )
}
