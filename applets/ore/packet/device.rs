//! `ore packet create-device`.

use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::cloud::packet::CLOSED;
use ::mantle::cloud::packet::device::{self, Order};
use ::mantle::conf::{self, Additions, IgnitionVersion, UserData};
use ::mantle::error::{Result, Stop, WrapErr as _, eyre, usage};
use ::mantle::ledger::Ledger;
use ::mantle::output;
use ::mantle::platform::packet::{HardwareOptions, hardware};
use ::mantle::text::chain;
use clap::Parser;
use serde_json::{Map, Value};

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Verb};

#[derive(Parser)]
#[command(
    name = "create-device",
    about = "Create Packet device",
    long_about = format!("Make a device that has installed an image, and print its id, name and address as a line of \
        JSON. What its installer fetches is removed afterwards. {CLOSED}")
)]
pub struct Create {
    #[command(flatten)]
    hardware: HardwareOptions,

    /// Target board
    #[arg(long, value_name = "BOARD", default_value = "amd64-usr")]
    board: String,

    /// Hostname to assign to the device
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    hostname: String,

    /// Path to file containing userdata; its kind is recognised
    #[arg(long, value_name = "FILE", value_parser = ::mantle::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    userdata_file: Option<PathBuf>,
}

impl Create {
    /// The userdata as the device gets it.
    async fn userdata(&self) -> Result<String> {
        let Some(path) = self.userdata_file.as_ref().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(String::new());
        };
        let shown = path.display();
        let bytes =
            ::mantle::input::read(path).wrap_err_with(|| format!("Couldn't read userdata file {shown}"))?;
        let parse = async {
            let data = UserData::detect(&bytes)?.translated().await?;
            let (public, private) = ("${COREOS_PACKET_IPV4_PUBLIC_0}", "${COREOS_PACKET_IPV4_PRIVATE_0}");
            let conf =
                conf::render(Some(&data), IgnitionVersion::V2, public, private, &Additions::default())?;
            Ok::<_, conf::Error>(if conf.is_empty() { String::new() } else { conf.text().to_owned() })
        };
        parse.await.wrap_err_with(|| format!("Couldn't parse userdata file {shown}"))
    }
}

impl Verb for Create {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let hardware = hardware(&self.hardware, &self.board).map_err(|e| usage(chain(&e)))?;
        account.store.check().map_err(|e| usage(format!("--storage-url: {}", chain(&e))))?;
        let user_data = self.userdata().await?;
        let packet = account.sign_in(context).await?.packet;
        let store = account.store.open(account.choice()).await.wrap_err("Couldn't create device")?;
        let token = uuid::Uuid::new_v4().to_string();
        let order = Order {
            hostname: &self.hostname,
            token: &token,
            user_data: &user_data,
            console: None,
            evidence: None,
            cancel: &context.cancel,
        };
        let made = device::make(&packet, &store, &Ledger::none(), &hardware, &order).await;
        let error = match made {
            Ok((device, _)) => {
                let mut line = Map::new();
                let mut put = |name: &str, value: Option<&str>| {
                    if let Some(value) = value {
                        line.insert(name.to_owned(), value.into());
                    }
                };
                put("id", Some(&device.id));
                put("hostname", Some(device.hostname.as_deref().unwrap_or(&self.hostname)));
                put("public-ip", device.ipv4(true));
                return Ok(output::line(serde_json::to_string(&Value::Object(line))?)?);
            }
            Err(e) => e,
        };
        // What was ordered must not stay, whether its order was answered or not.
        let ended = async {
            for device in packet.launched(&token).await? {
                device::end(&packet, &device.id).await?;
            }
            Ok::<_, ::mantle::http::CallError>(())
        };
        let certain = matches!(&error, device::Error::Call { source, .. } if source.is_certain());
        if let Err(e) = ended.await
            && !certain
        {
            let tag = format!("{}{token}", ::mantle::cloud::packet::LAUNCH);
            ::mantle::error!("ore", "a device with the tag {tag} may be left: {}", chain(&e));
        }
        match error {
            device::Error::Cancelled => Err(Stop::Interrupted.into()),
            device::Error::Call { what, source } => Err(source.explain(&what)),
            e => Err(eyre!(e).wrap_err("Couldn't create device")),
        }
    }
}
