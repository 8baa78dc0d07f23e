//! The oracle must itself be right: what GNU tar and the whiteout script make
//! of the fixture image is looked at with other tools, in a guest.
#![allow(clippy::unwrap_used, reason = "test helper")]

use std::time::Duration;

use dmthin_tests::fixture::{Variant, image};
use dmthin_tests::vm::{Cmd, Disk, Kernel, Size, Status, Vm, static_program};

/// What the tree must be, by commands that print `ok` alone.
const LOOKS: &[(&str, &str)] = &[
    (
        "a file is whited out",
        "test ! -e etc/debian_version && echo ok",
    ),
    (
        "a directory is whited out",
        "test ! -e usr/share/zoneinfo/Africa && echo ok",
    ),
    (
        "an opaque directory has what its layer put into it",
        "test \"$(ls -A usr/share/zoneinfo/Asia | tr '\\n' ' ')\" = 'odd-after odd-before ' && echo ok",
    ),
    (
        "no mark is left",
        "test -z \"$(find . -name '.wh.*')\" && echo ok",
    ),
    (
        "other files of lower layers stay",
        "test -s usr/share/zoneinfo/Europe/Berlin && echo ok",
    ),
    (
        "a directory became a file",
        "test -f usr/share/zoneinfo/Arctic && echo ok",
    ),
    (
        "a file became a directory",
        "test -f usr/share/base-files/motd/odd && echo ok",
    ),
    (
        "capabilities are set",
        "getcap odd-xattrs/capable | grep -q cap_net_raw=ep && echo ok",
    ),
    (
        "binary xattrs keep every byte",
        "test \"$(getfattr -n user.binary -e hex --only-values odd-xattrs/many | od -An -tx1)\" = \
         ' 61 3d 62 0a 63 00 64 ff' && echo ok",
    ),
    (
        "setuid survives the owner",
        "test \"$(stat -c %a:%u odd-modes/setuid)\" = 4755:1000 && echo ok",
    ),
    (
        "owners are large",
        "test \"$(stat -c %u:%g odd-modes/large-owner)\" = 3000000000:4000000000 && echo ok",
    ),
    (
        "hardlinks are one inode",
        "test \"$(stat -c %i odd-links/first)\" = \"$(stat -c %i odd-links/deep/third)\" && \
         test etc/passwd -ef odd-links/lower && echo ok",
    ),
    (
        "nodes have their numbers",
        "test \"$(stat -c %t:%T odd-nodes/disk)\" = 103:11170 && echo ok",
    ),
    (
        "sparse files have their size and their holes",
        "test \"$(stat -c %s odd-sparse-old odd-sparse-pax | tr '\\n' ' ')\" = '67108864 33554432 ' && \
         test \"$(du -k odd-sparse-old | cut -f1)\" -lt 64 && echo ok",
    ),
    (
        "times have nanoseconds",
        "stat -c %y usr/share/base-files | grep -q 22:13:20.123456789 && echo ok",
    ),
];

#[test]
#[ignore = "boots virtual machines"]
fn the_oracle_unpacks_the_fixture_as_its_layers_say() {
    let image = image(Variant::Small).unwrap();
    let compare = static_program("dmthin-tests", "compare-trees", "dev").unwrap();
    let mut vm = Vm::new(Kernel::Uml)
        .program(compare, "/usr/bin/compare-trees")
        .file("../fixtures/oracle-extract", "/usr/bin/oracle-extract")
        .disk(
            Disk::file("image", &image.disk)
                .forgetting_writes()
                .mounted_at("/image"),
        )
        .disk(Disk::scratch("work", Size::gib(1)).mounted_at("/srv"))
        .timeout(Duration::from_secs(240))
        .start()
        .unwrap();
    for tree in ["/srv/one", "/srv/two"] {
        let oracle = Cmd::new(["oracle-extract", "/image/docker.tar", tree]);
        vm.run(oracle).unwrap().ok().unwrap();
    }
    for (what, look) in LOOKS {
        let seen = vm.run(Cmd::sh(look).directory("/srv/one")).unwrap();
        assert_eq!(seen.out(), "ok\n", "{what}: {look}\n{}", seen.err());
    }
    let compared = vm
        .sh("compare-trees /srv/one /srv/two")
        .unwrap()
        .ok()
        .unwrap();
    assert!(
        compared.ends_with(" entries compared, 0 differences\n"),
        "{compared}"
    );
    let changed = vm
        .sh(
            "setfattr -n trusted.overlay -v y /srv/two/odd-xattrs/many; \
             mknod /srv/two/odd-nodes/more c 1 5; compare-trees /srv/one /srv/two | tail -n 1; \
             exit ${PIPESTATUS[0]}",
        )
        .unwrap();
    assert_eq!(changed.status, Status::Exited(1));
    // The node, its directory's time, and the xattr.
    assert!(
        changed.out().ends_with(" 3 differences\n"),
        "{}",
        changed.out()
    );
    vm.shutdown().unwrap();
}
