//! `pool-cli device`: look at the device-mapper devices of all pools.

use clap::{Args, Subcommand};
use dmthin::graph::DeviceReport;
use serde::Serialize;

use crate::args::Context;
use crate::columns::{Cell, Column, ListArgs, more, shown};
use crate::output::{fields, lines, list, or_dash};

/// What can be done with devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List our devices: what they are, whose, and who uses them
    #[command(after_help = "\
Devices of other programs are not shown; those of pools in another --root are, without an owner.
With -q only names are printed.

Examples:
  pool-cli device list
  pool-cli device list --json | jq '.devices[] | {name, open_count}'")]
    List(ListArgs),
    /// Show a device: its table and status, as dmsetup prints them, and what is below it
    #[command(after_help = "\
Examples:
  pool-cli device inspect web
  pool-cli device inspect dmthin-tank-pool")]
    Inspect(InspectArgs),
}

/// Options of `device inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name of the device, as /dev/mapper shows it, or of its container
    name: String,
}

#[derive(Debug, Serialize)]
struct Devices<'a> {
    devices: &'a [DeviceReport],
}

#[derive(Debug, Serialize)]
struct OneDevice<'a> {
    device: &'a DeviceReport,
}

/// Runs one of them.
pub(crate) fn run(context: &Context, command: DeviceCommand) -> anyhow::Result<()> {
    let out = &context.out;
    match command {
        DeviceCommand::List(list) => {
            let devices = context.host.devices()?;
            let text = list.table(COLUMNS, &devices)?;
            out.show(&Devices { devices: &devices }, || {
                if out.quiet() {
                    lines(devices.iter().map(|device| device.name.to_string()))
                } else {
                    text
                }
            })
        }
        DeviceCommand::Inspect(InspectArgs { name }) => {
            let device = context.host.device(&name)?;
            out.show(&OneDevice { device: &device }, || device_fields(&device))
        }
    }
}

/// What is out of the ordinary about a device, or `active`.
fn state(device: &DeviceReport) -> String {
    let words = [
        (device.suspended, "suspended"),
        (device.read_only, "read-only"),
        (device.deferred_remove, "to be removed"),
    ];
    let mut state: Vec<&str> = words
        .into_iter()
        .filter_map(|(is, word)| is.then_some(word))
        .collect();
    if !device.suspended {
        state.insert(0, "active");
    }
    state.join(",")
}

const COLUMNS: &[Column<DeviceReport>] = &[
    shown("name", |d| Cell::text(&d.name)),
    shown("maj:min", |d| Cell::text(d.devno)),
    shown("kind", |d| Cell::text(&d.kind)),
    shown("pool", |d| Cell::text_or_dash(d.pool.as_ref())),
    shown("owner", |d| Cell::text_or_dash(d.owner.as_ref())),
    shown("size", |d| Cell::size(d.size)),
    shown("open", |d| Cell::number(d.open_count.into())),
    shown("event", |d| Cell::number(d.event_nr.into())),
    shown("state", |d| Cell::text(state(d))),
    shown("mounted-on", |d| {
        Cell::text(list(d.mounts.iter().map(|path| path.display())))
    }),
    more("root", |d| {
        Cell::text_or_dash(d.root.as_ref().map(|path| path.display()))
    }),
    more("uuid", |d| Cell::text(&d.uuid)),
    more("node", |d| {
        Cell::text_or_dash(d.node.as_ref().map(|path| path.display()))
    }),
];

/// Its pool, or where that is.
fn pool_text(device: &DeviceReport) -> String {
    match &device.root {
        Some(root) => format!("- (under another root, {})", root.display()),
        None => or_dash(device.pool.as_ref()),
    }
}

fn device_fields(device: &DeviceReport) -> String {
    let mut rows = vec![
        ("Device", device.name.to_string()),
        ("UUID", device.uuid.to_string()),
        ("Number", device.devno.to_string()),
        (
            "Node",
            or_dash(device.node.as_ref().map(|path| path.display())),
        ),
        ("Kind", device.kind.to_string()),
        ("Pool", pool_text(device)),
        ("Owner", or_dash(device.owner.as_ref())),
        ("Size", device.size.to_string()),
        ("State", state(device)),
        ("Open count", device.open_count.to_string()),
        ("Event", device.event_nr.to_string()),
        ("On", list(&device.below)),
        (
            "Mounted on",
            list(device.mounts.iter().map(|path| path.display())),
        ),
    ];
    rows.extend(continued("Table", &device.table));
    rows.extend(continued("Status", &device.status));
    fields(rows)
}

/// A field of several lines, named at the first.
fn continued(
    name: &'static str,
    values: &[String],
) -> impl Iterator<Item = (&'static str, String)> {
    values
        .iter()
        .enumerate()
        .map(move |(at, line)| (if at == 0 { name } else { "" }, line.clone()))
}

#[cfg(test)]
mod tests {
    use dmthin::graph::DeviceKind;
    use dmthin::ids::{DevNo, DmName, DmUuid, PoolName, VolumeKind};
    use dmthin::units::Bytes;

    use super::*;

    fn device() -> DeviceReport {
        DeviceReport {
            name: DmName::new("dmthin-tank-web").unwrap(),
            uuid: DmUuid::new("DMTHIN-11-container-9").unwrap(),
            kind: DeviceKind::Volume(VolumeKind::Container),
            pool: Some(PoolName::new("tank").unwrap()),
            root: None,
            owner: Some("web".to_owned()),
            devno: DevNo::new(254, 3),
            node: None,
            size: Bytes::from_gib(10),
            table: vec!["0 20971520 thin 254:0 8".to_owned()],
            status: vec!["0 8 thin 128 127".to_owned(), "8 8 error".to_owned()],
            open_count: 1,
            event_nr: 2,
            suspended: false,
            read_only: false,
            deferred_remove: false,
            below: vec![DevNo::new(254, 0)],
            mounts: vec!["/mnt".into()],
        }
    }

    #[test]
    fn devices_are_listed_with_their_owners() {
        let suspended = DeviceReport {
            kind: DeviceKind::Pool,
            pool: None,
            owner: None,
            suspended: true,
            read_only: true,
            mounts: vec![],
            ..device()
        };
        assert_eq!(
            ListArgs::default()
                .table(COLUMNS, &[device(), suspended])
                .unwrap(),
            "\
NAME             MAJ:MIN  KIND       POOL  OWNER  SIZE    OPEN  EVENT  STATE                MOUNTED ON
dmthin-tank-web  254:3    container  tank  web    10 GiB  1     2      active               /mnt
dmthin-tank-web  254:3    pool       -     -      10 GiB  1     2      suspended,read-only  -
"
        );
    }

    #[test]
    fn a_device_is_shown_whole() {
        let elsewhere = DeviceReport {
            pool: None,
            root: Some("/srv/pools".into()),
            ..device()
        };
        assert!(device_fields(&elsewhere).contains("- (under another root, /srv/pools)\n"));
        let leaving = DeviceReport {
            deferred_remove: true,
            ..device()
        };
        assert_eq!(
            device_fields(&leaving),
            "\
Device:      dmthin-tank-web
UUID:        DMTHIN-11-container-9
Number:      254:3
Node:        -
Kind:        container
Pool:        tank
Owner:       web
Size:        10 GiB
State:       active,to be removed
Open count:  1
Event:       2
On:          254:0
Mounted on:  /mnt
Table:       0 20971520 thin 254:0 8
Status:      0 8 thin 128 127
             8 8 error
"
        );
    }
}
