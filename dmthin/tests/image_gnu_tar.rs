//! A real tree, packed by GNU tar in each of its formats, must come out of the applier as it comes
//! out of GNU tar; and GNU tar reads what we write.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "test helper"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use dmthin::delta::{Change, ChangeKind};
use dmthin::image::{Archive, Control, Spool, digest_of, write_layer};
use dmthin::units::Bytes;
use tempfile::TempDir;

/// Trees most Linux systems have, with links of both kinds in them.
const REAL: [&str; 2] = ["/usr/share/zoneinfo", "/usr/share/perl"];

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// What real trees have little of.
fn odd_tree(root: &Path) {
    const STEP: u64 = 1 << 16;
    fs::create_dir_all(root.join("d").join("n".repeat(150)).join("m".repeat(200))).unwrap();
    let deep = root
        .join("d")
        .join("n".repeat(150))
        .join("m".repeat(200))
        .join("f".repeat(250));
    fs::write(&deep, "deep").unwrap();
    fs::hard_link(&deep, root.join("hard")).unwrap();
    symlink("x".repeat(300), root.join("long-link")).unwrap();
    fs::write(root.join("new\nline"), "odd").unwrap();
    fs::write(root.join("setuid"), "x").unwrap();
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o6711)).unwrap();
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    fs::create_dir(root.join("shut")).unwrap();
    fs::write(root.join("shut/in"), "x").unwrap();
    fs::set_permissions(root.join("shut"), fs::Permissions::from_mode(0o555)).unwrap();
    for (name, holes) in [("sparse-few", 3), ("sparse-many", 100)] {
        let mut file = File::create(root.join(name)).unwrap();
        for i in 0..holes {
            file.seek(SeekFrom::Start(i * STEP + 4096)).unwrap();
            file.write_all(format!("data {i}").as_bytes()).unwrap();
        }
        file.set_len(holes * STEP).unwrap();
    }
    fs::write(root.join("empty"), "").unwrap();
    run("mkfifo", &[root.join("fifo").to_str().unwrap()]);
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    nlink: u64,
    target: Option<PathBuf>,
    content: Option<dmthin::ids::Digest>,
}

fn walk(root: &Path, sub_seconds: bool) -> (BTreeMap<PathBuf, Seen>, u64) {
    let mut seen = BTreeMap::new();
    let mut blocks = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let is_dir = stat.is_dir();
        if is_dir {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = stat.is_file().then(|| {
            let mut bytes = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            digest_of(&bytes)
        });
        blocks += stat.blocks();
        let entry = Seen {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (
                stat.mtime(),
                if sub_seconds { stat.mtime_nsec() } else { 0 },
            ),
            // How large a directory is says how it was filled.
            size: if is_dir { 0 } else { stat.len() },
            nlink: stat.nlink(),
            target: stat.is_symlink().then(|| fs::read_link(&path).unwrap()),
            content,
        };
        seen.insert(path.strip_prefix(root).unwrap().to_owned(), entry);
    }
    (seen, blocks)
}

/// A docker-archive of one layer, as a directory.
fn archive_of(dir: &Path, tar: &str) -> Archive {
    let diff_id = digest_of(&fs::read(tar).unwrap());
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    fs::write(dir.join("config.json"), config).unwrap();
    let name = Path::new(tar).file_name().unwrap().to_str().unwrap();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":null,"Layers":["{name}"]}}]"#);
    fs::write(dir.join("manifest.json"), manifest).unwrap();
    let limit = Bytes::ZERO;
    Archive::open(dir, &Spool { dir, limit }).unwrap()
}

