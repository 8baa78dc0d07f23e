//! Any layers, against the model.

use super::*;

fn list(root: &Path) -> Listing {
    let mut listing = Listing::default();
    let mut groups: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for name in names(&root.join(&dir)) {
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            let full = root.join(&path);
            let stat = fs::symlink_metadata(&full).unwrap();
            let what = if stat.is_dir() {
                todo.push(path.clone());
                format!("dir {:o}", stat.mode() & 0o7777)
            } else {
                groups.entry(stat.ino()).or_default().insert(path.clone());
                if stat.is_symlink() {
                    format!("link {}", fs::read_link(&full).unwrap().display())
                } else {
                    format!("file {}", fs::read_to_string(&full).unwrap())
                }
            };
            listing.paths.insert(path, what);
        }
    }
    listing.groups = groups.into_values().collect();
    listing
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(select(vec!["a", "b", "c"]), 1..4).prop_map(|c| c.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    (select(vec!["", "/", "../", "../../"]), path())
        .prop_map(|(start, path)| start.to_owned() + &path)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), "[a-z]{1,3}").prop_map(|(path, data)| Op::File(path, data)),
        3 => (path(), select(vec![0o755, 0o700, 0o1777])).prop_map(|(p, mode)| Op::Dir(p, mode)),
        2 => (path(), target()).prop_map(|(path, target)| Op::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Op::Hardlink(path, target)),
        3 => path().prop_map(Op::Whiteout),
        1 => prop_oneof![Just(String::new()), path()].prop_map(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(250) })]

    #[test]
    fn any_layers_give_what_the_model_gives(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 1..12), 1..4),
    ) {
        let dir = TempDir::new().unwrap();
        let mut model = Model::new();
        for layer in layers {
            let tar = layer.iter().fold(Tar::default(), |tar, op| op.add_to(tar)).end();
            let expected = model.apply(&layer);
            let found = apply_to(dir.path(), &tar).map(drop).map_err(|error| match error {
                ImageError::ParentNotDirectory { .. } => Refused::NotDirectory,
                ImageError::SymlinkLoop { .. } => Refused::Loop,
                ImageError::HardlinkTarget { .. } => Refused::NoTarget,
                other => panic!("{other:?}"),
            });
            prop_assert_eq!(&found, &expected);
            if found.is_err() {
                break;
            }
            prop_assert_eq!(list(dir.path()), model.list());
        }
    }
}
