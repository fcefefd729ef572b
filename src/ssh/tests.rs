//! Against the system's sshd on loopback, started per connection as `sshd -i`.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::*;

const PASSWORD: &str = "open sesame";
/// Far longer than anything here takes; only a hang reaches it.
const LONG: Duration = Duration::from_secs(60);

/// An sshd of our own: it knows one key and, where mount namespaces work, a password for root.
pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) key: Arc<Key>,
    /// Whether it knows [`PASSWORD`].
    password: bool,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    children: Arc<Mutex<Vec<Child>>>,
    accepting: Option<JoinHandle<()>>,
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Server {
    /// `None`, with the reason printed, where there is no sshd to test against.
    pub(crate) fn start() -> Option<Self> {
        if !Path::new("/usr/sbin/sshd").exists() {
            println!("skipped: /usr/sbin/sshd is missing (Debian package openssh-server)");
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root to log in as root");
            return None;
        }
        std::fs::create_dir_all("/run/sshd").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let key = Arc::new(Key::generate().unwrap());
        std::fs::write(at("authorized"), format!("{}\n", key.authorized())).unwrap();
        output("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at("host")]);
        // A sudo for root: guests have a real one.
        std::fs::create_dir(at("bin")).unwrap();
        std::fs::write(at("bin/sudo"), "#!/bin/sh\nexec \"$@\"\n").unwrap();
        std::fs::set_permissions(at("bin/sudo"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let hash = output("openssl", &["passwd", "-6", PASSWORD]);
        std::fs::write(at("shadow"), format!("root:{}:19000:0:99999:7:::\n", hash.trim())).unwrap();
        std::fs::write(
            at("config"),
            format!(
                "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
                 PasswordAuthentication yes\nRekeyLimit 4M\nLogLevel ERROR\nSetEnv PATH={}:/usr/bin:/bin HOME={}\n",
                at("host"),
                at("authorized"),
                at("bin"),
                dir.path().display()
            ),
        )
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let children = Arc::new(Mutex::new(Vec::new()));
        let password = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success());
        let mount =
            if password { format!("mount --bind {} /etc/shadow; ", at("shadow")) } else { String::new() };
        let script = format!("{mount}exec /usr/sbin/sshd -i -f {} -E {}", at("config"), at("log"));
        let (count, done, list) = (connections.clone(), stop.clone(), children.clone());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let socket = OwnedFd::from(stream.unwrap());
                let words: &[&str] = if password { &["unshare", "-m", "sh", "-c"] } else { &["sh", "-c"] };
                let child = Command::new(words[0])
                    .args(&words[1..])
                    .arg(&script)
                    .stdin(Stdio::from(socket.try_clone().unwrap()))
                    .stdout(Stdio::from(socket))
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                list.lock().unwrap().push(child);
            }
        });
        Some(Self { dir, address, key, password, connections, stop, children, accepting: Some(accepting) })
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::new(Direct), &self.address, Login::key("root", self.key.clone()), LONG)
    }

    /// Waits until the client has closed all connections.
    async fn all_ended(&self) {
        let children = std::mem::take(&mut *self.children.lock().unwrap());
        let wait = move || children.into_iter().for_each(|mut child| assert!(child.wait().is_ok()));
        tokio::time::timeout(LONG, tokio::task::spawn_blocking(wait)).await.unwrap().unwrap();
    }

    /// A command that runs until the server's folder is gone.
    fn endless(&self) -> String {
        format!("while test -e {}; do sleep 0.05; done", self.dir.path().display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Ends all connections from the server's side.
    pub(crate) fn kill(&self) {
        for mut child in self.children.lock().unwrap().drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
        self.kill();
    }
}

macro_rules! server {
    () => {
        match Server::start() {
            Some(server) => server,
            None => return,
        }
    };
}

#[test]
fn ports_follow_the_rule() {
    for (address, full) in [
        ("10.0.0.2", "10.0.0.2:22"),
        ("host:2222", "host:2222"),
        ("[::1]", "[::1]:22"),
        ("[::1]:2222", "[::1]:2222"),
        ("fd00::2", "[fd00::2]:22"),
    ] {
        assert_eq!(with_port(address), full);
    }
}

#[test]
fn quoted_words_survive_the_shell() {
    for word in ["", "plain", "two words", "it's", "$HOME `id` \\ \" * ?\n;", "''", "ä", "-n"] {
        let command = format!("printf %s {}", quote(word));
        assert_eq!(output("sh", &["-c", &command]), word);
    }
    assert_eq!(quote("/usr/bin/x-1.2"), "/usr/bin/x-1.2");
}

#[test]
fn secrets_are_not_shown() {
    let key = Arc::new(Key::generate().unwrap());
    assert!(key.authorized().starts_with("ssh-rsa AAAA") && key.authorized().ends_with(" core@default"));
    assert!(!format!("{key:?}").contains("PRIVATE"));
    let shown = format!("{:?} {:?}", Login::key("core", key), Login::password("core", PASSWORD));
    assert!(!shown.contains("PRIVATE") && !shown.contains(PASSWORD), "{shown}");
}

#[tokio::test]
async fn runs_commands_on_one_login() {
    let server = server!();
    let client = server.client();
    let output = client.run("echo ' out '; echo err >&2").await.unwrap();
    assert_eq!(output, Output { stdout: "out".into(), stderr: "err".into() });
    let error = client.run("echo out; echo err >&2; exit 3").await.unwrap_err();
    assert_eq!(error.exit_status(), Some(3));
    assert_eq!(error.to_string(), "command exited with status 3: err");
    let raw = client.output("printf 'a\\n'; exit 4").await.unwrap();
    assert_eq!(raw, RawOutput { status: 4, stdout: b"a\n".to_vec(), stderr: vec![] });
    let error = client.run("kill -TERM $$").await.unwrap_err();
    assert!(matches!(&error, Error::Signal { signal, .. } if signal == "TERM"), "{error}");
    let input: Vec<u8> = (0..5_000_000u32).map(|i| i as u8).collect();
    let echoed = client.output_with_input("cat", input.clone()).await.unwrap();
    assert!(echoed.stdout == input);
    // Input that nobody reads does not hold up the end.
    client.run_with_input("true", input).await.unwrap();
    // Outputs closed before the end.
    client.run_with_input("exec >&- 2>&-; cat >/dev/null", vec![0; 100_000]).await.unwrap();
    assert_eq!((client.logins(), server.connections.load(Ordering::SeqCst)), (1, 1));
    client.close().await;
    assert!(matches!(client.run("true").await, Err(Error::Closed { .. })));
}

#[tokio::test]
async fn both_outputs_may_be_big() {
    let server = server!();
    let client = server.client();
    let command = "head -c 20000000 /dev/zero >&2; head -c 20000000 /dev/zero";
    let output = client.output(command).await.unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (20_000_000, 20_000_000));
    let error = client.output("cat /dev/zero").await.unwrap_err();
    assert!(matches!(error, Error::TooMuch { .. }), "{error}");
    client.run("true").await.unwrap();
    assert_eq!(client.logins(), 2, "a session that saw an error is not used again");
}

