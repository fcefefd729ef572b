//! QEMU's machine protocol (QMP): one JSON object a line.
//!
//! Written by hand because the `qapi` crate brings 26 000 generated lines for the two messages needed here, and
//! ends the connection at the first event that its copy of the schema does not know.

use std::collections::VecDeque;
use std::io;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// What can go wrong between QEMU and us.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("cannot talk to qemu's monitor")]
    Io(#[from] io::Error),
    /// QEMU closed the connection.
    #[error("qemu closed its monitor")]
    Closed,
    /// QEMU said what cannot be understood.
    #[error("qemu's monitor said {text:?}")]
    Protocol {
        /// The start of the line.
        text: String,
    },
    /// QEMU refused a command.
    #[error("qemu refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
}

type Result<T> = std::result::Result<T, Error>;

/// Longest line accepted; real ones are a few KiB.
const LINE: u64 = 1 << 20;

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Such as `SHUTDOWN`.
    pub name: String,
    /// Its details.
    pub data: Value,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

/// A connection that accepts commands.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// Events that arrived before the answer to a command.
    events: VecDeque<Event>,
    /// The start of a line that has not ended, so that a wait can be given up.
    line: Vec<u8>,
}

impl Client {
    /// Waits for the greeting and leaves negotiation. QEMU greets once its machine is complete.
    ///
    /// # Errors
    /// When QEMU is not at the other end, or ends.
    pub async fn open(stream: UnixStream) -> Result<Self> {
        let mut client = Self { stream: BufReader::new(stream), events: VecDeque::new(), line: Vec::new() };
        let (message, text) = client.receive().await?;
        if message.greeting.is_none() {
            return Err(Error::Protocol { text });
        }
        client.execute("qmp_capabilities", json!({})).await?;
        Ok(client)
    }

    /// Runs a command and returns its answer.
    ///
    /// # Errors
    /// When QEMU refuses it, or the connection fails.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).await?;
        loop {
            let (message, text) = self.receive().await?;
            match message {
                Message { answer: Some(answer), .. } => return Ok(answer),
                Message { error: Some(refusal), .. } => {
                    return Err(Error::Refused { command: command.to_owned(), reason: refusal.desc });
                }
                Message { event: Some(name), data, .. } => self.events.push_back(Event { name, data }),
                _ => return Err(Error::Protocol { text }),
            }
        }
    }

    /// Runs a line of the monitor for people.
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn human(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line })).await?;
        answer.as_str().map(str::to_owned).ok_or_else(|| Error::Protocol { text: answer.to_string() })
    }

    /// Waits for the next event. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// When the connection ends, [`Error::Closed`] if QEMU does.
    pub async fn event(&mut self) -> Result<Event> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.receive().await? {
            (Message { event: Some(name), data, .. }, _) => Ok(Event { name, data }),
            (_, text) => Err(Error::Protocol { text }),
        }
    }

    /// Reads one message; also returns the start of its text.
    async fn receive(&mut self) -> Result<(Message, String)> {
        let left = LINE.saturating_sub(self.line.len() as u64);
        (&mut self.stream).take(left).read_until(b'\n', &mut self.line).await?;
        let line = std::mem::take(&mut self.line);
        let text: String = String::from_utf8_lossy(&line).trim().chars().take(200).collect();
        match serde_json::from_slice(&line) {
            _ if line.is_empty() => Err(Error::Closed),
            Ok(message) => Ok((message, text)),
            Err(_) => Err(Error::Protocol { text }),
        }
    }
}

/// The host's port that user networking forwards to the guest's port 22, from the answer to `info usernet`.
pub fn forwarded_port(info: &str) -> Option<u16> {
    info.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["TCP[HOST_FORWARD]", _, _, port, _, "22", ..] => port.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": []}}"#;

    /// A QEMU that says these lines, each as soon as it heard one (the first unasked).
    async fn talk(lines: Vec<String>) -> (UnixStream, tokio::task::JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = tokio::spawn(async move {
            let mut theirs = BufReader::new(theirs);
            let mut heard = Vec::new();
            for line in lines {
                theirs.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
                let mut said = String::new();
                theirs.read_line(&mut said).await.unwrap();
                heard.push(said.trim().to_owned());
            }
            heard
        });
        (ours, peer)
    }

    #[tokio::test]
    async fn commands_and_events_mix() {
        let answers = [
            GREETING,
            r#"{"return": {}}"#,
            "{\"event\": \"NEW_ONE\", \"data\": {\"a\": 1}}\r\n{\"return\": \"text\"}",
        ];
        let (stream, peer) = talk(answers.map(str::to_owned).to_vec()).await;
        let mut client = Client::open(stream).await.unwrap();
        assert_eq!(client.human("info usernet").await.unwrap(), "text");
        let event = client.event().await.unwrap();
        assert_eq!((event.name.as_str(), &event.data["a"]), ("NEW_ONE", &json!(1)));
        drop(client);
        let heard = peer.await.unwrap();
        assert_eq!(heard[0], r#"{"execute":"qmp_capabilities","arguments":{}}"#);
        assert!(heard[1].contains(r#"{"command-line":"info usernet"}"#), "{heard:?}");
    }

    #[tokio::test]
    async fn refusals_garbage_and_the_end_are_errors() {
        let refusal = r#"{"error": {"class": "CommandNotFound", "desc": "no such thing"}}"#;
        let (stream, peer) = talk([GREETING, r#"{"return": {}}"#, refusal].map(str::to_owned).to_vec()).await;
        let mut client = Client::open(stream).await.unwrap();
        let e = client.execute("dance", json!({})).await.unwrap_err();
        assert_eq!(e.to_string(), "qemu refused dance: no such thing");
        let e = tokio::join!(client.event(), async { client_gone(peer).await }).0.unwrap_err();
        assert!(matches!(e, Error::Closed | Error::Io(_)), "{e}");
        let (stream, _peer) = talk(vec!["hello".into()]).await;
        assert_eq!(Client::open(stream).await.unwrap_err().to_string(), "qemu's monitor said \"hello\"");
    }

    /// Makes the fake end: it waits for a line that never comes.
    async fn client_gone(peer: tokio::task::JoinHandle<Vec<String>>) {
        peer.abort();
    }

    #[tokio::test]
    async fn endless_lines_are_cut() {
        let (stream, peer) = talk(vec!["x".repeat(3 << 20)]).await;
        assert!(matches!(Client::open(stream).await, Err(Error::Protocol { .. })));
        peer.abort();
    }

    #[test]
    fn port_of_the_forwarding() {
        let info = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    UDP[236 sec]       13       10.0.2.15 45332         8.8.8.8    22     0     0\r\n  \
                    TCP[HOST_FORWARD]  12       127.0.0.1 37841       10.0.2.15    22     0     0\r\n";
        assert_eq!(forwarded_port(info), Some(37841));
        assert_eq!(forwarded_port("nothing"), None);
    }
}
