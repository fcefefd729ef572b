//! The server's interface: objects, their properties, tasks, waits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::session::{ACTION, KIND, Session};
use super::sources::{self, Error, Trust};
use super::xml::{Element, Ref};
use super::{Account, COMPONENT, soap};
use crate::http::{Call, CallError, Calls, Client, Limits, Pinned, Repeat, Retry, Service, Setup};
use crate::poll;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// Calls under way at once.
const PLACES: usize = 32;

/// Uploads under way at once.
const UPLOADS: usize = 2;

/// No answer is longer, in bytes.
const LIMIT: u64 = 64 << 20;

/// Objects that are asked about at once.
const BATCH: usize = 200;

/// How long the server may wait for a change before it answers.
const WAIT: Duration = Duration::from_secs(30);

/// How often in a row a change is waited for before the state is looked at again.
const WAITS: u32 = 20;

/// A vSphere, as one user sees it. Clones share connections and session.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service<Session>,
    place: String,
    /// Ends with the last of the clones.
    _pinned: Option<Pinned>,
}

/// What an object has of what was asked for.
#[derive(Clone, Debug)]
pub struct Object {
    /// Which.
    pub target: Ref,
    properties: BTreeMap<String, Element>,
}

impl Object {
    pub(super) fn read(element: &Element) -> Option<Self> {
        let property = |set: &Element| Some((set.said("name")?.to_owned(), set.at("val")?.clone()));
        let properties = element.all("propSet").filter_map(property).collect();
        Some(Self { target: element.target_at("obj")?, properties })
    }

    /// A property, if it has it.
    pub fn get(&self, property: &str) -> Option<&Element> {
        self.properties.get(property)
    }

    /// The text of a property; empty without it.
    pub fn text(&self, property: &str) -> &str {
        self.get(property).map(Element::own).unwrap_or_default()
    }

    /// The object that a property names.
    pub fn target(&self, property: &str) -> Option<Ref> {
        self.get(property)?.target()
    }
}

