//! Amazon Web Services: who one is, the services, and what is done with images there.
//!
//! | file | what it is |
//! |---|---|
//! | `api/` | the services, with plain types; the only place that knows rusoto |
//! | `credentials/`, `endpoints`, `environment`, `account` | who one is, and where |
//! | `object`, `direct`, `snapshot`, `images`, `upload` | from a disk image here to a machine image there |
//! | `unfinished` | what of an interrupted upload can be gone on with |
//! | `copy`, `initialize`, `gc`, `released` | copies in other regions, what imports need, what is left over, old releases |

mod account;
pub mod api;
pub mod copy;
pub mod credentials;
pub mod direct;
pub mod endpoints;
pub mod environment;
pub mod failure;
pub mod gc;
pub mod images;
pub mod initialize;
pub mod object;
pub mod released;
pub mod snapshot;
pub mod unfinished;
pub mod upload;
mod wait;

pub use self::account::{Account, DEFAULT_REGION, Keys};

/// Files of credentials, for man pages.
pub const FILES: &[(&str, &str)] = &[(
    "~/.aws/credentials, ~/.aws/config",
    "AWS keys, regions and endpoints by profile, as the AWS CLI has them.",
)];

/// Variables that no option is bound to, for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "AWS keys, unless an option names a profile; else those of a profile, a role, a single sign-on, a container \
         or the instance.",
    ),
    ("AWS_CA_BUNDLE", "Certificates in PEM that replace the trust roots for AWS."),
    (
        "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_EC2, _EBS, _S3, _IAM, _STS, _SSO, _SSO_OIDC",
        "Servers to use in place of Amazon's.",
    ),
    (
        "AWS_PROFILE, AWS_DEFAULT_PROFILE",
        "The AWS profile when no option names one; variables with keys win over it.",
    ),
    ("AWS_REGION, AWS_DEFAULT_REGION", "The AWS region when no option names one."),
];

/// Who speaks in the log.
const COMPONENT: &str = "aws";

/// Tag of snapshots: the SHA-256 of the image file that they were made of, in hexadecimal digits.
pub const DIGEST: &str = "mantle:sha256";

/// Tag of everything that mantle makes at AWS, with its value.
pub const MARK: (&str, &str) = ("CreatedBy", "mantle");
