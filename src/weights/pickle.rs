//! Python's pickle, read as data: nothing is imported and nothing is called.
//!
//! A pickle is a program of a stack machine, which may name any function of Python and call it. This machine
//! knows the instructions that build plain values, and [`GLOBALS`], the few names that a file of weights needs:
//! each of them is understood here as what it stands for, and any other name ends the reading. Instructions:
//! CPython's `Lib/pickletools.py`; what torch writes: `torch/_utils.py` and `torch/serialization.py`.

use tch::Kind;

/// What is wrong, for a person.
type Result<T> = std::result::Result<T, String>;

/// The largest number of instructions; files of weights have about 60 a tensor.
const MOST_STEPS: usize = 4 << 20;
/// The most values that lie on the stack, and that are remembered.
const MOST_VALUES: usize = 1 << 20;
const CUT: &str = "its pickle is cut off";

/// A value; what it consists of lies in [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes,
    /// A plain number that is not looked into: longer than 64 bits, or numpy's.
    Number,
    Global(Global<'a>),
    Tuple(usize),
    List(usize),
    Set(usize),
    /// Keys and values in turn.
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global<'a> {
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
    /// A class that is only named, never made.
    Name(&'a str),
}

/// The names that are accepted, with what they stand for. lightning's class is the key of an entry of
/// `callbacks` in the published checkpoints.
const GLOBALS: [(&str, Global<'static>); 24] = [
    ("collections.OrderedDict", Global::OrderedDict),
    ("builtins.set", Global::Set),
    ("__builtin__.set", Global::Set),
    ("builtins.frozenset", Global::Set),
    ("__builtin__.frozenset", Global::Set),
    ("torch.Size", Global::Size),
    ("torch._utils._rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils._rebuild_parameter", Global::RebuildParameter),
    ("torch.DoubleStorage", Global::Storage(Kind::Double)),
    ("torch.FloatStorage", Global::Storage(Kind::Float)),
    ("torch.HalfStorage", Global::Storage(Kind::Half)),
    ("torch.BFloat16Storage", Global::Storage(Kind::BFloat16)),
    ("torch.LongStorage", Global::Storage(Kind::Int64)),
    ("torch.IntStorage", Global::Storage(Kind::Int)),
    ("torch.ShortStorage", Global::Storage(Kind::Int16)),
    ("torch.CharStorage", Global::Storage(Kind::Int8)),
    ("torch.ByteStorage", Global::Storage(Kind::Uint8)),
    ("torch.BoolStorage", Global::Storage(Kind::Bool)),
    ("_codecs.encode", Global::Encode),
    ("numpy.core.multiarray.scalar", Global::Numpy),
    ("numpy._core.multiarray.scalar", Global::Numpy),
    ("numpy.dtype", Global::Numpy),
    (LIGHTNING, Global::Name(LIGHTNING)),
    (LIGHTNING_2, Global::Name(LIGHTNING_2)),
];

const LIGHTNING: &str = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint";
const LIGHTNING_2: &str = "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint";

/// A block of numbers that tensors look into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage<'a> {
    pub kind: Kind,
    /// The name of its entry in the archive.
    pub key: &'a str,
    pub numel: i64,
}

/// A tensor: which of a storage's numbers it consists of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View<'a> {
    pub storage: Storage<'a>,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// What a pickle holds. Containers lie side by side and refer to each other by number, so that one that is deep,
/// or that holds itself, costs nothing.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub root: Value<'a>,
    containers: Vec<Vec<Value<'a>>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<View<'a>>,
    /// Items of all containers so far: a list that is made into a set again and again is bounded too.
    held: usize,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle of any protocol.
    ///
    /// # Errors
    /// One that is cut off or damaged, or that names what is neither a tensor nor a plain container.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let pickle = Self {
            root: Value::None,
            containers: vec![],
            storages: vec![],
            tensors: vec![],
            held: 0,
        };
        let memo = std::collections::HashMap::new();
        Machine { bytes, at: 0, stack: vec![], marks: vec![], memo, pickle }.run()
    }

    /// The keys and values of a dict.
    pub fn dict(&self, value: Value<'a>) -> Option<impl Iterator<Item = (Value<'a>, Value<'a>)>> {
        let Value::Dict(id) = value else { return None };
        Some(self.containers.get(id)?.chunks_exact(2).map(|pair| (pair[0], pair[1])))
    }

    /// The tensor that a value is.
    pub fn tensor(&self, value: Value<'a>) -> Option<&View<'a>> {
        let Value::Tensor(id) = value else { return None };
        self.tensors.get(id)
    }

    fn items(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::Tuple(id) | Value::List(id) | Value::Set(id) | Value::Dict(id) => {
                self.containers.get(id).map_or(&[], Vec::as_slice)
            }
            _ => &[],
        }
    }

    fn add(&mut self, items: Vec<Value<'a>>) -> Result<usize> {
        self.held += items.len();
        if self.containers.len() >= MOST_VALUES || self.held > 2 * MOST_STEPS {
            return Err(format!(
                "its pickle has more than {MOST_VALUES} containers, or too large ones"
            ));
        }
        self.containers.push(items);
        Ok(self.containers.len() - 1)
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// The heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: std::collections::HashMap<u64, Value<'a>>,
    pickle: Pickle<'a>,
}

