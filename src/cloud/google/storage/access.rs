//! With which credentials Cloud Storage is asked, if with any.

use tokio::sync::Mutex;

use super::super::Error as CredentialsError;
use super::super::credentials::{Credentials, Token, no_credentials};
use super::super::sources;
use super::Options;
use crate::http::{Access, Authorize, CallError, Class, Client};

/// Finds credentials at the first call. Without any, or when those found give no token, calls are made anonymously;
/// if that is refused, a person may log in.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) options: Options,
    http: Client,
    found: Mutex<Found>,
}

#[derive(Debug)]
enum Found {
    Unknown,
    Nothing,
    Some(Credentials),
}

impl Door {
    pub(super) fn new(options: Options, http: Client) -> Self {
        Self { options, http, found: Mutex::new(Found::Unknown) }
    }

    /// Whether calls are made without credentials.
    pub(super) async fn is_anonymous(&self) -> bool {
        matches!(*self.found.lock().await, Found::Nothing)
    }

    async fn token(&self) -> Result<Option<Token>, CredentialsError> {
        let mut found = self.found.lock().await;
        let Options { choice, environment, scopes, emulator, .. } = &self.options;
        let chosen = choice.service || choice.key.is_some();
        if let Found::Unknown = *found {
            let credentials = match *emulator && !chosen {
                true => None,
                false => sources::find(choice, environment, scopes, &self.http).await?,
            };
            *found = credentials.map_or(Found::Nothing, Found::Some);
        }
        let Found::Some(credentials) = &*found else { return Ok(None) };
        match credentials.token().await {
            Ok(token) => Ok(Some(token)),
            Err(e) if !chosen => {
                crate::warning!("storage", "{}; going on without credentials", crate::text::chain(&e));
                *found = Found::Nothing;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn log_in(&self) -> Result<bool, CredentialsError> {
        let Options { environment, scopes, interactive, emulator, .. } = &self.options;
        if !interactive || *emulator {
            return Ok(false);
        }
        let mut found = self.found.lock().await;
        if let Found::Some(_) = *found {
            return Ok(true); // somebody was faster
        }
        let Some(credentials) = sources::log_in(environment, scopes, &self.http).await? else {
            return Ok(false);
        };
        *found = Found::Some(credentials);
        Ok(true)
    }
}

impl Access for Door {
    /// `None`: anonymous.
    type Proof = Option<Token>;

    async fn proof(&self) -> Result<Option<Token>, CallError> {
        self.token().await.map_err(no_credentials)
    }

    async fn refused(&self, token: &Option<Token>, error: &CallError) -> Result<bool, CallError> {
        let Some(token) = token else { return self.log_in().await.map_err(no_credentials) };
        if error.class() != Some(Class::Expired) {
            return Ok(false);
        }
        match &*self.found.lock().await {
            Found::Some(credentials) => Ok(credentials.refused(token).await),
            Found::Nothing | Found::Unknown => Ok(false),
        }
    }
}

impl Authorize for Door {
    fn sign(&self, token: &Option<Token>, request: &mut reqwest::Request) -> Result<(), CallError> {
        if let Some(token) = token {
            token.authorize(request);
        }
        Ok(())
    }
}
