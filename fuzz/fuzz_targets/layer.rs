//! Layers with headers of any kind, applied to a directory: nothing may change beside it.
#![no_main]

use std::fs;
use std::io::Cursor;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::LazyLock;

use dmthin::image::{Archive, Control, Spool, digest_of};
use dmthin::units::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().unwrap());

/// Parts of names, so that entries meet each other and try to get out.
#[derive(Debug, Arbitrary)]
enum Part {
    A,
    B,
    Up,
    Here,
    Root,
    Whiteout,
    Opaque,
    Any(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Entry {
    kind: u8,
    name: Vec<Part>,
    link: Vec<Part>,
    mode: u16,
    uid: u32,
    mtime: u32,
    pax: Vec<(Key, Vec<u8>)>,
    body: Vec<u8>,
    /// Lies about its length where it is not zero.
    longer: u16,
}

#[derive(Debug, Arbitrary)]
enum Key {
    Path,
    LinkPath,
    Size,
    Mtime,
    Xattr,
    Sparse,
    Any(String),
}

fn path(parts: &[Part]) -> Vec<u8> {
    let parts = parts.iter().map(|part| match part {
        Part::A => b"a".to_vec(),
        Part::B => b"b".to_vec(),
        Part::Up => b"..".to_vec(),
        Part::Here => b".".to_vec(),
        Part::Root => Vec::new(),
        Part::Whiteout => b".wh.a".to_vec(),
        Part::Opaque => b".wh..wh..opq".to_vec(),
        Part::Any(bytes) => bytes.clone(),
    });
    parts.collect::<Vec<_>>().join(&b'/')
}

fn block(kind: u8, entry: &Entry, name: &[u8], size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    for (to, from) in header.as_old_mut().name.iter_mut().zip(name) {
        *to = *from;
    }
    for (to, from) in header
        .as_old_mut()
        .linkname
        .iter_mut()
        .zip(path(&entry.link))
    {
        *to = from;
    }
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(entry.mode.into());
    header.set_uid(entry.uid.into());
    header.set_gid(entry.uid.into());
    header.set_mtime(entry.mtime.into());
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}

fn add(out: &mut Vec<u8>, header: [u8; 512], body: &[u8]) {
    out.extend(header);
    out.extend(body);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn pax(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in &entry.pax {
        let key = match key {
            Key::Path => "path",
            Key::LinkPath => "linkpath",
            Key::Size => "size",
            Key::Mtime => "mtime",
            Key::Xattr => "SCHILY.xattr.user.a",
            Key::Sparse => "GNU.sparse.map",
            Key::Any(key) => key,
        };
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while len != body + len.to_string().len() {
            len = body + len.to_string().len();
        }
        out.extend(format!("{len} {key}=").into_bytes());
        out.extend(value);
        out.push(b'\n');
    }
    out
}

fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let records = pax(entry);
        if !records.is_empty() {
            add(
                &mut out,
                block(b'x', entry, b"pax", records.len() as u64),
                &records,
            );
        }
        let size = entry.body.len() as u64 + u64::from(entry.longer);
        add(
            &mut out,
            block(entry.kind, entry, &path(&entry.name), size),
            &entry.body,
        );
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An archive of `docker save`'s form with this one layer.
fn archive(layer: &[u8]) -> Vec<u8> {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest_of(layer)
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["layer.tar"]}]"#;
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("manifest.json", manifest.as_bytes()),
        ("config.json", config.as_bytes()),
        ("layer.tar", layer),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn apply(entries: &[Entry], root: &Path) {
    let spool = Spool {
        dir: DIR.path(),
        limit: Bytes::from_mib(8),
    };
    let bytes = archive(&layer(entries));
    let archive = Archive::open_stream(Cursor::new(bytes), &spool).expect("a good archive");
    let images = archive.images(None).expect("a good image");
    let root = fs::File::open(root).unwrap();
    for layer in images.iter().flat_map(|image| &image.layers) {
        let _ = archive.apply_layer(layer, root.as_fd(), &Control::default());
    }
}

fuzz_target!(|entries: Vec<Entry>| {
    let outside = DIR.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("a"), "kept").unwrap();
    let root = outside.join("root");
    fs::create_dir(&root).unwrap();
    apply(&entries, &root);
    fs::remove_dir_all(&root).unwrap();
    let left: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["a"], "something was made or lost outside");
    assert_eq!(fs::read(outside.join("a")).unwrap(), b"kept");
});
