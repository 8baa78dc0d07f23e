//! What `container` and `volume` print alike.

use dmthin::graph::{Change, WritableReport};

use crate::output::{Output, list, or_dash};
use crate::time::utc;

pub(crate) fn node(on: &WritableReport) -> String {
    or_dash(on.device.as_ref().map(|path| path.display()))
}

pub(crate) fn mounts(on: &WritableReport) -> String {
    list(on.mounts.iter().map(|path| path.display()))
}

/// The size, and what it is becoming where that is not finished.
fn size_text(on: &WritableReport) -> String {
    match on.growing_to {
        None => on.size.to_string(),
        Some(size) => format!("{}, growing to {size}", on.size),
    }
}

/// All there is to know of a volume and its device.
pub(crate) fn rows(on: &WritableReport) -> [(&'static str, String); 11] {
    [
        ("Created", utc(on.created_at)),
        ("State", on.state.to_string()),
        ("Size", size_text(on)),
        ("Mapped", or_dash(on.mapped)),
        ("File system", on.fs.to_string()),
        ("UUID", or_dash(on.fs_uuid.as_ref())),
        ("Device", node(on)),
        ("Number", or_dash(on.devno)),
        ("Mounted on", mounts(on)),
        ("Volume", on.volume.to_string()),
        ("Thin id", on.thin_id.to_string()),
    ]
}

/// Says of what was to be grown what the size alone does not tell: `what` is as `container web`.
pub(crate) fn note_growth(out: &Output, what: &str, change: Change, fs_grown: bool) {
    match (change, fs_grown) {
        (Change::Unchanged, _) => out.note(&format!("{what} had that size")),
        (Change::Changed, true) => {}
        (Change::Changed, false) => {
            out.note("only the device has grown: grow its file system where it is in use");
        }
    }
}
