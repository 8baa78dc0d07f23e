//! Which files are read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::error::ConfigError;
use crate::config::settings::Settings;

const DEFAULT_FILE: &str = "/etc/dmthin/config.toml";
const DIRECTORY: &str = "conf.d";
/// Write permission of everyone.
const OTHERS_WRITE: u32 = 0o002;

/// Reads the file that was named, else the default one, which may be missing; then what is in the
/// `conf.d` beside it, in the order of the names.
pub(crate) fn load(named: Option<&Path>) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    let file = named.unwrap_or(Path::new(DEFAULT_FILE));
    match check(&mut settings, file) {
        Err(ConfigError::Read { source, .. })
            if named.is_none() && source.kind() == ErrorKind::NotFound => {}
        result => result?,
    }
    for file in beside(file)? {
        check(&mut settings, &file)?;
    }
    Ok(settings)
}

/// Reads one file into the settings.
pub(crate) fn check(settings: &mut Settings, file: &Path) -> Result<(), ConfigError> {
    let text = readable(file)
        .and_then(|()| fs::read_to_string(file).map_err(|source| unread(file, source)))?;
    settings.apply(file, &text)
}

fn unread(path: &Path, source: std::io::Error) -> ConfigError {
    ConfigError::Read {
        path: path.to_owned(),
        source,
    }
}

/// Refuses what anyone could have written. Devices and pipes are left to whoever named them.
fn readable(path: &Path) -> Result<(), ConfigError> {
    let metadata = fs::metadata(path).map_err(|source| unread(path, source))?;
    let kept = metadata.is_file() || metadata.is_dir();
    if kept && metadata.mode() & OTHERS_WRITE != 0 {
        return Err(ConfigError::WorldWritable {
            path: path.to_owned(),
        });
    }
    Ok(())
}

fn beside(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = file.with_file_name(DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| unread(&directory, source))?,
    };
    readable(&directory)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| unread(&directory, source))?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn error(file: &Path) -> String {
        load(Some(file)).unwrap_err().to_string()
    }

    #[test]
    fn files_beside_are_read_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let conf_d = dir.path().join("conf.d");
        fs::create_dir(&conf_d).unwrap();
        fs::write(&file, "[create]\nsize = \"1G\"\nfs = \"xfs\"\n").unwrap();
        for (name, text) in [
            ("20-b.toml", "[create]\nsize = \"3G\"\n"),
            ("10-a.toml", "[create]\nsize = \"2G\"\nbase_size = \"5G\"\n"),
            ("30.toml.bak", "nonsense"),
            (".hidden.toml", "nonsense"),
        ] {
            fs::write(conf_d.join(name), text).unwrap();
        }
        let settings = load(Some(&file)).unwrap();
        let create = settings.create();
        assert_eq!(create.size, dmthin::units::Bytes::from_gib(3));
        assert_eq!(create.base_size, dmthin::units::Bytes::from_gib(5));
        assert_eq!(create.fs, dmthin::ids::FsType::Xfs);
        let read = ["10-a.toml", "20-b.toml"].map(|name| conf_d.join(name));
        let [first, second] = read;
        assert_eq!(settings.files, [file, first, second]);
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nope.toml");
        assert_eq!(
            error(&file),
            format!("cannot read the configuration {}", file.display())
        );
        assert!(load(Some(Path::new("/dev/null"))).is_ok());
    }

    #[test]
    fn what_anyone_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let conf_d = dir.path().join("conf.d");
        fs::write(&file, "").unwrap();
        fs::create_dir(&conf_d).unwrap();
        for path in [&conf_d, &file] {
            let mode = |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            mode(0o777);
            let told = format!("{} can be written by everyone", path.display());
            assert!(error(&file).starts_with(&told), "{}", error(&file));
            mode(0o775);
            assert!(load(Some(&file)).is_ok());
        }
    }
}
