//! The two ways without a mount, on images of e2fsprogs, against each other and what was done.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::candidates::Candidates;
use super::testing::{by_blocks, by_inodes, edit, mkfs, reads, reads_to_certify, runs, told};
use super::{NotTaken, Refusal};

fn tree(root: &Path) {
    for dir in ["a", "a/b", "c"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for n in 0..200 {
        fs::write(
            root.join(format!("c/file-with-some-name-{n}")),
            format!("{n}\n"),
        )
        .unwrap();
    }
    fs::write(root.join("a/file"), "content\n").unwrap();
    fs::write(root.join("a/b/large"), vec![7; 300_000]).unwrap();
    symlink("file", root.join("a/link")).unwrap();
}

/// The changes by both ways, which must agree.
fn changes(old: &[u8], new: &[u8]) -> Vec<String> {
    let blocks = told(&by_blocks(old, new).unwrap());
    assert_eq!(told(&by_inodes(old, new).unwrap()), blocks);
    blocks
}

#[test]
fn an_image_has_no_changes_to_itself() {
    let image = mkfs(&[], tree);
    assert!(changes(&image, &image).is_empty());
}

#[test]
fn what_debugfs_did_is_found() {
    let old = mkfs(&[], tree);
    for (commands, found) in [
        (
            &["write DATA a/new", "sif a mtime @5"][..],
            &["M /a", "A /a/new"][..],
        ),
        (&["rm a/file", "sif a mtime @5"], &["M /a", "D /a/file"]),
        (&["sif a/file uid 7"], &["M /a/file"]),
        (&["sif a/b/large atime @5"], &[]),
        (&["ea_set a/b/large user.k v"], &["M /a/b/large"]),
        (
            &["mkdir c/d", "write DATA c/d/x", "sif c mtime @5"],
            &["M /c", "A /c/d", "A /c/d/x"],
        ),
        (
            &["ln a/b/large x", "sif x links_count 2", "sif / mtime @5"],
            &["M /", "M /a/b/large", "A /x"],
        ),
    ] {
        let new = edit(&old, commands);
        assert_eq!(changes(&old, &new), found, "{commands:?}");
    }
}

#[test]
fn file_systems_of_each_kind_are_read() {
    for options in [
        &["-O", "^metadata_csum,^64bit"][..],
        &["-I", "128"],
        &["-I", "1024"],
        &["-g", "1024"],
        &["-O", "^flex_bg,^has_journal", "-g", "1024"],
        &["-O", "^dir_index,^extra_isize"],
        &["-O", "metadata_csum_seed,large_dir"],
        &["-O", "^sparse_super,^resize_inode"],
    ] {
        let old = mkfs(options, tree);
        let commands = [
            "write DATA c/new",
            "rm a/file",
            "sif a mtime @5",
            "sif c mtime @5",
        ];
        let new = edit(&old, &commands);
        let found = ["M /a", "D /a/file", "M /c", "A /c/new"];
        assert_eq!(changes(&old, &new), found, "{options:?}");
        let back = ["M /a", "A /a/file", "M /c", "D /c/new"];
        assert_eq!(changes(&new, &old), back, "{options:?}");
    }
}

#[test]
fn a_directory_that_moves_is_told_with_all_that_is_in_it() {
    let old = mkfs(&[], tree);
    let commands = [
        "ln a/b moved",
        "unlink a/b",
        "sif / mtime @5",
        "sif a mtime @5",
        "sif moved ctime @5",
        "sif a/file gid 9",
    ];
    let new = edit(&old, &commands);
    // Its `..` still leads to where it was, which the kernel would have changed.
    let why = |found: Result<_, Vec<NotTaken>>| found.unwrap_err().last().unwrap().why.to_string();
    let text = "it is damaged: the way up from directory";
    assert!(why(by_inodes(&old, &new)).starts_with(text));
    assert!(why(by_blocks(&old, &new)).starts_with(text));
}

#[test]
fn what_is_not_read_is_refused_and_says_why() {
    let why = |old: &[u8], new: &[u8]| {
        let not_taken = by_blocks(old, new).unwrap_err();
        assert_eq!(not_taken.len(), 2);
        assert_eq!(not_taken[0].why.to_string(), not_taken[1].why.to_string());
        not_taken[1].why.to_string()
    };
    let image = mkfs(&["-O", "^metadata_csum"], tree);
    for (options, text) in [
        (
            &["-O", "inline_data"][..],
            "it has features that are not read: incompat 0x8000",
        ),
        (&["-b", "1024"], "its blocks have not 4096 bytes"),
        (&["-O", "^extent,^64bit"], "it is no ext4"),
        (
            &["-O", "quota"],
            "it has features that are not read: ro_compat 0x100",
        ),
        (
            &["-O", "bigalloc"],
            "it has features that are not read: ro_compat 0x200",
        ),
    ] {
        let other = mkfs(options, |_| ());
        assert_eq!(why(&image, &other), text);
    }
    assert_eq!(
        why(&image, &mkfs(&["-O", "^metadata_csum"], tree)),
        "the two have not the same uuid"
    );
    assert_eq!(why(&image, &vec![0; 1 << 20]), "it is no ext4");
    assert_eq!(
        why(&image, &[]),
        "cannot read at byte 0: unexpected end of file"
    );
    let patched = |at: usize, bits: u8| {
        let mut image = image.clone();
        image[1024 + at] |= bits;
        image
    };
    let journal = "its journal was not replayed: it was in use, and not frozen";
    assert_eq!(why(&image, &patched(0x60, 4)), journal);
    let errors = "the kernel has found errors in it: have it checked by e2fsck";
    assert_eq!(why(&image, &patched(0x3a, 2)), errors);
    let summed = mkfs(&[], tree);
    let mut broken = summed.clone();
    broken[1024 + 0x200] ^= 1;
    assert_eq!(
        why(&summed, &broken),
        "the checksum of the superblock 0 does not match"
    );
}

/// Where a file's content is.
fn place_of(image: &[u8], content: &[u8]) -> usize {
    let blocks = image.chunks(4096);
    let at = blocks
        .enumerate()
        .find(|(_, block)| block.starts_with(content));
    at.unwrap().0.checked_mul(4096).unwrap()
}

/// A block of a file was written under the file system: no inode tells of it, and without the certificate
/// nothing was found.
#[test]
fn a_block_changed_under_the_file_system_is_not_explained() {
    let old = mkfs(&[], tree);
    let mut new = old.clone();
    let at = place_of(&old, b"content\n");
    new[at] = b'C';
    let not_taken = by_blocks(&old, &new).unwrap_err();
    let block = u64::try_from(at / 4096).unwrap();
    assert!(matches!(not_taken[0].why, Refusal::Unexplained { block: found } if found == block));
    assert_eq!(told(&by_inodes(&old, &new).unwrap()), Vec::<String>::new());
    // In a block that is nobody's it does not matter.
    let mut new = old.clone();
    let last = new.len() - 4096;
    new[last] = 1;
    assert!(by_blocks(&old, &new).unwrap().is_empty());
}

#[test]
fn content_that_was_put_back_is_no_change_and_content_that_was_not_is_one() {
    let old = mkfs(&[], tree);
    // As chmod, and chmod back.
    let touched = edit(&old, &["sif a/file ctime @5"]);
    assert!(changes(&old, &touched).is_empty());
    // A file of the same size and time.
    let mut new = touched;
    let at = place_of(&old, b"content\n");
    new[at] = b'C';
    assert_eq!(changes(&old, &new), ["M /a/file"]);
    // Behind the end of the file nothing counts.
    new[at] = b'c';
    new[at + 100] = 1;
    assert!(changes(&old, &new).is_empty());
}

/// What a file holds that changed is not read to prove that nothing else did, though the pool has its units otherwise.
#[test]
fn what_a_changed_file_holds_is_not_read() {
    let old = mkfs(&[], tree);
    let touched = edit(&old, &["sif a/b/large mtime @5"]);
    let without = reads_to_certify(&old, &touched);
    // Two whole units of nothing but it.
    let begin = place_of(&old, &[7; 4096]).next_multiple_of(1 << 16);
    let mut new = touched.clone();
    new[begin + 5] = 8;
    new[begin + (1 << 16)] = 8;
    let units = |new: &[u8]| -> u64 { runs(&old, new).iter().map(|run| run.len.get()).sum() };
    assert_eq!(units(&new), units(&touched) + 2);
    assert_eq!(changes(&old, &new), ["M /a/b/large"]);
    assert_eq!(reads_to_certify(&old, &new), without);
}

/// Beside a block that was written in its unit are those of other files, which are read, once each.
#[test]
fn what_is_beside_a_changed_file_is_read_once() {
    let old = mkfs(&[], tree);
    let touched = edit(&old, &["sif c/file-with-some-name-100 mtime @5"]);
    let mut new = touched.clone();
    let at = place_of(&old, b"100\n");
    new[at] = b'2';
    assert_eq!(changes(&old, &new), ["M /c/file-with-some-name-100"]);
    let without = reads_to_certify(&old, &touched);
    assert_eq!(reads_to_certify(&old, &new), without.map(|n| n + 1));
    // What of them differs is nobody's change.
    let beside = place_of(&old, b"101\n");
    assert_eq!(beside >> 16, at >> 16);
    new[beside] = b'2';
    let not_taken = by_blocks(&old, &new).unwrap_err();
    let block = u64::try_from(beside / 4096).unwrap();
    assert!(matches!(not_taken[0].why, Refusal::Unexplained { block: found } if found == block));
}

/// A name that the newer one has is looked for in the same directory of the older one.
#[test]
fn directories_of_the_older_one_are_not_searched_for_what_is_where_it_was() {
    let old = mkfs(&["-N", "1024"], |root| {
        for n in 0..300 {
            let dir = root.join(format!("dir{n}"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("file"), vec![1; 5000]).unwrap();
        }
    });
    let new = edit(&old, &["sif dir299/file uid 7"]);
    let (found, [was, is]) = reads([&old, &new], Err(Refusal::MetadataBusy), |pair| {
        super::changes::changes(pair, &Candidates::of_tables(pair).unwrap())
    });
    assert_eq!(told(&found.unwrap()), ["M /dir299/file"]);
    assert!(was < is, "{was} {is}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Damage is refused or changes what is found, and never anything else.
    #[test]
    fn damaged_images_never_panic(
        flips in prop::collection::vec((0..400_usize, 0..4096_usize, any::<u8>()), 1..12),
        spread: bool,
    ) {
        static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
            let old = mkfs(&["-O", "^metadata_csum"], tree);
            let commands = ["write DATA c/new", "rm a/file", "sif a mtime @5", "sif c mtime @5"];
            let new = edit(&old, &commands);
            [old, new]
        });
        let [old, new] = &*IMAGES;
        let mut damaged = new.clone();
        for (block, at, byte) in flips {
            // Most of what matters is where the tables are, and numbers at the begin of a block.
            let at = if spread { at } else { at % 256 };
            damaged[block.saturating_mul(4096).saturating_add(at)] = byte;
        }
        let _ = by_inodes(old, &damaged);
        let _ = by_blocks(old, &damaged);
        let _ = by_blocks(&damaged, old);
    }
}
