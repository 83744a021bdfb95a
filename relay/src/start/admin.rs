//! The administration's listener and its helpers, where one is configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use turnpike_admin::{Running, Settings, StartError};

use crate::config::Config;
use crate::control::Control;
use crate::setup;
use crate::worker::EventSource;

/// The administration at work; it ends when dropped.
pub struct Administration {
    running: Running,
    is_https: bool,
    /// Publishes events and looks at the workers once a second; there until it is dropped.
    helpers: Option<Runtime>,
}

impl Drop for Administration {
    fn drop(&mut self) {
        // Whatever they are at: nobody waits for them.
        self.helpers.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Administration {
    /// Starts what is configured, if anything.
    ///
    /// # Errors
    /// If the address is taken, or there are no threads.
    pub fn start(
        config: &Config,
        control: &Arc<Control>,
        events: EventSource,
    ) -> Result<Option<Administration>, StartError> {
        let Some(listen) = config.admin else { return Ok(None) };
        let settings = Settings {
            listen,
            tokens: setup::admin_tokens(&config.admin_tokens),
            hosts: config.admin_host.clone(),
            tls: control.admin_certificate(),
        };
        let is_https = settings.tls.is_some();
        let helpers = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control")
            .enable_time()
            .build()
            .map_err(StartError::Threads)?;
        helpers.spawn(Arc::clone(control).publish_events(events));
        helpers.spawn(Arc::clone(control).tick());
        let running = turnpike_admin::start(settings, Arc::clone(control) as _)?;
        control.set_admin(running.handle());
        Ok(Some(Administration { running, is_https, helpers: Some(helpers) }))
    }

    /// Takes no further request; those under way are answered until it is dropped.
    pub fn begin_stop(&self) {
        self.running.begin_stop();
    }

    /// Where a browser on this host finds it.
    pub fn url(&self) -> String {
        let address = self.running.address();
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}/", SocketAddr::new(ip, address.port()))
    }
}
