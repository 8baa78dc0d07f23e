//! The page of the documentation: what was measured now, and what was before of the parts that were not.

use crate::bench::report::{Report, TITLES};

const HEAD: &str = "# Benchmarks\n\n\
    Made by `scripts/bench --update-docs`, which writes anew those parts that it measured: do not edit. The numbers \
    of a part are of one boot of one machine; compare them with each other only.";

/// The parts of a page by their titles.
fn parts(page: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = page.split("\n## ").skip(1);
    parts.filter_map(|part| part.split_once('\n'))
}

/// The page with what is in the report, which this command made, in place of what the page had of it.
#[must_use]
pub fn renewed(page: &str, report: &Report, command: &str) -> String {
    let sections = report.sections();
    let mut renewed = HEAD.to_owned();
    for title in TITLES {
        let measured = sections.iter().find(|(found, _)| *found == title);
        let text = match measured {
            Some((_, text)) => format!("{} By `{command}`.\n\n{text}", report.machine),
            None => match parts(page).find(|(found, _)| *found == title) {
                Some((_, text)) => text.to_owned(),
                None => continue,
            },
        };
        renewed.push_str(&format!("\n\n## {title}\n\n{}", text.trim()));
    }
    renewed.push('\n');
    renewed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{HEAD, renewed};
    use crate::bench::machine::Machine;
    use crate::bench::opening::Opening;
    use crate::bench::report::Report;
    use crate::bench::samples::Measured;

    #[test]
    fn what_was_not_measured_stays_and_all_has_its_order() {
        let report = Report {
            machine: Machine {
                kernel: "6.1.0".to_owned(),
                accel: "tcg".to_owned(),
                cpus: 1,
                memory: "2G".to_owned(),
                udev: false,
                in_memory: true,
                flush_ms: 0,
                load: ["0.10".to_owned(), "1.20".to_owned()],
            },
            measured: Measured {
                opening: Some(Opening {
                    volumes: 3,
                    closed: Duration::from_millis(9),
                    open: Duration::from_millis(4),
                }),
                ..Measured::default()
            },
        };
        let old = "# Benchmarks\n\nold\n\n## An image\n\nkept\n\n- too\n\n## Opening a pool of many volumes\n\n\
                   old\n\n## Unknown\n\ngone\n";
        let page = renewed(old, &report, "scripts/bench --kernel uml");
        let start = format!(
            "{HEAD}\n\n## Opening a pool of many volumes\n\nGuest: Linux 6.1.0, tcg, 1 processor, 2G of memory, without \
             udevd; pool files in its memory. Host: load average 0.10 before, 1.20 after. By `scripts/bench --kernel \
             uml`.\n\n`Host::open_pool`"
        );
        assert!(page.starts_with(&start), "{page}");
        assert!(
            page.ends_with("| open   | 4.0 |\n\n## An image\n\nkept\n\n- too\n"),
            "{page}"
        );
        assert_eq!(renewed(&page, &report, "scripts/bench --kernel uml"), page);
    }
}
