use dmthin::graph::{Usage, VolumeUsage};
use dmthin::ids::{Digest, PoolName, ThinId, VolumeId};
use dmthin::store::VolumeState;

use super::*;

fn digest(digit: char) -> Digest {
    let digits: String = std::iter::repeat_n(digit, 64).collect();
    format!("sha256:{digits}").parse().unwrap()
}

fn volume(
    id: u32,
    kind: VolumeKind,
    parent: Option<u64>,
    [size, mapped, own]: [u64; 3],
) -> VolumeSpace {
    let [size, mapped, exclusive] = [size, mapped, own].map(Bytes::from_kib);
    let layer = kind == VolumeKind::Layer;
    let digits = char::from_digit(id, 10).unwrap();
    VolumeSpace {
        usage: VolumeUsage {
            volume: VolumeId::new(u64::from(id) + 1),
            kind,
            size,
            mapped,
            exclusive,
        },
        shared: mapped.saturating_sub(exclusive),
        freed: (kind == VolumeKind::Container).then_some(exclusive),
        thin_id: ThinId::new(u64::from(id)).unwrap(),
        state: VolumeState::Ready,
        parent: parent.map(VolumeId::new),
        name: None,
        diff_id: layer.then(|| digest(digits)),
        images: Vec::new(),
    }
}

/// A pool with an image of two layers, and two containers.
pub(crate) fn report() -> SpaceReport {
    const GIB: u64 = 1 << 20;
    const MIB: u64 = 1 << 10;
    let base = volume(0, VolumeKind::Base, None, [2 * GIB, 2 * MIB, MIB]);
    let lower = volume(1, VolumeKind::Layer, Some(1), [2 * GIB, 34 * MIB, 0]);
    let mut upper = volume(2, VolumeKind::Layer, Some(2), [2 * GIB, 200 * MIB, 3 * MIB]);
    upper.images = vec!["demo:1".to_owned()];
    let container = |id, name: &str, mapped, own| {
        let numbers = [2 * GIB, mapped, own];
        let mut container = volume(id, VolumeKind::Container, Some(3), numbers);
        container.name = Some(name.to_owned());
        container.images = vec!["demo:1".to_owned()];
        container
    };
    SpaceReport {
        pool: PoolName::new("tank").unwrap(),
        data: Some(Usage {
            used: Bytes::from_gib(1),
            total: Bytes::from_gib(4),
        }),
        mapped: Bytes::from_gib(1),
        images: vec![ImageSpace {
            id: digest('a'),
            names: vec!["demo:1".parse().unwrap()],
            containers: vec!["web".parse().unwrap()],
            mapped: Bytes::from_mib(200),
            exclusive: Bytes::from_mib(198),
            shared: Bytes::from_mib(2),
            freed: None,
        }],
        volumes: vec![
            base,
            lower,
            upper,
            container(3, "web", 2 * GIB, 1945 * MIB),
            container(4, "db", 600 * MIB, 64),
        ],
        ballast: Some(OwnSpace {
            thin_id: ThinId::new(9).unwrap(),
            mapped: Bytes::from_mib(5),
        }),
        mirror: Some(OwnSpace {
            thin_id: ThinId::MIRROR,
            mapped: Bytes::from_mib(2),
        }),
        others: vec![OtherSpace {
            thin_id: ThinId::new(77).unwrap(),
            mapped: Bytes::from_mib(7),
            exclusive: Bytes::from_mib(6),
        }],
    }
}

#[test]
fn images_and_volumes_are_lines_of_one_table() {
    let report = report();
    let rows = rows(&report);
    let list = ListArgs::default();
    assert_eq!(
        list.table(&columns(), &rows).unwrap(),
        "\
KIND       NAME          IMAGE   SIZE   MAPPED   EXCLUSIVE  SHARED   FREED
image      demo:1        -       -      200 MiB  198 MiB    2 MiB    -
base       -             -       2 GiB  2 MiB    1 MiB      1 MiB    -
layer      111111111111  -       2 GiB  34 MiB   0 B        34 MiB   -
layer      222222222222  demo:1  2 GiB  200 MiB  3 MiB      197 MiB  -
container  web           demo:1  2 GiB  2 GiB    1.8 GiB    103 MiB  1.8 GiB
container  db            demo:1  2 GiB  600 MiB  64 KiB     599 MiB  64 KiB
ballast    -             -       -      5 MiB    5 MiB      0 B      5 MiB
copy       -             -       -      2 MiB    2 MiB      0 B      -
unknown    77            -       -      7 MiB    6 MiB      1 MiB    -
"
    );
    let ids: Vec<_> = rows.iter().map(Row::thin_id).collect();
    assert_eq!(ids[..3], [None, Some(0), Some(1)]);
}

#[test]
fn the_report_in_json_has_names_and_numbers() {
    let report = report();
    let value = serde_json::to_value(Space { space: &report }).unwrap();
    let web = &value["space"]["volumes"][3];
    assert_eq!(web["kind"], "container");
    assert_eq!(web["name"], "web");
    assert_eq!(web["freed"], web["exclusive"]);
    assert_eq!(web["parent"], 3);
    assert_eq!(
        value["space"]["images"][0]["freed"],
        serde_json::Value::Null
    );
    assert_eq!(value["space"]["others"][0]["thin_id"], 77);
}
