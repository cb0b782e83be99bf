//! Kernels and busybox out of Debian's packages, kept in the cache.
//!
//! The cloud flavour has what we need built in (BTF, serial console, initramfs) and boots in seconds.

use std::cmp::Reverse;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Arch;
use crate::debian::Archive;
use crate::repo;

/// The newest Debian kernel of a series.
pub(crate) struct Kernel {
    pub(crate) arch: Arch,
    /// Such as `6.12`, or `newest`.
    pub(crate) series: String,
}

impl Kernel {
    pub(crate) fn of(arch: Arch, series: &str) -> Self {
        Self { arch, series: series.to_owned() }
    }

    /// What the packages of the flavour end in.
    fn flavour(&self) -> String {
        format!("-cloud-{}", self.arch.debian())
    }

    /// What `uname -r` says there, or `None` if the kernel is not in the cache.
    pub(crate) fn release(&self) -> Option<String> {
        let release = fs::read_to_string(self.dir().join("release")).ok()?;
        self.vmlinuz().exists().then(|| release.trim().to_owned())
    }

    /// The kernel's image.
    pub(crate) fn vmlinuz(&self) -> PathBuf {
        self.dir().join("vmlinuz")
    }

    /// Downloads it.
    pub(crate) fn fetch(&self) -> Result<()> {
        let archive = Archive::open(self.arch.debian(), self.releases())?;
        let release = self.newest_release(&archive)?;
        let image = format!("linux-image-{release}");
        // From 6.19 on the package of the image is a shell around this one.
        let binary = format!("linux-binary-{release}");
        let package = if archive.depends_on(&image, &binary)? { binary } else { image };
        fs::create_dir_all(self.dir()).with_context(|| format!("make {}", self.dir().display()))?;
        let images = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        archive.extract(&package, &images, &self.vmlinuz())?;
        fs::write(self.dir().join("release"), release).context("note the kernel's release")
    }

    /// Where Debian has it: a release keeps its series, what is newer comes and goes.
    fn releases(&self) -> &'static [&'static str] {
        match self.series.as_str() {
            "5.10" => &["bullseye"],
            "6.1" => &["bookworm"],
            "6.12" => &["trixie"],
            _ => &["trixie-backports", "sid"],
        }
    }

    fn newest_release(&self, archive: &Archive) -> Result<String> {
        let names = archive.names("linux-image-")?;
        let releases = names
            .iter()
            .filter(|name| name.ends_with(&self.flavour()))
            .filter_map(|name| name.strip_prefix("linux-image-"))
            .filter(|release| release.starts_with(|first: char| first.is_ascii_digit()));
        let is_newest = self.series == "newest";
        let prefix = format!("{}.", self.series);
        releases
            .filter(|release| is_newest || release.starts_with(&prefix))
            .min_by_key(|release| Reverse(numbers(release)))
            .map(str::to_owned)
            .with_context(|| format!("find a Debian kernel of the series {}", self.series))
    }

    fn dir(&self) -> PathBuf {
        folder(self.arch).join(&self.series)
    }
}

/// The numbers in a release, for comparing: `6.12.107+deb13-cloud-amd64` is `[6, 12, 107, 13, 64]`.
pub(super) fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Where the files of an architecture are kept.
fn folder(arch: Arch) -> PathBuf {
    let kernels = repo::cache().join("kernels");
    if arch.is_this_machine() { kernels } else { kernels.join(arch.name()) }
}

/// The static busybox that is the user space of the initramfs.
pub(crate) fn busybox_path(arch: Arch) -> PathBuf {
    folder(arch).join("busybox")
}

/// Downloads busybox.
pub(crate) fn fetch_busybox(arch: Arch) -> Result<()> {
    let path = busybox_path(arch);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    Archive::open(arch.debian(), &["trixie"])?.extract(
        "busybox-static",
        &["bin/busybox".into(), "usr/bin/busybox".into()],
        &path,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_their_numbers() {
        assert!(numbers("5.10.0-32-cloud-amd64") > numbers("5.10.0-9-cloud-amd64"));
        assert!(numbers("6.12.107+deb13-cloud-amd64") > numbers("6.12.95+deb12-cloud-amd64"));
        assert!(numbers("7.0.4+deb13-cloud-amd64") > numbers("6.19.14+deb13-cloud-amd64"));
    }
}
