//! Hostile and broken images: each gets its own error and exit code, and leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::iter::repeat;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tar::EntryType;

use super::build::{Image, Layer, digest, gzip};
use super::harness::{Ctx, Test, df_mib, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    (
        "hostile_archives_are_refused_and_leave_nothing",
        refused_archives,
    ),
    ("hostile_layers_stay_inside_the_volume", contained_layers),
    ("hostile_layer_bomb_is_bounded_by_the_volume", layer_bomb),
    (
        "hostile_stream_bomb_is_bounded_by_the_room_there_is",
        stream_bomb,
    ),
    ("hostile_names_are_bytes", names_are_bytes),
];

/// What an import may leave no trace in: volumes, ids in the pool, mounts, space.
fn traces(ctx: &Ctx) -> Result<BTreeMap<&'static str, String>> {
    let status = ctx.json(&["pool", "status"])?;
    let live = &status["pool"];
    let mut seen = BTreeMap::new();
    seen.insert("images", live["images"].to_string());
    seen.insert("layers", live["layers"].to_string());
    seen.insert("data used", live["live"]["data"]["used"].to_string());
    seen.insert("devices", witness("dmsetup", &["ls"])?);
    seen.insert("mounts", fs::read_to_string("/proc/self/mountinfo")?);
    let files = fs::read_dir(ctx.root.join("tank"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| {
            !name.as_ref().is_ok_and(|n| n.starts_with("catalogue.db-"))
        })
        .collect::<Result<std::collections::BTreeSet<_>>>()?;
    seen.insert("files", format!("{files:?}"));
    seen.insert("thin ids", thin_ids(ctx, "tank")?);
    Ok(seen)
}

/// A good image with one thing made wrong.
fn broken(ctx: &Ctx, name: &str, spoil: impl FnOnce(&mut Image)) -> Result<PathBuf> {
    let mut image = Image::new("bad:1", super::build::two_layers());
    spoil(&mut image);
    image.write(&ctx.dir.join(format!("{name}.tar")))
}

/// An image whose second layer is this one.
fn with_layer(ctx: &Ctx, name: &str, layer: Layer) -> Result<PathBuf> {
    let mut layers = super::build::two_layers();
    layers[1] = layer.bytes();
    Image::new("bad:1", layers).write(&ctx.dir.join(format!("{name}.tar")))
}

fn refused_archives(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let good = super::build::small_image(&ctx.dir, "good:1")?;
    let whole = fs::read(&good)?;
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = ctx.dir.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let cases: Vec<(PathBuf, &str)> = vec![
        (
            with_layer(ctx, "dotdot", Layer::new().file("../../escape", b"x"))?,
            "../../escape",
        ),
        (
            with_layer(
                ctx,
                "dotdot-link",
                Layer::new().hardlink("a", "../../etc/shadow"),
            )?,
            "../../etc/shadow",
        ),
        (
            with_layer(ctx, "no-target", Layer::new().hardlink("a", "never/was"))?,
            "never/was",
        ),
        (
            broken(ctx, "diff-id", |image| {
                image.config["rootfs"]["diff_ids"][1] = json!(digest(b"something else"));
            })?,
            "sha256:",
        ),
        (
            broken(ctx, "config-name", |image| {
                let name = digest(b"not this").split_off("sha256:".len());
                image.manifest["Config"] = json!(format!("{name}.json"));
            })?,
            ".json",
        ),
        (
            broken(ctx, "cut-layer", |image| image.layers[1].truncate(700))?,
            "layer",
        ),
        (
            broken(ctx, "cut-gzip", |image| {
                let mut packed = gzip(&image.layers[1]).expect("a vector takes all");
                packed.truncate(packed.len() / 2);
                image.layers[1] = packed;
            })?,
            "layer",
        ),
        (
            broken(ctx, "missing-blob", |image| {
                image.manifest["Layers"][1] = json!("nowhere/layer.tar");
            })?,
            "nowhere/layer.tar",
        ),
        (
            broken(ctx, "layer-count", |image| {
                image.manifest["Layers"]
                    .as_array_mut()
                    .expect("a list")
                    .pop();
            })?,
            "layer",
        ),
        (write("cut.tar", &whole[..whole.len() / 2])?, "cut.tar"),
        (write("empty.tar", b"")?, "empty.tar"),
        (write("text.tar", b"this is no archive\n")?, "text.tar"),
        (
            write(
                "noise.tar",
                &whole.iter().map(|b| b ^ 0x5a).collect::<Vec<_>>(),
            )?,
            "noise.tar",
        ),
    ];
    let before = traces(ctx)?;
    let mut messages = Vec::new();
    // A version of ours may learn a type it does not know; it will never believe a lie.
    let unknown = (media_type(ctx)?, "application/x-unheard-of");
    let cases = || cases.iter().zip(repeat(11)).chain([(&unknown, 10)]);
    for ((path, says), code) in cases() {
        ctx.fails(
            &["image", "import", text(path), "--name", "bad:1"],
            code,
            says,
        )
        .with_context(|| path.display().to_string())?;
        messages.push(ctx.cli(&["-q", "image", "import", text(path)])?.stderr);
        let after = traces(ctx)?;
        for (what, was) in &before {
            ensure!(
                after[what] == *was,
                "{} left something in {what}: {was} became {}",
                path.display(),
                after[what]
            );
        }
    }
    ctx.fails(&["image", "import", "/no/such/file"], 3, "/no/such/file")?;
    messages.sort();
    messages.dedup();
    ensure!(
        messages.len() == cases().count(),
        "two faults share one message: {messages:#?}"
    );
    // And a good one still goes in.
    ctx.ok(&["image", "import", text(&good)]).map(drop)
}

