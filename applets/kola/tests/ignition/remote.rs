//! What Ignition fetches from another machine.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use color_eyre::eyre::{Result, WrapErr as _, ensure};
use mantle::platform::guest::Guest;
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};

use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Native, Test};
use crate::kola::tests::helpers::{must_bash, pick, start_native};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("coreos.ignition.v2_1.resource.local", resource_local)
            .description("Ignition fetches files by HTTP and TFTP from another machine")
            .native([Native::new("Serve", serve)])
            .exclude_platforms(["do"])
            .distros(["cl", "rhcos", "fcos", "debian"])
            .features(["cluster-network"]),
        Test::new("coreos.ignition.v2_1.resource.remote", |c| async move {
            let all = "kola-anonymous";
            check(&c, &*c.machine(0)?, &[("http", all), ("https", all), ("s3-anon", all)]).await
        })
        .description("Ignition fetches files from the Internet and from S3")
        .ignition(REMOTE)
        .exclude_platforms(["do"])
        .distros(["cl", "rhcos"])
        .flags([Flag::RequiresInternetAccess]),
        Test::new("coreos.ignition.v2_1.resource.s3", resource_s3)
            .description("Ignition fetches from S3 what only the instance's role may read")
            .ignition(AUTHENTICATED)
            .platforms(["aws"])
            .distros(["cl", "rhcos"]),
        Test::new("coreos.ignition.v2_1.resource.s3.versioned", |c| async move {
            check(&c, &*c.machine(0)?, &[("original", "original"), ("latest", "updated")]).await
        })
        .description("Ignition fetches named versions of an object in S3")
        .ignition(VERSIONED)
        .exclude_platforms(["do"])
        .distros(["cl", "rhcos"])
        .flags([Flag::RequiresInternetAccess])
        .min_version("1995.0.0"),
        Test::new("coreos.ignition.v2_2.security.tls", security_tls)
            .description("Ignition fetches from a server that only its config makes trusted")
            .native([Native::new("TLSServe", tls_serve)])
            // Upstream leaves out qemu as well, for Ignition issue 645.
            .exclude_platforms(["do", "packet"])
            .distros(["cl", "rhcos", "fcos", "debian"])
            .features(["cluster-network"]),
    ]
}

const LOCAL: &str = r#"{
  "ignition": {"version": "2.1.0"},
  "storage": {"files": [
    {"filesystem": "root", "path": "/var/resource/data", "contents": {"source": "data:,kola-data"}, "mode": 420},
    {"filesystem": "root", "path": "/var/resource/http", "contents": {"source": "http://$IP/http"}, "mode": 420},
    {"filesystem": "root", "path": "/var/resource/tftp", "contents": {"source": "tftp://$IP/tftp"}, "mode": 420}
  ]}
}"#;

const LOCAL_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"files": [
    {"path": "/var/resource/data", "contents": {"source": "data:,kola-data"}, "mode": 420},
    {"path": "/var/resource/http", "contents": {"source": "http://$IP/http"}, "mode": 420},
    {"path": "/var/resource/tftp", "contents": {"source": "tftp://$IP/tftp"}, "mode": 420}
  ]}
}"#;

const REMOTE: &str = r#"{
  "ignition": {"version": "2.1.0"},
  "storage": {"files": [
    {
      "filesystem": "root", "path": "/var/resource/http", "mode": 420,
      "contents": {"source": "http://s3-us-west-2.amazonaws.com/kola-fixtures/resources/anonymous"}
    },
    {
      "filesystem": "root", "path": "/var/resource/https", "mode": 420,
      "contents": {"source": "https://s3-us-west-2.amazonaws.com/kola-fixtures/resources/anonymous"}
    },
    {
      "filesystem": "root", "path": "/var/resource/s3-anon", "mode": 420,
      "contents": {"source": "s3://kola-fixtures/resources/anonymous"}
    }
  ]}
}"#;

