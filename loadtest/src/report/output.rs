//! Where reports go: files that are opened before a run, so that a bad path costs no run.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file for a report. Nothing is at its place before [`Output::write`], and nothing is left of it if
/// that is never called.
#[derive(Debug)]
pub struct Output {
    shown: PathBuf,
    file: File,
    /// What is written, and where it goes then; none if that is no ordinary file, such as `/dev/stdout`.
    part: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// Opens it for writing.
    ///
    /// # Errors
    /// If that isn't possible: one line with the path.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::try_open(path).map_err(|error| failed(path, &error))
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        let shown = path.to_owned();
        // A link is followed: what it names is replaced, not the link.
        let target = path.canonicalize().unwrap_or_else(|_| shown.clone());
        let kind = target.metadata().map(|found| found.file_type());
        if kind.as_ref().is_ok_and(|kind| kind.is_dir()) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if kind.is_ok_and(|kind| !kind.is_file()) {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { shown, file, part: None });
        }
        let mut name = target.clone().into_os_string();
        name.push(".part");
        let file = File::create(&name)?;
        Ok(Self { shown, file, part: Some((name.into(), target)) })
    }

    /// Writes the text, whole or not at all, so that a reader never sees half a file.
    ///
    /// # Errors
    /// If that fails: one line with the path.
    pub fn write(mut self, text: &str) -> Result<(), String> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| match self.part.take() {
            Some((part, target)) => std::fs::rename(part, target),
            None => Ok(()),
        });
        written.map_err(|error| failed(&self.shown, &error))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.part {
            // A leftover is no reason to fail.
            let _ = std::fs::remove_file(part);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// The report's files, as the command line names them.
#[derive(Debug, Default)]
pub struct Outputs {
    json: Option<Output>,
    html: Option<Output>,
}

impl Outputs {
    /// Opens what is asked for.
    ///
    /// # Errors
    /// If one can't be written, or both are the same.
    pub fn open(json: Option<&Path>, html: Option<&Path>) -> Result<Self, String> {
        if json.is_some() && json == html {
            return Err("--json and --html name the same file".into());
        }
        let open = |path: Option<&Path>| path.map(Output::open).transpose();
        Ok(Self { json: open(json)?, html: open(html)? })
    }

    /// Writes the report to each.
    ///
    /// # Errors
    /// If one can't be written.
    pub fn write(self, report: &super::Report) -> Result<(), String> {
        if let Some(output) = self.json {
            output.write(&super::json::text(report))?;
        }
        self.html.map_or(Ok(()), |output| output.write(&super::html::page(report)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_cannot_be_written_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing/report.json");
        let fault = Output::open(&missing).expect_err("no such folder");
        assert!(fault.contains("missing/report.json"), "{fault}");
        Output::open(folder.path()).expect_err("a folder is no file");
    }

    #[test]
    fn nothing_is_at_its_place_before_it_is_written_and_nothing_beside_it_after() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        let files = || std::fs::read_dir(folder.path()).expect("readable").count();
        drop(Output::open(&path).expect("opened"));
        assert_eq!(files(), 0);
        let output = Output::open(&path).expect("opened");
        assert!(!path.exists());
        output.write("{}").expect("written");
        assert_eq!((std::fs::read_to_string(&path).ok().as_deref(), files()), (Some("{}"), 1));
    }

    #[test]
    fn a_link_is_followed_and_a_device_stays_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&target, "old").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        Output::open(&link).expect("opened").write("new").expect("written");
        assert_eq!(std::fs::read_to_string(&target).ok().as_deref(), Some("new"));
        assert!(link.is_symlink());
        Output::open(Path::new("/dev/null")).expect("opened").write("gone").expect("written");
        assert!(!Path::new("/dev/null").is_file() && Path::new("/dev/null").exists());
    }
}
