use dmthin::graph::RemovedImage;
use dmthin::graph::{ErrorCode, LayerReport};
use dmthin::ids::{ContainerName, Digest, ThinId, VolumeId};
use dmthin::units::Bytes;

use super::*;
use crate::commands::image::remove::removed_text;

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn layer(byte: u8) -> LayerReport {
    LayerReport {
        chain_id: digest(0xcc),
        diff_id: digest(byte),
        volume: VolumeId::new(1),
        thin_id: ThinId::new(1).unwrap(),
        size: Bytes::from_mib(70),
        entries: 10,
        shared_by: 1,
    }
}

fn branch(byte: u8, images: &[&str], containers: &[&str], children: Vec<LayerTree>) -> LayerTree {
    LayerTree {
        layer: layer(byte),
        images: images.iter().map(|name| (*name).to_owned()).collect(),
        containers: containers
            .iter()
            .map(|name| ContainerName::new(*name).unwrap())
            .collect(),
        children,
    }
}

#[test]
fn the_tree_shows_what_stands_on_what() {
    let tree = [
        branch(
            1,
            &[],
            &[],
            vec![
                branch(
                    2,
                    &["app:v1"],
                    &["web"],
                    vec![branch(3, &["dev"], &[], vec![])],
                ),
                branch(4, &["app:v2", "app:latest"], &["a", "b"], vec![]),
            ],
        ),
        branch(5, &["lone"], &[], vec![]),
    ];
    assert_eq!(
        tree_text(&tree),
        "\
010101010101  70 MiB
|- 020202020202  70 MiB  app:v1  [web]
|  `- 030303030303  70 MiB  dev
`- 040404040404  70 MiB  app:v2,app:latest  [a,b]
050505050505  70 MiB  lone
"
    );
    assert_eq!(tree_text(&[]), "");
}

#[test]
fn an_image_has_a_line_for_each_name() {
    let image = |names: &[&str]| ImageReport {
        id: digest(0xab),
        names: names.iter().map(|n| ImageRef::new(*n).unwrap()).collect(),
        layers: vec![layer(1), layer(2)],
        size: Bytes::from_mib(140),
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: None,
        imported_at: 0,
        containers: vec![ContainerName::new("web").unwrap()],
    };
    assert_eq!(
        ListArgs::default()
            .table(
                &columns(),
                &named(&[image(&["debian:12", "deb"]), image(&[])])
            )
            .unwrap(),
        "\
NAME       ID            LAYERS  SIZE     PLATFORM     IMPORTED                 CONTAINERS
debian:12  abababababab  2       140 MiB  linux/amd64  1970-01-01 00:00:00 UTC  1
deb        abababababab  2       140 MiB  linux/amd64  1970-01-01 00:00:00 UTC  1
<none>     abababababab  2       140 MiB  linux/amd64  1970-01-01 00:00:00 UTC  1
"
    );
}

#[test]
fn history_is_cut_and_cannot_drive_the_terminal() {
    let steps = [
        HistoryReport {
            diff_id: Some(digest(7)),
            size: Some(Bytes::from_kib(3)),
            created: Some("2026-01-02T03:04:05Z".to_owned()),
            created_by: Some(format!("RUN {}", "x".repeat(80))),
            comment: Some("a\u{1b}b".to_owned()),
        },
        HistoryReport {
            diff_id: None,
            size: None,
            created: None,
            created_by: None,
            comment: None,
        },
    ];
    let command = format!("RUN {}...", "x".repeat(53));
    assert_eq!(
        history_table(&steps),
        format!(
            "LAYER         CREATED               SIZE   {:60}  COMMENT\n\
             070707070707  2026-01-02T03:04:05Z  3 KiB  {command}  a\\u{{1b}}b\n\
             -             -                     -      {:60}  -\n",
            "CREATED BY", "-"
        )
    );
    assert_eq!(cut(&"y".repeat(60)), "y".repeat(60));
}

#[test]
fn a_removal_tells_names_and_image() {
    let removed = RemovedImage {
        id: digest(1),
        names: vec![ImageRef::new("debian:12").unwrap()],
        removed: true,
        parents: Vec::new(),
        layers_removed: 2,
    };
    let id = digest(1);
    assert_eq!(
        removed_text(&removed),
        format!("untagged\tdebian:12\ndeleted\t{id}\n")
    );
    let one_name = RemovedImage {
        removed: false,
        parents: Vec::new(),
        ..removed
    };
    assert_eq!(removed_text(&one_name), "untagged\tdebian:12\n");
}

#[test]
fn an_import_sums_up() {
    let report = ImportReport {
        id: digest(0xab),
        names: vec![],
        change: dmthin::graph::Change::Changed,
        layers_new: 2,
        layers_shared: 1,
        bytes: Bytes::from_mib(212),
        warnings: vec![],
    };
    assert_eq!(
        summary(&report),
        "image abababababab: 2 layers unpacked (212 MiB), 1 there already"
    );
}

#[test]
fn an_archive_comes_from_a_file_or_a_pipe() {
    let read = |file: &str, terminal| source(file.into(), terminal);
    assert!(matches!(read("a.tar", true), Ok(ImportSource::File(file)) if file == *"a.tar"));
    assert!(matches!(read("./-", true), Ok(ImportSource::File(file)) if file == *"./-"));
    assert!(matches!(read("-", false), Ok(ImportSource::Stdin)));
    assert_eq!(read("-", true).unwrap_err().kind(), ErrorKind::InvalidValue);
}

#[test]
fn a_changed_layer_tells_its_files_and_ends_the_command() {
    let check = |verdict, changed: &[&str]| LayerCheck {
        diff_id: digest(7),
        volume: VolumeId::new(3),
        verdict,
        changed: changed.iter().map(|path| (*path).to_owned()).collect(),
    };
    let id = digest(7);
    let fine = [
        check(LayerVerdict::Whole, &[]),
        check(LayerVerdict::NoRecord, &[]),
    ];
    assert_eq!(
        verified_text(&fine),
        format!("whole\t{id}\nno-record\t{id}\n")
    );
    assert!(require_whole(&fine).is_ok());
    let bad = [
        check(LayerVerdict::Changed, &["etc/passwd", "a\u{1b}b"]),
        check(LayerVerdict::BadRecord, &[]),
    ];
    assert_eq!(
        verified_text(&bad),
        format!(
            "changed\t{id}\nfile\t{id}\tetc/passwd\nfile\t{id}\ta\\u{{1b}}b\nbad-record\t{id}\n"
        )
    );
    let error = require_whole(&bad).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NeedsCheck);
    let value = serde_json::to_value(Verified { layers: &bad }).unwrap();
    assert_eq!(value["layers"][0]["verdict"], "changed");
    assert_eq!(value["layers"][1]["verdict"], "bad-record");
}
