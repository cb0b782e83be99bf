//! What differs between the machines that are emulated.

use clap::ValueEnum;

/// A processor architecture, by Rust's name of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The emulator.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// The package of Debian that the emulator is in.
    pub(crate) fn qemu_package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm",
        }
    }

    /// Debian's name of the architecture.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Whether programs of this machine run there.
    pub(crate) fn is_this_machine(self) -> bool {
        self.name() == std::env::consts::ARCH
    }

    /// The board, where the emulator has no default.
    pub(super) fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &[],
            Self::Aarch64 => &["-machine", "virt,gic-version=3"],
        }
    }

    /// The model for `-cpu`.
    ///
    /// QEMU 7.2 now and then corrupts the flags after a cmpxchg16b (seen on 6.12: a fault inside `kmalloc`), so x86 kernels are kept
    /// from using it. From 7.0 on socket storage needs the instruction: without it every look-up is NULL.
    pub(super) fn cpu(self, kernel: (u32, u32)) -> &'static str {
        match self {
            Self::X86_64 if kernel.0 < 7 => "max,cx16=off",
            Self::X86_64 => "max",
            // Without pointer authentication, whose emulation costs half of the machine's time.
            Self::Aarch64 => "cortex-a72",
        }
    }

    /// What the kernel is told of the machine: the console of its messages; and that the timer works, which 5.10 tries out in a
    /// few milliseconds of its own clock, and panics where an emulator on a busy machine does not run for so long.
    pub(super) fn machine_parameters(self) -> &'static str {
        match self {
            // Without `earlyprintk` the console of 6.12 can stay mute.
            Self::X86_64 => "console=ttyS0 earlyprintk=ttyS0 no_timer_check",
            Self::Aarch64 => "console=ttyAMA0",
        }
    }

    /// The device of the port that results go to: a port of its own where the machine has two, so that no message of the kernel
    /// lands inside a result. The board for aarch64 has one that needs no module; there init silences the kernel first.
    pub(super) fn result_device(self) -> &'static str {
        match self {
            Self::X86_64 => "/dev/ttyS1",
            Self::Aarch64 => "/dev/ttyAMA0",
        }
    }

    pub(super) fn has_result_port(self) -> bool {
        self == Self::X86_64
    }
}
