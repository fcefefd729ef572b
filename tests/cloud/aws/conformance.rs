//! The doubles themselves: Amazon's own client must be content with them, and faults must be faults.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::double::{Ec2, element};
use crate::cloud::aws;
use crate::cloud::matrix::Double as _;
use crate::support::emulators::environment;
use crate::support::guard::Limit;
use crate::support::http::{self, Request, Response};
use crate::support::machines::{Local, Pretended};
use crate::support::moto::{Moto, REGION};
use crate::support::proxy::{Entry, Fault, Proxy};
use crate::support::repository;

/// Plays a scenario of `boto.py`; its answer.
#[track_caller]
pub fn boto(endpoint: &str, scenario: &str, words: &[&str]) -> Value {
    let python = environment("moto_server").expect("moto ran, so it is installed").join("bin/python");
    let out = Command::new(python)
        .arg(repository().join("tests/cloud/aws/boto.py"))
        .args([endpoint, scenario])
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("MANTLE_TEST_GUARD", Limit::MACHINES.as_duration().as_secs().to_string())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{scenario}: {errors}");
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn moto_does_what_it_lacked() {
    let Some(moto) = Moto::start(&[]) else { return };
    let url = format!("http://{}", moto.address);
    boto(&url, "images", &[]);
    moto.reset();
    let words = boto(&url, "broken_imports", &[]);
    assert!(words.as_str().unwrap().contains("Unsupported VMDK"), "{words}");
    let put = boto(&url, "blocks", &[]);
    let block = json!({"region": REGION, "snapshot": put["snapshot"], "index": 7});
    assert_eq!(moto.control("block", &block)["sha256"], put["sha256"]);
    let block = json!({"region": REGION, "snapshot": put["snapshot"], "index": 8});
    assert_eq!(moto.control("block", &block)["sha256"], Value::Null);
}

#[test]
fn moto_gives_lists_in_pages() {
    let Some(moto) = Moto::start(&[("MANTLE_PAGE", "3")]) else { return };
    boto(&format!("http://{}", moto.address), "pages", &[]);
}

#[test]
fn fresh_ids_are_not_found_at_first() {
    let Some(moto) = Moto::start(&[]) else { return };
    let proxy = Proxy::new(moto.address);
    aws::slow(&proxy, 2);
    boto(&proxy.url(), "slow", &[]);
}

#[test]
fn the_judge_is_content_with_amazons_client_and_finds_mistakes() {
    let Some(moto) = Moto::start(&[]) else { return };
    let proxy = Proxy::new(moto.address);
    boto(&proxy.url(), "everything", &[]);
    let journal = proxy.take_journal();
    assert!(journal.len() > 40, "{}", journal.len());
    assert!(journal.iter().all(|e| e.forwarded && e.status.is_some()));
    aws::judged(&journal);

    let find = |action: &str| journal.iter().find(|e| aws::action(&e.request).starts_with(action)).unwrap();
    let mut mistakes = Vec::new();
    let mut expected = Vec::new();
    let mut plant = |action: &str, change: &dyn Fn(&mut Request), complaint: &'static str| {
        let mut entry = find(action).clone();
        change(&mut entry.request);
        mistakes.push(entry);
        expected.push(complaint);
    };
    for (action, old, new, complaint) in [
        ("ImportSnapshot", "&Description=", "&Descripton=", "Descripton: unknown parameter"),
        ("RegisterImage", "Architecture=x86_64", "Architecture=amd64", "'amd64' is none of"),
        ("DescribeImages", "ImageId.1=", "ImageId.2=", "numbers are 2, not 1 to 1"),
        ("RegisterImage", "DeleteOnTermination=true", "DeleteOnTermination=yes", "neither true nor false"),
        ("DescribeInstances", "Value.2=", "Values.2=", "Values: unknown parameter"),
        ("CopyImage", "SourceImageId=", "ImageId=", "SourceImageId: missing"),
        ("CreateRole", "2010-05-08", "2016-11-15", "Version 2016-11-15"),
        ("AuthorizeSecurityGroupIngress", "ToPort=65535", "ToPort=all", "'all' is no integer"),
        ("DescribeSnapshots", "Action=DescribeSnapshots", "Action=DescribeSnapshot", "no operation of ec2"),
        ("POST /snapshots", "\"VolumeSize\": 1", "\"VolumeSize\": \"1\"", "VolumeSize: '1' is no integer"),
        ("POST /snapshots", "\"VolumeSize\": 1", "\"Volume\": 1", "unknown member"),
        ("PUT /images", "LocationConstraint>us-west-2", "LocationConstraint>us-west", "is none of"),
    ] {
        let change = |request: &mut Request| {
            let text = request.text();
            assert!(text.contains(old), "{text} has no {old}");
            request.body = text.replacen(old, new, 1).into();
        };
        plant(action, &change, complaint);
    }
    let version = |request: &mut Request| request.target += "?version=1";
    plant("HEAD /images/", &version, "HeadObject: unknown parameter version");
    let without = |name: &'static str| {
        move |request: &mut Request| request.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name))
    };
    plant("PUT /snapshots/snap", &without("x-amz-checksum"), "PutSnapshotBlock.Checksum: missing");
    plant("GetCallerIdentity", &without("authorization"), "POST /: not signed");
    let said = aws::complaints(&mistakes);
    for (n, complaint) in expected.into_iter().enumerate() {
        let found = said.iter().any(|(of, what)| *of == n && what.contains(complaint));
        assert!(found, "{complaint}: {said:?}");
    }
}