impl<'a> Machine<'a> {
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
            // PROTO, FRAME: how to read what follows; there is one way here.
            0x80 => return self.take(1).map(|_| ()),
            0x95 => return self.take(8).map(|_| ()),

            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            b'J' => Value::Int((self.number(4)? as u32 as i32).into()),
            b'G' => Value::Float(f64::from_bits((self.number(8)?).swap_bytes())),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'I' | b'L' => {
                self.line()?.trim_end_matches('L').parse().map_or(Value::Number, Value::Int)
            }
            b'F' => self.line()?.parse().map_or(Value::Number, Value::Float),

            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'U' => self.text(1)?,
            b'T' => self.text(4)?,
            b'S' | b'V' => Value::Text(self.line()?.trim_matches(['\'', '"'])),
            b'B' => self.raw(4)?,
            b'C' => self.raw(1)?,
            0x8e | 0x96 => self.raw(8)?,

            b')' => Value::Tuple(self.pickle.add(vec![])?),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                Value::Tuple(self.pickle.add(items)?)
            }
            b']' => Value::List(self.pickle.add(vec![])?),
            b'l' => {
                let items = self.pop_mark()?;
                Value::List(self.pickle.add(items)?)
            }
            b'}' => Value::Dict(self.pickle.add(vec![])?),
            b'd' => {
                let items = self.pop_mark()?;
                Value::Dict(self.pickle.add(items)?)
            }
            0x8f => Value::Set(self.pickle.add(vec![])?),
            0x91 => {
                let items = self.pop_mark()?;
                Value::Set(self.pickle.add(items)?)
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
                Value::Global(global(module, name)?)
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => Value::Global(global(module, name)?),
                _ => return Err("its pickle names something that is not a name".into()),
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
                // The attributes of an OrderedDict are not the weights, nor is the state of a dtype.
                self.pop()?;
                return match self.top()? {
                    Value::Dict(_) | Value::Number => Ok(()),
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
                    "its pickle has the instruction {other:#04x}, which is no torch file's"
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
        std::str::from_utf8(line).map_err(|_| "its pickle holds a text that is not UTF-8".into())
    }

    fn line_number(&mut self) -> Result<u64> {
        self.line()?.parse().map_err(|_| "its pickle remembers under what is no number".into())
    }

    fn sized(&mut self, size_bytes: usize) -> Result<&'a [u8]> {
        let n = self.number(size_bytes)?;
        self.take(usize::try_from(n).map_err(|_| CUT)?)
    }

    fn text(&mut self, size_bytes: usize) -> Result<Value<'a>> {
        let text = std::str::from_utf8(self.sized(size_bytes)?);
        text.map(Value::Text).map_err(|_| "its pickle holds a text that is not UTF-8".into())
    }

    fn raw(&mut self, size_bytes: usize) -> Result<Value<'a>> {
        self.sized(size_bytes).map(|_| Value::Bytes)
    }

    /// A two's complement number of any length.
    fn long(&mut self, size_bytes: usize) -> Result<Value<'a>> {
        let digits = self.sized(size_bytes)?;
        if digits.len() > 8 {
            return Ok(Value::Number);
        }
        let sign = if digits.last().is_some_and(|&b| b >= 0x80) { -1 } else { 0 };
        Ok(Value::Int(digits.iter().rev().fold(sign, |sum, &byte| sum << 8 | i64::from(byte))))
    }

    fn top(&self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[_]>::last);
        top.copied().ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("its pickle takes what is not there")?))
    }

    fn tuple(&mut self, n: usize) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(n).filter(|&start| start >= floor);
        let items = self.stack.split_off(start.ok_or("its pickle takes from an empty stack")?);
        Ok(Value::Tuple(self.pickle.add(items)?))
    }

    fn extend(&mut self, items: Vec<Value<'a>>) -> Result<()> {
        let (pairs, id) = match self.top()? {
            Value::List(id) | Value::Set(id) => (false, id),
            Value::Dict(id) => (true, id),
            _ => return Err("its pickle adds to what is no container".into()),
        };
        match self.pickle.containers.get_mut(id) {
            Some(container) if !pairs || items.len().is_multiple_of(2) => container.extend(items),
            _ => return Err("its pickle has a key without a value".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    fn recall(&self, key: u64) -> Result<Value<'a>> {
        self.memo.get(&key).copied().ok_or_else(|| "its pickle recalls what was never kept".into())
    }

    /// `("storage", class, entry, device, count)`: what stands for a storage.
    fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>> {
        let storage = match *self.pickle.items(id) {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(kind)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(numel),
            ] if numel >= 0 => Storage { kind, key, numel },
            _ => return Err("its pickle refers to something that is no storage".into()),
        };
        self.pickle.storages.push(storage);
        Ok(Value::Storage(self.pickle.storages.len() - 1))
    }

    /// What a call stands for.
    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let Value::Global(function) = function else {
            return Err(
                "its pickle calls something that is no function; nothing was executed".into()
            );
        };
        let Value::Tuple(_) = arguments else {
            return Err("its pickle calls with arguments that are no tuple".into());
        };
        match (function, self.pickle.items(arguments)) {
            (Global::OrderedDict, []) => Ok(Value::Dict(self.pickle.add(vec![])?)),
            (Global::OrderedDict, &[pairs @ Value::List(_)]) => {
                let pairs = self.pickle.items(pairs).iter().map(|&pair| self.pickle.items(pair));
                let flat: Vec<_> =
                    pairs.clone().filter(|pair| pair.len() == 2).flatten().copied().collect();
                if flat.len() != 2 * pairs.len() {
                    return Err("its pickle makes a dict of what are no pairs".into());
                }
                Ok(Value::Dict(self.pickle.add(flat)?))
            }
            (Global::Set, &[] | &[Value::List(_) | Value::Tuple(_) | Value::Set(_)]) => {
                let items = self.pickle.items(arguments).first();
                let items = items.map(|&list| self.pickle.items(list).to_vec());
                Ok(Value::Set(self.pickle.add(items.unwrap_or_default())?))
            }
            (Global::Size, &[size @ Value::Tuple(_)]) => Ok(size),
            (Global::Encode, [Value::Text(_), ..]) => Ok(Value::Bytes),
            (Global::Numpy, _) => Ok(Value::Number),
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            (
                Global::RebuildTensor,
                &[
                    Value::Storage(id),
                    Value::Int(offset),
                    size @ Value::Tuple(_),
                    stride @ Value::Tuple(_),
                    ..,
                ],
            ) => {
                let storage = *self.pickle.storages.get(id).ok_or("a storage is missing")?;
                let (shape, strides) = (self.whole(size)?, self.whole(stride)?);
                self.pickle.tensors.push(View { storage, offset, shape, strides });
                Ok(Value::Tensor(self.pickle.tensors.len() - 1))
            }
            (function, _) => Err(format!(
                "its pickle calls {function:?} as torch never does; nothing was executed"
            )),
        }
    }

    /// A tuple of numbers of 0 and more: a shape, or strides.
    fn whole(&self, tuple: Value<'a>) -> Result<Vec<i64>> {
        let numbers = self.pickle.items(tuple);
        if numbers.len() > 16 {
            return Err(format!("it has a tensor of {} dimensions", numbers.len()));
        }
        let number = |value: &Value| match *value {
            Value::Int(n) if n >= 0 => Ok(n),
            other => Err(format!("it has a tensor with the size or stride {other:?}")),
        };
        numbers.iter().map(number).collect()
    }
}

fn global<'a>(module: &'a str, name: &'a str) -> Result<Global<'a>> {
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
         If you trust where the file is from, convert it to .safetensors in Python; else delete it",
        short(module),
        short(name)
    )
}
