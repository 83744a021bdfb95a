//! Time-limited credentials for the clients of a signaling server.

use turnpike_admin::RelayError;
use turnpike_admin::limits::MAX_TTL_SECS;
use turnpike_admin::model::{CredentialRequest, Credentials, Password};

use super::convert::Moment;
use super::state::Control;
use crate::{banner, credentials};

/// Lifetime where none is asked for: a day, as the draft suggests.
const DEFAULT_TTL_SECS: u64 = 86_400;

impl Control {
    pub(super) fn issue(&self, request: &CredentialRequest) -> Result<Credentials, RelayError> {
        let ttl_secs = request.ttl_secs.unwrap_or(DEFAULT_TTL_SECS);
        if !(1..=MAX_TTL_SECS).contains(&ttl_secs) {
            return Err(RelayError::Invalid(format!("ttl_secs is 1 to {MAX_TTL_SECS}")));
        }
        let config = self.config.load();
        let Some(secret) = config.auth_secrets.first() else {
            let why = "no auth-secret is configured, and time-limited credentials are made from one";
            return Err(RelayError::Conflict(why.to_owned()));
        };
        let expiry = Moment::now().unix_secs().saturating_add(ttl_secs);
        let credential = credentials::issue(secret, &request.user, expiry).map_err(RelayError::Invalid)?;
        Ok(Credentials {
            username: credential.username,
            password: Password::new(credential.password.as_str().to_owned()),
            ttl_secs,
            uris: banner::urls(&self.ready, &self.certificate_names()),
        })
    }
}
