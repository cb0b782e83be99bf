//! Container id and pod uid from `/proc/PID/cgroup` (cgroups(7)), in every form that runtimes write.
//!
//! A line is `hierarchy:controllers:path`. With cgroup v2 there is one, `0::path`; with v1 one for each
//! hierarchy; with both, the v2 one is often `/` and says nothing.

/// What the cgroup says about a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id: 64 hexadecimal digits; on Fargate 32, a dash and a number.
    pub id: Option<String>,
    /// Uid of the Kubernetes pod, with dashes.
    pub pod_uid: Option<String>,
}

impl Container {
    /// Reads the text of `/proc/PID/cgroup`.
    #[must_use]
    pub fn parse(cgroup: &str) -> Container {
        let mut paths: Vec<(u8, &str)> = cgroup.lines().filter_map(ranked_path).collect();
        paths.sort_by_key(|(rank, _)| *rank);
        let mut found = Container::default();
        for (_, path) in paths {
            let here = of_path(path);
            // Id and pod of one path belong together; a pod alone is better than nothing.
            if here.id.is_some() {
                return here;
            }
            if found.pod_uid.is_none() {
                found = here;
            }
        }
        found
    }
}

/// The v2 path first, then the v1 hierarchies that runtimes always use.
fn ranked_path(line: &str) -> Option<(u8, &str)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let has = |name: &str| controllers.split(',').any(|controller| controller == name);
    let rank = if number == "0" && controllers.is_empty() {
        0
    } else if has("memory") {
        1
    } else if has("pids") {
        2
    } else if has("name=systemd") {
        3
    } else {
        4
    };
    Some((rank, path))
}

/// The innermost container and pod of a path: a container may run in another one.
fn of_path(path: &str) -> Container {
    let mut found = Container::default();
    // `slice:cri-containerd:id` is one segment of three (containerd with systemd cgroups, not translated).
    for piece in path.split(['/', ':']) {
        if let Some(id) = container_id(piece) {
            found.id = Some(id.to_owned());
        }
        if let Some(uid) = pod_uid(piece) {
            found.pod_uid = Some(uid);
        }
    }
    found
}

/// `<id>`, `runtime-<id>.scope`, `runtime-<id>`.
fn container_id(piece: &str) -> Option<&str> {
    let piece = piece.strip_suffix(".scope").unwrap_or(piece);
    if is_fargate_id(piece) {
        return Some(piece);
    }
    let (runtime, id) = piece.rsplit_once('-').unwrap_or(("", piece));
    // The monitor of a container is outside of it.
    (is_hex(id, 64) && !runtime.ends_with("conmon")).then_some(id)
}

