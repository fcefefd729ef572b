//! Network time (RFC 5905, without extensions and authentication): the packet, and a server whose clock tests
//! can set and give a leap second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Datelike, Timelike, Utc};
use tokio::net::UdpSocket;

use crate::{debug, info, warning};

const LOG: &str = "network/ntp";
/// The port servers listen on.
pub const PORT: u16 = 123;
/// Length of a packet in bytes.
pub const LENGTH: usize = 48;
/// Datagrams of this length or more are not looked at.
const TOO_LONG: usize = 1024;
/// Seconds from 1900-01-01, where NTP's first era begins, to 1970-01-01.
const UNIX_EPOCH: i128 = 2_208_988_800;
const ERA: i128 = 1 << 32;
const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 24 * 3600 * SECOND;

/// What can be wrong with a packet or a leap second.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// Fewer bytes than a header has.
    #[error("an NTP packet of {0} bytes, less than {LENGTH}")]
    Short(usize),
    /// The version does not fit into three bits.
    #[error("NTP version {0} is greater than 7")]
    Version(u8),
    /// Leap seconds happen at the end of a month only.
    #[error("a leap second must come at midnight UTC before the first of a month, not at {0}")]
    Leap(String),
}

/// Warning of a leap second at the end of the current month, two bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum LeapIndicator {
    /// No warning.
    #[default]
    None,
    /// The last minute has 61 seconds.
    Add,
    /// The last minute has 59 seconds.
    Sub,
    /// The clock is not synchronised.
    Unsynchronized,
}

/// The role of the sender, three bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are all there is to say (RFC 5905, figure 10)")]
pub enum Mode {
    #[default]
    Reserved,
    SymmetricActive,
    SymmetricPassive,
    Client,
    Server,
    Broadcast,
    Control,
    Private,
}

/// A point in time, in seconds since the beginning of an era of 2³² s and fractions of 2⁻³² s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds; eras are not told apart.
    pub seconds: u32,
    /// 2⁻³² s each.
    pub fraction: u32,
}

impl Timestamp {
    fn from_nanos(unix: i128) -> Self {
        let fraction = unix.rem_euclid(SECOND) * ERA / SECOND;
        let seconds = (unix.div_euclid(SECOND) + UNIX_EPOCH).rem_euclid(ERA);
        Self { seconds: seconds as u32, fraction: fraction as u32 }
    }

    /// The time meant, taken from the era that brings it nearest to `pivot`. `None` if the system cannot
    /// represent it.
    pub fn to_system_time(self, pivot: SystemTime) -> Option<SystemTime> {
        let pivot = unix_nanos(pivot).div_euclid(SECOND) + UNIX_EPOCH;
        let ahead = (i128::from(self.seconds) - pivot).rem_euclid(ERA);
        let seconds = pivot + ahead - if ahead >= ERA / 2 { ERA } else { 0 } - UNIX_EPOCH;
        // Rounded up, because encoding rounds down: a nanosecond survives both.
        let nanos = seconds * SECOND + (i128::from(self.fraction) * SECOND + ERA - 1) / ERA;
        let distance = Duration::from_nanos(u64::try_from(nanos.unsigned_abs()).ok()?);
        if nanos < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self::from_nanos(unix_nanos(time))
    }
}

fn unix_nanos(time: SystemTime) -> i128 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

/// The header of every packet (RFC 5905, figure 8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Warning of a leap second.
    pub leap: LeapIndicator,
    /// Protocol version, at most 7; 4 today.
    pub version: u8,
    /// Role of the sender.
    pub mode: Mode,
    /// Distance from a reference clock; 1 is a clock, 16 means unsynchronised.
    pub stratum: u8,
    /// Longest interval between messages, log₂ of seconds.
    pub poll: i8,
    /// Precision of the clock, log₂ of seconds.
    pub precision: i8,
    /// Round trip to the reference clock, in 2⁻¹⁶ s.
    pub root_delay: u32,
    /// Greatest error relative to the reference clock, in 2⁻¹⁶ s.
    pub root_dispersion: u32,
    /// Which reference: four letters or an address.
    pub reference_id: u32,
    /// When the clock was last set.
    pub reference: Timestamp,
    /// When the request left, by the client's clock.
    pub origin: Timestamp,
    /// When the request arrived, by the server's clock.
    pub receive: Timestamp,
    /// When this packet left.
    pub transmit: Timestamp,
}

