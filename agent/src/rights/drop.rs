//! Drops capabilities and, if asked to, the user.
//!
//! Every set is emptied: bounding, ambient, inheritable, permitted and effective; of the last two stays what reads the names of
//! processes. `no_new_privs` keeps it so over every `execve`, which the list of system calls does not have besides.

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Later;
use super::capability::Capability;

/// What is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Capabilities that are kept, as capabilities(7) writes them.
    pub kept: Vec<&'static str>,
    /// Capabilities that are not in force until another way of capture has to be loaded ([`LoadingRights`]).
    pub set_aside: Vec<&'static str>,
    /// The bounding set could not be emptied, since `CAP_SETPCAP` is not held. Without `execve` and with `no_new_privs` nothing
    /// comes back from it.
    pub bounded: bool,
    /// User id from now on.
    pub user: u32,
}

/// Drops everything but what reads the names of processes. Of what `works` needs besides, as little as may be is kept.
pub(super) fn everything_but_names(
    user: Option<u32>,
    later: Later,
    works: &dyn Fn() -> Result<()>,
) -> Result<Dropped> {
    let before = capabilities(None)?;
    let bounded = empty_bounding_set()?;
    clear_ambient_capability_set().context("empty the ambient set")?;
    if let Some(user) = user.filter(|user| *user != geteuid().as_raw()) {
        become_user(user)?;
    }
    let names = Capability::OF_NAMES.iter().fold(CapabilitySet::empty(), |all, one| all | one.set());
    let names = before.permitted & names;
    let permitted = before.permitted;
    let kept = [CapabilitySet::empty(), CapabilitySet::BPF, CapabilitySet::SYS_ADMIN]
        .into_iter()
        .filter(|more| permitted.contains(*more))
        .map(|more| names | more)
        .find(|kept| set(*kept, permitted).is_ok() && works().is_ok());
    let Some(kept) = kept else {
        works().context("read what is attached without most capabilities")?;
        bail!("the kernel does not let go of capabilities");
    };
    let set_aside = before.permitted & loading(later) & !kept;
    set(kept, kept | set_aside).context("set the capabilities that are left")?;
    set_no_new_privs(true).context("set no_new_privs")?;
    let names_of = |set: CapabilitySet| {
        Capability::ALL.into_iter().filter(|one| set.contains(one.set())).map(Capability::name).collect()
    };
    Ok(Dropped { kept: names_of(kept), set_aside: names_of(set_aside), bounded, user: geteuid().as_raw() })
}

/// What the loading of another way of capture takes.
fn loading(later: Later) -> CapabilitySet {
    let two = CapabilitySet::BPF | CapabilitySet::PERFMON;
    match later {
        Later { change: false, .. } => CapabilitySet::empty(),
        Later { restricted_kprobes: true, .. } => two | CapabilitySet::SYS_ADMIN,
        Later { .. } => two,
    }
}

/// Nothing is ever handed on to another program.
fn set(effective: CapabilitySet, permitted: CapabilitySet) -> Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable }).context("set capabilities")
}

/// The rights to load, in force for the calling thread from [`LoadingRights::take`] to [`LoadingRights::give_back`].
#[derive(Debug)]
pub struct LoadingRights(CapabilitySets);

impl LoadingRights {
    /// Puts in force what was set aside.
    ///
    /// # Errors
    /// The kernel refuses, which it does not.
    pub fn take() -> Result<Self> {
        let before = capabilities(None)?;
        let all = loading(Later { change: true, restricted_kprobes: true, ..Later::default() });
        set(before.effective | (before.permitted & all), before.permitted)?;
        Ok(LoadingRights(before))
    }

    /// Sets aside again what may be needed `later`, and drops the rest.
    ///
    /// # Errors
    /// As [`LoadingRights::take`].
    pub fn give_back(self, later: Later) -> Result<()> {
        let LoadingRights(before) = self;
        set(before.effective, before.effective | (before.permitted & loading(later)))
    }
}

/// Returns whether something is left in it, since this process may not change it.
fn empty_bounding_set() -> Result<bool> {
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The kernel has no further one.
            Err(Errno::INVAL) if bit > 0 => return Ok(false),
            Err(Errno::PERM) => return Ok(true),
            Err(error) => return Err(error).context("empty the bounding set"),
        }
    }
    Ok(false)
}

/// Changes all user and group ids. Permitted capabilities outlive it, effective ones do not.
fn become_user(user: u32) -> Result<()> {
    if user == u32::MAX {
        bail!("{user} is no user id");
    }
    let hint = || format!("become user {user} (this needs CAP_SETUID and CAP_SETGID)");
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    set_keep_capabilities(true).context("keep capabilities over a change of the user")?;
    set_thread_groups(&[]).with_context(hint)?;
    set_thread_res_gid(gid, gid, gid).with_context(hint)?;
    set_thread_res_uid(uid, uid, uid).with_context(hint)?;
    set_keep_capabilities(false).context("keep no capabilities any more")
}