fn is_fargate_id(piece: &str) -> bool {
    piece.split_once('-').is_some_and(|(task, number)| {
        is_hex(task, 32) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// `pod<uid>`, `kubepods-burstable-pod<uid with underscores>.slice`. The uid is a UUID, or of a static pod
/// 32 hexadecimal digits.
fn pod_uid(piece: &str) -> Option<String> {
    let piece = piece.strip_suffix(".slice").unwrap_or(piece);
    let (before, uid) = piece.rsplit_once("pod")?;
    if !before.is_empty() && !before.ends_with('-') {
        return None;
    }
    let uid = uid.replace('_', "-");
    let digits: String = uid.split('-').collect();
    let is_uuid = uid.len() == 36 && uid.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    (is_hex(&digits, 32) && (is_uuid || uid.len() == 32)).then_some(uid)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0a9c1e5b7d2846f1e0c3a5b7d92846aabbccddeeff00112233445566778899";
    const INNER: &str = "00112233445566778899aabbccddeeff3f0a9c1e5b7d2846f1e0c3a5b7d92846";
    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const UID_: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";
    const STATIC_UID: &str = "5f6071829300a4b5c6d7e8f90a1b2c3d";
    const FARGATE: &str = "34dc0b5e626f2c5c4c5170e34b10e765-1234567890";

    /// `{id}`, `{inner}`, `{uid}`, `{uid_}`, `{static}` and `{fargate}` stand for the values above.
    fn parsed(text: &str) -> (Option<String>, Option<String>) {
        let text = text
            .replace("{id}", ID)
            .replace("{inner}", INNER)
            .replace("{uid}", UID)
            .replace("{uid_}", UID_)
            .replace("{static}", STATIC_UID)
            .replace("{fargate}", FARGATE);
        let container = Container::parse(&text);
        (container.id, container.pod_uid)
    }

    #[test]
    fn every_form_gives_its_container_and_pod() {
        let id = Some(ID);
        let cases: &[(&str, &str, Option<&str>, Option<&str>)] = &[
            ("no container, v2", "0::/\n", None, None),
            ("a service of systemd, v2", "0::/system.slice/ssh.service\n", None, None),
            ("a user's session", "0::/user.slice/user-1000.slice/session-3.scope\n", None, None),
            (
                "containerd, systemd, v2",
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{id}.scope\n",
                id,
                Some(UID),
            ),
            (
                "containerd, systemd, guaranteed",
                "0::/kubepods.slice/kubepods-pod{uid_}.slice/cri-containerd-{id}.scope\n",
                id,
                Some(UID),
            ),
            (
                "crio, systemd",
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice/crio-{id}.scope\n",
                id,
                Some(UID),
            ),
            (
                "crio, a cgroup below",
                "0::/kubepods.slice/kubepods-pod{uid_}.slice/crio-{id}.scope/container\n",
                id,
                Some(UID),
            ),
            (
                "docker in kubernetes",
                "0::/kubepods.slice/kubepods-pod{uid_}.slice/docker-{id}.scope\n",
                id,
                Some(UID),
            ),
            ("cgroupfs, v2", "0::/kubepods/burstable/pod{uid}/{id}\n", id, Some(UID)),
            ("cgroupfs, guaranteed", "0::/kubepods/pod{uid}/{id}\n", id, Some(UID)),
            ("static pod", "0::/kubepods/burstable/pod{static}/{id}\n", id, Some(STATIC_UID)),
            (
                "nested by colons",
                "0::/system.slice/containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:{id}\n",
                id,
                Some(UID),
            ),
            ("nested by colons, crio", "0::/kubepods-pod{uid_}.slice:crio:{id}\n", id, Some(UID)),
            ("docker, cgroupfs", "0::/docker/{id}\n", id, None),
            ("docker, systemd", "0::/system.slice/docker-{id}.scope\n", id, None),
            ("docker, systemd inside", "0::/docker/{id}/system.slice/nginx.service\n", id, None),
            ("podman as root", "0::/machine.slice/libpod-{id}.scope\n", id, None),
            ("podman, a cgroup below", "0::/machine.slice/libpod-{id}.scope/container\n", id, None),
            (
                "podman of a user",
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope\n",
                id,
                None,
            ),
            ("podman's monitor is outside", "0::/machine.slice/libpod-conmon-{id}.scope\n", None, None),
            (
                "crio's monitor is outside, in the pod",
                "0::/kubepods.slice/kubepods-pod{uid_}.slice/crio-conmon-{id}.scope\n",
                None,
                Some(UID),
            ),
            ("ecs on ec2", "9:memory:/ecs/14e3fbc4-2f3b-4b1c-9a5b-0e4f7b6f2f11/{id}\n", id, None),
            ("ecs with a cluster", "9:memory:/ecs/prod/34dc0b5e626f2c5c4c5170e34b10e765/{id}\n", id, None),
            ("fargate", "9:memory:/ecs/34dc0b5e626f2c5c4c5170e34b10e765/{fargate}\n", Some(FARGATE), None),
            (
                "v1, all hierarchies",
                "12:pids:/kubepods/burstable/pod{uid}/{id}\n4:memory:/kubepods/burstable/pod{uid}/{id}\n1:name=systemd:/kubepods/burstable/pod{uid}/{id}\n",
                id,
                Some(UID),
            ),
            (
                "hybrid, v2 is the root",
                "9:name=systemd:/docker/{id}\n4:memory,hugetlb:/docker/{id}\n0::/\n",
                id,
                None,
            ),
            ("hybrid, v2 counts first", "4:memory:/docker/{inner}\n0::/docker/{id}\n", id, None),
            (
                "kubernetes in docker",
                "0::/docker/{inner}/kubelet/kubepods/burstable/pod{uid}/{id}\n",
                id,
                Some(UID),
            ),
            (
                "seen from another cgroup namespace",
                "0::/../../kubepods-pod{uid_}.slice/cri-containerd-{id}.scope\n",
                id,
                Some(UID),
            ),
            ("too short to be an id", "0::/docker/3f0a9c1e5b7d\n", None, None),
            ("a word that ends with pod", "0::/tripod{uid}/x\n", None, None),
            (
                "capitals are no id",
                "0::/docker/3F0A9C1E5B7D2846F1E0C3A5B7D92846AABBCCDDEEFF00112233445566778899\n",
                None,
                None,
            ),
            ("garbage", "\n:::\nfoo\n0:\n", None, None),
            ("nothing", "", None, None),
        ];
        for (name, text, id, pod) in cases {
            let expected = (id.map(str::to_owned), pod.map(str::to_owned));
            assert_eq!(parsed(text), expected, "{name}");
        }
    }
}
