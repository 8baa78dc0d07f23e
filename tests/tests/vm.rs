//! The runner's own promises, on a real guest. Needs QEMU and, the first
//! time, the network: `cargo test -p dmthin-tests --test vm -- --ignored`.
#![allow(clippy::unwrap_used, reason = "test helper")]

use std::time::Duration;

use dmthin_tests::vm::{Cmd, Disk, Kernel, Size, Status, Vm};

#[test]
#[ignore = "boots virtual machines"]
fn one_machine_keeps_every_promise() {
    let mut vm = Vm::new(Kernel::V6_1)
        .udev(true)
        .file_with_mode("Cargo.toml", "/opt/deep/manifest", 0o640)
        .program("/usr/bin/env", "/opt/env")
        .disk(Disk::scratch("state", Size::gib(1)).mounted_at("/var/lib/state"))
        .disk(Disk::scratch("raw", Size::mib(64)))
        .start()
        .unwrap();

    // Output, errors and statuses come back apart.
    let output = vm.sh("echo out; echo err >&2; exit 3").unwrap();
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(output.status, Status::Exited(3));
    assert_eq!(vm.sh("kill -9 $$").unwrap().status, Status::Signalled(9));
    let missing = vm
        .run(Cmd::new(["no-such-program"]))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("in the guest: cannot run no-such-program"),
        "{missing}"
    );
    let command = Cmd::new(["/opt/env"])
        .env("COLOUR", "red")
        .directory("/opt");
    assert!(
        vm.run(command)
            .unwrap()
            .ok()
            .unwrap()
            .contains("COLOUR=red\n")
    );

    // Files go in and out.
    let modes = vm.sh("stat -c %a /opt/deep/manifest; grep -c dmthin-tests /opt/deep/manifest");
    assert_eq!(modes.unwrap().ok().unwrap(), "640\n1\n");
    let large: Vec<u8> = (0_u8..=255).cycle().take(3_000_000).collect();
    vm.put(&large, "/tmp/large", 0o600).unwrap();
    assert_eq!(vm.get("/tmp/large").unwrap(), large);

    // The kernel and the tools do what the project is about, with udevd.
    let pool = "
        truncate -s 512M /var/lib/state/data; truncate -s 16M /var/lib/state/metadata
        data=$(losetup -f --show /var/lib/state/data)
        metadata=$(losetup -f --show /var/lib/state/metadata)
        dmsetup create pool --table \"0 $((512 * 2048)) thin-pool $metadata $data 128 0\"
        dmsetup message pool 0 'create_thin 0'
        dmsetup create thin --table '0 524288 thin /dev/mapper/pool 0'
        mkfs.ext4 -q /dev/mapper/thin
        mount /dev/mapper/thin /mnt; echo kept > /mnt/file; umount /mnt
        stat -c %F /dev/mapper/thin; dmsetup remove thin; dmsetup remove pool
        losetup -D; udevadm settle; thin_check -q /var/lib/state/metadata; sync";
    assert_eq!(vm.sh(pool).unwrap().ok().unwrap(), "symbolic link\n");

    // A command that takes too long is killed and the guest lives on.
    let slow = Cmd::new(["sleep", "60"]).timeout(Duration::from_secs(1));
    let error = vm.run(slow).unwrap_err().to_string();
    assert!(
        error.starts_with("sleep 60 took longer than 1 s and was killed"),
        "{error}"
    );

    // Disks survive a reboot and a power cut; memory does not.
    vm.reboot().unwrap();
    let after = "test ! -e /tmp/large; stat -c %s /var/lib/state/metadata; head -c3 /dev/vm/raw | od -An -c";
    assert_eq!(
        vm.sh(after).unwrap().ok().unwrap(),
        "16777216\n  \\0  \\0  \\0\n"
    );
    vm.sh("echo abc > /dev/vm/raw; sync").unwrap().ok().unwrap();
    vm.power_cut();
    assert_eq!(vm.sh("true").unwrap_err().to_string(), "the machine is off");
    vm.power_on().unwrap();
    assert_eq!(vm.sh("head -c3 /dev/vm/raw").unwrap().ok().unwrap(), "abc");

    // A guest that panics is an error that shows the console.
    let error = vm
        .sh("echo c > /proc/sysrq-trigger")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the guest died during") && error.contains("Kernel panic"),
        "{error}"
    );
    vm.power_on().unwrap();
    vm.shutdown().unwrap();
}

#[test]
#[ignore = "boots virtual machines"]
fn a_kernel_can_be_made_to_lack_a_module() {
    let vm = Vm::new(Kernel::V6_1).without_module("dm-thin-pool");
    let mut vm = vm.start().unwrap();
    let targets = vm
        .sh("modprobe dm-thin-pool || echo none; dmsetup targets")
        .unwrap();
    let targets = targets.ok().unwrap();
    assert!(
        targets.starts_with("none\n") && !targets.contains("thin-pool"),
        "{targets}"
    );
    assert!(targets.contains("linear"), "{targets}");
    vm.shutdown().unwrap();
}

#[test]
#[ignore = "boots virtual machines"]
fn a_guest_that_never_starts_is_given_up_with_its_console() {
    let vm = Vm::new(Kernel::V6_1).kernel_argument("rdinit=/no-such-init");
    let error = format!("{:#}", vm.start().unwrap_err());
    assert!(
        error.contains("died before init in each of 4 boots"),
        "{error}"
    );
    assert!(error.contains("Kernel panic"), "{error}");
}