/// Ignition's least, with a key that nobody has.
const USERDATA: &str = r#"{"ignition":{"version":"3.0.0"},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["ssh-ed25519 AAAA"]}]}}"#;

#[test]
fn amazons_client_runs_a_machine_of_ours() {
    let Some(machines) = Local::new("nspawn") else { return };
    let Some(ec2) = Ec2::start(Arc::new(machines)) else { return };
    let image = ec2.image();
    let told = boto(&ec2.url(), "machine", &[&image, USERDATA]);
    assert!(ec2.running().is_empty());
    let id = told["id"].as_str().unwrap();
    assert_eq!(String::from_utf8(ec2.userdata(id)).unwrap(), USERDATA);
    let console = told["console"].as_str().unwrap();
    assert!(console.contains("ignition"), "{console}");
    // its last words are there after its end
    let last = ec2.call("ec2", &[("Action", "DescribeInstances")]);
    assert!(last.contains("<name>terminated</name>"), "{last}");
    let words = boto(&ec2.url(), "refusals", &[&image]);
    assert!(!words.as_str().unwrap().is_empty());
    aws::judged(&ec2.proxy.take_journal());
}

#[test]
fn amazons_client_runs_a_pretended_machine() {
    let Some(machines) = Pretended::new() else { return };
    let Some(ec2) = Ec2::start(Arc::new(machines)) else { return };
    let told = boto(&ec2.url(), "machine", &[&ec2.image(), USERDATA]);
    assert!(told["console"].as_str().unwrap().contains("pretended"));
    assert!(TcpStream::connect(told["address"].as_str().unwrap()).is_err(), "the machine is gone");
    ec2.reset();
    assert!(!ec2.call("ec2", &[("Action", "DescribeInstances")]).contains("instanceId"));
}

#[test]
fn machines_are_many() {
    let Some(machines) = Pretended::new() else { return };
    let Some(ec2) = Ec2::start(Arc::new(machines)) else { return };
    let image = ec2.image();
    let run = [("Action", "RunInstances"), ("ImageId", &image), ("MinCount", "1"), ("MaxCount", "1")];
    let like = element(&ec2.call("ec2", &run), "instanceId");
    let crowd = json!({"region": REGION, "like": like, "count": 10_000, "tags": {"Name": "kola-{n}", "CreatedBy": "Mantle"}});
    ec2.moto.control("crowd", &crowd);
    let filter = [("Filter.1.Name", "tag:CreatedBy"), ("Filter.1.Value.1", "Mantle")];
    let answer = ec2.call("ec2", &[&[("Action", "DescribeInstances")], &filter[..]].concat());
    assert_eq!(answer.matches("<instanceId>").count(), 1000, "one page");
    let filter = [("Filter.1.Name", "tag:Name"), ("Filter.1.Value.1", "kola-77")];
    let answer = ec2.call("ec2", &[&[("Action", "DescribeInstances")], &filter[..]].concat());
    assert_eq!(answer.matches("<instanceId>").count(), 1);
}

