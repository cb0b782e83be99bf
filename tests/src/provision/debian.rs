//! Debian packages of a newer release than the machine's, unpacked into the cache.
//!
//! Uses apt with a configuration and package lists of its own, so the machine's apt is neither changed nor
//! disturbed. Packages come from the mirror that the machine uses for its own release.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::output;

/// The keys of all Debian releases, of package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite (`sid`, `trixie`) with its package lists.
pub(super) struct Suite {
    folder: PathBuf,
}

impl Suite {
    /// Fetches the package lists of a suite.
    ///
    /// # Errors
    /// Where this is no Debian, or the mirror does not answer.
    pub(super) fn open(cache: &Path, suite: &str) -> anyhow::Result<Self> {
        let mirror = machine_mirror().context("find the Debian mirror of this machine")?;
        let folder = cache.join("apt").join(suite);
        for part in ["lists/partial", "archives/partial"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        std::fs::write(folder.join("status"), "")?;
        std::fs::write(
            folder.join("sources.list"),
            format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"),
        )?;
        let path = |part: &str| folder.join(part).display().to_string();
        let configuration = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::State::lists \"{}\";\n\
             Dir::State::status \"{}\";\nDir::Cache \"{}\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n",
            path("sources.list"),
            path("lists"),
            path("status"),
            path("")
        );
        std::fs::write(folder.join("apt.conf"), configuration)?;
        let opened = Suite { folder };
        output(opened.apt("apt-get").args(["update", "-q", "--error-on=any"]))?;
        Ok(opened)
    }

    /// Names of the packages that match a regular expression.
    pub(super) fn find(&self, pattern: &str) -> anyhow::Result<Vec<String>> {
        let found = output(self.apt("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(found.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Downloads packages and unpacks them below `target`. Returns `name version` of each.
    pub(super) fn unpack(&self, packages: &[&str], target: &Path) -> anyhow::Result<Vec<String>> {
        let downloads = self.folder.join("downloads");
        if downloads.exists() {
            std::fs::remove_dir_all(&downloads)?;
        }
        std::fs::create_dir_all(&downloads)?;
        std::fs::create_dir_all(target)?;
        output(self.apt("apt-get").args(["download", "-q"]).args(packages).current_dir(&downloads))?;
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(&downloads)? {
            let file = entry?.path();
            output(Command::new("dpkg").arg("-x").arg(&file).arg(target))?;
            let shown = output(Command::new("dpkg-deb").arg("--show").arg(&file))?;
            versions.push(shown.trim().replace('\t', " "));
        }
        std::fs::remove_dir_all(&downloads)?;
        versions.sort();
        Ok(versions)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }
}

/// Where the machine's own apt gets the packages of its release.
fn machine_mirror() -> anyhow::Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let field = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim_matches('"').to_owned())
    };
    let (id, codename) = (field("ID="), field("VERSION_CODENAME="));
    let (Some("debian"), Some(codename)) = (id.as_deref(), codename) else {
        bail!("this is no Debian: install the programs by hand");
    };
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanza_mirror(&text, &codename),
            Some("list") => line_mirror(&text, &codename),
            _ => None,
        };
        if let Some(mirror) = found {
            return Ok(mirror);
        }
    }
    bail!("no entry for {codename} in /etc/apt/sources.list and /etc/apt/sources.list.d")
}

/// The mirror of a suite in a deb822 file (`sources.list(5)`).
fn stanza_mirror(text: &str, suite: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        let suites = field("Suites:")?;
        if !suites.split_whitespace().any(|word| word == suite) {
            return None;
        }
        field("URIs:")?.split_whitespace().next().map(str::to_owned)
    })
}

/// The mirror of a suite in a file of one-line entries.
fn line_mirror(text: &str, suite: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.strip_prefix("deb ")?.split_whitespace().peekable();
        if words.peek()?.starts_with('[') {
            words.find(|word| word.ends_with(']'))?;
        }
        let mirror = words.next()?;
        (words.next()? == suite).then(|| mirror.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_the_machines_release_is_found_in_both_forms_of_sources() {
        let stanzas = "Types: deb\n# a note\nURIs: http://mirror.test/security\nSuites: b-security\n\nTypes: deb\n\
                       URIs: http://mirror.test/debian http://other.test\nSuites: b b-updates\n";
        assert_eq!(stanza_mirror(stanzas, "b").as_deref(), Some("http://mirror.test/debian"));
        assert_eq!(stanza_mirror(stanzas, "c"), None);
        let lines = "# deb http://no.test b main\ndeb-src http://no.test b main\ndeb [arch=amd64 trusted=no] http://mirror.test b main\n";
        assert_eq!(line_mirror(lines, "b").as_deref(), Some("http://mirror.test"));
        assert_eq!(line_mirror(lines, "b-updates"), None);
    }
}