#[tokio::test]
async fn a_look_at_one_output_may_take_in_the_other() {
    let server = server!();
    let client = server.client();
    client.run("true").await.unwrap();
    farewell::ABSENT.store(true, Ordering::SeqCst);
    for i in 0..50 {
        assert_eq!(client.run(&format!("echo {i}")).await.unwrap().stdout, i.to_string());
    }
    farewell::ABSENT.store(false, Ordering::SeqCst);
}

#[tokio::test]
async fn parallel_commands_do_not_wait_for_each_other() {
    let server = server!();
    let client = server.client();
    // Each waits for the file that the next makes; only the last makes its own at once.
    let dir = server.dir.path().display().to_string();
    let command = |i: i32| format!("cd {dir}; until test -e f{}; do sleep 0.01; done; touch f{i}", i + 1);
    let all = (0..6).map(command).chain([format!("touch {dir}/f6")]);
    let all = futures_util::future::join_all(all.map(|c| {
        let client = client.clone();
        async move { client.run(&c).await }
    }));
    for result in tokio::time::timeout(LONG, all).await.unwrap() {
        result.unwrap();
    }
    assert!(client.logins() <= 7);
    let before = client.logins();
    client.run("true").await.unwrap();
    assert_eq!(client.logins(), before);
}

#[tokio::test]
async fn a_lost_connection_is_told_from_a_failure() {
    let server = server!();
    let client = server.client();
    let error = client.run(&format!("echo x; kill -9 $PPID; {}", server.endless())).await.unwrap_err();
    assert!(error.is_lost() && error.exit_status().is_none() && !error.is_connect(), "{error}");
    client.run("true").await.unwrap();
    // A session that died in the pool is replaced without an error.
    server.kill();
    client.run("true").await.unwrap();
    assert_eq!(client.logins(), 3);
    client.reset();
    client.run("true").await.unwrap();
    assert_eq!(client.logins(), 4);
}

