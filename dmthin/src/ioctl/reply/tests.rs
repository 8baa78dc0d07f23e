//! Replies byte for byte as a kernel lays them out, and bytes no kernel should send.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};

use super::*;

/// A reply under construction: header with version 4.47, payload at 312.
struct Builder(Vec<u8>);

impl Builder {
    fn new() -> Self {
        let mut header = vec![0; 312];
        header[0..4].copy_from_slice(&4_u32.to_ne_bytes());
        header[4..8].copy_from_slice(&47_u32.to_ne_bytes());
        header[16..20].copy_from_slice(&312_u32.to_ne_bytes());
        Self(header)
    }

    fn at(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_ne_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_ne_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    fn view(self) -> View {
        View::new(self.0)
    }
}

#[test]
fn the_head_describes_a_device() {
    let reply = Builder::new()
        .at(20, &2_u32.to_ne_bytes())
        .at(24, &3_i32.to_ne_bytes())
        .at(
            28,
            &(1_u32 | 1 << 1 | 1 << 5 | 1 << 13 | 1 << 17).to_ne_bytes(),
        )
        .at(32, &77_u32.to_ne_bytes())
        // huge_encode_dev(254:300): minor 300 = 0x12c.
        .at(40, &0x0010_fe2c_u64.to_ne_bytes())
        .at(48, b"dmthin-tank-pool\0")
        .at(176, b"DMTHIN-1-pool\0")
        .view();
    assert_eq!(
        device_info(&reply),
        Ok(DeviceInfo {
            name: DmName::new("dmthin-tank-pool").unwrap(),
            uuid: Some(DmUuid::new("DMTHIN-1-pool").unwrap()),
            dev: DevNo::new(254, 300),
            open_count: 3,
            event_nr: EventNr::new(77),
            target_count: 2,
            suspended: true,
            read_only: true,
            active_table: true,
            inactive_table: false,
            deferred_remove: true,
            uevent_generated: true,
        })
    );
}

#[test]
fn a_name_that_fills_its_field_has_no_end() {
    let reply = Builder::new().at(48, &[b'x'; 128]).view();
    assert_eq!(
        device_info(&reply),
        Err(ReplyError::Unterminated {
            what: "the device's name",
            at: 48
        })
    );
    assert!(matches!(
        device_info(&Builder::new().view()),
        Err(ReplyError::Id(_))
    ));
    assert_eq!(
        device_info(&Builder::new().at(48, b"\xff\0").view()),
        Err(ReplyError::NotText {
            what: "the device's name",
            at: 48
        })
    );
}

fn two_devices() -> Builder {
    Builder::new()
        // 312: name at 324 to 326, event number at 328, uuid at 336 to 342.
        .u64(0xfe00)
        .u32(32)
        .bytes(b"a\0")
        .pad()
        .u32(5)
        .u32(1)
        .bytes(b"UUID-a\0")
        .pad()
        // 344: no uuid.
        .u64(0xfe01)
        .u32(0)
        .bytes(b"bcd\0")
        .pad()
        .u32(6)
        .u32(2)
}

#[test]
fn devices_are_listed_with_event_numbers_and_uuids() {
    let expected = vec![
        ListedDevice {
            name: DmName::new("a").unwrap(),
            dev: DevNo::new(254, 0),
            event_nr: Some(EventNr::new(5)),
            uuid: Some(DmUuid::new("UUID-a").unwrap()),
        },
        ListedDevice {
            name: DmName::new("bcd").unwrap(),
            dev: DevNo::new(254, 1),
            event_nr: Some(EventNr::new(6)),
            uuid: None,
        },
    ];
    assert_eq!(device_list(&two_devices().view()), Ok(expected));
}

#[test]
fn old_kernels_list_names_alone() {
    let reply = Builder::new()
        .at(4, &37_u32.to_ne_bytes())
        .u64(0xfe00)
        .u32(16)
        .bytes(b"a\0")
        .pad()
        .u64(0xfe01)
        .u32(0)
        .bytes(b"b\0")
        .view();
    let devices = device_list(&reply).unwrap();
    assert_eq!(
        devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(devices.iter().all(|d| d.event_nr.is_none()));
}

#[test]
fn a_foreign_name_that_is_no_text_hides_no_other() {
    let reply = two_devices().at(324, b"\xff").view();
    let devices = device_list(&reply).unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].name.as_str(), "bcd");
}

#[test]
fn no_devices_are_an_empty_list() {
    assert_eq!(device_list(&Builder::new().view()), Ok(vec![]));
    assert_eq!(
        device_list(&Builder::new().u64(0).u64(0).view()),
        Ok(vec![])
    );
    assert_eq!(target_versions(&Builder::new().view()), Ok(vec![]));
}

