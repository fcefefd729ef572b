//! What the service does after it has answered: an operation is waited for where the answer says, else by the state of
//! the resource.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Arm, refusal};
use crate::http::{self, CallError, Class, Refusal, Repeat};
use crate::poll::{self, Answer, Poll};

/// How often and how long it is asked whether something was done, unless the service names another pause.
const DONE: Poll = Poll::seconds(10, 1800);

/// The longest pause that is granted to the service.
const LONGEST: Duration = Duration::from_secs(60);

const OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");

/// Why an operation was not waited for to its end, or has not done its work.
pub type Unfinished = poll::Error<CallError>;

/// Where it is asked how far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    /// At a record of the operation.
    Operation(Url),
    /// Where the outcome will be: it is pending as long as the answer is 202.
    Outcome(Url),
    /// At the resource itself.
    Resource,
    /// It is done.
    Nothing,
}

impl Arm {
    /// Makes or replaces something and waits until it is there; what it is then, where the answers say it.
    pub(super) async fn make(
        &self,
        what: &str,
        url: Url,
        body: &Value,
        cancel: &CancellationToken,
    ) -> Result<Option<Value>, Unfinished> {
        let call = format!("creation of {what}");
        let sent = self.0.service.put(call.clone(), url.clone()).json(body);
        let answer = sent.send().await.map_err(poll::Error::Failed)?;
        self.wait(&call, &url, &answer, cancel).await
    }

    /// Removes something and waits until it is gone; whether it was there.
    pub(super) async fn remove(
        &self,
        what: &str,
        url: Url,
        cancel: &CancellationToken,
    ) -> Result<bool, Unfinished> {
        let call = format!("deletion of {what}");
        let answer = match self.0.service.delete(call.clone(), url.clone()).send().await {
            Err(e) if e.is_not_found() => return Ok(false),
            other => other.map_err(poll::Error::Failed)?,
        };
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(false);
        }
        match self.wait(&call, &url, &answer, cancel).await {
            Err(poll::Error::Failed(e)) if e.is_not_found() => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Asks something of a resource; what it answers in the end.
    pub(super) async fn ask(
        &self,
        call: String,
        url: Url,
        body: &Value,
        cancel: &CancellationToken,
    ) -> Result<Value, Unfinished> {
        let asked = self.0.service.post(call.clone(), url.clone()).repeat(Repeat::Freely);
        let asked = if body.is_null() { asked } else { asked.json(body) };
        let answer = asked.send().await.map_err(poll::Error::Failed)?;
        let value = self.wait(&call, &url, &answer, cancel).await?;
        value.ok_or_else(|| poll::Error::Failed(CallError::answer(call, "it is empty")))
    }

    /// Waits for the end of what an answer has begun; what stands there then, unless it has to be asked for.
    async fn wait(
        &self,
        call: &str,
        url: &Url,
        first: &http::Answer,
        cancel: &CancellationToken,
    ) -> Result<Option<Value>, Unfinished> {
        let failed = poll::Error::Failed;
        let how = self.how(call, url, first).map_err(failed)?;
        let at = match &how {
            Ask::Nothing => return Ok(json(&first.body)),
            Ask::Operation(at) | Ask::Outcome(at) => at,
            Ask::Resource => url,
        };
        let mut early = Some(pause(&first.headers));
        let ask = || {
            // Nothing is done at once: the first pause is the one that the answer asks for.
            let wait = early.take();
            let how = &how;
            async move {
                if let Some(wait) = wait {
                    return Ok(later("accepted".into(), wait));
                }
                let answer = self.0.service.get(call.to_owned(), at.clone()).send().await?;
                let wait = pause(&answer.headers);
                let value = json(&answer.body);
                let state = match how {
                    Ask::Outcome(_) if answer.status == StatusCode::ACCEPTED => {
                        return Ok(later("accepted".into(), wait));
                    }
                    Ask::Outcome(_) | Ask::Nothing => return Ok(Answer::Ready(value)),
                    Ask::Operation(_) => value.as_ref().and_then(|v| v["status"].as_str()),
                    Ask::Resource => value.as_ref().and_then(state),
                };
                match state.unwrap_or("Succeeded") {
                    "Succeeded" => {
                        let here = matches!(how, Ask::Resource);
                        let outcome = value.and_then(|v| match here {
                            true => Some(v),
                            false => Some(v["properties"]["output"].clone()).filter(|o| !o.is_null()),
                        });
                        Ok(Answer::Ready(outcome))
                    }
                    ended @ ("Failed" | "Canceled" | "Cancelled") => {
                        Err(failure(call, ended, value.as_ref()))
                    }
                    state => Ok(later(state.to_owned(), wait)),
                }
            }
        };
        DONE.until(call, cancel, ask).await
    }

    /// Where to ask. Credentials go to no other server.
    fn how(&self, call: &str, url: &Url, first: &http::Answer) -> Result<Ask, CallError> {
        let named = |name: HeaderName| -> Result<Option<Url>, CallError> {
            let Some(text) = first.headers.get(&name).and_then(|v| v.to_str().ok()) else { return Ok(None) };
            match url.join(text) {
                Ok(to) if to.origin() == url.origin() => Ok(Some(to)),
                _ => Err(CallError::answer(call.to_owned(), format!("its {name} leads to another server"))),
            }
        };
        if let Some(at) = named(OPERATION)? {
            return Ok(Ask::Operation(at));
        }
        if first.status == StatusCode::ACCEPTED {
            return Ok(named(LOCATION)?.map_or(Ask::Resource, Ask::Outcome));
        }
        let value = json(&first.body);
        let is_pending = |state: &str| !["Succeeded", "Failed", "Canceled"].contains(&state);
        match value.as_ref().and_then(state) {
            Some(state) if is_pending(state) => Ok(Ask::Resource),
            Some(state) if state != "Succeeded" => Err(failure(call, state, value.as_ref())),
            _ => Ok(Ask::Nothing),
        }
    }
}

fn later(state: String, wait: Option<Duration>) -> Answer<Option<Value>> {
    match wait {
        Some(wait) => Answer::Later(state, wait),
        None => Answer::NotYet(state),
    }
}

fn json(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().filter(|v: &Value| !v.is_null())
}

/// How far a resource is.
fn state(resource: &Value) -> Option<&str> {
    resource["properties"]["provisioningState"].as_str()
}

/// The pause that the service asks for.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

/// What went wrong.
fn failure(call: &str, state: &str, value: Option<&Value>) -> CallError {
    let error = value.map(|v| &v["error"]).filter(|e| e.is_object());
    // It was executed and has ended: whatever it says, this is not a passing trouble of the service.
    let plain = Refusal { status: 400, class: Class::Invalid, ..Refusal::default() };
    let mut refusal = match error {
        Some(error) => refusal::of(error, plain),
        None => Refusal { message: Some(format!("the service says {state}, and no more")), ..plain },
    };
    if matches!(refusal.class, Class::Throttled | Class::Trouble | Class::Expired) {
        refusal.class = Class::Invalid;
    }
    CallError::Refused {
        call: format!("{call}: the operation {}", state.to_lowercase()).into(),
        refusal: Box::new(refusal),
    }
}