const VERSIONED: &str = r#"{
  "ignition": {"version": "2.1.0"},
  "storage": {"files": [
    {
      "filesystem": "root", "path": "/var/resource/original", "mode": 420,
      "contents": {
        "source": "http://s3-us-west-2.amazonaws.com/kola-fixtures/resources/versioned?versionId=null"
      }
    },
    {
      "filesystem": "root", "path": "/var/resource/latest", "mode": 420,
      "contents": {
        "source": "http://s3-us-west-2.amazonaws.com/kola-fixtures/resources/versioned?versionId=RDWqxfnlcJOSDf1.5jy6ZP.oK9Bt7_Id"
      }
    }
  ]}
}"#;

const AUTHENTICATED: &str = r#"{
  "ignition": {
    "version": "2.1.0",
    "config": {"append": [{"source": "s3://kola-fixtures/resources/authenticated-var.ign"}]}
  },
  "storage": {"files": [{
    "filesystem": "root", "path": "/var/resource/s3-auth", "mode": 420,
    "contents": {"source": "s3://kola-fixtures/resources/authenticated"}
  }]}
}"#;

async fn resource_s3(c: TestCluster) -> Result<()> {
    const URL: &str = "https://s3-us-west-2.amazonaws.com/kola-fixtures/resources";
    let m = c.machine(0)?;
    check(&c, &m, &[("s3-auth", "kola-authenticated"), ("s3-config", "kola-config")]).await?;
    // Without the role nobody may read them; that others are read shows that the place itself is reached.
    for name in ["authenticated", "authenticated.ign"] {
        let fetched = c.ssh(&m, &format!("curl -sf {URL}/{name}")).await;
        ensure!(fetched.is_err(), "{URL}/{name} can be read by anybody");
    }
    c.must_ssh(&m, &format!("curl -sf {URL}/anonymous")).await.map(drop)
}

/// Each file below /var/resource has its content.
async fn check(c: &TestCluster, m: &Guest, files: &[(&str, &str)]) -> Result<()> {
    for (name, wanted) in files {
        let got = c.must_ssh(m, &format!("sudo cat /var/resource/{name}")).await?;
        ensure!(got == *wanted, "{name} has content {got:?}, expected {wanted:?}");
    }
    Ok(())
}

async fn resource_local(c: TestCluster) -> Result<()> {
    let server = c.machine(0)?;
    start_native(&c, &server, "Serve", "curl -sSf http://127.0.0.1/http").await?;
    let config = pick(&c, LOCAL, LOCAL_V3).subst("$IP", &server.private_ip());
    let client = c.new_machine(Some(config)).await?;
    check(&c, &client, &[("data", "kola-data"), ("http", "kola-http"), ("tftp", "kola-tftp")]).await
}

/// HTTP on port 80 and TFTP on port 69 until the end of the machine; each serves one resource.
fn serve() -> Result<()> {
    let http = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).wrap_err("cannot listen on TCP port 80")?;
    let tftp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 69)).wrap_err("cannot listen on UDP port 69")?;
    std::thread::spawn(move || serve_http(&http));
    serve_tftp(&tftp)
}

fn serve_http(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // A client that goes away is its own business.
            let _ = answer(stream, |request| match request.path.as_str() {
                "/http" => Some(("text/plain", "kola-http".to_owned())),
                _ => None,
            });
        });
    }
}

/// What matters of an HTTP request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    path: String,
    accept: String,
}

/// Reads one HTTP/1.1 request (RFC 9112) and answers it with media type and text, or status 404.
fn answer(
    stream: impl Read + Write,
    content: impl Fn(&Request) -> Option<(&'static str, String)>,
) -> Result<()> {
    // More is no request that a config names.
    let mut reader = BufReader::new(stream).take(16 * 1024);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut request = Request {
        path: line.split_whitespace().nth(1).unwrap_or_default().to_owned(),
        accept: String::new(),
    };
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("accept")
        {
            value.trim().clone_into(&mut request.accept);
        }
    }
    let mut stream = reader.into_inner().into_inner();
    let (status, kind, text) = match content(&request) {
        Some((kind, text)) => ("200 OK", kind, text),
        None => ("404 Not Found", "text/plain", "not found".to_owned()),
    };
    let size = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{text}"
    )?;
    Ok(stream.flush()?)
}

