//! Loads the configuration, at the start and again for a reload.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;

use super::layers::{from_environment, from_flags};
use super::options::{Config, Kind, OPTIONS, assign};
use super::plain::without_mark;
use super::reading::{Reader, Stuck};
use super::report::{Place, Problem, Problems, Report};
use super::settings::{Layer, Settings};
use super::strength::exposure;
use super::types::{Quickstart, Secret};
use super::{check, file, machine, secrets};

/// A configuration, and what should be said about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration that all layers together give.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Remembers where the configuration comes from, so that it can be loaded again.
///
/// Flags and environment are those of the start; files are read each time.
pub struct Loader {
    file: Option<Arc<PathBuf>>,
    environment: Vec<(OsString, OsString)>,
    flags: Layer,
    quickstart: Option<Quickstart>,
    only_checks: bool,
    reader: Arc<Reader>,
}

impl Loader {
    /// The file, if any; and the environment as given (usually `std::env::vars_os`).
    pub fn new(file: Option<PathBuf>, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = |(name, _): &(OsString, OsString)| name.to_string_lossy().starts_with("TURNPIKE_");
        Loader {
            file: file.map(Arc::new),
            environment: environment.into_iter().filter(ours).collect(),
            flags: Layer::new(),
            quickstart: None,
            only_checks: false,
            reader: Arc::default(),
        }
    }

    /// For checking a file, never for running with it: warns of addresses that are taken or not there.
    #[must_use]
    pub fn only_to_check(mut self) -> Self {
        self.only_checks = true;
        self
    }

    /// Adds the flags of the command line.
    #[must_use]
    pub fn with_flags(mut self, matches: &ArgMatches) -> Self {
        self.flags = from_flags(matches);
        self
    }

    /// Makes every configuration that is loaded a trial on this machine.
    #[must_use]
    pub fn with_quickstart(mut self, quickstart: Quickstart) -> Self {
        self.quickstart = Some(quickstart);
        self
    }

    /// Reads everything anew.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load(&self) -> Result<Loaded, Problems> {
        self.load_and(|_, _, _| ())
    }

    /// Reads everything, and looks at what a start needs of this machine beside it. For `run` and for
    /// `check-config`, so that both accept the same.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load_to_start(&self) -> Result<Loaded, Problems> {
        self.load_and(|config, settings, report| {
            machine::check(config, settings, report);
            if self.only_checks {
                machine::check_addresses(config, settings, report);
            }
        })
    }

    fn load_and(
        &self,
        look_further: impl FnOnce(&Config, &Settings, &mut Report),
    ) -> Result<Loaded, Problems> {
        let mut report = Report::default();
        let (mut config, settings) = self.assemble(&mut report);
        if let Some(quickstart) = &self.quickstart {
            quickstart.apply(&mut config, &settings);
        }
        check::check(&config, &settings, &mut report);
        look_further(&config, &settings, &mut report);
        let warnings = report.warnings.clone();
        match report.into_faults() {
            Some(problems) => Err(problems),
            None => Ok(Loaded { config, warnings }),
        }
    }

    /// Reads only the secrets for time-limited credentials, at least one.
    ///
    /// # Errors
    /// Everything that is wrong, also if there is no secret.
    pub fn load_auth_secrets(&self) -> Result<Vec<Secret>, Problems> {
        let mut report = Report::default();
        let (config, settings) = self.assemble(&mut report);
        if config.auth_secrets.is_empty() && report.faults.is_empty() {
            let message = "missing: no auth-secret or auth-secret-file is given";
            report.fault(Problem::new(settings.home.clone(), "auth-secret", message));
        }
        match report.into_faults() {
            Some(problems) => Err(problems),
            None => Ok(config.auth_secrets.0),
        }
    }

    /// Does `work`, which loads or reads something, on a thread of its own, and waits a few seconds for it.
    /// As long as such a thread hangs, there is no other one.
    ///
    /// # Errors
    /// The file that does not come.
    pub fn in_time<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Loader) -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        let loader = Arc::clone(self);
        self.reader.in_time(move || work(&loader))
    }

    /// Notes what is read next, for the message if it does not come.
    pub fn note(&self, path: &Path) {
        self.reader.begin(path);
    }

    /// Puts the layers together and makes types of texts; whether they fit together is another matter.
    fn assemble(&self, report: &mut Report) -> (Config, Settings) {
        let from_file = self.read_file(report);
        let from_environment = from_environment(self.environment.iter().cloned(), report);
        let home = match &self.file {
            Some(path) => Place::File(Arc::clone(path), 0, 0),
            None => Place::CommandLine,
        };
        let mut settings = Settings::merge(home, [from_file, from_environment, self.flags.clone()]);
        let mut config = assign(&mut settings, report);
        secrets::load(&mut config, &settings, &self.reader, report);
        self.warn_of_exposure(&settings, report);
        self.reader.end();
        (config, settings)
    }

    /// Secrets may stand in the file itself.
    fn warn_of_exposure(&self, settings: &Settings, report: &mut Report) {
        let Some(path) = &self.file else { return };
        let is_here = |place: &Place| matches!(place, Place::File(..));
        let keys = OPTIONS.iter().filter(|spec| spec.kind == Kind::Secrets).map(|spec| spec.key);
        let Some(key) = keys.into_iter().find(|key| settings.places(key).any(is_here)) else { return };
        if let Some(why) = exposure(path) {
            report.warn(Problem::new(Place::File(Arc::clone(path), 0, 0), key, why));
        }
    }

    fn read_file(&self, report: &mut Report) -> Layer {
        let Some(path) = &self.file else { return Layer::new() };
        match self.reader.text(path) {
            Ok(text) => file::from_toml(Arc::clone(path), without_mark(&text), report),
            Err(error) => {
                report.incomplete = true;
                let place = Place::File(Arc::clone(path), 0, 0);
                report.fault(Problem { place, key: None, message: format!("can't be read: {error}") });
                Layer::new()
            }
        }
    }
}
