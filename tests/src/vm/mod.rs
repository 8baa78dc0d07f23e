//! A throw-away virtual machine with a stock Debian kernel.
//!
//! ```no_run
//! use dmthin_tests::vm::{Cmd, Disk, Kernel, Size, Vm};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut vm = Vm::new(Kernel::V6_1)
//!     .udev(true)
//!     .program("target/debug/pool-cli", "/usr/bin/pool-cli")
//!     .disk(Disk::scratch("state", Size::gib(8)).mounted_at("/var/lib/dmthin"))
//!     .start()?;
//! vm.sh("pool-cli doctor")?.ok()?;
//! let listed = vm.run(Cmd::new(["dmsetup", "ls"]))?;
//! println!("{}", listed.ok()?);
//! vm.power_cut();
//! vm.power_on()?;
//! vm.sh("pool-cli pool open")?.ok()?;
//! vm.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here needs root. QEMU boots a Debian kernel with a first root made
//! of three archives, one after the other: the tools and the kernel's modules,
//! both made once and kept under `target/vm`, and the files of this machine.
//! There is no network and no root disk: `/` is memory, `/tmp` and `/run` are
//! tmpfs, disks are `/dev/vm/<name>`. PID 1 is a small static agent
//! (`src/bin/vm-agent.rs`) which runs commands as the host asks over one
//! virtio-serial port, so several commands, and tests, share a boot.
//!
//! [`Kernel::Uml`] needs no QEMU: it is a program, and the agent's line is its first serial line. It is
//! many times faster, and has one processor, no udev rules worth the name and no log of writes.
//!
//! A guest that dies or falls silent before its agent spoke is started again,
//! a few times, and that is reported ([`Boot::tries`]): some kernels die early
//! now and then under emulation. Once the agent spoke nothing is retried: a
//! panic, a hang and a time-out are errors that carry the console's last
//! lines.

mod base;
mod boot;
mod builder;
mod cpio;
mod elf;
mod image;
mod kernel;
mod modules;
mod programs;
mod qemu;
mod running;
mod size;
mod uml;
pub mod wire;

pub use builder::{Cmd, Disk, Vm};
pub use kernel::Kernel;
pub use programs::{static_program, static_tests, witness_program};
pub use qemu::Accel;
pub use running::{Boot, Output, RunningVm, Status};
pub use size::Size;
