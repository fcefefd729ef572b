//! Whose Azure, and where.

use std::path::PathBuf;

/// Whose Azure, and where.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Account {
    /// Azure profile, as the Azure CLI keeps it [default: ~/.azure/azureProfile.json]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    pub azure_profile: Option<PathBuf>,

    /// Azure subscription, by its name in the profile or its ID
    #[arg(long, value_name = "SUBSCRIPTION")]
    pub azure_subscription: Option<String>,

    /// File with the credentials of an application at Azure [default: ~/.azure/credentials.json]
    #[arg(long, value_name = "FILE", value_parser = crate::args::path_parser(), value_hint = clap::ValueHint::FilePath)]
    pub azure_auth: Option<PathBuf>,

    /// Azure location of what is made
    #[arg(long, value_name = "LOCATION", default_value = "westus")]
    pub azure_location: String,

    /// Resource Manager to use in place of Azure's
    #[arg(long, value_name = "URL")]
    pub azure_endpoint: Option<String>,
}

impl Account {
    /// The subscription that was asked for; empty stands for none.
    pub fn subscription(&self) -> Option<&str> {
        self.azure_subscription.as_deref().filter(|s| !s.is_empty())
    }
}
