//! What is asked and answered in SOAP, and what vSphere's faults mean.

use super::xml::{Element, Ref};
use crate::http::{CallError, Class, Refusal, Refused, clean};

/// A request for a method of an object.
pub fn request(method: &str, of: &Ref) -> Element {
    Element::new(method).with(Element::reference("_this", of))
}

/// What is in an answer.
///
/// # Errors
/// [`CallError::Answer`].
pub fn answer(call: &str, body: &[u8]) -> Result<Element, CallError> {
    let odd = |reason: &str| CallError::answer(call.to_owned(), reason);
    let envelope = Element::read(body).map_err(odd)?;
    let body = envelope.at("Body").ok_or_else(|| odd("there is no body in it"))?;
    match body.children() {
        [answer] if answer.name().ends_with("Response") => Ok(answer.clone()),
        _ => Err(odd("it is no answer")),
    }
}

/// Reads a refusal: a fault of SOAP, whose status is always 500 and says nothing, or that of some server on the way.
pub fn refusal(refused: &Refused<'_>) -> Refusal {
    let plain = refused.plain();
    let envelope = Element::read(refused.body).ok();
    let Some(fault) = envelope.as_ref().and_then(|e| e.at("Body/Fault")) else { return plain };
    let said = fault.said("faultstring").unwrap_or_default();
    let Some(detail) = fault.at("detail").and_then(|d| d.children().first()) else {
        // Of the layer below: the request itself was not understood, or the server is not ready.
        let code = fault.said("faultcode").and_then(|c| clean(c.rsplit(':').next().unwrap_or_default()));
        return Refusal { code, message: clean(said), ..plain };
    };
    let name = match detail.kind() {
        "" => detail.name().strip_suffix("Fault").unwrap_or(detail.name()),
        kind => kind,
    };
    fault_of(name, said, detail)
}

/// What became of a task that failed, by its `error`.
pub fn failure(error: &Element) -> Refusal {
    let fault = error.at("fault");
    let empty = Element::default();
    let name = fault.map_or("", Element::kind);
    fault_of(name, error.said("localizedMessage").unwrap_or_default(), fault.unwrap_or(&empty))
}

/// A fault with its name. Nothing was done, unless it is trouble of the server's own.
fn fault_of(name: &str, said: &str, detail: &Element) -> Refusal {
    // Some say nothing in words; what they are about stands in them.
    let about = ["name", "invalidProperty", "file", "property", "obj", "reason", "requestedState"];
    let about = || about.into_iter().find_map(|key| detail.said(key));
    let message = clean(said).or_else(|| about().and_then(clean));
    Refusal { status: 0, code: clean(name), message, class: class(name), ..Refusal::default() }
}

fn class(fault: &str) -> Class {
    match fault {
        "NotAuthenticated" | "SessionNotFound" => Class::Expired,
        "InvalidLogin" | "NoPermission" | "InvalidLocale" | "PasswordExpired" => Class::Denied,
        "ManagedObjectNotFound" | "NotFound" | "FileNotFound" | "DirectoryNotFound" => Class::NotFound,
        "DuplicateName"
        | "AlreadyExists"
        | "FileAlreadyExists"
        | "InvalidPowerState"
        | "InvalidState"
        | "InvalidHostState"
        | "InvalidDatastoreState"
        | "TaskInProgress"
        | "ConcurrentAccess"
        | "ResourceInUse"
        | "FileLocked"
        | "VAppTaskInProgress" => Class::Conflict,
        "NoDiskSpace"
        | "OutOfBounds"
        | "NoCompatibleHost"
        | "HostNotConnected"
        | "HostNotReachable"
        | "NoHost"
        | "DisallowedOperationOnFailoverHost" => Class::Capacity,
        "NotEnoughLicenses" | "QuotaExceeded" => Class::Quota,
        "HostCommunication" | "Timedout" | "SystemError" | "HostConnectFault" => Class::Trouble,
        _ if fault.starts_with("Insufficient") || fault.starts_with("NoCompatible") => Class::Capacity,
        _ => Class::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Refusal {
        refusal(&Refused { status, headers: &Default::default(), body: body.as_bytes() })
    }

    fn fault(detail: &str) -> String {
        format!(
            "<s:Envelope xmlns:s='x'><s:Body><s:Fault><faultcode>ServerFaultCode</faultcode><faultstring>It is so.\
             </faultstring><detail>{detail}</detail></s:Fault></s:Body></s:Envelope>"
        )
    }

    #[test]
    fn faults_are_understood() {
        for (detail, said, class) in [
            (
                "<NotAuthenticatedFault xmlns='urn:vim25' y:type='NotAuthenticated'/>",
                "NotAuthenticated",
                Class::Expired,
            ),
            ("<Fault y:type='vim25:InvalidLogin'/>", "InvalidLogin", Class::Denied),
            (
                "<ManagedObjectNotFoundFault><obj type='X'>x-1</obj></ManagedObjectNotFoundFault>",
                "ManagedObjectNotFound",
                Class::NotFound,
            ),
            ("<DuplicateNameFault/>", "DuplicateName", Class::Conflict),
            (
                "<InsufficientResourcesFault y:type='InsufficientMemoryResourcesFault'/>",
                "InsufficientMemoryResourcesFault",
                Class::Capacity,
            ),
            ("<NewerFault/>", "Newer", Class::Invalid),
        ] {
            let refusal = of(500, &fault(detail));
            assert_eq!(
                (refusal.to_string(), refusal.class),
                (format!("{said}: It is so."), class),
                "{detail}"
            );
            // It was refused for certain, unlike other things with this status.
            assert!(CallError::Refused { call: "x".into(), refusal: Box::new(refusal) }.is_certain());
        }
        assert_eq!(of(500, &fault("<HostCommunicationFault/>")).class, Class::Trouble);
        assert_eq!(of(500, &fault("")).to_string(), "ServerFaultCode: It is so. (HTTP 500)");
        assert_eq!((of(503, "<html>").class, of(401, "").class), (Class::Trouble, Class::Expired));
        for odd in ["", "<a>", "<Envelope/>", "<Envelope><Body><Fault/></Body></Envelope>"] {
            assert_eq!(of(500, odd).class, Class::Trouble, "{odd}");
        }
    }

    #[test]
    fn tasks_say_why_they_failed() {
        let error = "<error><fault q:type='NoDiskSpace'><file>[d] x</file><datastore>d</datastore></fault>\
                     <localizedMessage></localizedMessage></error>";
        let refusal = failure(&Element::read(error.as_bytes()).unwrap());
        assert_eq!((refusal.to_string().as_str(), refusal.class), ("NoDiskSpace: [d] x", Class::Capacity));
        assert_eq!(failure(&Element::new("error")).to_string(), "refused");
    }

    #[test]
    fn answers_are_what_they_should_be() {
        let good = b"<E><Body><FindResponse><returnval>1</returnval></FindResponse></Body></E>";
        assert_eq!(answer("Find", good).unwrap().said("returnval"), Some("1"));
        for odd in ["", "<E/>", "<E><Body/></E>", "<E><Body><Find/></Body></E>"] {
            let error = answer("Find", odd.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("the answer to Find cannot be understood: "), "{error}");
        }
    }
}