fn serve_tftp(socket: &UdpSocket) -> Result<()> {
    loop {
        let mut packet = [0; 516];
        let (size, peer) = socket.recv_from(&mut packet).wrap_err("cannot receive from UDP port 69")?;
        let request = packet[..size].to_vec();
        std::thread::spawn(move || transfer(&request, peer));
    }
}

/// One transfer of TFTP (RFC 1350) from a port of its own. Options are not acknowledged, which RFC 2347 allows.
fn transfer(request: &[u8], peer: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(peer)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let Some(data) = tftp_file(request) else {
        socket.send(b"\0\x05\0\x01not found\0")?;
        return Ok(());
    };
    let block = [b"\0\x03\0\x01", data].concat();
    for _ in 0..10 {
        socket.send(&block)?;
        let mut reply = [0; 516];
        if let Ok(size) = socket.recv(&mut reply)
            && reply[..size].starts_with(b"\0\x04\0\x01")
        {
            break;
        }
    }
    Ok(())
}

/// The file that a read request asks for; it fits one block.
fn tftp_file(request: &[u8]) -> Option<&'static [u8]> {
    let name = request.strip_prefix(b"\0\x01")?.split(|byte| *byte == 0).next()?;
    matches!(name, b"tftp" | b"/tftp").then_some(b"kola-tftp")
}

const TLS: &str = r#"{
  "ignition": {
    "version": "2.2.0",
    "config": {"append": [{"source": "https://$IP"}]},
    "security": {"tls": {"certificateAuthorities": [{"source": "data:;base64,$CERTIFICATE"}]}}
  }
}"#;

const TLS_V3: &str = r#"{
  "ignition": {
    "version": "3.0.0",
    "config": {"merge": [{"source": "https://$IP"}]},
    "security": {"tls": {"certificateAuthorities": [{"source": "data:;base64,$CERTIFICATE"}]}}
  }
}"#;

/// A config is fetched from a server whose certificate only this config makes trusted.
async fn security_tls(c: TestCluster) -> Result<()> {
    let server = c.machine(0)?;
    let ip = server.private_ip();
    let make = format!(
        r#"
sudo mkdir -p /var/tls
cd /var/tls
sudo openssl ecparam -genkey -name secp384r1 -out server.key
printf '[req]\ndistinguished_name = dn\nx509_extensions = SAN\nprompt = no\n[dn]\nCN = {ip}\n[SAN]\nsubjectAltName = IP:{ip}\n' |
    sudo tee server.cnf >/dev/null
sudo openssl req -x509 -new -sha256 -days 3650 -key server.key -config server.cnf -extensions SAN -out server.crt
"#
    );
    must_bash(&c, &server, &make).await?;
    let certificate = c.must_ssh(&server, "sudo cat /var/tls/server.crt").await?;
    let ready = format!("sudo curl -sSf --cacert /var/tls/server.crt https://{ip}/");
    start_native(&c, &server, "TLSServe", &ready).await?;
    let config = pick(&c, TLS, TLS_V3)
        .subst("$IP", &ip)
        .subst("$CERTIFICATE", &openssl::base64::encode_block(certificate.as_bytes()));
    let client = c.new_machine(Some(config)).await?;
    check(&c, &client, &[("data", "kola-data")]).await
}

