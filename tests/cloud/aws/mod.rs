//! What is particular to AWS in requests, faults and their judge.

mod conformance;
mod double;
mod kola;
mod ore;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::json;

use crate::support::emulators::environment;
use crate::support::http::{Request, Response};
use crate::support::proxy::{Entry, Fault, Proxy};
use crate::support::repository;

/// Which service a request is for: `ec2`, `iam`, `sts`, `s3` or `ebs`, by the scope of its signature.
pub fn service(request: &Request) -> String {
    let scope = request.header("authorization").and_then(|a| a.split("Credential=").nth(1));
    match scope.and_then(|s| s.split('/').nth(3)) {
        Some(service) => service.to_owned(),
        // These ask for the keys that others are signed with.
        None if request.field("Action").is_some_and(|a| a.starts_with("AssumeRoleWith")) => "sts".into(),
        None => String::new(),
    }
}

/// The region that a request was signed for.
pub fn region(request: &Request) -> String {
    let scope = request.header("authorization").and_then(|a| a.split("Credential=").nth(1));
    scope.and_then(|s| s.split('/').nth(2)).unwrap_or_default().to_owned()
}

/// The operation, such as `RunInstances`; of S3 and EBS, method and path with the names of the parameters.
pub fn action(request: &Request) -> String {
    if let "ec2" | "iam" | "sts" = &*service(request) {
        return request.field("Action").unwrap_or_default();
    }
    let names: Vec<String> = request.query().into_iter().map(|(n, _)| n).collect();
    let mark = if names.is_empty() { "" } else { "?" };
    format!("{} {}{mark}{}", request.method, request.path(), names.join("&"))
}

/// Whether a request is for one of these operations.
pub fn is(actions: &[&str]) -> impl FnMut(&Request) -> bool + Send + use<> {
    let actions: Vec<String> = actions.iter().map(|&a| a.to_owned()).collect();
    move |request| actions.contains(&action(request))
}

/// An error as the service says it.
pub fn error(request: &Request, status: u16, code: &str, message: &str) -> Response {
    let body = match &*service(request) {
        "iam" | "sts" => format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>r</RequestId></ErrorResponse>"
        ),
        "s3" => {
            format!("<Error><Code>{code}</Code><Message>{message}</Message><RequestId>r</RequestId></Error>")
        }
        "ebs" => {
            let body = json!({"Message": message, "Reason": code}).to_string();
            let mut answer = Response::new(status, "application/json", body);
            answer.headers.push(("x-amzn-ErrorType".into(), code.into()));
            return answer;
        }
        _ => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
             <Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"
        ),
    };
    let body = if request.method == "HEAD" { String::new() } else { body };
    Response::new(status, "text/xml;charset=UTF-8", body)
}

/// Requests `n` to `n + times - 1` (from 0) of those that match end in an error.
pub fn fail(
    proxy: &Proxy,
    mut matches: impl FnMut(&Request) -> bool + Send + 'static,
    n: usize,
    times: usize,
    (status, code, message): (u16, &'static str, &'static str),
) {
    let mut seen = 0;
    proxy.rule(move |request| {
        if !matches(request) {
            return Fault::None;
        }
        seen += 1;
        let hit = (n + 1..=n + times).contains(&seen);
        if hit { Fault::Answer(error(request, status, code, message)) } else { Fault::None }
    });
}

/// The error of every service that asks for slower requests.
pub fn throttled(request: &Request) -> Response {
    match &*service(request) {
        "s3" => error(request, 503, "SlowDown", "Please reduce your request rate."),
        "ebs" => error(request, 400, "RequestThrottledException", "Rate exceeded"),
        "iam" | "sts" => error(request, 400, "Throttling", "Rate exceeded"),
        _ => error(request, 503, "RequestLimitExceeded", "Request limit exceeded."),
    }
}

/// Kinds of ids, and what EC2 says of unknown ones.
const UNKNOWN: [(&str, &str); 8] = [
    ("i-", "InvalidInstanceID.NotFound"),
    ("ami-", "InvalidAMIID.NotFound"),
    ("snap-", "InvalidSnapshot.NotFound"),
    ("vpc-", "InvalidVpcID.NotFound"),
    ("subnet-", "InvalidSubnetID.NotFound"),
    ("sg-", "InvalidGroup.NotFound"),
    ("rtb-", "InvalidRouteTableID.NotFound"),
    ("igw-", "InvalidInternetGatewayID.NotFound"),
];

/// Slow consistency: an id that EC2 has just given out is not found by the next `times` requests that name it.
pub fn slow(proxy: &Proxy, times: usize) {
    let fresh = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::<String, usize>::new()));
    let made = fresh.clone();
    let id = Regex::new(r">((?:i|ami|snap|vpc|subnet|sg|rtb|igw)-[0-9a-f]{8,17})<").unwrap();
    proxy.watch(move |request, answer| {
        let creates = ["Create", "Run", "Register", "Copy"].iter().any(|w| action(request).starts_with(w));
        if service(request) != "ec2" || !creates || answer.status != 200 {
            return;
        }
        let known = request.text();
        for found in id.captures_iter(&answer.text()) {
            let id = &found[1];
            if !known.contains(id) {
                made.lock().unwrap().entry(id.to_owned()).or_insert(times);
            }
        }
    });
    proxy.rule(move |request| {
        if service(request) != "ec2" {
            return Fault::None;
        }
        let mut fresh = fresh.lock().unwrap();
        for (_, value) in request.form() {
            let Some(left) = fresh.get_mut(&value).filter(|left| **left > 0) else { continue };
            *left -= 1;
            let code = UNKNOWN.iter().find(|(prefix, _)| value.starts_with(prefix)).unwrap().1;
            return Fault::Answer(error(request, 400, code, &format!("The ID '{value}' does not exist")));
        }
        Fault::None
    });
}

/// What botocore's models say against these requests: the number of the request, and what is wrong.
pub fn complaints(journal: &[Entry]) -> Vec<(usize, String)> {
    let python = environment("moto_server").expect("moto ran, so it is installed").join("bin/python");
    let mut judge = Command::new(python)
        .arg(repository().join("tests/support/judge_aws.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = String::new();
    for Entry { request, .. } in journal {
        let headers: BTreeMap<_, _> = request.headers.iter().cloned().collect();
        let body = openssl::base64::encode_block(&request.body);
        let line =
            json!({"method": request.method, "target": request.target, "headers": headers, "body": body});
        input += &format!("{line}\n");
    }
    let mut stdin = judge.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = judge.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code().is_some_and(|c| c <= 1) && errors.is_empty(), "the judge failed: {errors}");
    let text = String::from_utf8(out.stdout).unwrap();
    let line = |line: &str| line.split_once('\t').map(|(n, what)| (n.parse().unwrap(), what.to_owned()));
    text.lines().map(|l| line(l).unwrap()).collect()
}

/// Fails if botocore's models have anything against these requests.
#[track_caller]
pub fn judged(journal: &[Entry]) {
    let complaints = complaints(journal);
    let lines: Vec<String> = complaints.into_iter().map(|(n, what)| format!("request {n}: {what}")).collect();
    assert!(lines.is_empty(), "{} complaints:\n{}", lines.len(), lines.join("\n"));
}
