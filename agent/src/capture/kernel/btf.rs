//! A reader of the kernel's type information, as far as offsets need it.
//!
//! Input: `/sys/kernel/btf/vmlinux` (Documentation/bpf/btf.rst). Output: offsets and sizes of structure
//! members, values of enumerators, numbers of parameters. Everything is bounded by the input; nonsense is an
//! error, never a panic.

use std::collections::HashMap;
use std::fmt;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// How deep anonymous members and chains of typedefs are followed.
const DEPTH_MAX: u32 = 16;

/// Why type information could not be used.
#[derive(Debug, PartialEq, Eq)]
pub enum BtfError {
    /// It is not BTF, or of another byte order.
    NotBtf,
    /// It ends in the middle of something.
    Truncated,
    /// A kind of type that this reader does not know, so that it cannot tell where the next one starts.
    UnknownKind(u32),
    /// The kernel has no such structure, function or enumerator.
    NoType(String),
    /// The structure has no such member.
    NoMember(String),
    /// The member is there, but of another size than the kernel programs expect.
    Size(String, u64, u64),
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BtfError::NotBtf => write!(f, "this is not BTF type information"),
            BtfError::Truncated => write!(f, "the BTF type information is cut short"),
            BtfError::UnknownKind(kind) => write!(
                f,
                "the BTF type information has types of kind {kind}, which is newer than this program"
            ),
            BtfError::NoType(name) => write!(f, "the kernel's type information has no {name}"),
            BtfError::NoMember(name) => write!(f, "the kernel's type information has no member {name}"),
            BtfError::Size(name, found, expected) => {
                write!(f, "{name} has {found} bytes in this kernel, not {expected}")
            }
        }
    }
}

impl std::error::Error for BtfError {}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the structure.
    pub offset: u64,
    /// Bytes of the member; zero if it is a bit field or of unknown size.
    pub size: u64,
}

/// Parsed type information.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts in `types`; type 0 is `void`.
    starts: Vec<u32>,
    /// First type of that name and kind.
    named: HashMap<(&'a [u8], u32), u32>,
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    len: u32,
    flag: bool,
    size: u32,
    /// Position of what follows the common part.
    rest: usize,
}

