//! The whole life of a pool inside a container: its own `/dev` with nothing but control nodes, its own IPC
//! and mount namespaces, whether or not a udevd runs outside, in whose semaphores its cookies are not.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::build::small_image;
use super::cycles::Outside;
use super::harness::{Ctx, Test, run, text};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("namespaces_of_their_own_with_the_hosts_run", hosts_run),
    ("namespaces_of_their_own_with_a_run_of_their_own", own_run),
];

/// What a container is given; `$1` is the image, `$2` the directory to mount at.
const SCRIPT: &str = r#"
set -e
minor() { sed -n "s/ $1\$//p" /proc/misc | tr -d ' '; }
control=$(minor device-mapper)
loops=$(minor loop-control)
mount -t tmpfs -o mode=755 own /dev
mknod /dev/null c 1 3
mknod /dev/urandom c 1 9
mknod /dev/loop-control c 10 "${loops:-237}"
mkdir /dev/mapper
mknod /dev/mapper/control c 10 "$control"
p() { timeout -s KILL 100 pool-cli --pool tank "$@"; }
p pool create tank --size 512M --base-size 256M
p image import "$1"
p container create demo:1 --name web
p container mount web "$2"
echo kept >"$2/file"
p container umount web
p container mount web "$2"
grep -qx kept "$2/file"
p container umount web
e2fsck -fn /dev/mapper/dmthin-tank-ctr-web >/dev/null
p pool close tank
p pool open tank
p container rm web
p check
p pool close tank
p pool destroy tank
echo "semaphores $(tail -n +2 /proc/sysvipc/sem | wc -l)"
# A loop device stays when it is free, and its node may as well.
echo "nodes $(find /dev -name 'loop*' -prune -o \( -type b -o -type l \) -print)"
echo "mapper $(ls /dev/mapper)"
"#;

fn inside(ctx: &Ctx, own_run: bool) -> Result<()> {
    let image = small_image(&ctx.dir, "demo:1")?;
    let dir = ctx.mkdir("mnt")?;
    let before = Outside::now()?;
    let run_of_its_own = if own_run {
        "mount -t tmpfs own /run\n"
    } else {
        ""
    };
    let script = format!(
        "export DMTHIN_ROOT={}\n{run_of_its_own}{SCRIPT}",
        text(&ctx.root)
    );
    let args = [
        "-m",
        "-i",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    let started = Instant::now();
    let told = run(
        "unshare",
        &[&args[..], &[text(&image), text(&dir)]].concat(),
    )?;
    let took = started.elapsed();
    ensure!(
        told.code == 0,
        "{}: {}{}",
        told.code,
        told.stdout,
        told.stderr
    );
    ensure!(
        told.stdout
            .ends_with("semaphores 0\nnodes \nmapper control\n"),
        "left inside: {}",
        told.stdout
    );
    // With a udevd that it cannot meet it once took 10 s for each device.
    ensure!(took < Duration::from_secs(60), "it took {took:?}");
    ensure!(
        fs::read_dir(&ctx.root)?.next().is_none(),
        "left in the root"
    );
    before.is_still()
}

fn hosts_run(ctx: &Ctx) -> Result<()> {
    inside(ctx, false)
}

fn own_run(ctx: &Ctx) -> Result<()> {
    inside(ctx, true)
}
