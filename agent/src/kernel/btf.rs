//! What the running kernel says of its own types (BTF): where the fields of a structure are.
//!
//! The format is that of the kernel's documentation, "BPF Type Format": a header, then types, then names.

use std::collections::HashMap;
use std::path::Path;

/// Where the kernel says it.
const OWN: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_PROTO: u32 = 13;
const KIND_DATASEC: u32 = 15;
const KIND_ENUM64: u32 = 19;

/// The offsets in bytes of some fields of a structure of the running kernel; `None` if it does not say, or has no such
/// fields.
pub(crate) fn offsets(structure: &str, fields: &[&str]) -> Option<Vec<u32>> {
    offsets_in(&std::fs::read(Path::new(OWN)).ok()?, structure, fields)
}

fn offsets_in(data: &[u8], structure: &str, fields: &[&str]) -> Option<Vec<u32>> {
    if data.get(..2)? != MAGIC.to_ne_bytes() {
        return None;
    }
    let header_length = word(data, 4)?;
    let part = |start: u32, length: u32| {
        let start = usize::try_from(header_length.checked_add(start)?).ok()?;
        data.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    };
    let types = part(word(data, 8)?, word(data, 12)?)?;
    let names = part(word(data, 16)?, word(data, 20)?)?;
    let name = |offset: u32| {
        let rest = names.get(usize::try_from(offset).ok()?..)?;
        std::str::from_utf8(rest.split(|&byte| byte == 0).next()?).ok()
    };

    let mut at = 0;
    while at < types.len() {
        let (kind, count) = kind_and_count(word(types, at + 4)?);
        let flagged = word(types, at + 4)? >> 31 != 0;
        let members = at + 12;
        if kind == KIND_STRUCT && name(word(types, at)?)? == structure {
            let mut found = HashMap::new();
            for member in (0..count).map(|index| members + index * 12) {
                let bits = word(types, member + 8)?;
                // The upper byte is the width of a field of bits, where there are any.
                let bits = if flagged { bits & 0x00ff_ffff } else { bits };
                found.insert(name(word(types, member)?)?, bits);
            }
            let offset = |field: &&str| found.get(field).filter(|bits| **bits % 8 == 0).map(|bits| bits / 8);
            return fields.iter().map(offset).collect();
        }
        at = members + count * member_length(kind) + more_length(kind);
    }
    None
}

fn kind_and_count(info: u32) -> (u32, usize) {
    (info >> 24 & 0x1f, usize::try_from(info & 0xffff).unwrap_or(0))
}

/// Bytes of each of the entries that a type counts.
const fn member_length(kind: u32) -> usize {
    match kind {
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12,
        KIND_ENUM | KIND_PROTO => 8,
        _ => 0,
    }
}

/// Bytes that follow a type without being counted.
const fn more_length(kind: u32) -> usize {
    const KIND_INT: u32 = 1;
    const KIND_VAR: u32 = 14;
    const KIND_DECL_TAG: u32 = 17;
    match kind {
        KIND_ARRAY => 12,
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        _ => 0,
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two integers, an array, and a structure of all three.
    fn sample() -> Vec<u8> {
        let names = b"\0int\0pair\0first\0second\0list\0";
        let at = |name: &str| {
            let all = std::str::from_utf8(names).unwrap();
            u32::try_from(all.find(&format!("\0{name}\0")).unwrap() + 1).unwrap()
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([at("int"), 1 << 24, 4, 32]);
        types.extend([0, KIND_ARRAY << 24, 0, 1, 1, 4]);
        types.extend([at("pair"), KIND_STRUCT << 24 | 3 | 1 << 31, 24]);
        types.extend([at("first"), 1, 0, at("list"), 2, 32, at("second"), 1, 7 << 24 | 160]);
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        let (type_bytes, name_bytes) =
            (u32::try_from(types.len() * 4).unwrap(), u32::try_from(names.len()).unwrap());
        for number in [24, 0, type_bytes, type_bytes, name_bytes] {
            data.extend(number.to_ne_bytes());
        }
        data.extend(types.into_iter().flat_map(u32::to_ne_bytes));
        data.extend(names);
        data
    }

    #[test]
    fn fields_of_a_structure() {
        let data = sample();
        assert_eq!(offsets_in(&data, "pair", &["second", "list", "first"]), Some(vec![20, 4, 0]));
        assert_eq!(offsets_in(&data, "pair", &["third"]), None);
        assert_eq!(offsets_in(&data, "int", &["first"]), None);
        for end in 0..data.len() {
            let _no_panic = offsets_in(&data[..end], "pair", &["second"]);
        }
    }

    #[test]
    fn the_running_kernel() {
        if !Path::new(OWN).exists() {
            println!("skipped: the kernel does not say, {OWN} is not there");
            return;
        }
        let offsets = offsets("tcp_sock", &["rcv_nxt", "snd_nxt", "snd_una"]).unwrap();
        let mut distinct = offsets.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 3, "{offsets:?}");
    }
}
