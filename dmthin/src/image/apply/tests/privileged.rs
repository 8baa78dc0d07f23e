//! What only root may set.

use super::*;

#[test]
#[ignore = "needs root"]
fn priv_owners_devices_and_capabilities_are_set() {
    let cap = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut file = Head::new(b'0', "f")
        .mode(0o4755)
        .pax("SCHILY.xattr.security.capability", cap)
        .pax("SCHILY.xattr.trusted.t", "v");
    (file.uid, file.gid) = (70_000, 100_000);
    let mut link = Head::new(b'2', "l").link("f");
    (link.uid, link.gid) = (3, 4);
    let mut device = Head::new(b'3', "null").mode(0o666);
    device.device = (1, 3);
    let mut block = Head::new(b'4', "blk").mode(0o660);
    (block.device, block.gid) = ((259, 1_000_000), 6);
    let mut setgid = Head::new(b'5', "sg").mode(0o2775);
    (setgid.uid, setgid.gid) = (1, 50);
    let mut inside = Head::new(b'0', "sg/in");
    (inside.uid, inside.gid) = (0, 0);
    let mut root = Head::new(b'5', "./").mode(0o1777);
    (root.uid, root.gid) = (11, 12);
    let tar = Tar::default()
        .add(&root, "")
        .add(&file, "x")
        .add(&link, "")
        .add(&device, "")
        .add(&block, "")
        .add(&setgid, "")
        .add(&inside, "")
        .end();
    let dir = applied(&[tar]);
    let stat = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    let owner = |name: &str| (stat(name).uid(), stat(name).gid());
    assert_eq!(owner("f"), (70_000, 100_000));
    assert_eq!(stat("f").mode() & 0o7777, 0o4755);
    assert_eq!(
        xattr(&dir.path().join("f"), "security.capability"),
        Some(cap.to_vec())
    );
    assert_eq!(
        xattr(&dir.path().join("f"), "trusted.t"),
        Some(b"v".to_vec())
    );
    assert_eq!(owner("l"), (3, 4));
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(stat("null").mode() & 0o7777, 0o666);
    assert!(stat("blk").file_type().is_block_device());
    assert_eq!(stat("blk").rdev(), rustix::fs::makedev(259, 1_000_000));
    assert_eq!(owner("blk"), (0, 6));
    assert_eq!((owner("sg"), stat("sg").mode() & 0o7777), ((1, 50), 0o2775));
    assert_eq!(owner("sg/in"), (0, 0));
    assert_eq!((owner(""), stat("").mode() & 0o7777), ((11, 12), 0o1777));
}

/// What lies in a setgid directory of a lower layer inherits its group, unless told otherwise.
#[test]
#[ignore = "needs root"]
fn priv_a_lower_setgid_directory_lends_nobody_its_group() {
    let mut setgid = Head::new(b'5', "sg").mode(0o2775);
    setgid.gid = 50;
    let lower = Tar::default().add(&setgid, "").end();
    let upper = Tar::default()
        .file("sg/f", "")
        .dir("sg/d")
        .symlink("sg/l", "f")
        .end();
    let dir = applied(&[lower, upper]);
    for name in ["f", "d", "l"] {
        let stat = fs::symlink_metadata(dir.path().join("sg").join(name)).unwrap();
        assert_eq!(stat.gid(), 0, "{name}");
    }
    let stat = fs::metadata(dir.path().join("sg/d")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o755);
}

/// The same, where the directory was already open when it got the bit.
#[test]
#[ignore = "needs root"]
fn priv_a_directory_that_turns_setgid_lends_nobody_its_group() {
    let mut setgid = Head::new(b'5', "sg").mode(0o2775);
    setgid.gid = 50;
    let tar = Tar::default()
        .file("sg/before", "")
        .add(&setgid, "")
        .file("sg/after", "")
        .end();
    let dir = applied(&[tar]);
    for name in ["before", "after"] {
        let stat = fs::metadata(dir.path().join("sg").join(name)).unwrap();
        assert_eq!(stat.gid(), 0, "{name}");
    }
}

/// What is made below a default access list has one by that, which no entry of its own said.
#[test]
#[ignore = "needs root"]
fn priv_a_default_access_list_is_not_inherited() {
    // Version 2; owner, user 7, group, mask, others (`include/uapi/linux/posix_acl_xattr.h`).
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 6, 7),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 1, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(perm.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let lower = Tar::default()
        .add(
            &Head::new(b'5', "d").pax("SCHILY.xattr.system.posix_acl_default", &list),
            "",
        )
        .end();
    let upper = Tar::default()
        .file("d/f", "")
        .dir("d/e")
        .add(&Head::new(b'6', "d/p"), "")
        .add(
            &Head::new(b'0', "d/own")
                .mode(0o771)
                .pax("SCHILY.xattr.system.posix_acl_access", &list),
            "",
        )
        .end();
    let dir = applied(&[lower, upper]);
    for (name, mode, access) in [
        ("f", 0o644, None),
        ("e", 0o755, None),
        ("p", 0o644, None),
        ("own", 0o771, Some(list.clone())),
    ] {
        let path = dir.path().join("d").join(name);
        let stat = fs::symlink_metadata(&path).unwrap();
        assert_eq!(xattr(&path, "system.posix_acl_access"), access, "{name}");
        assert_eq!(xattr(&path, "system.posix_acl_default"), None, "{name}");
        assert_eq!(stat.mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(
        xattr(&dir.path().join("d"), "system.posix_acl_default"),
        Some(list)
    );
}
