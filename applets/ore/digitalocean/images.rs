//! `ore do create-image` and `delete-image`.

use ::mantle::applet::Context;
use ::mantle::cloud::digitalocean::create::{self, BUSYBOX, Busybox, DISTRIBUTIONS, Failure, Install};
use ::mantle::cloud::digitalocean::{Account, NewImage};
use ::mantle::error::{Result, Section as _, eyre, usage};
use ::mantle::http::CallError;
use ::mantle::output;
use clap::Parser;

use crate::ore::group::{Account as _, Explain, Verb, given, unless_cancelled};

/// How an image comes to be.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    /// DigitalOcean fetches it
    Custom,
    /// A droplet overwrites its own disk with it, and is kept
    Kexec,
}

#[derive(Parser)]
#[command(
    name = "create-image",
    about = "Create image",
    long_about = "Create an image from what is at a URL, which DigitalOcean must be able to read without signing in, and \
        print its id. With --method=custom, DigitalOcean fetches a raw, qcow2, vhdx, vdi or vmdk disk, which may be \
        compressed with gzip or bzip2. With --method=kexec, a droplet fetches a raw disk compressed with bzip2, \
        overwrites its own disk with it and is made a snapshot; it boots an image of Container Linux or the like that the \
        account has. What a killed --method=custom has begun is gone on with by the same command."
)]
pub struct Create {
    /// Image name
    #[arg(short, long, value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,

    /// Image source URL, such as https://example.com/linux.img.bz2
    #[arg(short, long, value_name = "URL", default_value = "", hide_default_value = true, value_hint = clap::ValueHint::Url)]
    url: String,

    /// Region slug
    #[arg(long, value_name = "REGION", default_value = "sfo2")]
    region: String,

    /// How the image is made
    #[arg(long, value_name = "METHOD", value_enum, default_value = "custom")]
    method: Method,

    /// What DigitalOcean's pages call the system on the image
    #[arg(long, value_name = "NAME", default_value = "CoreOS", value_parser = clap::builder::PossibleValuesParser::new(DISTRIBUTIONS))]
    distribution: String,

    /// Description of the image
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,

    /// Image of the droplet that overwrites itself, as kola's --do-image
    #[arg(long, value_name = "IMAGE", default_value = "stable")]
    base_image: String,

    /// Size of the droplet that overwrites itself: the image fits droplets with no smaller disk
    #[arg(long, value_name = "SIZE", default_value = "s-1vcpu-1gb")]
    size: String,

    /// Where the droplet that overwrites itself fetches a static busybox
    #[arg(long, value_name = "URL", default_value = BUSYBOX.url, value_hint = clap::ValueHint::Url)]
    busybox_url: String,

    /// SHA-256 of that busybox
    #[arg(long, value_name = "HEX", default_value = BUSYBOX.sha256)]
    busybox_sha256: String,
}

impl Explain for Failure {
    fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    fn is_usage(&self) -> bool {
        matches!(self, Self::Address { .. })
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Call { source, .. } => source.advice(),
            Self::Address { .. } => Some(
                "put the image where everybody can read it, such as a public bucket or Space, and pass that address",
            ),
            Self::Taken { .. } => Some("remove it with `ore do delete-image`, or choose another name"),
            Self::Late { .. } => Some("run the same command again to go on waiting"),
            Self::Install(_) => Some(
                "see whether the URL can be read without signing in, and is a raw disk compressed with bzip2 that fits",
            ),
            _ => None,
        }
    }
}

impl Verb for Create {
    type Account = Account;

    async fn run(self, account: Account, context: &Context) -> Result<()> {
        for (option, value) in [("name", &self.name), ("URL", &self.url)] {
            if value.is_empty() {
                return Err(eyre!("Image {option} must be specified")
                    .suggestion(format!("pass --{}", option.to_lowercase())));
            }
        }
        let install = Install {
            name: &self.name,
            url: &self.url,
            region: &self.region,
            size: &self.size,
            base: &self.base_image,
            busybox: Busybox { url: &self.busybox_url, sha256: &self.busybox_sha256 },
        };
        create::check_address(&self.url).map_err(|e| e.explain(""))?;
        if self.method == Method::Kexec {
            create::check_address(&self.busybox_url).map_err(|e| e.explain(""))?;
            let hex = &self.busybox_sha256;
            if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(usage(format!("--busybox-sha256={hex}: a SHA-256 has 64 hexadecimal digits")));
            }
        }
        let api = account.sign_in(context).await?;
        let failed = |e: Failure| e.explain("Couldn't create image");
        if self.method == Method::Kexec {
            let made = create::install(&api, &install, &context.cancel).await.map_err(failed)?;
            output::line(made.image)?;
            for line in &made.left {
                ::mantle::error!("ore", "{line}");
            }
            return match made.left.len() {
                0 => Ok(()),
                n => Err(eyre!("the image was made, but {n} things that were needed for it are left")
                    .suggestion("remove them with `ore do gc --duration=0s` and `ore do delete-keys`")),
            };
        }
        let new = NewImage {
            name: &self.name,
            url: &self.url,
            region: &self.region,
            distribution: &self.distribution,
            description: &self.description,
        };
        let id = create::fetch(&api, &new, &context.cancel).await.map_err(failed)?;
        Ok(output::line(id)?)
    }
}

#[derive(Parser)]
#[command(name = "delete-image", about = "Delete image")]
pub struct Delete {
    /// Image name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,

    /// Image id, in place of a name that several have
    #[arg(long, value_name = "ID", conflicts_with = "name")]
    id: Option<u64>,
}

impl Verb for Delete {
    type Account = Account;

    async fn run(self, account: Account, context: &Context) -> Result<()> {
        let Some(name) = given(self.name).or_else(|| self.id.map(|id| id.to_string())) else {
            return Err(eyre!("Image name must be specified").suggestion("pass --name"));
        };
        let api = account.sign_in_to_remove(context).await?;
        let failed = |e: CallError| e.explain("Couldn't delete image");
        // The account's own only: nobody else's could be removed.
        let all = unless_cancelled(context, async { api.images().await.map_err(failed) }).await?;
        let ids: Vec<u64> = match self.id {
            Some(id) => all.iter().filter(|i| i.id == id).map(|i| i.id).collect(),
            None => all.iter().filter(|i| i.name == name).map(|i| i.id).collect(),
        };
        match ids[..] {
            [] => Err(eyre!("couldn't find image {name:?}")),
            [id] => {
                api.delete_image(id).await.map_err(failed)?;
                ::mantle::info!("ore", "deleted image {name} ({id})");
                Ok(())
            }
            [..] => {
                let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
                Err(eyre!("found multiple images named {name:?}: {}", ids.join(", "))
                    .suggestion("pass the --id of the one that is meant"))
            }
        }
    }
}
