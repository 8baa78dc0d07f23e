//! `--dry-run` of the commands that remove something.

use dmthin::graph::RemovalPlan;
use dmthin::units::Bytes;
use serde::Serialize;

use crate::args::Context;
use crate::output::{Output, record};

#[derive(Debug, Serialize)]
struct Planned<'a> {
    plan: &'a RemovalPlan,
}

/// Prints a plan, and says who holds some of it.
pub(crate) fn show(context: &Context, plan: &RemovalPlan) -> anyhow::Result<()> {
    let out: &Output = &context.out;
    out.show(&Planned { plan }, || plan_lines(plan))?;
    for holder in &plan.held {
        out.note(&format!("held, and gone only when let go: {holder}"));
    }
    Ok(())
}

fn plan_lines(plan: &RemovalPlan) -> String {
    let line = |what: &str, which: String| record([what.to_owned(), which]);
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let mut text = String::new();
    text.extend(plan.names.iter().map(|name| line("name", name.clone())));
    let volumes = plan.volumes.iter();
    text.extend(volumes.map(|v| line("volume", format!("{} ({})", v.volume, v.kind))));
    let devices = plan.devices.iter();
    text.extend(devices.map(|name| line("device", name.to_string())));
    text.extend(plan.files.iter().map(|file| line("file", path(file))));
    text.extend(plan.wiped.iter().map(|node| line("wiped", path(node))));
    let mut bytes = |what: &str, bytes: Option<Bytes>| {
        if let Some(bytes) = bytes {
            text.push_str(&record([
                what.to_owned(),
                bytes.get().to_string(),
                bytes.to_string(),
            ]));
        }
    };
    bytes("bytes", plan.pool_bytes);
    bytes("host-bytes", plan.host_bytes);
    text
}

#[cfg(test)]
mod tests {
    use dmthin::graph::PlannedVolume;
    use dmthin::ids::{DmName, ThinId, VolumeId, VolumeKind};

    use super::*;

    #[test]
    fn a_plan_names_what_goes_and_what_comes_back() {
        let plan = RemovalPlan {
            names: vec!["web".to_owned()],
            volumes: vec![PlannedVolume {
                volume: VolumeId::new(9),
                kind: VolumeKind::Container,
                thin_id: ThinId::new(8).unwrap(),
            }],
            devices: vec![DmName::new("dmthin-tank-ctr-web").unwrap()],
            pool_bytes: Some(Bytes::from_mib(3)),
            ..RemovalPlan::default()
        };
        assert_eq!(
            plan_lines(&plan),
            "name\tweb\nvolume\t9 (container)\ndevice\tdmthin-tank-ctr-web\nbytes\t3145728\t3 MiB\n"
        );
        let plan = RemovalPlan {
            files: vec!["/srv/tank/data.img".into()],
            wiped: vec!["/dev/vg/meta".into()],
            host_bytes: Some(Bytes::from_mib(1)),
            ..RemovalPlan::default()
        };
        assert_eq!(
            plan_lines(&plan),
            "file\t/srv/tank/data.img\nwiped\t/dev/vg/meta\nhost-bytes\t1048576\t1 MiB\n"
        );
        let value = serde_json::to_value(Planned { plan: &plan }).unwrap();
        assert_eq!(value["plan"]["host_bytes"], 1_048_576);
        assert_eq!(value["plan"]["pool_bytes"], serde_json::Value::Null);
    }
}
