//! What is done to the pool while the disk is recorded, and what has to be there after each of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::layout::{Layout, Stage};
use super::plan::Random;
use crate::guest::build::{Image, Layer, digest};

/// What there is: containers, images, files, sizes; each by a name, with what is known of it.
pub(crate) type Facts = BTreeMap<String, String>;

/// A step of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// A command of `pool-cli`.
    Cli(Vec<&'static str>),
    /// A file of a mounted container written, from its begin, and flushed.
    Write(&'static str, &'static str),
    /// One removed, and its directory flushed.
    Unlink(&'static str, &'static str),
    /// The devices below the pool become larger.
    Enlarge,
}

/// A step, and what it changes: the fact's name, and what it is then, if it is there still.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) act: Act,
    changes: Vec<(String, Option<String>)>,
}

const MIB: u64 = 1 << 20;
/// Length of a file that is written.
const FILE: usize = 300 << 10;

/// So many bytes that are nobody else's.
fn content(name: &str, len: usize) -> Vec<u8> {
    let seed = name.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What is written into a file by this name.
pub(crate) fn file_content(what: &str) -> Vec<u8> {
    content(what, FILE)
}

/// The files of an image, by path; directories end in a slash and hold nothing.
type Tree = BTreeMap<String, Vec<u8>>;

/// What of a tree is kept as a fact.
pub(crate) fn tree_digest(tree: &Tree) -> String {
    let lines: String = tree
        .iter()
        .map(|(path, content)| format!("{path} {} {}\n", content.len(), digest(content)))
        .collect();
    digest(lines.as_bytes())
}

/// An image's layers, and what they are one on the other.
fn image(name: &str) -> (Vec<Vec<u8>>, Tree) {
    let tool = content("bin/tool", 64 << 10);
    let bottom = Layer::new()
        .dir("bin/")
        .file("bin/tool", &tool)
        .dir("etc/")
        .file("etc/gone", b"hidden later\n")
        .file("etc/hostname", b"one\n");
    let mut tree: Tree = [
        ("bin/", Vec::new()),
        ("bin/tool", tool.clone()),
        ("etc/", Vec::new()),
        ("etc/gone", b"hidden later\n".to_vec()),
        ("etc/hostname", b"one\n".to_vec()),
    ]
    .map(|(path, content)| (path.to_owned(), content))
    .into();
    let top = match name {
        "a:1" => {
            tree.remove("etc/gone");
            tree.insert("etc/hostname".to_owned(), b"two\n".to_vec());
            Layer::new()
                .file("etc/.wh.gone", b"")
                .file("etc/hostname", b"two\n")
        }
        _ => Layer::new(),
    };
    let blob = format!("blob-{}", name.replace(':', "-"));
    let bytes = content(&blob, 200 << 10);
    let top = top.file(&blob, &bytes);
    tree.insert(blob, bytes);
    (vec![bottom.bytes(), top.bytes()], tree)
}

/// The names of all images.
const IMAGES: &[&str] = &["a:1", "b:1", "c:1"];

/// Writes the images' archives, as `a-1.tar`, into a directory.
pub(crate) fn write_images(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for name in IMAGES {
        let path = dir.join(format!("{}.tar", name.replace(':', "-")));
        Image::new(name, image(name).0).write(&path)?;
    }
    Ok(())
}

impl Op {
    const fn new(act: Act) -> Self {
        Self {
            act,
            changes: Vec::new(),
        }
    }

    fn sets(mut self, name: &str, fact: impl ToString) -> Self {
        self.changes.push((name.to_owned(), Some(fact.to_string())));
        self
    }

    fn takes(mut self, name: &str) -> Self {
        self.changes.push((name.to_owned(), None));
        self
    }

    /// As it is told to a person.
    pub(crate) fn title(&self) -> String {
        match &self.act {
            Act::Cli(words) => words.join(" "),
            Act::Write(container, file) => format!("write {container}/{file}"),
            Act::Unlink(container, file) => format!("unlink {container}/{file}"),
            Act::Enlarge => "devices become larger".to_owned(),
        }
    }
}

fn cli(words: &[&'static str]) -> Op {
    Op::new(Act::Cli(words.to_vec()))
}

fn import(name: &str, archive: &'static str) -> Op {
    cli(&["image", "import", archive]).sets(&format!("image {name}"), tree_digest(&image(name).1))
}

/// What a container of this image and so many MiB is.
fn container(image_name: &str, mib: u64) -> String {
    let size = mib.saturating_mul(MIB);
    format!("{size} {}", tree_digest(&image(image_name).1))
}

/// What an image is: its tree, and what a container wrote that was committed.
pub(crate) fn image_fact(tree: &str, written: &BTreeMap<String, String>) -> String {
    let written = written
        .iter()
        .map(|(file, digest)| format!(" {file} {digest}"));
    [tree.to_owned()].into_iter().chain(written).collect()
}

fn write(container: &'static str, file: &'static str) -> Op {
    let what = format!("file {container}/{file}");
    Op::new(Act::Write(container, file))
        .sets(&what, digest(&file_content(&format!("{container}/{file}"))))
}

/// The whole of it.
pub(crate) fn ops(layout: Layout) -> Vec<Op> {
    let mut create = vec!["pool", "create", "tank", "--base-size", "192M"];
    create.extend(layout.create_options());
    let mut grow = vec!["pool", "grow", "tank"];
    grow.extend(layout.grow_options());
    let mut ops = vec![
        cli(&create)
            .sets("pool data", 640 * MIB)
            .sets("pool metadata", 16 * MIB)
            .sets("pool base", 192 * MIB),
        import("a:1", "/tmp/images/a-1.tar"),
        cli(&["container", "create", "a:1", "--name", "c1"])
            .sets("container c1", container("a:1", 192)),
        cli(&["container", "mount", "c1", "/mnt/c1"]),
        write("c1", "written-1"),
        cli(&[
            "container",
            "create",
            "a:1",
            "--name",
            "c2",
            "--size",
            "224M",
        ])
        .sets("container c2", container("a:1", 224)),
        import("b:1", "/tmp/images/b-1.tar"),
        write("c1", "written-2"),
        cli(&["container", "umount", "c1"]),
        cli(&["container", "rm", "c1"])
            .takes("container c1")
            .takes("file c1/written-1")
            .takes("file c1/written-2"),
        cli(&["container", "mount", "c2", "/mnt/c2"]),
        write("c2", "written-1"),
        // The pool takes longer metadata when it is opened; data it takes when it is told to.
        match layout {
            Layout::Devices => Op::new(Act::Enlarge).sets("pool metadata", 20 * MIB),
            Layout::Files => Op::new(Act::Enlarge),
        },
        cli(&grow)
            .sets("pool data", 768 * MIB)
            .sets("pool metadata", 20 * MIB),
        write("c2", "written-2"),
        cli(&["container", "grow", "c2", "256M"]).sets("container c2", container("a:1", 256)),
        cli(&["base", "grow", "256M"]).sets("pool base", 256 * MIB),
        import("c:1", "/tmp/images/c-1.tar"),
        cli(&["container", "create", "c:1", "--name", "c3"])
            .sets("container c3", container("c:1", 256)),
        cli(&["container", "mount", "c3", "/mnt/c3"]),
        write("c3", "written-1"),
        cli(&["container", "create", "b:1", "--name", "c4"])
            .sets("container c4", container("b:1", 256)),
        cli(&["container", "rm", "c4", "--queue"]).takes("container c4"),
        cli(&["queue", "run"]),
        cli(&["image", "rm", "b:1"]).takes("image b:1"),
        Op::new(Act::Unlink("c2", "written-1")).takes("file c2/written-1"),
        cli(&["container", "trim", "c2"]),
        cli(&["pool", "ballast", "make", "--size", "16M"]),
    ];
    ops.extend(versions());
    ops.extend([
        cli(&["container", "umount", "c3"]),
        cli(&["pool", "close", "tank"]),
        cli(&["pool", "open", "tank"]),
        cli(&["container", "create", "a:1", "--name", "c5"])
            .sets("container c5", container("a:1", 256)),
        cli(&["container", "rm", "c3"])
            .takes("container c3")
            .takes("file c3/written-1"),
        cli(&["pool", "close", "tank"]),
    ]);
    ops
}

/// What is made of a container that is mounted and has been written to, and data volumes.
fn versions() -> Vec<Op> {
    let written = digest(&file_content("c2/written-2"));
    let committed = image_fact(
        &tree_digest(&image("a:1").1),
        &[("written-2".to_owned(), written.clone())].into(),
    );
    vec![
        cli(&["container", "fork", "c2", "--name", "c6"])
            .sets("container c6", container("a:1", 256))
            .sets("file c6/written-2", &written),
        cli(&["container", "snapshot", "c2", "s1"]).sets("snapshot container c2/s1", ""),
        write("c2", "written-3"),
        cli(&["container", "umount", "c2"]),
        cli(&["container", "rollback", "c2", "s1"]).takes("file c2/written-3"),
        cli(&["container", "snapshot-rm", "c2", "s1"]).takes("snapshot container c2/s1"),
        cli(&["container", "commit", "c6", "--name", "d:1"]).sets("image d:1", committed),
        cli(&["container", "reset", "c6"]).takes("file c6/written-2"),
        cli(&["image", "tag", "a:1", "t:1"]).sets("image t:1", tree_digest(&image("a:1").1)),
        cli(&["volume", "create", "v1", "32M"]).sets("volume v1", 32 * MIB),
        cli(&["volume", "snapshot", "v1", "s1"]).sets("snapshot volume v1/s1", ""),
        cli(&["image", "untag", "t:1"]).takes("image t:1"),
        cli(&["container", "rm", "c6"]).takes("container c6"),
        cli(&["volume", "rm", "v1", "--snapshots"])
            .takes("volume v1")
            .takes("snapshot volume v1/s1"),
    ]
}

/// What there is after so many steps.
pub(crate) fn facts(ops: &[Op], done: usize) -> Facts {
    let mut facts = Facts::new();
    for (name, fact) in ops.iter().take(done).flat_map(|op| &op.changes) {
        match fact {
            Some(fact) => facts.insert(name.clone(), fact.clone()),
            None => facts.remove(name),
        };
    }
    facts
}

/// Where a history was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Steps that had returned.
    pub(crate) done: usize,
    /// Whether the next one had begun.
    pub(crate) begun: bool,
}

impl Cut {
    /// From the last mark before it: step n begins with mark 2n and ends with mark 2n + 1.
    pub(crate) fn after_mark(mark: usize) -> Self {
        Self {
            done: mark.saturating_add(1) / 2,
            begun: mark.is_multiple_of(2),
        }
    }
}

/// How long the devices were.
pub(crate) fn stage(ops: &[Op], cut: Cut) -> Stage {
    let begun = cut.done.saturating_add(usize::from(cut.begun));
    let mut begun = ops.iter().take(begun);
    if begun.any(|op| op.act == Act::Enlarge) {
        Stage::Grown
    } else {
        Stage::Made
    }
}

/// What a fact was or is about to be, where it is there at all.
pub(crate) fn known(ops: &[Op], cut: Cut, name: &str) -> Option<String> {
    let mut steps = [cut.done, cut.done.saturating_add(usize::from(cut.begun))].into_iter();
    steps.find_map(|done| facts(ops, done).remove(name))
}

/// What of what was found may not be so. What has returned is there, what has not begun is not; of what was
/// in flight each fact is as before or as after, and the content of a file that was being written anything.
pub(crate) fn wrong(ops: &[Op], cut: Cut, found: &Facts) -> Vec<String> {
    let before = facts(ops, cut.done);
    let after = facts(ops, cut.done.saturating_add(usize::from(cut.begun)));
    let mut names: Vec<&String> = before
        .keys()
        .chain(after.keys())
        .chain(found.keys())
        .collect();
    names.sort();
    names.dedup();
    let mut wrong = Vec::new();
    for name in names {
        let (was, is, now) = (before.get(name), after.get(name), found.get(name));
        let in_flight = was != is;
        if now == was || now == is || in_flight && name.starts_with("file ") {
            continue;
        }
        let or = if in_flight {
            format!(" or {is:?}")
        } else {
            String::new()
        };
        wrong.push(format!("{name}: wanted {was:?}{or}, found {now:?}"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::{Act, Cut, facts, ops, stage, wrong};
    use crate::powercut::layout::{Layout, Stage};

    /// Every state was looked at on devices of their last length, and so with metadata that `pool open` took
    /// beyond what had been asked for.
    #[test]
    fn devices_are_as_long_as_they_were() {
        let ops = ops(Layout::Devices);
        let enlarge = ops.iter().position(|op| op.act == Act::Enlarge).unwrap();
        let metadata = |done| facts(&ops, done)["pool metadata"].clone();
        for (done, begun, long) in [
            (enlarge, false, Stage::Made),
            (enlarge, true, Stage::Grown),
            (enlarge + 1, false, Stage::Grown),
            (ops.len(), false, Stage::Grown),
        ] {
            assert_eq!(stage(&ops, Cut { done, begun }), long);
        }
        assert_eq!(metadata(enlarge), (16 << 20).to_string());
        assert_eq!(metadata(enlarge + 1), (20 << 20).to_string());
    }

    #[test]
    fn marks_tell_what_had_returned() {
        let cut = |done, begun| Cut { done, begun };
        let cuts: Vec<_> = (0..4).map(Cut::after_mark).collect();
        assert_eq!(
            cuts,
            [cut(0, true), cut(1, false), cut(1, true), cut(2, false)]
        );
    }

    #[test]
    fn only_what_was_in_flight_may_be_either_way() {
        let ops = ops(Layout::Files);
        let find = |title: &str| {
            ops.iter()
                .position(|op| op.title().starts_with(title))
                .unwrap()
        };
        let at = find("container rm c1");
        let (before, after) = (facts(&ops, at), facts(&ops, at + 1));
        let in_flight = Cut {
            done: at,
            begun: true,
        };
        assert_eq!(wrong(&ops, in_flight, &before), Vec::<String>::new());
        assert_eq!(wrong(&ops, in_flight, &after), Vec::<String>::new());
        let returned = Cut {
            done: at + 1,
            begun: false,
        };
        assert_eq!(wrong(&ops, returned, &after), Vec::<String>::new());
        let said = wrong(&ops, returned, &before);
        assert!(
            said[0].starts_with("container c1: wanted None, found Some("),
            "{said:?}"
        );
        assert_eq!(said.len(), 3);
        // A file that is being written may hold anything; once flushed, one thing only.
        let at = find("write c2/written-2");
        let mut torn = facts(&ops, at);
        torn.insert("file c2/written-2".to_owned(), "half".to_owned());
        assert!(
            wrong(
                &ops,
                Cut {
                    done: at,
                    begun: true
                },
                &torn
            )
            .is_empty()
        );
        assert_eq!(
            wrong(
                &ops,
                Cut {
                    done: at + 1,
                    begun: false
                },
                &torn
            )
            .len(),
            1
        );
        assert_eq!(
            wrong(
                &ops,
                Cut {
                    done: at,
                    begun: false
                },
                &torn
            )
            .len(),
            1
        );
    }
}