#[tokio::test]
async fn dropping_a_command_ends_its_session() {
    let server = server!();
    let client = server.client();
    let mark = server.path("pid");
    let command = format!("touch {}; {}", mark.display(), server.endless());
    let mut run = Box::pin(client.run(&command));
    while !mark.exists() {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut run).await;
    }
    drop(run);
    server.all_ended().await;
    client.run("true").await.unwrap();
    assert_eq!(client.logins(), 2);
    // The dropped session's thread is gone, so closing finds only the idle one.
    client.close().await;
}

#[tokio::test]
async fn streams_arrive_as_they_are_written() {
    let server = server!();
    let client = server.client();
    let mark = server.path("go");
    let command = format!("echo one; until test -e {}; do sleep 0.01; done; echo two", mark.display());
    let mut stream = client.stream(&command).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), b"one\n");
    client.run(&format!("touch {}", mark.display())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), b"two\n");
    assert!(stream.next().await.is_none());

    let mut stream = client.stream("echo why >&2; exit 5").await.unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "command exited with status 5: why");
    assert!(stream.next().await.is_none());

    // More than the queue holds, never read: dropping ends the thread all the same.
    let mut stream = client.stream("cat /dev/zero").await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    let mut stream = client.stream(&server.endless()).await.unwrap();
    server.kill();
    assert!(stream.next().await.unwrap().unwrap_err().is_lost());
    client.close().await;
}

