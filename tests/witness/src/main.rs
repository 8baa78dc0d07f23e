//! Every device of the device mapper as JSON, sorted by name, read with the `devicemapper` crate:
//! the system tests hold what `pool-cli device list` says against it.

use std::error::Error;

use devicemapper::{DM, DevId, DmFlags, DmOptions};
use serde_json::{Value, json};

type Lines = Vec<(u64, u64, String, String)>;

fn main() -> Result<(), Box<dyn Error>> {
    let dm = DM::new()?;
    let mut names: Vec<_> = dm
        .list_devices()?
        .into_iter()
        .map(|(name, _, _)| name)
        .collect();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let mut devices: Vec<Value> = Vec::new();
    for name in names {
        let id = DevId::Name(&name);
        // A status that flushes would make a thin-pool commit: this only looks.
        let look = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
        let table = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH | DmFlags::DM_STATUS_TABLE);
        let info = dm.device_info(&id)?;
        devices.push(json!({
            "name": name.to_string(),
            "devno": info.device().to_string(),
            "uuid": info.uuid().map(|uuid| uuid.to_string()),
            "open_count": info.open_count(),
            "table": texts(dm.table_status(&id, table)?.1),
            "status": texts(dm.table_status(&id, look)?.1),
        }));
    }
    println!("{}", json!({ "devices": devices }));
    Ok(())
}

fn texts(lines: Lines) -> Vec<String> {
    lines
        .into_iter()
        .map(|(start, len, kind, params)| format!("{start} {len} {kind} {params}"))
        .collect()
}
