//! What is particular to vSphere in requests, faults and their judges.

mod double;
mod kola;
mod ore;

use mantle::cloud::esx::xml::Element;
use serde_json::json;

use crate::support::Outcome;
use crate::support::emulators;
use crate::support::http::{Request, Response};
use crate::support::proxy::Entry;

/// What stands in a request's envelope.
pub fn asked(request: &Request) -> Option<Element> {
    let envelope = Element::read(&request.body).ok()?;
    envelope.at("Body")?.children().first().cloned()
}

/// The operation, such as `CloneVM_Task`; of questions also the type of what is asked about.
pub fn action(request: &Request) -> String {
    if request.path().starts_with("/folder/") {
        return "console".into();
    }
    if request.path().starts_with("/nfc/") {
        return "upload".into();
    }
    let Some(asked) = asked(request) else { return format!("{} {}", request.method, request.path()) };
    let kind = || asked.target_at("specSet/objectSet/obj").map(|of| of.kind).unwrap_or_default();
    match asked.name() {
        "RetrievePropertiesEx" => format!("RetrievePropertiesEx {}", kind()),
        name => name.to_owned(),
    }
}

/// A fault of the server.
pub fn fault(name: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode\
         </faultcode><faultstring>{message}</faultstring><detail><{name}Fault xmlns=\"urn:vim25\" xsi:type=\"{name}\"/>\
         </detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>"
    );
    Response::new(500, "text/xml; charset=utf-8", body)
}

/// What a program said to people, however it broke the lines.
pub fn told(outcome: &Outcome) -> String {
    outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fails if the type tables of pyvmomi have anything against these requests; without that, says so.
#[track_caller]
pub fn judged(journal: &[Entry]) {
    let soap = journal.iter().filter(|e| asked(&e.request).is_some());
    emulators::judged("judge_vsphere.py", &["requests"], soap.map(|e| json!({"body": e.request.text()})));
}
