use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;

use super::*;

fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, Malformed> {
    Proxies::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
}

/// What differs from curl on purpose, or from one version of curl to the next: curl is not asked.
const KINDER: Option<&str> = Some("kinder");

/// `no_proxy`, URL, whether it is asked directly, whether curl thinks otherwise.
const EXCEPTIONS: &[(&str, &str, bool, Option<&str>)] = &[
    ("", "http://example.test/", false, None),
    ("*", "http://example.test/", true, None),
    ("*", "http://127.0.0.1/", true, None),
    ("*", "http://[::1]/", true, None),
    (" * ", "http://127.0.0.1/", true, KINDER),
    ("other.test,*", "http://127.0.0.1/", true, KINDER),
    ("example.test", "http://example.test/", true, None),
    ("example.test", "http://www.example.test/", true, None),
    ("example.test", "http://nonexample.test/", false, None),
    ("example.test", "http://example.test.evil/", false, None),
    (".example.test", "http://example.test/", true, None),
    (".example.test", "http://www.example.test/", true, None),
    (".example.test", "http://nonexample.test/", false, None),
    ("*.example.test", "http://www.example.test/", true, KINDER),
    ("EXAMPLE.test", "http://www.Example.TEST/", true, None),
    ("example.test.", "http://example.test/", true, None),
    ("example.test", "http://example.test./", true, None),
    ("example.test:80", "http://example.test/", true, KINDER),
    ("example.test:8080", "http://example.test/", false, None),
    ("example.test:8080", "http://example.test:8080/", true, KINDER),
    ("127.0.0.1:80", "http://127.0.0.1/", true, KINDER),
    ("127.0.0.1:81", "http://127.0.0.1/", false, None),
    ("other.test,example.test", "http://example.test/", true, None),
    ("other.test, example.test", "http://example.test/", true, None),
    (",,other.test,,,example.test,", "http://example.test/", true, None),
    ("127.0.0.1", "http://127.0.0.1/", true, None),
    ("127.0.0.1", "http://127.0.0.2/", false, None),
    ("0.0.1", "http://127.0.0.1/", false, None),
    ("127.0.0.0/8", "http://127.9.9.9/", true, None),
    ("127.0.0.0/8", "http://128.0.0.1/", false, None),
    ("10.1.2.0/24", "http://10.1.2.200/", true, None),
    ("10.1.2.0/25", "http://10.1.2.200/", false, None),
    ("10.1.2.200/32", "http://10.1.2.200/", true, None),
    ("0.0.0.0/0", "http://10.1.2.200/", true, KINDER),
    ("10.1.2.0/33", "http://10.1.2.0/", false, None),
    ("127.0.0.0/8", "http://[::1]/", false, None),
    ("::1", "http://[::1]/", true, None),
    ("[::1]", "http://[::1]/", true, KINDER),
    ("[::1]:80", "http://[::1]/", true, KINDER),
    ("fd00::/8", "http://[fd12::1]/", true, KINDER), // curl 7.88 does not read it
    ("fd00::/8", "http://[fe80::1]/", false, None),
];

type Row = (&'static [&'static str], &'static str, Option<&'static str>, Option<&'static str>);

/// Variables, URL, the variable that counts, whether curl thinks otherwise. The value of each is a proxy.
const VARIABLES: &[Row] = &[
    (&[], "http://example.test/", None, None),
    (&["http_proxy"], "http://example.test/", Some("http_proxy"), None),
    (&["HTTP_PROXY"], "http://example.test/", Some("HTTP_PROXY"), KINDER),
    (&["https_proxy"], "http://example.test/", None, None),
    (&["HTTPS_PROXY"], "http://example.test/", None, None),
    (&["all_proxy"], "http://example.test/", Some("all_proxy"), None),
    (&["ALL_PROXY"], "http://example.test/", Some("ALL_PROXY"), None),
    (&["ALL_PROXY", "all_proxy"], "http://example.test/", Some("all_proxy"), None),
    (&["ALL_PROXY", "http_proxy"], "http://example.test/", Some("http_proxy"), None),
    (&["http_proxy"], "https://example.test/", None, None),
    (&["https_proxy"], "https://example.test/", Some("https_proxy"), None),
    (&["HTTPS_PROXY"], "https://example.test/", Some("HTTPS_PROXY"), None),
    (&["HTTPS_PROXY", "https_proxy"], "https://example.test/", Some("https_proxy"), None),
    (&["ALL_PROXY"], "https://example.test/", Some("ALL_PROXY"), None),
];

