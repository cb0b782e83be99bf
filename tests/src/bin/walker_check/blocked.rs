//! Threads that wait in a read, for as long as this is there.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use anyhow::Result;

use crate::conversation::Transport;

/// The threads, and the ends that they wait for.
pub(crate) struct Blocked {
    ends: Vec<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Blocked {
    /// Starts `count` of them, on sockets of every transport in turn, and returns when they are about to wait.
    pub(crate) fn begin(count: usize) -> Result<Blocked> {
        let mut all = Blocked { ends: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let [end, waited_for] = Transport::ALL[number % Transport::ALL.len()].connect()?;
            all.ends.push(end);
            all.threads.push(std::thread::spawn(move || {
                let _ = File::from(waited_for).read(&mut [0; 8]);
            }));
        }
        if count > 0 {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        Ok(all)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.ends.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