/// An OCI layout whose manifest names a layer of a type nobody knows.
fn media_type(ctx: &Ctx) -> Result<PathBuf> {
    let dir = ctx.mkdir("media-type")?;
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |bytes: Vec<u8>, media_type: &str| -> Result<serde_json::Value> {
        let digest = digest(&bytes);
        fs::write(blobs.join(&digest["sha256:".len()..]), &bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    };
    let image = Image::new("unused", vec![Layer::new().file("a", b"a").bytes()]);
    let layer = put(image.layers[0].clone(), "application/x-unheard-of")?;
    let config = put(
        serde_json::to_vec(&image.config)?,
        "application/vnd.oci.image.config.v1+json",
    )?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let manifest = put(serde_json::to_vec(&manifest)?, kind)?;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(dir)
}

/// Imports, mounts a container of it read by the test, and unmounts it.
fn look_into(ctx: &Ctx, image: &Path, look: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    ctx.ok(&["image", "import", text(image), "--name", "odd:1"])?;
    ctx.ok(&["container", "create", "odd:1", "--name", "odd"])?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "odd", text(&mount)])?;
    let looked = look(&mount);
    ctx.ok(&["container", "umount", "odd"])?;
    ctx.ok(&["container", "rm", "odd"])?;
    ctx.ok(&["image", "rm", "odd:1"])?;
    looked
}

fn contained_layers(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let victim = ctx.mkdir("victim")?;
    fs::write(victim.join("file"), "untouched")?;
    let outside = text(&victim).to_owned();

    // A symlink to an absolute place, then written through: it lands inside the volume.
    let layer = Layer::new()
        .symlink("link", &outside)
        .dir(&format!("{}/", outside.trim_start_matches('/')))
        .file("link/file", b"inside");
    look_into(ctx, &with_layer(ctx, "through", layer)?, |mount| {
        let landed = mount.join(outside.trim_start_matches('/')).join("file");
        ensure!(fs::read(landed)? == b"inside");
        Ok(())
    })?;

    // A directory of the lower layer replaced by a symlink, then written through.
    let layer = Layer::new()
        .symlink("etc", "../../../../../../tmp")
        .dir("tmp/")
        .file("etc/x", b"x");
    look_into(ctx, &with_layer(ctx, "replaced", layer)?, |mount| {
        ensure!(fs::read(mount.join("tmp/x"))? == b"x");
        ensure!(!Path::new("/tmp/x").exists(), "written outside");
        Ok(())
    })?;

    // An absolute name counts from the volume's root; the last of two entries wins.
    let layer = Layer::new()
        .file("/absolute", b"1")
        .file("twice", b"1")
        .file("twice", b"22");
    look_into(ctx, &with_layer(ctx, "absolute", layer)?, |mount| {
        ensure!(fs::read(mount.join("absolute"))? == b"1");
        ensure!(fs::read(mount.join("twice"))? == b"22");
        ensure!(!Path::new("/absolute").exists(), "written outside");
        Ok(())
    })?;

    // A whiteout through a symlink removes nothing outside.
    let layer = Layer::new()
        .symlink("out", &outside)
        .file("out/.wh.file", b"");
    let image = with_layer(ctx, "whiteout", layer)?;
    let imported = ctx.cli(&["image", "import", text(&image), "--name", "odd:2"])?;
    ensure!([0, 11].contains(&imported.code), "{}", imported.stderr);
    ensure!(
        fs::read(victim.join("file"))? == b"untouched",
        "a file outside was touched"
    );
    Ok(())
}