#[test]
fn exceptions_and_variables_are_read() {
    for (except, url, direct, _) in EXCEPTIONS {
        for name in ["no_proxy", "NO_PROXY"] {
            let proxies = proxies(&[("http_proxy", "h:1"), (name, except)]).unwrap();
            let found = proxies.of(&url.parse().unwrap());
            assert_eq!(found.is_none(), *direct, "{name}={except:?} {url}");
        }
    }
    for (names, url, counts, _) in VARIABLES {
        let set: Vec<_> = names.iter().map(|name| (*name, "h:1")).collect();
        let proxies = proxies(&set).unwrap();
        assert_eq!(proxies.of(&url.parse().unwrap()).map(|p| p.variable), *counts, "{names:?} {url}");
    }
    let both = [("http_proxy", "h:1"), ("no_proxy", "a.test"), ("NO_PROXY", "b.test")];
    let of = |url: &str| proxies(&both).unwrap().of(&url.parse().unwrap()).is_some();
    assert!(!of("http://a.test/") && of("http://b.test/"));
    let cgi = proxies(&[("HTTP_PROXY", "h:1"), ("REQUEST_METHOD", "GET")]).unwrap();
    assert!(cgi.of(&"http://a.test/".parse().unwrap()).is_none());
}

/// A proxy that says which of its names it was asked under.
fn listen() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut user) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some(value) = line.strip_prefix("Proxy-Authorization: Basic ") {
                    let pair = openssl::base64::decode_block(value.trim()).unwrap();
                    user = String::from_utf8(pair).unwrap().trim_end_matches(':').to_owned();
                }
                line.clear();
            }
            // Not 200, which a tunnel would begin with.
            let answer =
                format!("HTTP/1.1 503 X\r\nX-User: {user}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

/// The user that curl went to the proxy as; `None` if it went elsewhere.
fn curl(url: &str, variables: &[(String, String)]) -> Option<String> {
    let output = Command::new("curl")
        .env_clear()
        .envs(variables.iter().cloned())
        // From loopback nothing but loopback can be reached: what is asked directly fails at once.
        .args([
            "-q",
            "-s",
            "-i",
            "--max-time",
            "60",
            "--interface",
            "127.0.0.1",
            "--resolve",
            "*:80:127.0.0.1",
            "-g",
            url,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("X-User: ").map(|user| user.trim().to_owned()))
}

#[test]
fn the_real_curl_reads_them_alike() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl is not installed");
        return;
    }
    let port = listen();
    let set = |name: &str, value: String| (name.to_owned(), value);
    let mut wrong = Vec::new();
    for (except, url, direct, kinder) in EXCEPTIONS {
        let proxy = set("http_proxy", format!("http://it@127.0.0.1:{port}"));
        let is_direct = curl(url, &[proxy, set("no_proxy", (*except).to_owned())]).is_none();
        if kinder.is_none() && is_direct != *direct {
            wrong.push(format!("no_proxy={except:?} {url}: curl direct: {is_direct}, we: {direct}"));
        }
    }
    for (names, url, counts, kinder) in VARIABLES {
        let all: Vec<_> = names.iter().map(|n| set(n, format!("http://{n}@127.0.0.1:{port}"))).collect();
        let asked = curl(url, &all);
        if kinder.is_none() && asked.as_deref() != *counts {
            wrong.push(format!("{names:?} {url}: curl: {asked:?}, we: {counts:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn malformed_proxies_are_named_without_their_passwords() {
    for (value, reason) in [
        ("http://bob:PW@[bad", "invalid IPv6 address"),
        ("bob:PW@h:port", "invalid port number"),
        ("socks5://bob:PW@h:1", "socks5:// proxies are not supported"),
        ("http://", "empty host"),
    ] {
        for variable in ["http_proxy", "ALL_PROXY"] {
            let error = proxies(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("${variable}")) && error.contains(reason), "{error}");
            assert!(!error.contains("PW"), "{error}");
        }
    }
    let fine = proxies(&[("http_proxy", "bob:PW@h:3128")]).unwrap();
    let proxy = fine.of(&"http://x/".parse().unwrap()).unwrap();
    assert_eq!(proxy.to_string(), "the proxy http://h:3128 of $http_proxy");
    assert!(proxies(&[("http_proxy", "")]).unwrap().of(&"http://x/".parse().unwrap()).is_none());
}
