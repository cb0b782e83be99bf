//! Packages of Debian's other releases, taken apart without being installed.
//!
//! Uses the machine's own mirror and Debian's keyring, with an apt configuration and package lists of our own
//! under the cache, so the machine's lists, sources and installed packages stay as they are. Needs no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::repo;
use crate::shell::{Cmd, cmd, which};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists older than this may name files that the mirror no longer has.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The packages of some of Debian's releases.
pub(crate) struct Archive {
    arch: &'static str,
    releases: &'static [&'static str],
    dir: PathBuf,
}

impl Archive {
    /// Writes the configuration and fetches the lists if they are missing or older than a day.
    ///
    /// The lists are what takes long, so it pays to name few releases.
    /// `arch` is Debian's name of the architecture.
    pub(crate) fn open(arch: &'static str, releases: &'static [&'static str]) -> Result<Self> {
        let name = format!("kernels-{arch}-{}", releases.join("-"));
        let archive = Self { arch, releases, dir: repo::cache().join("apt").join(name) };
        if !archive.has_fresh_lists() {
            archive.configure()?;
            archive.update()?;
        }
        Ok(archive)
    }

    /// Names of packages that start with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.apt("apt-cache").args(["pkgnames", prefix]).read()?.lines().map(str::to_owned).collect())
    }

    /// Whether `package` depends on `other`.
    pub(crate) fn depends_on(&self, package: &str, other: &str) -> Result<bool> {
        let depends = self.apt("apt-cache").args(["depends", package]).read()?;
        Ok(depends.split_whitespace().any(|word| word == other))
    }

    /// Downloads the newest version of `package` and moves the first of its files `wanted` (paths without the
    /// leading slash) to `to`.
    pub(crate) fn extract(&self, package: &str, wanted: &[String], to: &Path) -> Result<()> {
        let deb = self.download(package)?;
        let unpacked = deb.with_extension("unpacked");
        cmd("dpkg-deb").arg("--extract").arg(&deb).arg(&unpacked).read()?;
        let file = wanted.iter().map(|path| unpacked.join(path)).find(|path| path.is_file());
        let file = file.with_context(|| format!("find any of {wanted:?} in {package}"))?;
        // Renamed into place last, so that an interrupted run leaves no half file behind.
        fs::rename(&file, to).with_context(|| format!("move {} to {}", file.display(), to.display()))?;
        fs::remove_dir_all(self.debs(package)).context("remove the unpacked package")
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        let debs = self.debs(package);
        let _ = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs).with_context(|| format!("make {}", debs.display()))?;
        self.apt("apt-get").args(["--quiet", "download", package]).dir(&debs).run()?;
        let file =
            fs::read_dir(&debs)?.next().with_context(|| format!("find {package} after its download"))?;
        Ok(file?.path())
    }

    fn debs(&self, package: &str) -> PathBuf {
        self.dir.join("debs").join(package)
    }

    fn apt(&self, program: &str) -> Cmd {
        cmd(program).env("APT_CONFIG", self.dir.join("apt.conf"))
    }

    fn configure(&self) -> Result<()> {
        if which("apt-get").is_none() || which("dpkg-deb").is_none() {
            bail!("Debian's kernels need apt-get and dpkg-deb, which are not on this machine");
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing; install the package debian-archive-keyring");
        }
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = self.dir.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let (dir, arch) = (self.dir.display(), self.arch);
        // How the machine reaches the mirror (proxies, checks of dates) is taken over; its hooks are not, because
        // some empty the system's package cache, perhaps under another apt that is at work.
        let access = cmd("apt-config").args(["dump", "Acquire"]).read()?;
        let conf = format!(
            "{access}\n\
             Dir::State \"{dir}\";\n\
             Dir::State::lists \"lists\";\n\
             Dir::State::status \"{dir}/status\";\n\
             Dir::Cache \"{dir}/cache\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             APT::Architecture \"{arch}\";\n\
             APT::Architectures {{ \"{arch}\"; }};\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             APT::Sandbox::User \"root\";\n"
        );
        fs::write(self.dir.join("apt.conf"), conf).context("write apt.conf")?;
        fs::write(self.dir.join("status"), "").context("write an empty package status")
    }

    fn has_fresh_lists(&self) -> bool {
        let age =
            fs::metadata(self.dir.join("updated")).and_then(|meta| meta.modified()).map(|at| at.elapsed());
        matches!(age, Ok(Ok(age)) if age < LISTS_AGE_MAX)
    }

    fn update(&self) -> Result<()> {
        let mirror = mirror()?;
        let line = |release| format!("deb [signed-by={KEYRING}] {mirror} {release} main\n");
        let sources: String = self.releases.iter().map(line).collect();
        fs::write(self.dir.join("sources.list"), sources).context("write sources.list")?;
        self.apt("apt-get")
            .args(["--quiet", "--error-on=any", "update"])
            .run()
            .context("fetch Debian's package lists (offline?)")?;
        fs::write(self.dir.join("updated"), "").context("note when the lists were fetched")
    }
}

/// The mirror of Debian's main archive in the machine's own apt sources.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("GRPCSCOPE_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let targets = cmd("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"])
        .read()?;
    let mirror = targets.lines().find_map(|line| line.strip_suffix(" Debian"));
    mirror.map(str::to_owned).context(
        "find a Debian mirror in the machine's apt sources; run `apt-get update`, or set GRPCSCOPE_DEBIAN_MIRROR",
    )
}
