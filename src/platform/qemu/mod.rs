//! Virtual machines on this host: platforms `qemu` (root, a private network with services) and `qemu-unpriv`
//! (any user, QEMU's own network).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use self::accel::Decision;
pub use self::command::MEMORY_MIB;
use self::command::{Arch, Kernel};
use self::firmware::Firmware;
pub use self::image::specialize;
use self::machine::Start;
pub use self::options::Options;
use self::saved::Saved;
use super::local::Local;
use super::{
    Error, Flight, FlightBase, LaunchRequest, Machine, Platform, Result, ResultExt, State, Target, Warm,
    image as images,
};
use crate::ledger::{Ledger, Leftover};
use crate::process::find_program;
use crate::text::chain;

mod accel;
mod command;
mod firmware;
mod image;
mod machine;
mod options;
mod qmp;
mod saved;
#[cfg(test)]
mod tests;

/// Key of both platforms in properties.json, and of their options.
const PROPERTIES: &str = "qemu";
/// Value of the kernel option that stands for what the image's feature file names.
const AUTO: &str = "auto";

/// Platform `qemu`.
pub struct Qemu;

impl Platform for Qemu {
    const NAME: &'static str = "qemu";
    const ABOUT: &'static str = "virtual machines on this host in a private network; needs root";
    const INTERNET: bool = false;
    const PROPERTIES: &'static str = PROPERTIES;
    type Options = Options;

    type Prepared = Prepared;

    fn prepare(options: Options, target: &Target) -> Result<Prepared> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::new("platform qemu needs root for its private network; qemu-unpriv does not"));
        }
        Prepared::new(options, target)
    }

    fn image(options: &Options, board: &str) -> Option<images::Image> {
        image_of(options, board).ok()
    }

    async fn flight(prepared: Prepared, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let mangle = base.target.distribution.mangle;
        let setup = Setup::new(Self::NAME, prepared, mangle, &base.ledger).await?;
        let network = Local::new().await?;
        Ok(Arc::new(QemuFlight::new(&base, setup, Some(network))))
    }
}

/// Platform `qemu-unpriv`.
pub struct QemuUnpriv;

impl Platform for QemuUnpriv {
    const NAME: &'static str = "qemu-unpriv";
    const ABOUT: &'static str =
        "virtual machines on this host, each alone behind QEMU's own network; any user";
    const INTERNET: bool = true;
    const PROPERTIES: &'static str = PROPERTIES;
    const VARIANT_OF: Option<&'static str> = Some(Qemu::NAME);
    type Options = Options;

    type Prepared = Prepared;

    fn prepare(options: Options, target: &Target) -> Result<Prepared> {
        Prepared::new(options, target)
    }

    fn image(options: &Options, board: &str) -> Option<images::Image> {
        image_of(options, board).ok()
    }

    async fn flight(prepared: Prepared, base: FlightBase) -> Result<Arc<dyn Flight>> {
        // Changing an image takes a mount, which takes root: never done here.
        let setup = Setup::new(Self::NAME, prepared, false, &base.ledger).await?;
        Ok(Arc::new(QemuFlight::new(&base, setup, None)))
    }
}

/// Options that can work on this host, with all that they name found.
#[derive(Clone, Debug)]
pub struct Prepared {
    board: Arch,
    program: PathBuf,
    image: PathBuf,
    firmware: Firmware,
    kernel: Option<Kernel>,
    options: Options,
}

impl Prepared {
    /// Refuses what cannot work.
    fn new(options: Options, target: &Target) -> Result<Self> {
        let board = Arch::of_board(&target.board)?;
        let program = program(board.program(), board.package())?;
        self::program("qemu-img", "qemu-utils")?;
        let found = image_of(&options, &target.board)?;
        image::check_primary(&found.path)?;
        if let Some(facts) = found.facts.as_ref().filter(|f| f.board != target.board) {
            let text = format!("{} is for board {}, not {}", found.path.display(), facts.board, target.board);
            return Err(Error::new(text));
        }
        let firmware = Firmware::resolve(&options, board)?;
        let kernel = kernel(&options, &found)?;
        Ok(Self { board, program, image: found.path, firmware, kernel, options })
    }
}

fn program(name: &str, package: &str) -> Result<PathBuf> {
    find_program(name)
        .ok_or_else(|| Error::new(format!("{name} is not installed (Debian: apt-get install {package})")))
}

/// Why guests of a board cannot be run by KVM here, found out by running one; `None` if they can.
///
/// # Errors
/// When there is no QEMU for the board, or it cannot be run.
pub async fn without_kvm(board: &str) -> Result<Option<String>> {
    let board = Arch::of_board(board)?;
    accel::without_kvm(board, &program(board.program(), board.package())?).await
}

/// The image that the options name, or the default one, with its facts.
fn image_of(options: &Options, board: &str) -> Result<images::Image> {
    let path = match options.qemu_image.as_ref().filter(|p| !p.as_os_str().is_empty()) {
        Some(path) => path.clone(),
        None => images::default_image(board)
            .map_err(|e| Error::new(format!("{}; name one with --qemu-image", chain(&e))))?,
    };
    // Before its feature file, which is not to blame for an image that cannot be reached.
    image::check(&path)?;
    images::Image::open(path)
}

