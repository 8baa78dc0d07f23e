//! Colours come where they are wanted, and nowhere else.

use super::{command, run, text};

#[test]
fn an_option_has_the_last_word_about_colours() {
    let root = tempfile::tempdir().unwrap();
    let painted = |words: &str, no_color: Option<&str>| {
        let mut command = command(root.path(), words);
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let output = command.output().unwrap();
        let stdout = text(&output.stdout);
        assert!(stdout.contains("loop"), "{words}: {stdout}");
        stdout.contains("\u{1b}[")
    };
    // No terminal.
    assert!(!painted("doctor", None));
    assert!(!painted("doctor --color auto", None));
    assert!(painted("doctor --color always", None));
    assert!(painted("doctor --color=always", Some("1")));
    assert!(!painted("doctor --color never", None));
    let refused = run(root.path(), "doctor --color sometimes");
    assert_eq!(refused.status.code(), Some(2));
}
