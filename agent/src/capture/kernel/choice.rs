//! Which way in to the kernel's socket calls, in which order, and why.

use super::preemption::Preemption;

/// Where the bytes of a call are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The tracepoints `sock_send_length` and `sock_recv_length`, Linux 6.3.
    TpBtf,
    /// The exits of `inet_sendmsg` and its like, where the kernel allows trampolines.
    Fexit,
    /// Entries and returns of the same functions by kprobes, where the kernel has them.
    Kprobe,
}

impl Backend {
    /// All of them.
    pub const ALL: [Backend; 3] = [Backend::Fexit, Backend::TpBtf, Backend::Kprobe];

    /// A stable name, usable as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::TpBtf => "tp_btf",
            Backend::Fexit => "fexit",
            Backend::Kprobe => "kprobe",
        }
    }
}

/// Which backend is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best that works, and another one if it proves blind.
    #[default]
    Auto,
    /// This one or nothing.
    Only(Backend),
}

/// Which loop the walker uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoopChoice {
    /// The kernel's own if it has one.
    #[default]
    Auto,
    /// `bpf_loop`, Linux 5.17.
    BpfLoop,
    /// A bounded loop with tail calls.
    Bounded,
}

/// One combination to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) backend: Backend,
    pub(super) bpf_loop: bool,
    pub(super) sk_storage: bool,
}

/// Which backends in which order, and why the first is first.
pub(super) fn order(
    choice: BackendChoice,
    (preemption, source): (Preemption, &str),
) -> (Vec<Backend>, String) {
    let model = format!("preemption is {} ({source})", preemption.name());
    match choice {
        BackendChoice::Only(backend) => (vec![backend], format!("asked for; {model}")),
        BackendChoice::Auto if preemption.interrupts_programs() => (
            vec![Backend::TpBtf, Backend::Kprobe, Backend::Fexit],
            format!("{model}: programs may be interrupted, where fexit misses calls"),
        ),
        BackendChoice::Auto => (
            vec![Backend::Fexit, Backend::TpBtf, Backend::Kprobe],
            format!("{model}: programs are not interrupted, so fexit misses no calls and sees io_uring too"),
        ),
    }
}

/// What to try for a backend, best first.
pub(super) fn attempts(backend: Backend, loops: LoopChoice) -> Vec<Attempt> {
    let mut all = Vec::new();
    // Socket storage is there for tracing programs (5.11), never for kprobes.
    let storage = backend != Backend::Kprobe;
    if loops != LoopChoice::Bounded {
        all.push(Attempt { backend, bpf_loop: true, sk_storage: storage });
    }
    if loops != LoopChoice::BpfLoop {
        all.push(Attempt { backend, bpf_loop: false, sk_storage: storage });
        if backend == Backend::Fexit {
            all.push(Attempt { backend, bpf_loop: false, sk_storage: false });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(preemption: Preemption) -> Backend {
        order(BackendChoice::Auto, (preemption, "a test")).0[0]
    }

    #[test]
    fn fexit_is_first_only_where_programs_are_not_interrupted() {
        for model in [Preemption::None, Preemption::Voluntary] {
            assert_eq!(first(model), Backend::Fexit);
        }
        for model in [Preemption::Lazy, Preemption::Full, Preemption::Unknown] {
            assert_eq!(first(model), Backend::TpBtf);
            let (order, _) = order(BackendChoice::Auto, (model, "a test"));
            assert_eq!(order.last(), Some(&Backend::Fexit), "what goes blind comes last");
        }
    }

    #[test]
    fn each_backend_is_tried_and_a_forced_one_is_tried_alone() {
        for model in [Preemption::None, Preemption::Full] {
            let (order, reason) = order(BackendChoice::Auto, (model, "a test"));
            assert!(Backend::ALL.iter().all(|backend| order.contains(backend)));
            assert!(reason.contains(&format!("preemption is {} (a test)", model.name())), "{reason}");
        }
        let (order, reason) = order(BackendChoice::Only(Backend::Kprobe), (Preemption::None, "a test"));
        assert_eq!(order, [Backend::Kprobe]);
        assert!(reason.starts_with("asked for"), "{reason}");
    }

    #[test]
    fn a_kernel_without_the_loop_or_without_socket_storage_is_tried_too() {
        let of = |backend| attempts(backend, LoopChoice::Auto);
        assert!(of(Backend::Fexit).contains(&Attempt {
            backend: Backend::Fexit,
            bpf_loop: false,
            sk_storage: false
        }));
        assert!(of(Backend::Kprobe).iter().all(|attempt| !attempt.sk_storage));
        assert!(attempts(Backend::Kprobe, LoopChoice::Bounded).iter().all(|attempt| !attempt.bpf_loop));
    }
}