#[test]
fn what_gnu_tar_packs_comes_out_as_gnu_tar_unpacks_it() {
    let base = TempDir::new().unwrap();
    let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("odd")).unwrap();
    odd_tree(Path::new(&at("odd")));
    let owner = format!("--owner=user:{}", rustix::process::geteuid().as_raw());
    let group = format!("--group=group:{}", rustix::process::getegid().as_raw());
    let real: Vec<&str> = REAL.into_iter().filter(|d| Path::new(d).is_dir()).collect();
    let base_path = base.path().to_str().unwrap();

    for (i, format) in [
        &["--format=gnu", "-S"][..],
        &["--format=gnu"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
        &["--format=pax", "-S", "--sparse-version=1.0"],
    ]
    .into_iter()
    .enumerate()
    {
        let tar = at("layer.tar");
        let mut args = vec!["-cf", &tar, &owner, &group];
        args.extend(format);
        args.extend(["-C", base_path, "odd"]);
        args.extend(if i == 0 { real.as_slice() } else { &[] });
        run("tar", &args);

        let (theirs, ours) = (at(&format!("theirs{i}")), at(&format!("ours{i}")));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&ours).unwrap();
        run("tar", &["-xpf", &tar, "-C", &theirs]);
        let archive = archive_of(base.path(), &tar);
        let layer = archive.images(None).unwrap().remove(0).layers.remove(0);
        let root = File::open(&ours).unwrap();
        let applied = archive
            .apply_layer(&layer, root.as_fd(), &Control::default())
            .unwrap();

        // GNU's own format has whole seconds, and tar makes /usr on its way without a time.
        let made_on_the_way =
            |path: &PathBuf| !["", "usr", "usr/share"].contains(&path.to_str().unwrap());
        let (mut theirs, their_blocks) = walk(Path::new(&theirs), i > 1);
        let (mut ours, our_blocks) = walk(Path::new(&ours), i > 1);
        theirs.retain(|path, _| made_on_the_way(path));
        ours.retain(|path, _| made_on_the_way(path));
        for (path, theirs) in &theirs {
            assert_eq!(ours.get(path), Some(theirs), "{path:?} {format:?}");
        }
        assert_eq!(ours.len(), theirs.len());
        assert!(applied.entries >= u64::try_from(ours.len()).unwrap());
        if format.contains(&"-S") {
            assert!(
                our_blocks <= their_blocks + 64,
                "{our_blocks} {their_blocks}"
            );
        }
    }
    // So that non-root can remove it.
    for dir in fs::read_dir(base.path()).unwrap() {
        let shut = dir.unwrap().path().join("odd/shut");
        if shut.exists() {
            fs::set_permissions(shut, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let shut = base.path().join("odd/shut");
    fs::set_permissions(shut, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn gnu_tar_unpacks_what_a_layer_is_written_as() {
    let base = TempDir::new().unwrap();
    let tree = base.path().join("tree");
    fs::create_dir(&tree).unwrap();
    odd_tree(&tree);
    for real in REAL.iter().filter(|d| Path::new(d).is_dir()) {
        run("cp", &["-a", real, tree.to_str().unwrap()]);
    }
    let holes = File::create(tree.join("holes")).unwrap();
    holes.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"in the middle", 20 << 20).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("empty"), "user.x", b"1\n2", flags).unwrap();
    let (ours, _) = walk(&tree, true);
    let changes: Vec<Change> = ours
        .keys()
        .map(|path| Change {
            path: path.clone(),
            kind: ChangeKind::Added,
        })
        .collect();
    let tar = base.path().join("layer.tar");
    let root = File::open(&tree).unwrap();
    let mut out = File::create(&tar).unwrap();
    let written = write_layer(&changes, root.as_fd(), None, &mut out).unwrap();
    assert_eq!(written.diff_id, digest_of(&fs::read(&tar).unwrap()));

    let theirs = base.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let (tar, to) = (tar.to_str().unwrap(), theirs.to_str().unwrap());
    run(
        "tar",
        &[
            "-xpf",
            tar,
            "--same-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-C",
            to,
        ],
    );
    let (theirs_seen, _) = walk(&theirs, true);
    for (path, seen) in &ours {
        assert_eq!(theirs_seen.get(path), Some(seen), "{path:?}");
    }
    assert_eq!(theirs_seen.len(), ours.len());
    let blocks = fs::metadata(theirs.join("holes")).unwrap().blocks();
    assert!(blocks <= 256, "{blocks}");
    let mut value = [0; 8];
    let n = rustix::fs::getxattr(theirs.join("empty"), "user.x", &mut value).unwrap();
    assert_eq!(&value[..n], b"1\n2");
    for dir in [tree, theirs] {
        fs::set_permissions(dir.join("shut"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
