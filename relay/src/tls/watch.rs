//! Says when files may have changed, by inotify.
//!
//! What is watched are folders: programs that renew certificates rename a new file over the old one, or let a link
//! lead elsewhere (certbot the last one of the path, Kubernetes one in the middle), and neither of these writes
//! to the old file. Where inotify says nothing (a network's file system, no instance left), time does.

use std::collections::HashSet;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// Folders that are watched for one file: more than any chain of links that leads somewhere has.
const MAX_FOLDERS: usize = 64;
/// A certificate and its key are changed one after the other: for how long nothing must happen.
const QUIET: Duration = Duration::from_millis(300);
/// For how long that is waited for.
const MAX_UNREST: Duration = Duration::from_secs(3);

/// Folders that are watched. What happens after [`Watch::on`] is noticed, however late somebody waits for it.
pub struct Watch(Option<OwnedFd>);

impl Watch {
    /// Watches for changes of files.
    pub fn on<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let folders: HashSet<PathBuf> = files.into_iter().flat_map(folders).collect();
        let Ok(descriptor) = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) else {
            return Self(None);
        };
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for folder in folders {
            // A folder that isn't there shows when its files are read.
            let _ = inotify::add_watch(&descriptor, &folder, events);
        }
        Self(Some(descriptor))
    }

    /// Waits until something has changed and all is quiet again; for `limit` otherwise.
    pub fn wait(&self, limit: Duration) {
        if !self.happens_within(limit) {
            return;
        }
        let end = Instant::now() + MAX_UNREST;
        while Instant::now() < end && self.happens_within(QUIET) {}
    }

    /// Whether something happens; takes all of it.
    fn happens_within(&self, limit: Duration) -> bool {
        let Some(descriptor) = &self.0 else {
            std::thread::sleep(limit);
            return false;
        };
        let limit = Timespec::try_from(limit).expect("limits are short");
        let mut wanted = [PollFd::new(descriptor, PollFlags::IN)];
        // After a signal: looking once more than needed does no harm.
        if poll(&mut wanted, Some(&limit)) == Ok(0) {
            return false;
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(descriptor, &mut buffer);
        while events.next().is_ok() {}
        true
    }
}

/// The folder of a file, and wherever a link of its path is or leads to.
fn folders(file: &Path) -> Vec<PathBuf> {
    let (mut found, mut paths) = (Vec::new(), vec![file.to_owned()]);
    while let Some(path) = paths.pop() {
        found.push(folder_of(&path));
        for part in path.ancestors() {
            let Ok(target) = fs::read_link(part) else { continue };
            found.push(folder_of(part));
            paths.push(folder_of(part).join(target));
        }
        if found.len() > MAX_FOLDERS {
            break;
        }
    }
    found
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Whether a change is noticed long before time is up.
    fn is_noticed(file: &Path, change: impl FnOnce()) -> bool {
        let watch = Watch::on([file]);
        change();
        let start = Instant::now();
        watch.wait(LONG);
        start.elapsed() < LONG
    }

    #[test]
    fn a_new_file_over_an_old_one_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, new) = (folder.path().join("cert.pem"), folder.path().join("cert.pem.new"));
        fs::write(&file, "old").expect("written");
        assert!(is_noticed(&file, || fs::write(&file, "other").expect("written")));
        fs::write(&new, "new").expect("written");
        assert!(is_noticed(&file, || fs::rename(&new, &file).expect("renamed")));
    }

    // certbot: live/NAME/fullchain.pem leads to ../../archive/NAME/fullchain1.pem, then to fullchain2.pem.
    // Kubernetes: tls.crt leads to ..data/tls.crt, and ..data to a folder, then to another one.
    #[test]
    fn links_that_lead_elsewhere_are_noticed_at_the_end_and_in_the_middle() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["1", "2", "secret"] {
            fs::create_dir(at(name)).expect("a folder");
        }
        let relink = |target: &str, link: &str| {
            symlink(target, at("link.new")).expect("a link");
            fs::rename(at("link.new"), at(link)).expect("renamed");
        };
        relink("../1", "secret/..data");
        relink("..data/tls.crt", "secret/tls.crt");
        assert!(is_noticed(&at("secret/tls.crt"), || relink("../2", "secret/..data")));
        relink("secret", "live");
        assert!(is_noticed(&at("live/tls.crt"), || relink("../2/tls.crt", "secret/tls.crt")));
        assert!(is_noticed(&at("live/tls.crt"), || relink("1", "live")), "its folder is a link");
        assert!(is_noticed(&at("live/tls.crt"), || fs::write(at("1/tls.crt"), "new").expect("written")));
    }

    #[test]
    fn without_news_it_takes_its_time_and_links_in_a_circle_end() {
        let folder = tempfile::tempdir().expect("a folder");
        symlink("b", folder.path().join("a")).expect("a link");
        symlink("a", folder.path().join("b")).expect("a link");
        let start = Instant::now();
        Watch::on([folder.path().join("a").as_path()]).wait(Duration::from_millis(50));
        Watch(None).wait(Duration::from_millis(50));
        assert!(start.elapsed() >= Duration::from_millis(100));
    }
}
