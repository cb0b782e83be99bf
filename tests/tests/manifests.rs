//! The manifests for Kubernetes are held to Kubernetes' own schema, and to what README and the agent say of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use agent::capture::kernel::Backend;
use agent::rights::Capability;
use tests::workspace::{cache, root, skip};

/// The schemas of Kubernetes, offline, and what compares with them.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

fn deploy() -> PathBuf {
    root().join("deploy")
}

fn run(command: &mut Command) -> Result<Output, String> {
    let name = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// The validator, installed into a virtual environment of its own the first time.
fn validator() -> Result<PathBuf, String> {
    let folder = cache().join("kubernetes-validate");
    let program = folder.join("bin/kubernetes-validate");
    if !program.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args([
            "--disable-pip-version-check",
            "install",
            "--quiet",
            VALIDATOR,
        ]))?;
    }
    Ok(program)
}

fn validate(program: &Path, manifest: &Path) -> Result<Output, String> {
    run(Command::new(program).args(["--strict", "--no-warn"]).arg(manifest))
}

#[test]
fn the_daemonset_is_what_kubernetes_accepts_and_a_misspelt_field_is_not() {
    let program = match validator() {
        Ok(program) => program,
        Err(why) => {
            assert!(skip("the_daemonset_is_what_kubernetes_accepts_and_a_misspelt_field_is_not", &why));
            return;
        }
    };
    let manifest = deploy().join("daemonset.yaml");
    validate(&program, &manifest).unwrap_or_else(|error| panic!("{error}"));

    let text = std::fs::read_to_string(&manifest).expect("the manifest");
    let misspelt = text.replace("hostPID: true", "hostPid: true");
    assert_ne!(text, misspelt);
    let folder = cache().join("runs");
    std::fs::create_dir_all(&folder).expect("a folder in the cache");
    let copy = folder.join("misspelt-daemonset.yaml");
    std::fs::write(&copy, misspelt).expect("a file in the cache");
    assert!(validate(&program, &copy).is_err(), "the validator lets everything pass");
}

#[test]
fn the_daemonset_asks_for_the_capabilities_that_were_measured_and_no_more_rights() {
    let text = std::fs::read_to_string(deploy().join("daemonset.yaml")).expect("the manifest");
    let needed: BTreeSet<Capability> = [Backend::TpBtf, Backend::Fexit]
        .into_iter()
        .flat_map(|backend| Capability::to_load(backend, false))
        .chain(&Capability::OF_NAMES)
        .copied()
        .collect();
    let (_, added) = text.split_once("              add: [").expect("capabilities are added");
    let (added, _) = added.split_once(']').expect("the list ends");
    let names: Vec<String> = needed.iter().map(|one| format!("\"{}\"", one.name())).collect();
    assert_eq!(added, names.join(", "));
    for needed in [
        r#"drop: ["ALL"]"#,
        "privileged: false",
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "hostPID: true",
        // Its own folder, and nothing else of the node's files.
        "hostPath:\n            path: /run/grpcscope\n",
        "hostPath",
    ] {
        assert_eq!(text.matches(needed).count(), 1, "{needed}");
    }
    for refused in ["hostNetwork: true", "privileged: true", "SYS_ADMIN", "NET_ADMIN"] {
        assert!(!text.contains(refused), "{refused}");
    }
}

#[test]
fn the_configuration_in_the_manifest_is_one_that_the_agent_takes() {
    let text = std::fs::read_to_string(deploy().join("daemonset.yaml")).expect("the manifest");
    let (_, block) = text.split_once("config.yaml: |\n").expect("the ConfigMap has a config.yaml");
    let config: String = block
        .lines()
        .take_while(|line| line.starts_with("    "))
        .map(|line| format!("{}\n", &line[4..]))
        .collect();
    let config = agent::config::file::parse(&config).unwrap_or_else(|error| panic!("{error}, in\n{config}"));
    assert_eq!(config.http.listen.port(), 9464);
    assert!(config.http.listen.ip().is_unspecified(), "Prometheus could not reach {}", config.http.listen);
    assert_eq!(text.matches("containerPort: 9464").count(), 1);
}
