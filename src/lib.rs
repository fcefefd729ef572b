//! The library behind mantle's applets: everything that is not a command line.
//!
//! Layering, top to bottom; a module may use those below it, never above:
//!
//! | module | what it is |
//! |---|---|
//! | `applet`, `args`, `config`, `error` | what all command lines share: dispatch, options, configuration files, failures |
//! | `platform` | drivers (one folder each) behind the traits `Flight`, `Cluster`, `Machine`, and the registry |
//! | `harness` | runs named tests in parallel and reports them: text, TAP, JSON, JUnit |
//! | `conf` | userdata: Ignition, cloud-config, scripts; what can be added to them |
//! | `journal`, `ssh` | the guest as seen through its sshd |
//! | `network` | namespaces, bridges, DHCP, DNS and NTP for local guests |
//! | `process` | children that cannot outlive us |
//! | `download` | fetches files: resumed, verified while they stream, renamed when right |
//! | `sdk` | where things lie in the Container Linux SDK |
//! | `release` | what is released where: the channel table, index plans, version files |
//! | `bucket` | trees of stored objects: copies between buckets, index pages |
//! | `compress` | decompression of streams |
//! | `google` | credentials and Cloud Storage |
//! | `http` | the HTTP client with its time limits and retries |
//! | `openpgp` | detached signatures against release keys or key files, in one pass over the data |
//! | `progress` | how far long work is: bars and lines |
//! | `natural` | the order in which people expect names |
//! | `log`, `output`, `shutdown` | messages, data, signals |

pub mod applet;
pub mod args;
pub mod bucket;
pub mod compress;
pub mod conf;
pub mod config;
pub mod download;
pub mod error;
pub mod google;
pub mod harness;
pub mod http;
pub mod journal;
pub mod log;
pub mod natural;
pub mod network;
pub mod openpgp;
pub mod output;
pub mod platform;
pub mod process;
pub mod progress;
pub mod release;
pub mod sdk;
pub mod shutdown;
pub mod ssh;
