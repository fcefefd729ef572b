//! What the applets that download share: the choice of keys and credentials, the report, the advice.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ::mantle::args;
pub use ::mantle::cloud::google::SCOPES;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::cloud::google::storage::{Options, Storage};
use ::mantle::download::{Engine, Error, Outcome, Source, Update};
use ::mantle::error::{Result, Section as _, Stop, WrapErr, eyre};
use ::mantle::http::{Client, Limits, Retry};
use ::mantle::notice;
use ::mantle::openpgp::{Builtin, Keyring};
use clap::{Arg, ArgMatches, ValueHint};
use color_eyre::eyre::Report;
use reqwest::StatusCode;

/// A path option that is given and not empty.
pub fn path(matches: &ArgMatches, id: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(id).cloned().filter(|p| !p.as_os_str().is_empty())
}

/// `--verify-key`. Release keys change yearly, so it can be set once and for all.
pub fn verify_key() -> Arg {
    Arg::new("verify-key")
        .long("verify-key")
        .value_name("FILE")
        .env("MANTLE_VERIFY_KEY")
        .hide_env_values(true)
        .value_parser(args::path_parser())
        .value_hint(ValueHint::FilePath)
        .help("Trust the OpenPGP keys in this file instead of the built-in release keys")
}

/// The keys of `--verify-key`, else the built-in release keys.
pub fn keyring(file: Option<&Path>) -> Result<Keyring> {
    match file.filter(|p| !p.as_os_str().is_empty()) {
        Some(file) => {
            Keyring::read(file).wrap_err_with(|| format!("cannot use --verify-key={}", file.display()))
        }
        None => Ok(Keyring::builtin(Builtin::Both)?),
    }
}

/// Whether a person is at the terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A client of Google Storage; a person at the terminal may be asked to log in.
pub fn storage(choice: Choice, scopes: &'static [&'static str]) -> Result<Storage> {
    storage_at(choice, scopes, None)
}

/// As [`storage`], at a chosen endpoint if there is one.
pub fn storage_at(
    choice: Choice,
    scopes: &'static [&'static str],
    endpoint: Option<&str>,
) -> Result<Storage> {
    let http = Client::new(Limits::from_environment(), Retry::from_environment())?;
    let options = Options::from_environment(choice, scopes, is_interactive())?;
    let options = match endpoint {
        Some(endpoint) => options.with_endpoint(endpoint)?,
        None => options,
    };
    Ok(Storage::new(http, options))
}

/// A download engine for all schemes.
pub fn engine(choice: Choice, scopes: &'static [&'static str]) -> Result<Engine> {
    let storage = storage(choice, scopes)?;
    Ok(Engine::new(storage.http().clone(), Some(storage)))
}

/// Says what came of an update.
pub fn report(component: &str, update: &Update, destination: &Path) {
    let size = destination.metadata().ok().map(|m| m.len());
    notice!(component, "{}", last_line(update, &destination.display().to_string(), size));
}

/// What came of an update, in one line: name, size, rate and signer. `size`: what the file has, if it was there.
pub fn last_line(update: &Update, name: &str, size: Option<u64>) -> String {
    let (what, verdict) = match update {
        Update::Current { verdict } => {
            let size = size.map(|size| format!(": {size} bytes")).unwrap_or_default();
            match verdict {
                Some(_) => (format!("Verified existing file {name}{size}"), verdict),
                None => (format!("{name} is up to date{size}"), verdict),
            }
        }
        Update::Replaced(outcome) => {
            let Outcome { verdict, written, resumed, elapsed } = outcome;
            let seconds = elapsed.as_secs_f64();
            let rate = written.saturating_sub(*resumed) as f64 / seconds.max(0.001) / 1e6;
            let kind = if verdict.is_some() { "Verified file " } else { "" };
            let resumed = match resumed {
                0 => String::new(),
                some => format!(", {some} of them resumed"),
            };
            (format!("{kind}{name}: {written} bytes in {seconds:.1} s, {rate:.1} MB/s{resumed}"), verdict)
        }
    };
    format!("{what}, {}", verdict.as_deref().unwrap_or("not verified"))
}

/// The error with advice: which option helps.
pub fn explain(error: Error, source: &Source) -> Report {
    if matches!(error, Error::Interrupted) {
        return Stop::Interrupted.into();
    }
    let anonymous = matches!(&error, Error::Storage(e) if e.needs_credentials());
    let private = matches!(source, Source::S3(_)) && error.status() == Some(StatusCode::FORBIDDEN);
    let missing_signature = error.status() == Some(StatusCode::NOT_FOUND)
        && match &error {
            Error::Http(e) => e.to_string().contains(".sig:"),
            Error::Storage(e) => {
                e.call().is_some_and(|call| call.ends_with(&format!(" {}", source.with_suffix(".sig"))))
            }
            _ => false,
        };
    let unknown_signer = matches!(&error, Error::Rejected { source, .. }
        if matches!(source.downcast_ref(), Some(::mantle::openpgp::Error::UnknownSigner { .. })));
    let is_encoded = matches!(&error, Error::Encoded { .. });
    let report = eyre!(error).wrap_err(format!("cannot get {source}"));
    if missing_signature {
        report.suggestion(
            "there is no signature beside the file: pass --verify=false if that is as it should be",
        )
    } else if private {
        report.suggestion("objects of S3 are read without credentials: only public ones can be got, and where names are secret a missing one is refused, too")
    } else if anonymous {
        report
            .suggestion("pass --json-key, or let `gcloud auth application-default login` make credentials")
            .suggestion("or put [OAuth2] client_id and client_secret of your own into ~/.boto and run this on a terminal")
    } else if is_encoded {
        report.suggestion(
            "have the file stored without Content-Encoding (as application/gzip, if it is to be compressed), or sign \
             what is served",
        )
    } else if unknown_signer {
        report.suggestion("pass --verify-key if it is signed by somebody whom you trust")
    } else {
        report
    }
}