impl<'a> Btf<'a> {
    /// Reads the header and the list of types.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let half = bytes.first_chunk::<2>().ok_or(BtfError::NotBtf)?;
        if u16::from_ne_bytes(*half) != 0xeb9f {
            return Err(BtfError::NotBtf);
        }
        let header = word(bytes, 4)? as usize;
        let part = |offset: usize, len: usize| -> Result<&'a [u8], BtfError> {
            let start = header.checked_add(word(bytes, offset)? as usize).ok_or(BtfError::Truncated)?;
            let end = start.checked_add(word(bytes, len)? as usize).ok_or(BtfError::Truncated)?;
            bytes.get(start..end).ok_or(BtfError::Truncated)
        };
        let mut btf =
            Btf { types: part(8, 12)?, strings: part(16, 20)?, starts: vec![0], named: HashMap::new() };
        let mut position = 0;
        while position < btf.types.len() {
            let ty = btf.type_at(position)?;
            let id = btf.starts.len() as u32;
            btf.starts.push(position as u32);
            let interesting = matches!(ty.kind, KIND_STRUCT | KIND_ENUM | KIND_FUNC | KIND_TYPEDEF);
            if ty.name != 0 && interesting {
                let name = btf.string(ty.name);
                btf.named.entry((name, ty.kind)).or_insert(id);
            }
            let len = ty.len as usize;
            position = ty.rest
                + match ty.kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => len * 12,
                    KIND_ENUM | KIND_FUNC_PROTO => len * 8,
                    KIND_PTR | 7..=KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => 0,
                    other => return Err(BtfError::UnknownKind(other)),
                };
        }
        Ok(btf)
    }

    /// A member by path from a structure: `"tcp_sock"`, `"write_seq"`; dots go into structures.
    pub fn member(&self, structure: &str, path: &str) -> Result<Member, BtfError> {
        let mut id = *self
            .named
            .get(&(structure.as_bytes(), KIND_STRUCT))
            .ok_or_else(|| BtfError::NoType(format!("struct {structure}")))?;
        let mut found = Member { offset: 0, size: 0 };
        for name in path.split('.') {
            let missing = || BtfError::NoMember(format!("{structure}.{path}"));
            let (offset, ty, bit_field) = self.find(id, name.as_bytes(), DEPTH_MAX).ok_or_else(missing)?;
            found.offset += offset;
            found.size = if bit_field { 0 } else { self.size_of(ty, DEPTH_MAX) };
            id = self.plain(ty);
        }
        Ok(found)
    }

    /// The same, with the size that is relied on.
    pub fn sized_member(&self, structure: &str, path: &str, size: u64) -> Result<u64, BtfError> {
        let member = self.member(structure, path)?;
        if member.size != size {
            return Err(BtfError::Size(format!("{structure}.{path}"), member.size, size));
        }
        Ok(member.offset)
    }

    /// Value of an enumerator of a named enumeration.
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Result<u64, BtfError> {
        let missing = || BtfError::NoType(format!("enum {enumeration}.{name}"));
        let id = self.named.get(&(enumeration.as_bytes(), KIND_ENUM)).ok_or_else(missing)?;
        let ty = self.ty(*id).ok_or_else(missing)?;
        for index in 0..ty.len as usize {
            let at = ty.rest + index * 8;
            if self.string(word(self.types, at)?) == name.as_bytes() {
                return Ok(word(self.types, at + 4)?.into());
            }
        }
        Err(missing())
    }

    /// Number of parameters of a function.
    pub fn parameters(&self, function: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoType(format!("function {function}"));
        let id = self.named.get(&(function.as_bytes(), KIND_FUNC)).ok_or_else(missing)?;
        let prototype = self.ty(*id).and_then(|func| self.ty(func.size)).ok_or_else(missing)?;
        Ok(prototype.len)
    }

    /// Whether the kernel has a structure.
    pub fn has_struct(&self, name: &str) -> bool {
        self.named.contains_key(&(name.as_bytes(), KIND_STRUCT))
    }

    /// Whether the kernel has a tracepoint.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoint(name).is_some()
    }

    /// The type that programs attach to a tracepoint by: `btf_trace_…`, the typedef of its prototype.
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        self.named.get(&(format!("btf_trace_{name}").as_bytes(), KIND_TYPEDEF)).copied()
    }

    fn find(&self, id: u32, name: &[u8], depth: u32) -> Option<(u64, u32, bool)> {
        let ty = self.ty(id)?;
        if depth == 0 || !matches!(ty.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for index in 0..ty.len as usize {
            let at = ty.rest + index * 12;
            let member_name = word(self.types, at).ok()?;
            let member_type = word(self.types, at + 4).ok()?;
            let raw = word(self.types, at + 8).ok()?;
            // With kind_flag set the upper eight bits are the size of a bit field.
            let (bits, width) = if ty.flag { (raw & 0xff_ffff, raw >> 24) } else { (raw, 0) };
            let offset = u64::from(bits / 8);
            if member_name == 0 {
                if let Some((inner, ty, bit_field)) = self.find(self.plain(member_type), name, depth - 1) {
                    return Some((offset + inner, ty, bit_field));
                }
            } else if self.string(member_name) == name {
                return Some((offset, member_type, width != 0));
            }
        }
        None
    }

    /// The type behind typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> u32 {
        for _ in 0..DEPTH_MAX {
            match self.ty(id) {
                Some(ty)
                    if matches!(
                        ty.kind,
                        KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG
                    ) =>
                {
                    id = ty.size;
                }
                _ => break,
            }
        }
        id
    }

    fn size_of(&self, id: u32, depth: u32) -> u64 {
        let Some(ty) = self.ty(self.plain(id)).filter(|_| depth > 0) else { return 0 };
        match ty.kind {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => ty.size.into(),
            KIND_PTR => 8,
            KIND_ARRAY => {
                let element = word(self.types, ty.rest).unwrap_or(0);
                let count = word(self.types, ty.rest + 8).unwrap_or(0);
                self.size_of(element, depth - 1).saturating_mul(count.into())
            }
            _ => 0,
        }
    }

    fn ty(&self, id: u32) -> Option<Type> {
        let start = *self.starts.get(id as usize).filter(|_| id != 0)?;
        self.type_at(start as usize).ok()
    }

    fn type_at(&self, position: usize) -> Result<Type, BtfError> {
        let info = word(self.types, position + 4)?;
        Ok(Type {
            name: word(self.types, position)?,
            kind: info >> 24 & 0x1f,
            len: info & 0xffff,
            flag: info >> 31 != 0,
            size: word(self.types, position + 8)?,
            rest: position + 12,
        })
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or(&[]);
        tail.split(|byte| *byte == 0).next().unwrap_or(&[])
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let tail = bytes.get(at..).ok_or(BtfError::Truncated)?;
    Ok(u32::from_ne_bytes(*tail.first_chunk().ok_or(BtfError::Truncated)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { int a; union { char b; struct { int c; }; }; int d:3; }`, `enum e { X = 7 }`, `void f(int, int)`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0b\0c\0d\0e\0X\0f\0char\0btf_trace_t\0";
        let (int, s, a, b, c, d, e, x, f, char_, trace) = (1, 5, 7, 9, 11, 13, 15, 17, 19, 21, 26);
        let mut types: Vec<u32> = Vec::new();
        let info = |kind: u32, len: u32, flag: u32| kind << 24 | len | flag << 31;
        types.extend([int, info(KIND_INT, 0, 0), 4, 32]); // 1
        types.extend([char_, info(KIND_INT, 0, 0), 1, 8]); // 2
        types.extend([0, info(KIND_STRUCT, 1, 0), 4, c, 1, 0]); // 3
        types.extend([0, info(KIND_UNION, 2, 0), 4, b, 2, 0, 0, 3, 0]); // 4
        types.extend([s, info(KIND_STRUCT, 3, 1), 12, a, 1, 0, 0, 4, 32, d, 1, 64 | 3 << 24]); // 5
        types.extend([e, info(KIND_ENUM, 1, 0), 4, x, 7]); // 6
        types.extend([0, info(KIND_FUNC_PROTO, 2, 0), 0, 0, 1, 0, 1]); // 7
        types.extend([f, info(KIND_FUNC, 0, 0), 7]); // 8
        types.extend([trace, info(KIND_TYPEDEF, 0, 0), 8]); // 9
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let type_len = types.len() as u32 * 4;
        for number in [24, 0, type_len, type_len, strings.len() as u32].iter().chain(&types) {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_unions_and_structures() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("the sample is valid");
        assert_eq!(btf.member("s", "a"), Ok(Member { offset: 0, size: 4 }));
        assert_eq!(btf.member("s", "b"), Ok(Member { offset: 4, size: 1 }));
        assert_eq!(btf.member("s", "c"), Ok(Member { offset: 4, size: 4 }));
        assert_eq!(btf.member("s", "d"), Ok(Member { offset: 8, size: 0 }));
        assert_eq!(btf.member("s", "z"), Err(BtfError::NoMember("s.z".into())));
        assert_eq!(btf.sized_member("s", "a", 8), Err(BtfError::Size("s.a".into(), 4, 8)));
        assert_eq!(btf.enumerator("e", "X"), Ok(7));
        assert_eq!(btf.parameters("f"), Ok(2));
        assert!(btf.has_tracepoint("t") && !btf.has_tracepoint("u"));
    }

    #[test]
    fn any_damage_is_an_error_or_an_answer_and_never_a_panic() {
        let bytes = sample();
        for end in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..end]).is_err());
        }
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Ok(btf) = Btf::parse(&damaged) {
                    let _ = (btf.member("s", "c"), btf.enumerator("e", "X"), btf.parameters("f"));
                }
            }
        }
    }
}