/// HTTPS on port 443 until the end of the machine; every request is answered with an Ignition config.
fn tls_serve() -> Result<()> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor
        .set_private_key_file("/var/tls/server.key", SslFiletype::PEM)
        .wrap_err("cannot use /var/tls/server.key")?;
    acceptor.set_certificate_chain_file("/var/tls/server.crt").wrap_err("cannot use /var/tls/server.crt")?;
    let acceptor = Arc::new(acceptor.build());
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 443)).wrap_err("cannot listen on TCP port 443")?;
    for stream in listener.incoming().flatten() {
        let acceptor = acceptor.clone();
        std::thread::spawn(move || -> Result<()> {
            answer(acceptor.accept(stream)?, |request| {
                Some(("application/json", config_for(&request.accept)))
            })
        });
    }
    Ok(())
}

/// The config in the version that the client asks for: Ignition names it in the header
/// `Accept: application/vnd.coreos.ignition+json; version=3.3.0, …`.
fn config_for(accept: &str) -> String {
    let (version, filesystem) = match accept.replace(' ', "").contains("ignition+json;version=3") {
        true => ("3.0.0", ""),
        false => ("2.1.0", r#""filesystem": "root", "#),
    };
    format!(
        r#"{{"ignition": {{"version": "{version}"}}, "storage": {{"files": [
             {{{filesystem}"path": "/var/resource/data", "contents": {{"source": "data:,kola-data"}}, "mode": 420}}]}}}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A stream that is read from one buffer and written to another.
    struct Both<'a>(Cursor<Vec<u8>>, &'a mut Vec<u8>);

    impl Read for Both<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Both<'_> {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            self.1.write(buffer)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn http(request: &str) -> String {
        let mut out = Vec::new();
        answer(Both(Cursor::new(request.as_bytes().to_vec()), &mut out), |r| {
            (r.path == "/x").then(|| ("text/plain", format!("<{}>", r.accept)))
        })
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn http_requests_are_answered() {
        let text = http("GET /x HTTP/1.1\r\nHost: a\r\nACCEPT: a/b \r\n\r\n");
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\r\nContent-Length: 5\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n<a/b>"), "{text}");
        assert!(http("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(http("").starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn tftp_serves_one_file() {
        assert_eq!(tftp_file(b"\0\x01/tftp\0octet\0blksize\x00512\0"), Some(&b"kola-tftp"[..]));
        assert_eq!(tftp_file(b"\0\x01tftp\0octet\0"), Some(&b"kola-tftp"[..]));
        assert_eq!(tftp_file(b"\0\x01other\0octet\0"), None);
        assert_eq!(tftp_file(b"\0\x02tftp\0octet\0"), None);
        assert_eq!(tftp_file(b""), None);
    }

    #[test]
    fn tftp_answers_from_a_port_of_its_own() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let port = server.local_addr().unwrap();
        std::thread::spawn(move || serve_tftp(&server));
        let mut buffer = [0; 516];
        client.send_to(b"\0\x01tftp\0octet\0", port).unwrap();
        let (size, peer) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..size], b"\0\x03\0\x01kola-tftp");
        assert_ne!(peer, port);
        client.send_to(b"\0\x04\0\x01", peer).unwrap();
        client.send_to(b"\0\x01nothing\0octet\0", port).unwrap();
        let (size, _) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..size], b"\0\x05\0\x01not found\0");
    }

    #[test]
    fn configs_come_in_the_version_asked_for() {
        let version = |accept: &str| {
            let config: serde_json::Value = serde_json::from_str(&config_for(accept)).unwrap();
            (config["ignition"]["version"].clone(), config["storage"]["files"][0]["filesystem"].clone())
        };
        let (three, none) = version("application/vnd.coreos.ignition+json;version=3.3.0, */*;q=0.1");
        assert!(three == "3.0.0" && none.is_null());
        let (two, root) = version("application/vnd.coreos.ignition+json; version=2.1.0, application/json");
        assert!(two == "2.1.0" && root == "root");
        assert_eq!(version("").0, "2.1.0");
    }
}
