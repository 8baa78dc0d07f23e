//! Small images, as `docker save` writes them.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Layers of each image, bottom first: some share a stack, one stands alone.
const IMAGES: [&[&str]; 4] = [&["a"], &["a", "b"], &["a", "b", "c"], &["d"]];

/// An image to be imported.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) archive: PathBuf,
    /// The digest of its configuration.
    pub(crate) id: String,
    /// The file that each layer brings.
    pub(crate) files: Vec<String>,
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut head = tar::Header::new_ustar();
        head.set_size(u64::try_from(content.len()).unwrap());
        head.set_mode(0o644);
        head.set_uid(rustix::process::geteuid().as_raw().into());
        head.set_gid(rustix::process::getegid().as_raw().into());
        head.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut head, name, content.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the archives; they are the same for every history.
pub(crate) fn images(dir: &Path) -> Vec<Image> {
    let image = |(nr, stack): (usize, &&[&str])| {
        let name = format!("image{nr}:1");
        let layers: Vec<Vec<u8>> = stack
            .iter()
            .map(|layer| tar(&[((*layer).to_owned(), b"content".to_vec())]))
            .collect();
        let ids: Vec<String> = layers
            .iter()
            .map(|layer| format!("\"sha256:{}\"", hex(layer)))
            .collect();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"nr":"{nr}"}}}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        );
        let id = hex(config.as_bytes());
        let config_name = format!("{id}.json");
        let files: Vec<String> = (0..layers.len()).map(|nr| format!("{nr}.tar")).collect();
        let listed: Vec<String> = files.iter().map(|file| format!("\"{file}\"")).collect();
        let manifest = format!(
            r#"[{{"Config":"{config_name}","RepoTags":["{name}"],"Layers":[{}]}}]"#,
            listed.join(",")
        );
        let mut members: Vec<(String, Vec<u8>)> = files.into_iter().zip(layers).collect();
        members.push((config_name, config.into_bytes()));
        members.push(("manifest.json".to_owned(), manifest.into_bytes()));
        let archive = dir.join(format!("{nr}.tar"));
        let mut file = std::fs::File::create(&archive).unwrap();
        file.write_all(&tar(&members)).unwrap();
        Image {
            name,
            archive,
            id: format!("sha256:{id}"),
            files: stack.iter().map(|layer| (*layer).to_owned()).collect(),
        }
    };
    IMAGES.iter().enumerate().map(image).collect()
}
