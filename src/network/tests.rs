//! Real namespaces, bridges and packets. They need root and skip without it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::process::{Command, find_program};

const LONG: Duration = Duration::from_secs(60);

/// A network, or the end of the test with a printed reason.
macro_rules! network {
    () => {
        match LocalNet::new().await {
            Err(Error::NotPermitted(e)) => return println!("skipped: no root: {e}"),
            made => made.unwrap(),
        }
    };
}

macro_rules! program {
    ($name:expr) => {
        if find_program($name).is_none() {
            return println!("skipped: {} is not installed", $name);
        }
    };
}

/// The stdout of a program that runs in a namespace.
async fn inside(namespace: &Namespace, words: &[&str]) -> String {
    let command = Command::new(words[0]).args(&words[1..]).in_namespace(namespace.fd());
    String::from_utf8(command.output(LONG).await.unwrap().stdout).unwrap()
}

/// A UDP socket of a namespace that gives up after a while.
async fn udp(namespace: &Namespace) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind("0.0.0.0:0")).await.unwrap().unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Sends one datagram and returns the answer; a lost one is sent again.
async fn exchange(namespace: &Namespace, to: &str, packet: Vec<u8>) -> Vec<u8> {
    let (socket, to) = (udp(namespace).await, to.parse::<SocketAddr>().unwrap());
    tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 2048];
        socket.send_to(&packet, to).unwrap();
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to);
        buffer[..length].to_vec()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_another_one_and_survives_panics() {
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let namespace = match Namespace::new() {
        Err(Error::NotPermitted(e)) => return println!("skipped: no root: {e}"),
        made => made.unwrap(),
    };
    let link = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let there = namespace.run(link).await.unwrap();
    assert_ne!(own, there);
    assert!(matches!(namespace.run(|| panic!("on purpose")).await, Err::<(), _>(Error::Lost)));
    let clone = namespace.clone();
    let blocking = tokio::task::spawn_blocking(move || clone.run_blocking(link)).await.unwrap();
    assert_eq!(blocking.unwrap(), there);
    // Programs get there by descriptor and by path.
    let path = namespace.path();
    for words in [&["readlink", "/proc/self/ns/net"][..], &["nsenter", "--net", "readlink"]] {
        if words.len() == 2 {
            assert_eq!(inside(&namespace, words).await.trim(), there.to_str().unwrap());
        } else {
            let net = format!("--net={path}");
            let out = Command::new("nsenter").args([&net, "readlink", "/proc/self/ns/net"]).output(LONG);
            assert_eq!(String::from_utf8(out.await.unwrap().stdout).unwrap().trim(), there.to_str().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_networks_do_not_meet() {
    let (a, b) = (network!(), network!());
    program!("ip");
    let other = Namespace::new().unwrap();
    let lease = a.allocate().unwrap();
    assert_eq!(b.allocate().unwrap().ipv4, lease.ipv4);
    a.veth(&lease, &other, "eth0").await.unwrap();
    let (tap_a, tap_b) = (a.tap().await.unwrap(), b.tap().await.unwrap());

    let bridge = inside(a.namespace(), &["ip", "addr", "show", "br0"]).await;
    for part in ["02:00:00:00:00:01", "10.0.0.1/16", "fd00::1/64", "UP"] {
        assert!(bridge.contains(part), "{part} missing: {bridge}");
    }
    let there = inside(&other, &["ip", "addr", "show", "eth0"]).await;
    for part in ["02:00:00:00:00:02", "10.0.0.2/16", "fd00::2/64", "UP"] {
        assert!(there.contains(part), "{part} missing: {there}");
    }
    let ports = |text: String| text.lines().filter(|line| line.contains("master br0")).count();
    let show = ["ip", "-o", "link"];
    assert_eq!(ports(inside(a.namespace(), &show).await), 2);
    assert_eq!(ports(inside(b.namespace(), &show).await), 1);
    drop((tap_a, tap_b));
    assert_eq!(ports(inside(b.namespace(), &show).await), 0);

    // A name that is taken: an error, and nothing is left of the attempt.
    let second = a.allocate().unwrap();
    let taken = a.veth(&second, &other, "eth0").await.unwrap_err();
    assert!(taken.to_string().contains("eth0"), "{taken}");
    assert_eq!(ports(inside(a.namespace(), &show).await), 1);
    drop(other);
    b.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_both_ways() {
    let net = network!();
    let other = Namespace::new().unwrap();
    let lease = net.allocate().unwrap();
    net.veth(&lease, &other, "eth0").await.unwrap();
    let guest = other.run(|| std::net::TcpListener::bind("[::]:0")).await.unwrap().unwrap();
    let port = guest.local_addr().unwrap().port();

    for address in [format!("10.0.0.2:{port}"), format!("[fd00::2]:{port}")] {
        let dialer = net.dialer();
        let dialed = tokio::task::spawn_blocking(move || dialer.dial(&address, LONG)).await.unwrap().unwrap();
        let (_, from) = guest.accept().unwrap();
        assert_eq!(
            from,
            dialed
                .local_addr()
                .map(|a| match a.ip() {
                    IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), a.port()),
                    IpAddr::V6(_) => a,
                })
                .unwrap()
        );
    }
    let (dialer, refused) = (net.dialer(), net.dialer());
    let words = tokio::task::spawn_blocking(move || dialer.dial("localhost:22", LONG)).await.unwrap();
    assert_eq!(words.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    drop(guest);
    let gone = format!("10.0.0.2:{port}");
    let gone = tokio::task::spawn_blocking(move || refused.dial(&gone, LONG)).await.unwrap();
    assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

    let listener = net.listen(0).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(address.ip(), net.host_ip());
    let guest =
        other.run(move || std::net::TcpStream::connect_timeout(&address, LONG)).await.unwrap().unwrap();
    let (mut stream, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip(), lease.ipv4);
    stream.write_all(b"hello").await.unwrap();
    drop(stream);
    guest.set_nonblocking(true).unwrap();
    let mut text = String::new();
    tokio::net::TcpStream::from_std(guest).unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    let taken = net.listen(address.port()).await.unwrap_err();
    assert!(taken.to_string().contains(&address.to_string()), "{taken}");
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query.to_vec().unwrap()
}

fn records(answer: &[u8]) -> Vec<String> {
    Message::from_vec(answer).unwrap().answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_answer_a_machine() {
    let net = network!();
    let other = Namespace::new().unwrap();
    let lease = net.allocate().unwrap();
    net.veth(&lease, &other, "eth0").await.unwrap();
    lease.set_host_name("web").unwrap();

    for (name, kind, expected) in [
        ("web.br0.local.", RecordType::A, "10.0.0.2"),
        ("web.br0.local.", RecordType::AAAA, "fd00::2"),
        ("2.0.0.10.in-addr.arpa.", RecordType::PTR, "web.br0.local."),
    ] {
        assert_eq!(records(&exchange(&other, "10.0.0.1:53", query(name, kind)).await), [expected]);
    }
    // The same over TCP, twice on one connection.
    let stream = other.run(|| std::net::TcpStream::connect("10.0.0.1:53")).await.unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
    for _ in 0..2 {
        let packet = query("10-0-0-1.br0.local.", RecordType::A);
        stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(records(&answer), ["10.0.0.1"]);
    }

    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    net.ntp().set_time(Some(time));
    let request = ntp::Packet { version: 4, mode: ntp::Mode::Client, ..Default::default() };
    let answer = exchange(&other, "10.0.0.1:123", request.encode().unwrap().to_vec()).await;
    let told = ntp::Packet::decode(&answer).unwrap().transmit.to_system_time(time).unwrap();
    assert!(told >= time && told < time + LONG, "{told:?}");

    net.destroy().await;
    // The ports are free: the services are gone.
    net.udp(53).await.unwrap();
    net.udp(123).await.unwrap();
}

/// What a DHCP client was told, by the script it runs: its environment.
async fn udhcpc(namespace: &Namespace, interface: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && env\nexit 0\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let options = ["-O", "ntpsrv", "-O", "hostname", "-O", "domain"];
    let words =
        ["busybox", "udhcpc", "-f", "-q", "-n", "-i", interface, "-s", script, "-x", "hostname:Node-7"];
    inside(namespace, &[&words[..], &options].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dhcp_client_gets_its_lease() {
    let net = network!();
    program!("busybox");
    program!("ip");
    let other = Namespace::new().unwrap();
    let (_first, lease) = (net.allocate().unwrap(), net.allocate().unwrap());
    lease.set_host_name("given").unwrap();
    net.veth_bare(&lease, &other, "eth0").await.unwrap();
    let told = udhcpc(&other, "eth0").await;
    for line in [
        "ip=10.0.0.3",
        "subnet=255.255.0.0",
        "broadcast=10.0.255.255",
        "router=10.0.0.1",
        "dns=10.0.0.1",
        "domain=br0.local",
        "ntpsrv=10.0.0.1",
        "hostname=given",
        "serverid=10.0.0.1",
        "lease=604800",
    ] {
        assert!(told.lines().any(|l| l == line), "{line} missing: {told}");
    }
    inside(&other, &["ip", "addr", "add", "10.0.0.3/16", "dev", "eth0"]).await;
    let answer = exchange(&other, "10.0.0.1:53", query("node-7.br0.local.", RecordType::A)).await;
    assert_eq!(records(&answer), ["10.0.0.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_makes_itself_an_ipv6_address() {
    let net = network!();
    program!("ip");
    let other = Namespace::new().unwrap();
    let lease = net.allocate().unwrap();
    // Addresses by netlink as they come: the kernel asks for a router once the link is up.
    let mut watch = Command::new("ip")
        .args(["-6", "-o", "monitor", "address"])
        .in_namespace(other.fd())
        .stdout(Stdio::piped())
        .spawn()
        .await
        .unwrap();
    let expected: Ipv6Addr = "fd00::ff:fe00:2".parse().unwrap();
    net.veth_bare(&lease, &other, "eth0").await.unwrap();
    let (mut out, mut text) = (watch.stdout.take().unwrap(), Vec::new());
    let seen = async {
        while !String::from_utf8_lossy(&text).contains(&format!(" {expected}/64 ")) {
            let now = inside(&other, &["ip", "-6", "-o", "addr"]).await;
            if now.contains(&format!(" {expected}/64 ")) {
                return;
            }
            out.read_buf(&mut text).await.unwrap();
        }
    };
    tokio::time::timeout(LONG, seen).await.expect("no address from router advertisements");
    watch.stop(LONG).await;
    let routes = inside(&other, &["ip", "-6", "route"]).await;
    assert!(!routes.contains("default"), "{routes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_reach_a_tap() {
    let net = network!();
    let tap = net.tap().await.unwrap();
    let socket = net.udp(0).await.unwrap();
    // Somebody unknown: the kernel asks for its hardware address on the bridge.
    socket.send_to(b"x", (Ipv4Addr::new(10, 0, 0, 2), 9)).await.unwrap();
    let arp = tokio::task::spawn_blocking(move || {
        let mut frame = [0; 2048];
        loop {
            let mut wait = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut wait, PollTimeout::try_from(LONG).unwrap()), Ok(1), "no frame");
            let length = nix::unistd::read(&tap, &mut frame).unwrap();
            if frame[12..14] == [8, 6] {
                return frame[..length].to_vec();
            }
        }
    });
    let frame = arp.await.unwrap();
    assert_eq!(frame[..12], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1]);
    assert_eq!(frame[38..42], [10, 0, 0, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chrony_believes_the_ntp_server() {
    let net = network!();
    program!("chronyd");
    let other = Namespace::new().unwrap();
    let lease = net.allocate().unwrap();
    net.veth(&lease, &other, "eth0").await.unwrap();
    net.ntp().set_time(Some(SystemTime::now() + Duration::from_secs(3600)));
    let folder = tempfile::tempdir().unwrap();
    let pidfile = format!("pidfile {}", folder.path().join("pid").display());
    // -Q: print the offset and leave the clock alone.
    let out = Command::new("chronyd")
        .args(["-Q", "-t", "30", "-U", "-u", "root", "-f", "/dev/null", &pidfile])
        .arg("server 10.0.0.1 iburst maxsamples 1")
        .in_namespace(other.fd())
        .output(LONG)
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr) + String::from_utf8_lossy(&out.stdout);
    let wrong = text.split("wrong by ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: f64 = wrong.unwrap_or_else(|| panic!("no offset: {text}")).parse().unwrap();
    assert!((seconds - 3600.0).abs() < 1.0, "{text}");
}

/// Whether etcd, asked from inside, says that its cluster has a leader.
async fn healthy(net: &LocalNet, address: Ipv4Addr) -> bool {
    let dialer = net.dialer();
    let ask = move || -> std::io::Result<String> {
        let mut stream = dialer.dial(&format!("{address}:2379"), LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        std::io::read_to_string(stream)
    };
    let answer = tokio::task::spawn_blocking(ask).await.unwrap().unwrap_or_default();
    answer.contains(r#""health":"true""#)
}

/// What ntplib makes of the server: leap indicator, and how far its clock is from this one's in seconds.
async fn ntplib(python: &std::path::Path, machine: &Namespace) -> (u8, f64) {
    // An answer that was long on its way says little about the clock.
    let script = "import ntplib
while True:
    r = ntplib.NTPClient().request('10.0.0.1', version=4, timeout=30)
    if r.delay < 0.5: break
assert (r.version, r.mode, r.stratum, r.poll, r.precision) == (4, 4, 7, 6, -20), vars(r)
assert (r.root_delay, r.root_dispersion, r.ref_id) == (0, 0, 0), vars(r)
print(r.leap, r.offset)";
    let out =
        Command::new(python).args(["-c", script]).in_namespace(machine.fd()).output(LONG).await.unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (leap, offset) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{text}"));
    (leap.parse().unwrap(), offset.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn ntplib_sees_leap_seconds() {
    let net = network!();
    let venv = crate::folders::variable("MANTLE_TEST_VENV")
        .or_else(|| Some(crate::folders::variable("HOME")?.join(".cache/mantle/test-venv")));
    let python = venv.unwrap_or_default().join("bin/python");
    let there = std::process::Command::new(&python).args(["-c", "import ntplib"]).output();
    if !there.is_ok_and(|out| out.status.success()) {
        return println!("skipped: no ntplib for {}; tests/setup.sh installs it", python.display());
    }
    let other = Namespace::new().unwrap();
    let lease = net.allocate().unwrap();
    net.veth(&lease, &other, "eth0").await.unwrap();
    let server = net.ntp();
    // 2027-01-01 and 2040-07-01, which is in the next era of NTP.
    for midnight in [1_798_761_600, 2_224_713_600] {
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(midnight);
        for (leap, announced, moves) in [(ntp::Leap::Add, 1, -1.0), (ntp::Leap::Sub, 2, 1.0)] {
            server.set_leap_second(midnight, leap).unwrap();
            let far = |time: SystemTime| {
                server.set_time(Some(time));
                time.duration_since(SystemTime::now()).unwrap().as_secs_f64()
            };
            // ntplib knows one era: for a later one it is told less than is meant.
            let close =
                |got: f64, wanted: f64| ((got - wanted + 1e6).rem_euclid(4_294_967_296.0) - 1e6).abs() < 0.45;
            let day = Duration::from_secs(24 * 3600);
            let wanted = far(midnight - day - LONG);
            let (said, offset) = ntplib(&python, &other).await;
            assert!(said == 0 && close(offset, wanted), "the day before: {said} {offset}, not {wanted}");
            let wanted = far(midnight - day / 2);
            let (said, offset) = ntplib(&python, &other).await;
            assert!(said == announced && close(offset, wanted), "before: {said} {offset}, not {wanted}");
            let wanted = far(midnight + Duration::from_secs(10)) + moves;
            let (said, offset) = ntplib(&python, &other).await;
            assert!(said == 0 && close(offset, wanted), "after: {said} {offset}, not {wanted}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_etcd_members_find_each_other() {
    etcd_members_find_each_other(&["one", "two"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_etcd_members_find_each_other() {
    etcd_members_find_each_other(&["one", "two", "three"]).await;
}

async fn etcd_members_find_each_other(names: &[&str]) {
    let net = network!();
    program!("etcd");
    let url = net.discovery_url(names.len()).await.unwrap();
    assert!(url.starts_with("http://10.0.0.1:"), "{url}");
    let folder = tempfile::tempdir().unwrap();
    let mut members = Vec::new();
    for &name in names {
        let (machine, lease) = (Namespace::new().unwrap(), net.allocate().unwrap());
        net.veth(&lease, &machine, "eth0").await.unwrap();
        let (client, peer) = (format!("http://{}:2379", lease.ipv4), format!("http://{}:2380", lease.ipv4));
        let data = folder.path().join(name);
        let etcd = Command::new("etcd")
            .args(["--name", name, "--discovery", &url, "--data-dir", data.to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .stderr(std::fs::File::create(folder.path().join(format!("{name}.log"))).unwrap())
            .in_namespace(machine.fd());
        members.push((etcd.spawn().await.unwrap(), lease, machine));
    }
    let formed = async {
        for (_, lease, _) in &members {
            let mut pause = Duration::from_millis(50);
            while !healthy(&net, lease.ipv4).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    };
    let formed = tokio::time::timeout(LONG, formed).await;
    let log = std::fs::read_to_string(folder.path().join("two.log")).unwrap();
    assert!(formed.is_ok() && members.iter().all(|(etcd, ..)| etcd.exited().is_none()), "{log}");
    for (etcd, ..) in members {
        etcd.stop(LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_may_be_disabled() {
    let disabled = || {
        let namespace = Namespace::new()?;
        let disable = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        namespace.run_blocking(disable)?.map(|()| namespace).map_err(Error::io("write to /proc/sys/net"))
    };
    let (namespace, other) = match (disabled(), disabled()) {
        (Ok(namespace), Ok(other)) => (namespace, other),
        (failed, _) => return println!("skipped: {:?}", failed.err()),
    };
    let net = LocalNet::inside(namespace).await.unwrap();
    let lease = net.allocate().unwrap();
    net.veth(&lease, &other, "eth0").await.unwrap();
    let answer = exchange(&other, "10.0.0.1:53", query("10-0-0-2.br0.local.", RecordType::ANY)).await;
    assert_eq!(records(&answer), ["10.0.0.2"]);
}
