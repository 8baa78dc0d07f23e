//! A table as the kernel reads it.

use crate::ioctl::abi;
use crate::ioctl::buffer::{Request, align};
use crate::ioctl::error::IoctlError;
use crate::ioctl::reply::TargetLine;

pub(super) fn payload(request: &Request, table: &[TargetLine]) -> Result<Vec<u8>, IoctlError> {
    let mut payload = Vec::new();
    for line in table {
        if !(1..abi::DM_MAX_TYPE_NAME).contains(&line.kind.len()) || line.kind.contains('\0') {
            let rule = "1 to 15 bytes and no NUL";
            return Err(request.unsendable("the target's name", &line.kind, rule));
        }
        if line.params.contains('\0') {
            return Err(request.unsendable("the target's line", &line.params, "no NUL in it"));
        }
        let end = size_of::<abi::DmTargetSpec>()
            .saturating_add(line.params.len())
            .saturating_add(1);
        let next = align(end);
        // In a request `next` counts from the record itself (`dm-ioctl.c:next_target`).
        let next_field = u32::try_from(next)
            .map_err(|_| request.unsendable("the target's line", "", "less than 4 GiB"))?;
        let begin = payload.len();
        payload.extend_from_slice(&line.start.get().to_ne_bytes());
        payload.extend_from_slice(&line.len.get().to_ne_bytes());
        payload.extend_from_slice(&0_i32.to_ne_bytes());
        payload.extend_from_slice(&next_field.to_ne_bytes());
        let mut kind = [0; abi::DM_MAX_TYPE_NAME];
        for (to, from) in kind.iter_mut().zip(line.kind.bytes()) {
            *to = from;
        }
        payload.extend_from_slice(&kind);
        payload.extend_from_slice(line.params.as_bytes());
        payload.resize(begin.saturating_add(next), 0);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use crate::ids::DmName;
    use crate::ioctl::abi::Command;
    use crate::ioctl::buffer::DevId;
    use crate::units::Sectors;

    use super::*;

    #[test]
    fn a_table_is_packed_as_the_kernel_walks_it() {
        let name = DmName::new("a").unwrap();
        let request = Request::on(Command::TableLoad, DevId::Name(&name));
        let line = |start, kind: &str, params: &str| TargetLine {
            start: Sectors::new(start),
            len: Sectors::new(8),
            kind: kind.to_owned(),
            params: params.to_owned(),
        };
        let table = [line(0, "linear", "7:0 0"), line(8, "error", "")];
        let payload = payload(&request, &table).unwrap();
        let mut expected = Vec::new();
        expected.extend_from_slice(&0_u64.to_ne_bytes());
        expected.extend_from_slice(&8_u64.to_ne_bytes());
        expected.extend_from_slice(&0_u32.to_ne_bytes());
        expected.extend_from_slice(&48_u32.to_ne_bytes());
        expected.extend_from_slice(b"linear\0\0\0\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"7:0 0\0\0\0");
        expected.extend_from_slice(&8_u64.to_ne_bytes());
        expected.extend_from_slice(&8_u64.to_ne_bytes());
        expected.extend_from_slice(&0_u32.to_ne_bytes());
        expected.extend_from_slice(&48_u32.to_ne_bytes());
        expected.extend_from_slice(b"error\0\0\0\0\0\0\0\0\0\0\0");
        expected.extend_from_slice(&[0; 8]);
        assert_eq!(payload, expected);
    }

    #[test]
    fn what_the_interface_cannot_carry_is_refused_here() {
        let name = DmName::new("a").unwrap();
        let request = Request::on(Command::TableLoad, DevId::Name(&name));
        for (kind, params, what) in [
            ("", "", "the target's name"),
            ("sixteen-bytes-xx", "", "the target's name"),
            ("a\0b", "", "the target's name"),
            ("linear", "7:0\0", "the target's line"),
        ] {
            let line = TargetLine {
                start: Sectors::ZERO,
                len: Sectors::new(8),
                kind: kind.to_owned(),
                params: params.to_owned(),
            };
            let error = payload(&request, &[line]).unwrap_err();
            assert!(
                matches!(&error, IoctlError::Unsendable { what: found, .. } if *found == what),
                "{error:?}"
            );
        }
    }
}