impl Packet {
    /// The bytes on the wire.
    ///
    /// # Errors
    /// [`Error::Version`] if the version needs more than three bits.
    pub fn encode(&self) -> Result<[u8; LENGTH], Error> {
        if self.version > 7 {
            return Err(Error::Version(self.version));
        }
        let mut bytes = [0; LENGTH];
        bytes[0] = (self.leap as u8) << 6 | self.version << 3 | self.mode as u8;
        bytes[1] = self.stratum;
        bytes[2..4].copy_from_slice(&[self.poll.cast_unsigned(), self.precision.cast_unsigned()]);
        let times = [self.reference, self.origin, self.receive, self.transmit];
        let words = [self.root_delay, self.root_dispersion, self.reference_id]
            .into_iter()
            .chain(times.into_iter().flat_map(|time| [time.seconds, time.fraction]));
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        Ok(bytes)
    }

    /// Reads a packet; what follows the header is ignored.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let header: &[u8; LENGTH] = bytes.first_chunk().ok_or(Error::Short(bytes.len()))?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let time = |at| Timestamp { seconds: word(at), fraction: word(at + 4) };
        let leap = match header[0] >> 6 {
            0 => LeapIndicator::None,
            1 => LeapIndicator::Add,
            2 => LeapIndicator::Sub,
            _ => LeapIndicator::Unsynchronized,
        };
        let mode = match header[0] & 7 {
            0 => Mode::Reserved,
            1 => Mode::SymmetricActive,
            2 => Mode::SymmetricPassive,
            3 => Mode::Client,
            4 => Mode::Server,
            5 => Mode::Broadcast,
            6 => Mode::Control,
            _ => Mode::Private,
        };
        Ok(Self {
            leap,
            version: header[0] >> 3 & 7,
            mode,
            stratum: header[1],
            poll: header[2].cast_signed(),
            precision: header[3].cast_signed(),
            root_delay: word(4),
            root_dispersion: word(8),
            reference_id: word(12),
            reference: time(16),
            origin: time(24),
            receive: time(32),
            transmit: time(40),
        })
    }
}

/// The direction of a leap second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leap {
    /// The minute before has 61 seconds.
    Add,
    /// The minute before has 59 seconds.
    Sub,
}

/// The server's clock: what to add to the system's, and the one leap second to come. In nanoseconds.
#[derive(Debug, Default)]
struct Clock {
    offset: i128,
    leap: Option<(i128, Leap)>,
}

impl Clock {
    /// Lets the leap second happen if it is time, else tells whether to announce it.
    fn pass(&mut self, system: i128) -> LeapIndicator {
        let now = system + self.offset;
        match self.leap {
            Some((at, Leap::Add)) if now >= at => {
                self.offset -= SECOND;
                self.leap = None;
                LeapIndicator::None
            }
            Some((at, Leap::Sub)) if now >= at - SECOND => {
                self.offset += SECOND;
                self.leap = None;
                LeapIndicator::None
            }
            Some((at, leap)) if now >= at - DAY => match leap {
                Leap::Add => LeapIndicator::Add,
                Leap::Sub => LeapIndicator::Sub,
            },
            _ => LeapIndicator::None,
        }
    }
}

/// An NTP server with a clock of its own that starts as the system's.
#[derive(Debug, Default)]
pub struct Server {
    clock: Mutex<Clock>,
}

impl Server {
    /// A server that tells the system's time.
    pub fn new() -> Self {
        Self::default()
    }

    fn clock(&self) -> std::sync::MutexGuard<'_, Clock> {
        // Plain numbers: every state is a whole one.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on tells the time as if it were `time`; `None` goes back to the system's time.
    pub fn set_time(&self, time: Option<SystemTime>) {
        self.set_time_at(time, SystemTime::now());
    }

    fn set_time_at(&self, time: Option<SystemTime>, now: SystemTime) {
        self.clock().offset = time.map_or(0, |time| unix_nanos(time) - unix_nanos(now));
    }

    /// Lets a leap second happen at `time` of this server's clock, which must be midnight UTC on the first of a
    /// month. It is announced for the 24 hours before. There can be one at a time; the last one set counts.
    ///
    /// # Errors
    /// [`Error::Leap`] for any other time.
    pub fn set_leap_second(&self, time: SystemTime, leap: Leap) -> Result<(), Error> {
        let at = unix_nanos(time);
        let date =
            i64::try_from(at.div_euclid(SECOND)).ok().and_then(|s| DateTime::<Utc>::from_timestamp(s, 0));
        let allowed = at.rem_euclid(SECOND) == 0
            && date.is_some_and(|date| date.day() == 1 && date.num_seconds_from_midnight() == 0);
        if !allowed {
            return Err(Error::Leap(date.map_or_else(|| format!("{time:?}"), |date| date.to_string())));
        }
        self.clock().leap = Some((at, leap));
        Ok(())
    }

