//! A `/proc` and a `/sys` made for the purpose, looked at as the real ones are.

use std::os::unix::fs::{MetadataExt, symlink};

use tempfile::TempDir;

use super::*;

/// A `/proc` and a `/sys` of our own making.
struct Fake {
    dir: TempDir,
}

impl Fake {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["proc", "sys"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, command: &str, namespace: u64, mountinfo: &str) {
        self.write(&format!("proc/{pid}/comm"), &format!("{command}\n"));
        self.write(&format!("proc/{pid}/mountinfo"), mountinfo);
        let dir = self.dir.path().join(format!("proc/{pid}"));
        for sub in ["ns", "fd"] {
            fs::create_dir(dir.join(sub)).unwrap();
        }
        symlink(format!("mnt:[{namespace}]"), dir.join("ns/mnt")).unwrap();
        symlink("/", dir.join("root")).unwrap();
    }

    fn scan(&self, devices: &[DevNo]) -> Vec<(DevNo, Holder)> {
        let places = Places {
            proc: self.dir.path().join("proc"),
            sys: self.dir.path().join("sys"),
            own: Pid(1),
        };
        places.scan(devices).unwrap()
    }
}

fn process(pid: u32, command: &str) -> Process {
    Process {
        pid: Pid(pid),
        command: command.to_owned(),
    }
}

const DEV: DevNo = DevNo::new(253, 7);
const OTHER: DevNo = DevNo::new(253, 8);

#[test]
fn mounts_are_told_once_for_each_namespace_with_its_processes() {
    let fake = Fake::new();
    let here = "1 1 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 253:7 / /mnt rw - ext4 /dev/x rw\n";
    fake.process(1, "init", 100, here);
    fake.process(2, "bash", 100, here);
    let there = "9 1 253:7 / /a\\040b rw - ext4 /dev/x rw\n8 1 253:8 / /c rw - xfs /dev/y rw\n";
    fake.process(31, "runc", 200, there);
    fake.process(30, "sleep", 200, there);
    let mount = |dev, target: &str, id, processes: &[Process]| {
        let holder = Holder::Mount {
            target: target.to_owned(),
            namespace: MountNs(id),
            here: id == 100,
            processes: processes.to_vec(),
        };
        (dev, holder)
    };
    let theirs = [process(30, "sleep"), process(31, "runc")];
    assert_eq!(
        fake.scan(&[DEV, OTHER]),
        [
            mount(DEV, "/mnt", 100, &[]),
            mount(DEV, "/a b", 200, &theirs),
            mount(OTHER, "/c", 200, &theirs),
        ]
    );
    let holders = fake.scan(&[DEV]);
    let told: Vec<_> = holders.iter().map(|(_, h)| h.to_string()).collect();
    assert_eq!(
        told,
        [
            "mounted on /mnt",
            "mounted on /a b in mnt:[200] of process 30 (sleep)"
        ]
    );
    assert_eq!(
        holders[1].1.hint(),
        "unmount it there: nsenter -t 30 -m umount /a b; or end the processes there"
    );
}

#[test]
fn open_files_are_counted_by_process_and_ours_are_not_told() {
    let fake = Fake::new();
    let file = fake.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let dev = DevNo::from_dev_t(fs::metadata(&file).unwrap().dev());
    for pid in [1, 40] {
        fake.process(pid, "tail", 100, "");
        let fds = fake.dir.path().join(format!("proc/{pid}/fd"));
        // A pipe, and a descriptor closed since it was listed, are none of the device's.
        symlink("pipe:[123]", fds.join("0")).unwrap();
        symlink("/dev/null", fds.join("1")).unwrap();
        symlink(&file, fds.join("3")).unwrap();
        symlink(&file, fds.join("4")).unwrap();
    }
    // The fake root `/` may lie on the same device as the file.
    let root = DevNo::from_dev_t(fs::metadata("/").unwrap().dev());
    let holders = fake.scan(&[dev]);
    let [
        (
            found,
            Holder::OpenFile {
                process: p,
                inside: true,
                count,
                ..
            },
        ),
    ] = holders.as_slice()
    else {
        panic!("{holders:?}");
    };
    assert_eq!((*found, p), (dev, &process(40, "tail")));
    assert_eq!(*count, 2 + u64::from(root == dev));
    assert_eq!(fake.scan(&[DEV]), []);
}

#[test]
fn devices_on_top_are_named_by_dm_or_by_the_kernel() {
    let fake = Fake::new();
    for (path, text) in [
        ("dm-9/dm/name", "vg-lv\n"),
        ("dm-9/dm/uuid", "LVM-abc\n"),
        ("dm-9/dev", "253:9\n"),
        ("md0/dev", "9:0\n"),
        // Gone while it was looked at.
        ("sdx/slow", ""),
    ] {
        fake.write(&format!("sys/dev/block/253:7/holders/{path}"), text);
    }
    let device = |name: &str, uuid: Option<&str>, devno: &str| Holder::Device {
        name: name.to_owned(),
        uuid: uuid.map(str::to_owned),
        devno: devno.parse().unwrap(),
    };
    let holders: Vec<_> = fake.scan(&[DEV]).into_iter().map(|(_, h)| h).collect();
    assert_eq!(
        holders,
        [
            device("vg-lv", Some("LVM-abc"), "253:9"),
            device("md0", None, "9:0")
        ]
    );
    assert!(holders[0].hint().contains("vgchange"));
    assert!(holders[1].hint().contains("dmsetup remove md0"));
    assert_eq!(fake.scan(&[OTHER]), []);
}

#[test]
fn swap_is_found_by_what_its_path_leads_to() {
    let table = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
        /dev/dm-3                               partition\t1048572\t\t0\t\t-2\n\
        /a\\040b\\040(deleted) file 1 0 -3\n";
    let paths = ["/dev/dm-3", "/a b (deleted)"].map(PathBuf::from);
    assert_eq!(swap_paths(table), paths);
    assert_eq!(swap_paths(b""), Vec::<PathBuf>::new());
    let fake = Fake::new();
    let file = fake.dir.path().join("swap");
    fs::write(&file, "").unwrap();
    let dev = DevNo::from_dev_t(fs::metadata(&file).unwrap().dev());
    let path = file.to_str().unwrap().to_owned();
    fake.write("proc/swaps", &format!("Filename\n{path} file 1 0 -2\n"));
    assert_eq!(fake.scan(&[dev]), [(dev, Holder::Swap { path })]);
}

#[test]
fn this_machine_can_be_looked_at() {
    let places = Places {
        proc: "/proc".into(),
        sys: "/sys".into(),
        own: Pid(std::process::id()),
    };
    assert_eq!(places.scan(&[DevNo::new(4095, 1_048_575)]).unwrap(), []);
}