fn layer_bomb(ctx: &Ctx) -> Result<()> {
    ctx.ok(&[
        "pool",
        "create",
        "tank",
        "--size",
        "2G",
        "--base-size",
        "512M",
    ])?;
    // 1 GiB of zeros that gzip packs into a megabyte.
    let size = 1_u64 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_path("bomb")?;
    header.set_cksum();
    let (mut packed, mut hash) = (Vec::new(), <sha2::Sha256 as sha2::Digest>::new());
    {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        let mut put = |bytes: &[u8]| -> Result<()> {
            sha2::Digest::update(&mut hash, bytes);
            encoder.write_all(bytes).map_err(Into::into)
        };
        put(header.as_bytes())?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..size >> 20 {
            put(&zeros)?;
        }
        put(&[0; 1024])?;
        encoder.finish()?;
    }
    let diff_id: String = sha2::Digest::finalize(hash)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut image = Image::new("bomb:1", vec![Vec::new()]);
    image.layers[0] = packed;
    image.config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{diff_id}"));
    let image = image.write(&ctx.dir.join("bomb.tar"))?;
    let before = traces(ctx)?;
    ctx.fails(&["image", "import", text(&image)], 6, "base grow")?;
    ensure!(
        traces(ctx)? == before,
        "the bomb left something: {:?}",
        traces(ctx)?
    );
    Ok(())
}

/// What an archive on standard input decompresses to is kept beside the pool while it is read: a
/// bomb must not fill the host's file system, on which the pool itself lies.
fn stream_bomb(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let before = traces(ctx)?;
    let bomb = ctx.dir.join("bomb.zst");
    let script = format!(
        "truncate -s 1G {0}.raw && zstd -q {0}.raw -o {0} && rm {0}.raw",
        text(&bomb)
    );
    witness("sh", &["-c", &script])?;
    // So that little is enough to be too much.
    let most = df_mib("avail", &ctx.dir)?.saturating_sub(1000);
    let most = format!("{most}M");
    let filler = ctx.dir.join("filler");
    witness("fallocate", &["-l", &most, text(&filler)])?;
    let output = ctx.cli_from(&["-q", "image", "import", "-"], &bomb)?;
    ensure!(
        output.code == 6 && output.stderr.contains("room"),
        "{output:?}"
    );
    ctx.fails(&["image", "import", text(&bomb)], 6, "room")?;
    fs::remove_file(filler)?;
    ensure!(traces(ctx)? == before, "left: {:?}", traces(ctx)?);
    Ok(())
}

fn names_are_bytes(ctx: &Ctx) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    ctx.pool("tank")?;
    let odd: [&[u8]; 3] = [
        b"new\nline",
        b"\xff\xfe not utf-8",
        b"tab\tquote\"back\\slash",
    ];
    let mut layer = Layer::new();
    for name in odd {
        layer = layer.raw(EntryType::Regular, 0o644, name, b"", b"odd");
    }
    look_into(ctx, &with_layer(ctx, "odd", layer)?, |mount| {
        for name in odd {
            let path = mount.join(std::ffi::OsStr::from_bytes(name));
            ensure!(fs::read(&path)? == b"odd", "{}", path.display());
        }
        Ok(())
    })
}