/// The kernel to start directly, if one is asked for.
fn kernel(options: &Options, image: &images::Image) -> Result<Option<Kernel>> {
    let file = |path: &Path| {
        let found = crate::input::open(path).and_then(|_| path.canonicalize());
        found.during(|| format!("cannot find {}", path.display()))
    };
    let Some(named) = options.qemu_kernel.as_deref().filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(None);
    };
    if named != Path::new(AUTO) {
        let initrd = options.qemu_initrd.as_deref().map(file).transpose()?;
        return Ok(Some(Kernel { file: file(named)?, initrd, append: options.qemu_append.clone() }));
    }
    let dir = image.path.canonicalize().ok().and_then(|p| Some(p.parent()?.to_owned())).unwrap_or_default();
    let Some((kernel, facts)) = image.facts.as_ref().and_then(|f| Some((f.kernel.clone()?, f))) else {
        return Err(Error::new(format!("no feature file names the kernel of {}", image.path.display())));
    };
    let named = options.qemu_initrd.clone().or_else(|| facts.initrd.as_ref().map(|name| dir.join(name)));
    let append = [facts.kernel_arguments.clone(), options.qemu_append.clone()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    Ok(Some(Kernel {
        file: file(&dir.join(kernel))?,
        initrd: named.as_deref().map(file).transpose()?,
        append: Some(append.join(" ")).filter(|a| !a.is_empty()),
    }))
}

/// What all machines of a flight share.
struct Setup {
    platform: &'static str,
    program: PathBuf,
    board: Arch,
    decision: Decision,
    base: image::Base,
    firmware: Firmware,
    kernel: Option<Kernel>,
    memory_mib: u32,
    cpus: u32,
    ledger: Arc<Ledger>,
}

impl Setup {
    async fn new(
        platform: &'static str,
        prepared: Prepared,
        mangle: bool,
        ledger: &Arc<Ledger>,
    ) -> Result<Self> {
        let Prepared { board, program, image, firmware, kernel, options } = prepared;
        let mut base = image::Base::open(&image).await?;
        let decision = accel::decide(options.qemu_accel, board, &program).await?;
        if mangle && !options.qemu_skip_mangle {
            base.mangle().await?;
        }
        Ok(Self {
            platform,
            program,
            board,
            decision,
            base,
            firmware,
            kernel,
            memory_mib: options.qemu_memory.unwrap_or(command::MEMORY_MIB),
            cpus: options.qemu_cpus.unwrap_or(1),
            ledger: ledger.clone(),
        })
    }
}

/// A flight of either platform.
struct QemuFlight {
    name: String,
    setup: Arc<Setup>,
    network: Option<Arc<Local>>,
}

impl QemuFlight {
    fn new(base: &FlightBase, setup: Setup, network: Option<Arc<Local>>) -> Self {
        Self { name: base.unique_name(), setup: Arc::new(setup), network }
    }
}

#[async_trait]
impl Flight for QemuFlight {
    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> &'static str {
        self.setup.platform
    }

    fn lacking(&self) -> &'static [(&'static str, &'static str)] {
        const ALONE: &str = "each machine is alone behind QEMU's own network";
        const ALL: &[(&str, &str)] = &[
            ("cluster-network", ALONE),
            ("private-network", ALONE),
            ("firmware", "the kernel is started directly"),
        ];
        match (&self.network, &self.setup.kernel) {
            (Some(_), None) => &[],
            (Some(_), Some(_)) => &ALL[2..],
            (None, None) => &ALL[..2],
            (None, Some(_)) => ALL,
        }
    }

    fn slowness(&self) -> f64 {
        self.setup.decision.slowness
    }

    fn image(&self) -> Option<&std::path::Path> {
        Some(&self.setup.base.path)
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        [
            ("mangled".to_owned(), self.setup.base.is_mangled().into()),
            ("accelerator".to_owned(), self.setup.decision.accel.name().into()),
        ]
        .into_iter()
        .collect()
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        Ok(machine::launch(&self.setup, self.network.as_ref(), request, Start::Cold).await?)
    }

    fn warm(&self) -> Result<&dyn Warm> {
        match self.setup.board {
            Arch::Amd64 => Ok(self),
            Arch::Arm64 => Err(Error::new("QEMU's virt machine takes no network card while it runs")),
        }
    }

    fn local(&self) -> Option<Arc<Local>> {
        self.network.clone()
    }

    async fn destroy(&self) -> Vec<Leftover> {
        if let Some(network) = &self.network {
            network.destroy().await;
        }
        Vec::new()
    }
}

#[async_trait]
impl Warm for QemuFlight {
    async fn launch_to_save(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        Ok(machine::launch(&self.setup, self.network.as_ref(), request, Start::ToBeSaved).await?)
    }

    async fn wake(&self, state: &State, mut request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        let saved =
            state.downcast_ref::<Saved>().ok_or_else(|| Error::new("not a state of a QEMU machine"))?;
        request.options.memory_mib = Some(saved.memory_mib);
        request.options.cpus = Some(saved.cpus);
        Ok(machine::launch(&self.setup, self.network.as_ref(), request, Start::From(saved)).await?)
    }
}