/// A way from objects to others: its name, the type of the objects, the property, and the ways to go on by.
pub type Way = (&'static str, &'static str, &'static str, &'static [&'static str]);

fn filter(from: &[Ref], ways: &[Way], wanted: &[(&str, &[&str])]) -> Element {
    let selection = |name: &str| Element::new("selectSet").with(Element::text("name", name));
    let way = |(name, kind, path, next): &Way| {
        Element::typed("selectSet", "TraversalSpec")
            .with(Element::text("name", name))
            .with(Element::text("type", kind))
            .with(Element::text("path", path))
            .with(Element::text("skip", false))
            .with_all(next.iter().map(|n| selection(n)))
    };
    let properties = |(kind, paths): &(&str, &[&str])| {
        let paths = paths.iter().map(|path| Element::text("pathSet", path));
        Element::new("propSet")
            .with(Element::text("type", kind))
            .with(Element::text("all", false))
            .with_all(paths)
    };
    let object = |from: &Ref| {
        let object = Element::new("objectSet")
            .with(Element::reference("obj", from))
            .with(Element::text("skip", false));
        object.with_all(ways.iter().map(way))
    };
    Element::new("specSet")
        .with_all(wanted.iter().map(properties))
        .with_all(from.iter().map(object))
        .with(Element::text("reportMissingObjectsInResults", true))
}

impl Api {
    /// Finds credentials; nothing is asked yet but, where only one certificate is trusted, for that.
    ///
    /// # Errors
    /// When there are no credentials, or the server has another certificate.
    pub async fn new(account: &Account) -> Result<Self> {
        let no_credentials = |e: Error| CallError::Credentials { of: "ESX", source: e.into() };
        let account = account.clone();
        let read = move || {
            let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
            let source = sources::find(&account, variable)?;
            let roots = match &source.trust {
                Trust::Roots(path) => {
                    let read = crate::input::read(path);
                    Some(read.map_err(|source| Error::Read { path: path.clone(), source })?)
                }
                _ => None,
            };
            Ok::<_, Error>((roots, source))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|e| CallError::setup(format!("the credentials cannot be read: {e}")))?;
        let (roots, mut source) = read.map_err(no_credentials)?;
        let authority = source.sdk.host_str().map(|host| match source.sdk.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        });
        let place = authority.unwrap_or_default();
        let insecure = source.trust == Trust::Insecure && source.sdk.scheme() == "https";
        if insecure {
            crate::warning!(
                COMPONENT,
                "the certificate of {place} is not checked: whoever answers gets the password"
            );
        }
        let pinned = match &source.trust {
            Trust::Thumbprint(print) if source.sdk.scheme() == "https" => {
                let pinned = Pinned::start(&source.sdk, print.clone()).await;
                let pinned = pinned.map_err(|e| CallError::Setup {
                    what: "connecting to ESX".into(),
                    source: Some(e.into()),
                })?;
                // What is told to the one with this certificate is told in the clear on this machine only.
                let _ = source.sdk.set_scheme("http");
                Some(pinned)
            }
            _ => None,
        };
        let retry = Retry { tries: 6, ..Retry::from_environment() };
        let through = pinned.as_ref().map(|p| p.socket().to_owned());
        let setup = Setup { redirects: false, roots, insecure, through, ..Setup::default() };
        let http = Client::with(Limits::of_service(poll::scale()), retry.clone(), &setup);
        let http = http.map_err(|e| CallError::Credentials { of: "ESX", source: e.into() })?;
        let session = Session::new(source, http.clone(), retry.clone());
        let calls = Calls::new(COMPONENT, retry, PLACES, UPLOADS);
        let service = Service::new(http, calls, session, soap::refusal);
        Ok(Self(Arc::new(Inner { service, place, _pinned: pinned })))
    }

    /// The server, as one calls it.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// Who calls.
    pub fn session(&self) -> &Session {
        self.0.service.access()
    }

    /// Asks whose session this is, beginning one; the server's own name.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn check(&self) -> Result<String> {
        let content = self.session().content().await?;
        let manager = content.manager("sessionManager")?;
        let found = self.retrieve(&[manager], &[], &[("SessionManager", &["currentSession"])]).await?;
        match found.first().and_then(|m| m.get("currentSession")) {
            Some(_) => Ok(content.name().to_owned()),
            None => Err(CallError::answer("RetrievePropertiesEx", "there is no session")),
        }
    }

    /// Ends the session. It would end by itself, some time later.
    pub async fn leave(&self) {
        let Ok(content) = self.session().content().await else { return };
        let Ok(manager) = content.manager("sessionManager") else { return };
        if let Err(e) = self.call("Logout", &manager, "Logout", [], Repeat::Never).await {
            crate::debug!(COMPONENT, "{}", crate::text::chain(&e));
        }
    }

    /// Calls a method of an object. `name` is for messages.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call(
        &self,
        name: impl Into<Cow<'static, str>>,
        of: &Ref,
        method: &str,
        with: impl IntoIterator<Item = Element>,
        repeat: Repeat,
    ) -> Result<Element> {
        self.asked(name.into(), soap::request(method, of).with_all(with), repeat, Duration::ZERO).await
    }

    async fn asked(
        &self,
        name: Cow<'static, str>,
        request: Element,
        repeat: Repeat,
        waits: Duration,
    ) -> Result<Element> {
        let url = self.session().source().sdk.clone();
        let call =
            self.0.service.post(name.clone(), url).header(ACTION.0, ACTION.1).body(KIND, request.envelope());
        let answer = call.repeat(repeat).limit(LIMIT).waits(waits).send().await?;
        soap::answer(&name, &answer.body)
    }

    /// Properties of objects, and of all that can be reached from them: of each type those that are wanted.
    ///
    /// # Errors
    /// Any [`CallError`]. Objects that are gone are left out.
    pub async fn retrieve(
        &self,
        from: &[Ref],
        ways: &[Way],
        wanted: &[(&str, &[&str])],
    ) -> Result<Vec<Object>> {
        const CALL: &str = "RetrievePropertiesEx";
        let collector = self.session().content().await?.manager("propertyCollector")?;
        let mut found = Vec::new();
        for from in from.chunks(BATCH) {
            let with = [filter(from, ways, wanted), Element::new("options")];
            let mut answer = match self.call(CALL, &collector, CALL, with, Repeat::Freely).await {
                Err(e) if e.is_not_found() => continue,
                answer => answer?,
            };
            loop {
                let objects = answer.at("returnval").into_iter().flat_map(|r| r.all("objects"));
                found.extend(objects.filter_map(Object::read));
                let Some(token) = answer.said("returnval/token").map(str::to_owned) else { break };
                let with = [Element::text("token", token)];
                const MORE: &str = "ContinueRetrievePropertiesEx";
                answer = self.call(MORE, &collector, MORE, with, Repeat::Never).await?;
            }
        }
        Ok(found)
    }

    /// Properties of one object; `None`: there is no such thing.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn object(&self, of: &Ref, properties: &[&str]) -> Result<Option<Object>> {
        let found = self.retrieve(std::slice::from_ref(of), &[], &[(&of.kind, properties)]).await?;
        Ok(found.into_iter().find(|o| o.target == *of))
    }

    /// Waits until a property is no longer this text, or a while has passed. The answer is to be looked for elsewhere.
    async fn changed(&self, of: &Ref, property: &str, from: &str) -> Result<()> {
        let main = self.session().content().await?.manager("propertyCollector")?;
        const CREATE: &str = "CreatePropertyCollector";
        let lacking = || CallError::answer(CREATE, "it names none");
        let made = self.call(CREATE, &main, CREATE, [], Repeat::Freely).await?;
        let collector = made.target_at("returnval").ok_or_else(lacking)?;
        let waited = self.waited(&collector, of, property, from).await;
        const DESTROY: &str = "DestroyPropertyCollector";
        if let Err(e) = self.call(DESTROY, &collector, DESTROY, [], Repeat::Never).await {
            crate::debug!(COMPONENT, "{}", crate::text::chain(&e));
        }
        match waited {
            // With the session before this one.
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn waited(&self, collector: &Ref, of: &Ref, property: &str, from: &str) -> Result<()> {
        let filter = filter(std::slice::from_ref(of), &[], &[(&of.kind, &[property])]).named("spec");
        const CREATE: &str = "CreateFilter";
        let with = [filter, Element::text("partialUpdates", false)];
        self.call(CREATE, collector, CREATE, with, Repeat::Freely).await?;
        let mut version = String::new();
        for _ in 0..WAITS {
            const WAIT_FOR: &str = "WaitForUpdatesEx";
            let options = Element::new("options").with(Element::text("maxWaitSeconds", WAIT.as_secs()));
            let request =
                soap::request(WAIT_FOR, collector).with(Element::text("version", &version)).with(options);
            let answer = self.asked(WAIT_FOR.into(), request, Repeat::Freely, WAIT).await?;
            // Nothing has changed, otherwise.
            let Some(set) = answer.at("returnval") else { continue };
            version = set.said("version").unwrap_or_default().to_owned();
            let objects = set.all("filterSet").flat_map(|f| f.all("objectSet"));
            let mut changes = objects.flat_map(|o| o.all("changeSet"));
            if changes.any(|c| c.said("name") == Some(property) && c.said("val") != Some(from)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until a property has one of these values; the object then.
    ///
    /// # Errors
    /// Any [`CallError`]; [`CallError::Answer`] when the object is gone.
    pub async fn settled(
        &self,
        call: &str,
        of: &Ref,
        property: &str,
        ends: &[&str],
        also: &[&str],
    ) -> Result<Object> {
        let mut properties = vec![property];
        properties.extend(also);
        loop {
            let object = self.object(of, &properties).await?;
            let object =
                object.ok_or_else(|| CallError::answer(call.to_owned(), format!("{} is gone", of.id)))?;
            let state = object.text(property).to_owned();
            if ends.contains(&&*state) {
                return Ok(object);
            }
            self.changed(of, property, &state).await?;
        }
    }

    /// Calls a method that is a task, and waits for its end; its result.
    ///
    /// # Errors
    /// Any [`CallError`]; [`CallError::Refused`] with what the task says, if it fails.
    pub async fn task(
        &self,
        name: impl Into<Cow<'static, str>>,
        of: &Ref,
        method: &str,
        with: impl IntoIterator<Item = Element>,
        repeat: Repeat,
    ) -> Result<Object> {
        let name = name.into();
        let task = self.begin(name.clone(), of, method, with, repeat).await?;
        self.end_of(name, &task).await
    }

    /// Begins a task.
    ///
    /// # Errors
    /// As [`Api::task`].
    pub async fn begin(
        &self,
        name: Cow<'static, str>,
        of: &Ref,
        method: &str,
        with: impl IntoIterator<Item = Element>,
        repeat: Repeat,
    ) -> Result<Ref> {
        let answer = self.call(name.clone(), of, method, with, repeat).await?;
        answer.target_at("returnval").ok_or_else(|| CallError::answer(name, "it names no task"))
    }

    /// Waits for the end of a task.
    ///
    /// # Errors
    /// As [`Api::task`].
    pub async fn end_of(&self, call: Cow<'static, str>, task: &Ref) -> Result<Object> {
        let ends = ["success", "error"];
        let object = self.settled(&call, task, "info.state", &ends, &["info.error", "info.result"]).await?;
        match object.text("info.state") {
            "success" => Ok(object),
            _ => {
                let refusal = object.get("info.error").map(soap::failure).unwrap_or_default();
                Err(CallError::Refused { call, refusal: Box::new(refusal) })
            }
        }
    }

    /// A file of a datastore; `None`: it is not there, or cannot be read now.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn file(&self, name: String, url: Url, limit: u64) -> Result<Option<Vec<u8>>> {
        let call = self.0.service.get(name, url).limit(limit).repeat(Repeat::Freely);
        match call.accept(StatusCode::INTERNAL_SERVER_ERROR).send().await {
            Ok(answer) if answer.status.is_success() => Ok(Some(answer.body)),
            // It is locked by the machine that writes it.
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends something to an address that is a permission itself.
    pub fn transfer(&self, name: String, method: reqwest::Method, url: Url) -> Call<'_, Session> {
        self.0.service.call(name, method, url).unsigned().data()
    }
}
