//! The library behind mantle's applets: everything that is not a command line.
//!
//! Layering, top to bottom; a module may use those below it, never above:
//!
//! | module | what it is |
//! |---|---|
//! | `applet`, `args`, `complete`, `config`, `error` | what all command lines share: dispatch, options, completion, configuration files, failures |
//! | `platform` | machines: drivers (one folder each) behind the traits `Flight` and `Machine`, and the registry |
//! | `results` | results of runs at shared places: stored as tests end, got back |
//! | `cloud` | clouds as ore and plume use them: accounts, credentials, APIs, images, uploads, what is left over |
//! | `publish` | releases as plans: looked at, rehearsed, carried out, gone on with |
//! | `doubles` | the clouds' services on this machine, for rehearsals and tests |
//! | `harness` | runs named tests in parallel and reports them: text, TAP, JSON, JUnit; puts the results of several processes together |
//! | `conf` | userdata: Ignition, cloud-config, scripts; what can be added to them |
//! | `journal`, `ssh` | the guest as seen through its sshd |
//! | `update` | update payloads: made, verified, applied |
//! | `omaha` | the update protocol of Container Linux and a server that speaks it |
//! | `network` | namespaces, bridges, DHCP, DNS and NTP for local guests |
//! | `ledger` | the record of what must be removed should this process die |
//! | `process` | children that cannot outlive us |
//! | `download` | fetches files: resumed, verified while they stream, renamed when right |
//! | `sdk` | where things lie in the Container Linux SDK; its chroot |
//! | `repo` | the sources of the SDK: manifests, signed tags, trees of git repositories |
//! | `release` | what is released where: the channel table, index plans, version files |
//! | `bucket` | trees of stored objects: copies between buckets, index pages |
//! | `http` | the HTTP client with its time limits and retries |
//! | `poll` | waits for what others do in their own time |
//! | `openpgp` | detached signatures against release keys or key files, in one pass over the data |
//! | `badness` | signs of trouble in consoles and journals |
//! | `cause` | why a machine is of no use, in a word |
//! | `compress`, `disk` | streams that are packed; images of disks by their headers |
//! | `progress`, `terminal` | how far long work is: bars and lines |
//! | `secret` | values that must not be shown |
//! | `glob`, `natural`, `text` | patterns, the order in which people expect names, words for people and for URLs |
//! | `folders`, `input`, `target` | where a user's files are; what of them may be read; how outputs land without harm to what is there |
//! | `multicall` | functions that need a process of their own |
//! | `log`, `output`, `shutdown` | messages, data, signals |

pub mod applet;
pub mod args;
pub mod badness;
pub mod bucket;
pub mod cause;
pub mod cloud;
mod complete;
pub mod compress;
pub mod conf;
pub mod config;
pub mod disk;
pub mod doubles;
pub mod download;
pub mod error;
pub mod folders;
pub mod glob;
pub mod harness;
pub mod http;
pub mod input;
pub mod journal;
pub mod ledger;
pub mod log;
pub mod multicall;
pub mod natural;
pub mod network;
pub mod omaha;
pub mod openpgp;
pub mod output;
pub mod platform;
pub mod poll;
pub mod process;
pub mod progress;
pub mod publish;
pub mod release;
pub mod repo;
pub mod results;
pub mod sdk;
pub mod secret;
pub mod shutdown;
pub mod ssh;
pub mod target;
pub mod terminal;
pub mod text;
pub mod update;
