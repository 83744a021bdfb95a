//! How many clients fit into the limits on open files.

use std::process::Command;

use turnpike_loadtest::engine::mmsg::raise_open_files_limit;

/// For how many idle clients a server has descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// All that were wanted, or as many as there can be.
    pub(crate) clients: usize,
    /// The server's limit on open files, where it has to be another one than ours.
    pub(crate) open_files: Option<u64>,
}

impl Room {
    pub(crate) fn of(clients: usize) -> Room {
        Room::within(clients, raise_open_files_limit(), |limit| {
            let limit = format!("--nofile={limit}:{limit}");
            Command::new("prlimit")
                .args([&limit, "true"])
                .output()
                .is_ok_and(|output| output.status.success())
        })
    }

    fn within(clients: usize, limit: u64, can_be: impl Fn(u64) -> bool) -> Room {
        /// Each has a connection and a relayed address; Turnpike lets connections have a quarter of the limit.
        const EACH: u64 = 5;
        let wanted = EACH * clients as u64;
        if limit >= wanted {
            return Room { clients, open_files: None };
        }
        match can_be(wanted) {
            true => Room { clients, open_files: Some(wanted) },
            false => Room { clients: (limit / EACH) as usize, open_files: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_idle_clients_as_the_limit_on_open_files_lets_be() {
        let room = |clients, open_files| Room { clients, open_files };
        assert_eq!(Room::within(10_000, 1_048_576, |_| false), room(10_000, None));
        assert_eq!(Room::within(10_000, 20_000, |limit| limit == 50_000), room(10_000, Some(50_000)));
        assert_eq!(Room::within(10_000, 20_000, |_| false), room(4_000, None));
    }
}