    /// Answers requests until an owner aborts it.
    pub async fn serve(&self, socket: &UdpSocket) {
        let mut buffer = [0; TOO_LONG];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(e) => {
                    warning!(LOG, "cannot receive: {e}");
                    continue;
                }
            };
            let arrival = SystemTime::now();
            let sent = match self.reply(&buffer[..length], arrival, SystemTime::now) {
                Ok(answer) => socket.send_to(&answer, from).await,
                Err(why) => {
                    info!(LOG, "ignored a packet from {from}: {why}");
                    continue;
                }
            };
            match sent {
                Ok(_) => debug!(LOG, "answered {from}"),
                Err(e) => warning!(LOG, "cannot answer {from}: {e}"),
            }
        }
    }

    /// The answer to a request, or why there is none.
    fn reply(
        &self,
        request: &[u8],
        arrival: SystemTime,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<[u8; LENGTH], String> {
        if request.len() >= TOO_LONG {
            return Err(format!("it has {TOO_LONG} bytes or more"));
        }
        let request = Packet::decode(request).map_err(|e| e.to_string())?;
        if (request.version, request.mode) != (4, Mode::Client) {
            return Err(format!(
                "version {} and mode {:?}, not a client's of version 4",
                request.version, request.mode
            ));
        }
        let arrival = unix_nanos(arrival);
        let mut clock = self.clock();
        let leap = clock.pass(arrival);
        let offset = clock.offset;
        drop(clock);
        let received = Timestamp::from_nanos(arrival + offset);
        let answer = Packet {
            leap,
            version: 4,
            mode: Mode::Server,
            stratum: 7,
            poll: 6,
            precision: -20,
            reference: received,
            origin: request.transmit,
            receive: received,
            transmit: Timestamp::from_nanos(unix_nanos(now()) + offset),
            ..Packet::default()
        };
        answer.encode().map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    /// 2016-12-31 24:00:00 UTC.
    const NEW_YEAR: f64 = 1_483_228_800.0;

    #[test]
    fn a_known_request_decodes_and_encodes() {
        let mut bytes = [0; LENGTH];
        bytes[..12].copy_from_slice(&[0xe3, 0, 3, 0xfa, 0, 1, 0, 0, 0, 1, 0, 0]);
        bytes[40..].copy_from_slice(&[0xd9, 0x0b, 0x4f, 0xca, 0x77, 0xce, 0x2d, 0x4e]);
        let packet = Packet::decode(&bytes).unwrap();
        let expected = Packet {
            leap: LeapIndicator::Unsynchronized,
            version: 4,
            mode: Mode::Client,
            poll: 3,
            precision: -6,
            root_delay: 1 << 16,
            root_dispersion: 1 << 16,
            transmit: Timestamp { seconds: 0xd90b_4fca, fraction: 0x77ce_2d4e },
            ..Packet::default()
        };
        assert_eq!(packet, expected);
        assert_eq!(packet.encode(), Ok(bytes));
    }

    #[test]
    fn every_first_byte_survives() {
        for first in 0..=255 {
            let mut bytes = [0x5a; LENGTH];
            bytes[0] = first;
            assert_eq!(Packet::decode(&bytes).unwrap().encode(), Ok(bytes));
        }
        assert_eq!(Packet { version: 8, ..Packet::default() }.encode(), Err(Error::Version(8)));
        assert_eq!(Packet::decode(&[0; 47]), Err(Error::Short(47)));
    }

    #[test]
    fn timestamps_wrap_and_unwrap() {
        assert_eq!(
            Timestamp::from(SystemTime::UNIX_EPOCH),
            Timestamp { seconds: 2_208_988_800, fraction: 0 }
        );
        assert_eq!(Timestamp::from(unix(0.5)).fraction, 1 << 31);
        // Era 1 begins on 2036-02-07 at 06:28:16 UTC.
        let era1 = unix(2_085_978_496.0);
        assert_eq!(Timestamp::from(era1), Timestamp { seconds: 0, fraction: 0 });
        assert_eq!(Timestamp::from(era1 - Duration::from_secs(1)).seconds, u32::MAX);
        let day = Duration::from_secs(86400);
        for time in [era1, era1 - Duration::from_nanos(1), era1 + Duration::from_nanos(999_999_999)] {
            for pivot in [time - day, time, time + day] {
                assert_eq!(Timestamp::from(time).to_system_time(pivot), Some(time));
            }
        }
        let before_unix = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
        assert_eq!(Timestamp::from(before_unix).to_system_time(SystemTime::UNIX_EPOCH), Some(before_unix));
    }

    fn request() -> [u8; LENGTH] {
        let transmit = Timestamp { seconds: 1, fraction: 2 };
        Packet { version: 4, mode: Mode::Client, transmit, ..Packet::default() }.encode().unwrap()
    }

    fn ask(server: &Server, arrival: f64, sent: f64) -> Packet {
        Packet::decode(&server.reply(&request(), unix(arrival), || unix(sent)).unwrap()).unwrap()
    }

    #[test]
    fn answers_are_filled_as_specified() {
        let server = Server::new();
        let expected = Packet {
            version: 4,
            mode: Mode::Server,
            stratum: 7,
            poll: 6,
            precision: -20,
            reference: unix(1000.25).into(),
            origin: Timestamp { seconds: 1, fraction: 2 },
            receive: unix(1000.25).into(),
            transmit: unix(1000.5).into(),
            ..Packet::default()
        };
        assert_eq!(ask(&server, 1000.25, 1000.5), expected);

        server.set_time_at(Some(unix(5000.0)), unix(1000.0));
        let answer = ask(&server, 1000.25, 1000.5);
        assert_eq!((answer.receive, answer.transmit), (unix(5000.25).into(), unix(5000.5).into()));
        server.set_time_at(Some(unix(10.0)), unix(1000.0));
        assert_eq!(ask(&server, 1001.0, 1002.0).transmit, unix(12.0).into());
        server.set_time(None);
        assert_eq!(ask(&server, 1000.25, 1000.5), expected);
    }

    #[test]
    fn other_packets_are_ignored() {
        let server = Server::new();
        let good = request();
        let now = SystemTime::now;
        assert!(server.reply(&[&good[..], &[0; 20]].concat(), now(), now).is_ok());
        assert!(server.reply(&good[..47], now(), now).unwrap_err().contains("47 bytes"));
        assert!(server.reply(&[&good[..], &[0; 976]].concat(), now(), now).is_err());
        for first in [3 << 3 | 3, 5 << 3 | 3, 4 << 3 | 4, 4 << 3] {
            let mut bad = good;
            bad[0] = first;
            assert!(server.reply(&bad, now(), now).is_err(), "{first:#x}");
        }
    }

    #[test]
    fn a_second_is_added() {
        let server = Server::new();
        server.set_leap_second(unix(NEW_YEAR), Leap::Add).unwrap();
        let at = |offset: f64| {
            let answer = ask(&server, NEW_YEAR + offset, NEW_YEAR + offset);
            (answer.leap, answer.transmit)
        };
        assert_eq!(at(-86400.25), (LeapIndicator::None, unix(NEW_YEAR - 86400.25).into()));
        assert_eq!(at(-86400.0), (LeapIndicator::Add, unix(NEW_YEAR - 86400.0).into()));
        assert_eq!(at(-0.25), (LeapIndicator::Add, unix(NEW_YEAR - 0.25).into()));
        // 23:59:59 happens twice.
        assert_eq!(at(0.0), (LeapIndicator::None, unix(NEW_YEAR - 1.0).into()));
        assert_eq!(at(1.0), (LeapIndicator::None, unix(NEW_YEAR).into()));
        assert_eq!(at(3600.0), (LeapIndicator::None, unix(NEW_YEAR + 3599.0).into()));
    }

    #[test]
    fn a_second_is_left_out() {
        let server = Server::new();
        server.set_leap_second(unix(NEW_YEAR), Leap::Sub).unwrap();
        let at = |offset: f64| {
            let answer = ask(&server, NEW_YEAR + offset, NEW_YEAR + offset);
            (answer.leap, answer.transmit)
        };
        assert_eq!(at(-1.25), (LeapIndicator::Sub, unix(NEW_YEAR - 1.25).into()));
        // 23:59:59 does not happen.
        assert_eq!(at(-1.0), (LeapIndicator::None, unix(NEW_YEAR).into()));
        assert_eq!(at(0.0), (LeapIndicator::None, unix(NEW_YEAR + 1.0).into()));
    }

    #[test]
    fn the_leap_second_follows_the_clock_that_was_set() {
        let server = Server::new();
        server.set_leap_second(unix(NEW_YEAR), Leap::Add).unwrap();
        server.set_time_at(Some(unix(NEW_YEAR - 10.0)), unix(1000.0));
        assert_eq!(ask(&server, 1005.0, 1005.0).leap, LeapIndicator::Add);
        assert_eq!(ask(&server, 1010.0, 1010.0).transmit, unix(NEW_YEAR - 1.0).into());
    }

    #[test]
    fn leap_seconds_come_at_the_end_of_a_month_only() {
        let server = Server::new();
        for bad in [NEW_YEAR + 1.0, NEW_YEAR + 0.5, NEW_YEAR - 86400.0, NEW_YEAR + 43200.0] {
            assert!(matches!(server.set_leap_second(unix(bad), Leap::Add), Err(Error::Leap(_))), "{bad}");
        }
        assert_eq!(server.set_leap_second(unix(NEW_YEAR + 31.0 * 86400.0), Leap::Sub), Ok(()));
    }
}
