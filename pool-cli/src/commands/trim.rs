//! `pool-cli container trim` and `pool-cli pool trim`.

use dmthin::graph::{Pool, TrimReport};
use dmthin::ids::ContainerName;
use serde::Serialize;

use crate::args::Context;
use crate::output::{or_dash, record};

#[derive(Debug, Serialize)]
struct Trimmed<'a> {
    trimmed: &'a [TrimReport],
}

/// Trims one container, or all of a pool's.
pub(crate) fn run(
    context: &Context,
    pool: &Pool,
    name: Option<ContainerName>,
) -> anyhow::Result<()> {
    let mut reports = match name {
        Some(name) => {
            let trimmed = Some(pool.trim_container(&name)?);
            vec![TrimReport {
                name,
                trimmed,
                problem: None,
                error: None,
            }]
        }
        None => pool.trim_containers()?,
    };
    let body = Trimmed { trimmed: &reports };
    context.out.done(&body, || {
        reports
            .iter()
            .map(|report| record([report.name.to_string(), or_dash(report.trimmed)]))
            .collect()
    })?;
    match reports.iter_mut().find_map(|report| report.error.take()) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