/// A server that counts and answers with ten bytes, and a proxy before it.
fn counter() -> (Proxy, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let own = seen.clone();
    let proxy = Proxy::before(move |_| {
        own.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Some(Response::new(200, "text/plain", "0123456789"))
    });
    (proxy, seen)
}

#[test]
fn every_kind_of_fault_works() {
    let (proxy, seen) = counter();
    let seen = || seen.load(std::sync::atomic::Ordering::SeqCst);
    let ask = || http::send(proxy.address, &Request::new("POST", "/x").with_body("b"));
    let meet = |fault: Fault| {
        proxy.calm();
        proxy.on(|r| r.target == "/x", 1, 1, fault);
        assert_eq!(ask().unwrap().text(), "0123456789");
    };
    let before = seen();
    meet(Fault::Answer(Response::new(503, "text/xml", "<slow/>")));
    let answer = ask().unwrap();
    assert_eq!((answer.status, answer.text(), seen()), (503, "<slow/>".into(), before + 1));
    assert_eq!(ask().unwrap().status, 200);

    let before = seen();
    meet(Fault::ResetBefore);
    assert!(ask().is_err());
    assert_eq!(seen(), before + 1);

    let before = seen();
    meet(Fault::ResetAfter);
    assert!(ask().is_err());
    assert_eq!(seen(), before + 2, "the server did it");

    meet(Fault::Truncate(4));
    assert_eq!(ask().unwrap_err().kind(), ErrorKind::UnexpectedEof);

    meet(Fault::Garbage(b"<Resp".to_vec()));
    assert_eq!(ask().unwrap().text(), "<Resp");

    meet(Fault::Delay(Duration::from_millis(30)));
    let start = Instant::now();
    assert_eq!(ask().unwrap().text(), "0123456789");
    assert!(start.elapsed() >= Duration::from_millis(30));

    for (fault, expected) in [(Fault::Stall, 0), (Fault::Trickle(4), 4)] {
        meet(fault);
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.write_all(b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut said = Vec::new();
        assert_eq!(stream.read_to_end(&mut said).unwrap_err().kind(), ErrorKind::WouldBlock);
        let body = said.split(|&b| b == b'\n').next_back().unwrap();
        assert_eq!(body.len(), expected, "{}", String::from_utf8_lossy(&said));
    }
    proxy.calm();
    proxy.latency(Duration::from_millis(20));
    let start = Instant::now();
    ask().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    let journal = proxy.take_journal();
    let shown = |e: &Entry| (e.status, e.forwarded);
    assert_eq!(shown(&journal[1]), (Some(503), false));
    assert_eq!(shown(&journal[4]), (None, false));
    assert_eq!(shown(&journal[6]), (None, true));
    assert_eq!(journal[0].request.text(), "b");
}

#[test]
fn chunked_and_head_requests_pass_the_proxy() {
    let proxy = Proxy::before(|r| {
        let mut answer =
            Response::new(200, "text/plain", if r.method == "HEAD" { Vec::new() } else { r.body.clone() });
        if r.method == "HEAD" {
            answer.headers.push(("Content-Length".into(), "77".into()));
        }
        Some(answer)
    });
    let outer = Proxy::new(proxy.address);
    let answer = http::send(outer.address, &Request::new("HEAD", "/x")).unwrap();
    assert_eq!(answer.header("content-length"), Some("77"));
    let mut stream = TcpStream::connect(outer.address).unwrap();
    let request = "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 100 ") && said.ends_with("\r\n\r\nabcde"), "{said}");
}
