//! What a person sees of an import while it runs, on stderr: a bar on a terminal, a line for each
//! step elsewhere, nothing with `-q` or `--json`.

use std::io::{self, IsTerminal, Write};

use dmthin::graph::ImportEvent;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, short};

/// Listens to an import.
#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
    steps: Steps,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    /// In the form that fits where stderr goes.
    pub(crate) fn new(out: &Output) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let form = if !out.chatty() {
            Form::Nothing
        } else if io::stderr().is_terminal() && !dumb {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(bar_style());
            Form::Bar(bar)
        } else {
            Form::Lines
        };
        Self {
            form,
            steps: Steps::default(),
        }
    }

    /// Takes what the import tells.
    pub(crate) fn event(&mut self, event: &ImportEvent) {
        let line = self.steps.line(event);
        match &self.form {
            Form::Bar(bar) => match event {
                ImportEvent::Layer { size, .. } => {
                    bar.set_message(self.steps.place());
                    bar.reset();
                    bar.set_length(size.get());
                }
                ImportEvent::Progress { done } => bar.set_position(done.get()),
                _ => {
                    if let Some(line) = line {
                        bar.println(line);
                    }
                }
            },
            Form::Lines => {
                if let Some(line) = line {
                    // Nobody is there to be told that stderr is gone.
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            Form::Nothing => {}
        }
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{msg} [{bar:30}] {binary_bytes:>10} of {binary_total_bytes:<10} {binary_bytes_per_sec:<12} \
         {eta} left",
    )
    .expect("the template is a constant, tried by a test")
    .progress_chars("##.")
}

/// Turns events into lines; remembers which layer is being unpacked.
#[derive(Debug, Default)]
struct Steps {
    index: u64,
    layers: u64,
}

impl Steps {
    fn place(&self) -> String {
        format!("layer {}/{}", self.index, self.layers)
    }

    fn line(&mut self, event: &ImportEvent) -> Option<String> {
        match event {
            ImportEvent::Image { id, layers } => {
                self.layers = *layers;
                Some(format!("image {}: {layers} layers", short(*id)))
            }
            ImportEvent::Shared { index, diff_id } => {
                self.index = *index;
                Some(format!(
                    "{} {}: there already",
                    self.place(),
                    short(*diff_id)
                ))
            }
            ImportEvent::Layer {
                index,
                diff_id,
                size,
            } => {
                self.index = *index;
                Some(format!(
                    "{} {}: unpacking {size}",
                    self.place(),
                    short(*diff_id)
                ))
            }
            ImportEvent::Sealed {
                diff_id,
                size,
                entries,
            } => Some(format!(
                "{} {}: sealed, {size} in {entries} entries",
                self.place(),
                short(*diff_id)
            )),
            // Bytes are for the bar.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use dmthin::ids::Digest;
    use dmthin::units::Bytes;

    use super::*;

    #[test]
    fn every_step_is_a_line() {
        let id = Digest::from_bytes([0xab; 32]);
        let diff_id = Digest::from_bytes([0x01; 32]);
        let mut steps = Steps::default();
        let lines: Vec<Option<String>> = [
            ImportEvent::Image { id, layers: 2 },
            ImportEvent::Shared { index: 1, diff_id },
            ImportEvent::Layer {
                index: 2,
                diff_id,
                size: Bytes::from_mib(31),
            },
            ImportEvent::Progress {
                done: Bytes::from_mib(3),
            },
            ImportEvent::Sealed {
                diff_id,
                size: Bytes::from_mib(78),
                entries: 3412,
            },
        ]
        .iter()
        .map(|event| steps.line(event))
        .collect();
        let expected = [
            Some("image abababababab: 2 layers"),
            Some("layer 1/2 010101010101: there already"),
            Some("layer 2/2 010101010101: unpacking 31 MiB"),
            None,
            Some("layer 2/2 010101010101: sealed, 78 MiB in 3412 entries"),
        ];
        assert_eq!(lines, expected.map(|line| line.map(str::to_owned)));
    }

    #[test]
    fn the_bar_has_a_style() {
        let _ = bar_style();
    }
}