#[test]
fn a_list_that_does_not_go_forward_is_refused() {
    for next in [1, 30, 1 << 20, u32::MAX] {
        let reply = two_devices().at(320, &next.to_ne_bytes()).view();
        assert_eq!(
            device_list(&reply),
            Err(ReplyError::BadNext {
                what: "a listed device",
                at: 312,
                next: 312 + to_usize(next)
            }),
            "{next}"
        );
    }
    let name_without_end = Builder::new().u64(0xfe00).u32(0).bytes(b"abcd").view();
    assert_eq!(
        device_list(&name_without_end),
        Err(ReplyError::Unterminated {
            what: "a device's name",
            at: 324
        })
    );
}

#[test]
fn target_versions_are_listed() {
    let reply = Builder::new()
        .u32(32)
        .u32(1)
        .u32(22)
        .u32(0)
        .bytes(b"thin-pool\0")
        .pad()
        .u32(0)
        .u32(1)
        .u32(4)
        .u32(2)
        .bytes(b"linear\0")
        .view();
    let version = |major, minor, patch| DmVersion {
        major,
        minor,
        patch,
    };
    assert_eq!(
        target_versions(&reply),
        Ok(vec![
            TargetVersion {
                name: "thin-pool".to_owned(),
                version: version(1, 22, 0)
            },
            TargetVersion {
                name: "linear".to_owned(),
                version: version(1, 4, 2)
            },
        ])
    );
}

#[test]
fn deps_are_as_many_as_the_reply_holds() {
    let reply = Builder::new().u32(2).u32(0).u64(0x700).u64(0xfe03).view();
    assert_eq!(deps(&reply), Ok(vec![DevNo::new(7, 0), DevNo::new(254, 3)]));
    let lying = Builder::new().u32(u32::MAX).u32(0).u64(0x700).view();
    assert_eq!(
        deps(&lying),
        Err(ReplyError::Truncated {
            what: "a device used",
            at: 328,
            len: 328
        })
    );
}

fn two_targets() -> Builder {
    Builder::new()
        .at(20, &2_u32.to_ne_bytes())
        .at(48, b"a\0")
        .u64(0)
        .u64(8)
        .u32(0)
        // From the first record, as replies count.
        .u32(48)
        .bytes(b"linear\0\0\0\0\0\0\0\0\0\0")
        .bytes(b"7:0 0\0")
        .pad()
        .u64(8)
        .u64(16)
        .u32(0)
        .u32(88)
        .bytes(b"error\0\0\0\0\0\0\0\0\0\0\0")
        .bytes(b"\0")
}

#[test]
fn target_lines_are_read_in_order() {
    let lines = target_lines(&two_targets().view()).unwrap();
    assert_eq!(
        lines.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["0 8 linear 7:0 0", "8 16 error"]
    );
}

#[test]
fn target_lines_that_lie_are_refused() {
    for next in [0, 8, 45, 4096] {
        let reply = two_targets().at(332, &u32::to_ne_bytes(next)).view();
        assert_eq!(
            target_lines(&reply),
            Err(ReplyError::BadNext {
                what: "a target",
                at: 312,
                next: 312 + to_usize(next)
            }),
            "{next}"
        );
    }
    let three = two_targets().at(20, &3_u32.to_ne_bytes()).view();
    assert!(matches!(
        target_lines(&three),
        Err(ReplyError::Truncated { .. } | ReplyError::BadNext { .. })
    ));
    let outside = two_targets().at(16, &u32::MAX.to_ne_bytes()).view();
    assert!(matches!(
        target_lines(&outside),
        Err(ReplyError::Truncated {
            what: "the payload",
            ..
        })
    ));
}

#[test]
fn a_message_has_an_answer_only_where_the_flag_says_so() {
    let reply = Builder::new().bytes(b"hello\0").view();
    assert_eq!(message_answer(&reply), Ok(None));
    let flag = (1_u32 << 16).to_ne_bytes();
    let reply = Builder::new().at(28, &flag).bytes(b"hello\0").view();
    assert_eq!(message_answer(&reply), Ok(Some("hello".to_owned())));
    let reply = Builder::new().at(28, &flag).bytes(b"hello").view();
    assert_eq!(
        message_answer(&reply),
        Err(ReplyError::Unterminated {
            what: "the message's answer",
            at: 312
        })
    );
}

fn decode_everything(reply: &View) -> usize {
    let lists = [
        device_list(reply).map_or(0, |list| list.len()),
        target_versions(reply).map_or(0, |list| list.len()),
        deps(reply).map_or(0, |list| list.len()),
        target_lines(reply).map_or(0, |list| list.len()),
    ];
    drop(device_info(reply));
    drop(version(reply));
    drop(message_answer(reply));
    lists.into_iter().max().unwrap_or_default()
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer_or_an_error(bytes in vec(any::<u8>(), 0..600)) {
        let len = bytes.len();
        prop_assert!(decode_everything(&View::new(bytes)) <= len);
    }

    #[test]
    fn any_damage_ends_in_an_answer_or_an_error(
        devices in any::<bool>(),
        damage in vec((0_usize..400, any::<u8>()), 1..8),
        cut in 0_usize..400,
    ) {
        let mut bytes = if devices { two_devices().0 } else { two_targets().0 };
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.max(300));
        let len = bytes.len();
        prop_assert!(decode_everything(&View::new(bytes)) <= len);
    }
}