#[tokio::test]
async fn wrong_credentials_and_silent_servers_cannot_connect() {
    let server = server!();
    let stranger = Login::key("root", Arc::new(Key::generate().unwrap()));
    let error = server.client().log_in_as(stranger).run("true").await.unwrap_err();
    assert!(error.is_connect() && error.to_string().starts_with("cannot log in at 127.0.0.1:"), "{error}");
    if server.password {
        let right = server.client().log_in_as(Login::password("root", PASSWORD));
        assert_eq!(right.run("id -un").await.unwrap().stdout, "root");
    } else {
        println!("skipped: password login, needs a mount namespace");
    }
    let wrong = server.client().log_in_as(Login::password("root", "wrong"));
    assert!(wrong.run("true").await.unwrap_err().is_connect());

    let login = Login::key("root", server.key.clone());
    let short = Duration::from_millis(300);
    // Accepts (in the kernel's queue) and says nothing, as QEMU does before the guest is up.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let client = Client::new(Arc::new(Direct), &address, login.clone(), short);
    let error = client.run("true").await.unwrap_err();
    assert!(error.is_connect() && error.to_string().starts_with("no ssh banner from"), "{error}");
    // Closes at once.
    let closing = std::thread::spawn(move || silent.accept().unwrap().0.shutdown(Shutdown::Both));
    assert!(client.run("true").await.unwrap_err().is_connect());
    closing.join().unwrap().unwrap();
    // Nobody listens.
    let client = Client::new(Arc::new(Direct), "127.0.0.1:1", login, short);
    let error = client.run("true").await.unwrap_err();
    assert!(error.to_string().starts_with("cannot connect to 127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_silent_first_connection_is_overtaken() {
    let server = server!();
    /// Dials something silent first.
    struct Late(String, AtomicUsize, String);
    impl Dial for Late {
        fn dial(&self, _: &str, timeout: Duration) -> io::Result<TcpStream> {
            let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
            Direct.dial(if first { &self.0 } else { &self.2 }, timeout)
        }
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let late = Late(silent.local_addr().unwrap().to_string(), AtomicUsize::new(0), server.address.clone());
    let client = Client::new(Arc::new(late), "guest", Login::key("root", server.key.clone()), LONG);
    client.run("true").await.unwrap();
    assert_eq!(client.address(), "guest:22");
}

#[tokio::test]
async fn files_are_installed_whole() {
    let server = server!();
    let client = server.client();
    let path = server.path("a dir/it's/file");
    let name = path.to_str().unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
    install_file(&client, data.clone(), name, 0o755).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == data);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(read_file(&client, name).await.unwrap() == data);
    install_file(&client, "", name, 0o600).await.unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    let error = install_file(&client, "x", &format!("{name}/below"), 0o644).await.unwrap_err();
    assert!(error.to_string().starts_with("failed creating directory of"), "{error}");
    let error = install_file(&client, "x", server.path("a dir").to_str().unwrap(), 0o644).await.unwrap_err();
    assert!(error.to_string().starts_with("failed to install"), "{error}");
    let error = read_file(&client, "/does/not/exist").await.unwrap_err();
    assert_eq!((error.exit_status(), error.to_string().as_str()), (Some(1), "cannot read /does/not/exist"));
    assert_eq!(client.logins(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_ssh_logs_in_through_the_agent() {
    let server = server!();
    let agent = Agent::start(server.dir.path(), server.key.clone()).unwrap();
    let port = server.address.rsplit_once(':').unwrap().1;
    let mut ssh = Command::new("ssh");
    ssh.env("SSH_AUTH_SOCK", agent.socket()).args(["-F", "/dev/null", "-p", port]);
    for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"] {
        ssh.args(["-o", option]);
    }
    let output = ssh.args(["root@127.0.0.1", "echo", "hello"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"hello\n", "{errors}");
    agent.close().await.unwrap();
}

/// Reads the far end of a terminal until `text` has come, on a thread of its own.
async fn expect(master: &std::fs::File, text: &'static str) -> String {
    let mut master = master.try_clone().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let (mut seen, mut buffer) = (String::new(), [0; 1024]);
        while !seen.contains(text) {
            let n = std::io::Read::read(&mut master, &mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        seen
    });
    tokio::time::timeout(LONG, read).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_the_terminal_to_itself() {
    use nix::sys::termios::{LocalFlags, tcgetattr};
    let server = server!();
    let client = server.client();
    let size = |ws_col, ws_row| nix::pty::Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size(101, 33), None).unwrap();
    let master = std::fs::File::from(pty.master);
    let cooked = |tty: &OwnedFd| tcgetattr(tty).unwrap().local_flags.contains(LocalFlags::ICANON);
    let tty = || shell::Tty::new(pty.slave.try_clone().unwrap(), pty.slave.try_clone().unwrap());
    let shell = client.clone();
    let task = {
        let tty = tty();
        tokio::spawn(async move { shell.shell_on("vt220", tty).await })
    };
    (&master).write_all(b"echo begin $TERM $(stty size; stty speed)\n").unwrap();
    expect(&master, "begin vt220 33 101 115200").await;
    assert!(!cooked(&pty.slave));
    nix::ioctl_write_ptr_bad!(resize, libc::TIOCSWINSZ, libc::winsize);
    #[expect(unsafe_code, reason = "test: sets the size of our own terminal")]
    // SAFETY: the descriptor is open and the pointer is to a winsize.
    unsafe { resize(std::os::fd::AsRawFd::as_raw_fd(&master), &size(77, 22)) }.unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGWINCH).unwrap();
    let command = b"until stty size | grep '22 77'; do sleep 0.05; done; echo e''nd; exit 3\n";
    (&master).write_all(command).unwrap();
    expect(&master, "end").await;
    tokio::time::timeout(LONG, task).await.unwrap().unwrap().unwrap();
    assert!(cooked(&pty.slave));
    client.run("true").await.unwrap();
    assert_eq!(client.logins(), 1);

    // A dropped shell leaves the terminal as it was, too.
    let mut shell = Box::pin(client.shell_on("vt220", tty()));
    while cooked(&pty.slave) {
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut shell).await;
    }
    drop(shell);
    assert!(cooked(&pty.slave));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_dropped_at_any_moment_leave_nothing() {
    let server = server!();
    let client = server.client();
    for moment in 0..25 {
        let command = client.run_with_input("head -c 1000000 /dev/zero; cat", vec![0; 1_000_000]);
        let _ = tokio::time::timeout(Duration::from_millis(moment * 4), command).await;
    }
    client.run("true").await.unwrap();
    client.close().await;
    server.all_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_lost_connection_are_heard() {
    let server = server!();
    // How far sshd gets before it is killed is up to the scheduler: several tries.
    for _ in 0..20 {
        let client = server.client();
        let mark = server.path("written");
        let _ = std::fs::remove_file(&mark);
        // Small pieces fill the stream's queue, so that the rest and the end wait in the socket together.
        let command = format!(
            "for i in $(seq 40); do echo $i; sleep 0.01; done; sleep 0.2; touch {}; {}",
            mark.display(),
            server.endless()
        );
        let mut stream = client.stream(&command).await.unwrap();
        while !mark.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server.kill();
        let (mut lines, mut lost) = (String::new(), false);
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => lines.push_str(std::str::from_utf8(&piece).unwrap()),
                Err(error) => lost = error.is_lost(),
            }
        }
        assert!(lost);
        if lines.ends_with("\n40\n") {
            return;
        }
    }
    panic!("the end of the output was always missing");
}
