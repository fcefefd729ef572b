//! Where the services are: partitions, host names, and what overrides them.

use super::environment::Environment;

/// A family of regions with accounts and host names of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Partition {
    /// `aws`, `aws-cn`, `aws-us-gov`; part of every ARN.
    pub name: &'static str,
    suffix: &'static str,
    iam_host: &'static str,
    iam_region: &'static str,
    /// The one host for STS that some partitions have, with the region that requests to it are signed for.
    global_sts: Option<(&'static str, &'static str)>,
}

static PARTITIONS: [Partition; 3] = [
    Partition {
        name: "aws",
        suffix: "amazonaws.com",
        iam_host: "iam.amazonaws.com",
        iam_region: "us-east-1",
        global_sts: Some(("sts.amazonaws.com", "us-east-1")),
    },
    Partition {
        name: "aws-cn",
        suffix: "amazonaws.com.cn",
        iam_host: "iam.cn-north-1.amazonaws.com.cn",
        iam_region: "cn-north-1",
        global_sts: None,
    },
    Partition {
        name: "aws-us-gov",
        suffix: "amazonaws.com",
        iam_host: "iam.us-gov.amazonaws.com",
        iam_region: "us-gov-west-1",
        global_sts: None,
    },
];

impl Partition {
    /// The partition of a region, by the shape of its name: `cn-…`, `us-gov-…`, or `<area>-<direction>-<number>`
    /// for the public one.
    pub fn of(region: &str) -> Option<&'static Self> {
        let mut parts = region.split('-');
        let (area, rest) = (parts.next()?, parts.collect::<Vec<_>>());
        let gov = area == "us" && rest.first() == Some(&"gov");
        let [direction, number] = rest[usize::from(gov).min(rest.len())..] else { return None };
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase());
        if area.len() != 2 || !word(area) || !word(direction) || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        if number.is_empty() || (!gov && direction == "gov") {
            return None;
        }
        match (area, gov) {
            (_, true) => Some(&PARTITIONS[2]),
            ("cn", _) => Some(&PARTITIONS[1]),
            _ => Some(&PARTITIONS[0]),
        }
    }
}

/// A service that mantle calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Machines and images.
    Ec2,
    /// The EBS direct APIs: blocks of snapshots.
    Ebs,
    /// Objects.
    S3,
    /// Roles.
    Iam,
    /// Who one is.
    Sts,
    /// The portal of single sign-on, which gives the keys of roles.
    Sso,
    /// Where tokens for that portal are renewed.
    SsoOidc,
    /// How much of everything an account may have.
    Quotas,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Ec2, Self::Ebs, Self::S3, Self::Iam, Self::Sts, Self::Sso, Self::SsoOidc, Self::Quotas];

    /// The last part of the variable that overrides its endpoint.
    fn variable(self) -> &'static str {
        match self {
            Self::Ec2 => "AWS_ENDPOINT_URL_EC2",
            Self::Ebs => "AWS_ENDPOINT_URL_EBS",
            Self::S3 => "AWS_ENDPOINT_URL_S3",
            Self::Iam => "AWS_ENDPOINT_URL_IAM",
            Self::Sts => "AWS_ENDPOINT_URL_STS",
            Self::Sso => "AWS_ENDPOINT_URL_SSO",
            Self::SsoOidc => "AWS_ENDPOINT_URL_SSO_OIDC",
            Self::Quotas => "AWS_ENDPOINT_URL_SERVICE_QUOTAS",
        }
    }
}

/// Overrides of endpoints.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// From the command line: wins over all.
    flag: Option<String>,
    services: Vec<(Service, String)>,
    /// From the environment, else from the profile.
    generic: Option<String>,
}

/// Where requests go, and the region they are signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host, port, and path without slash at the end.
    pub url: String,
    /// For the signature.
    pub region: String,
}

impl Endpoints {
    /// Collects the overrides; `profile` is the `endpoint_url` of the profile.
    pub fn new(flag: Option<&str>, env: &Environment, profile: Option<&str>) -> Self {
        let trim = |url: &str| url.trim_end_matches('/').to_owned();
        let flag = flag.filter(|f| !f.is_empty()).map(trim);
        if env.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
            return Self { flag, ..Self::default() };
        }
        let one = |s: Service| Some((s, trim(env.get(s.variable())?)));
        Self {
            flag,
            services: Service::ALL.into_iter().filter_map(one).collect(),
            generic: env.get("AWS_ENDPOINT_URL").or(profile).map(trim),
        }
    }

    /// The override for a service.
    pub fn overridden(&self, service: Service) -> Option<&str> {
        let own = || self.services.iter().find(|(s, _)| *s == service).map(|(_, url)| url);
        self.flag.as_ref().or_else(own).or(self.generic.as_ref()).map(String::as_str)
    }

    /// Where a service's requests from this region go.
    pub fn of(&self, service: Service, region: &str, partition: &Partition) -> Endpoint {
        let suffix = partition.suffix;
        let (host, region) = match (service, partition.global_sts) {
            (Service::Iam, _) => (partition.iam_host.to_owned(), partition.iam_region),
            (Service::Sts, Some((host, region))) => (host.to_owned(), region),
            (Service::Sts, None) => (format!("sts.{region}.{suffix}"), region),
            (Service::Ec2, _) => (format!("ec2.{region}.{suffix}"), region),
            (Service::Ebs, _) => (format!("ebs.{region}.{suffix}"), region),
            (Service::S3, _) => (format!("s3.{region}.{suffix}"), region),
            (Service::Sso, _) => (format!("portal.sso.{region}.{suffix}"), region),
            (Service::SsoOidc, _) => (format!("oidc.{region}.{suffix}"), region),
            (Service::Quotas, _) => (format!("servicequotas.{region}.{suffix}"), region),
        };
        let url = self.overridden(service).map_or_else(|| format!("https://{host}"), str::to_owned);
        Endpoint { url, region: region.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_belong_to_partitions() {
        for (region, partition) in [
            ("us-west-2", Some("aws")),
            ("eu-central-1", Some("aws")),
            ("ap-southeast-10", Some("aws")),
            ("cn-north-1", Some("aws-cn")),
            ("us-gov-west-1", Some("aws-us-gov")),
            ("us-gov-1", None),
            ("us-west", None),
            ("mars-west-1", None),
            ("us-west-2a", None),
            ("us-west-", None),
            ("us-west-2.evil.example", None),
            ("us", None),
            ("", None),
        ] {
            assert_eq!(Partition::of(region).map(|p| p.name), partition, "{region}");
        }
    }

    fn url(endpoints: &Endpoints, service: Service, region: &str) -> (String, String) {
        let e = endpoints.of(service, region, Partition::of(region).unwrap());
        (e.url, e.region)
    }

    #[test]
    fn hosts_follow_region_and_partition() {
        let none = Endpoints::new(None, &Environment::default(), None);
        for (service, region, host, signed) in [
            (Service::Ec2, "us-west-2", "ec2.us-west-2.amazonaws.com", "us-west-2"),
            (Service::S3, "cn-north-1", "s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            (Service::Ebs, "eu-west-1", "ebs.eu-west-1.amazonaws.com", "eu-west-1"),
            (Service::Iam, "eu-west-1", "iam.amazonaws.com", "us-east-1"),
            (Service::Iam, "cn-northwest-1", "iam.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            (Service::Iam, "us-gov-east-1", "iam.us-gov.amazonaws.com", "us-gov-west-1"),
            (Service::Sts, "eu-west-1", "sts.amazonaws.com", "us-east-1"),
            (Service::Sts, "cn-northwest-1", "sts.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
            (Service::Sso, "eu-west-1", "portal.sso.eu-west-1.amazonaws.com", "eu-west-1"),
            (Service::SsoOidc, "cn-north-1", "oidc.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ] {
            assert_eq!(url(&none, service, region), (format!("https://{host}"), signed.to_owned()));
        }
    }

    #[test]
    fn overrides_have_an_order() {
        let env = Environment::from([
            ("AWS_ENDPOINT_URL_S3", "http://s3:1/"),
            ("AWS_ENDPOINT_URL", "http://all:2/prefix/"),
            ("AWS_ENDPOINT_URL_STS", ""),
        ]);
        let of = |e: &Endpoints, s| url(e, s, "us-west-2").0;
        let e = Endpoints::new(None, &env, Some("http://profile"));
        assert_eq!(of(&e, Service::S3), "http://s3:1");
        assert_eq!(of(&e, Service::Sts), "http://all:2/prefix");
        let e = Endpoints::new(Some("http://flag"), &env, None);
        assert_eq!(of(&e, Service::S3), "http://flag");
        let e = Endpoints::new(None, &Environment::default(), Some("http://profile"));
        assert_eq!(of(&e, Service::Ec2), "http://profile");
        let ignore = Environment::from([
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "True"),
        ]);
        let e = Endpoints::new(None, &ignore, Some("http://profile"));
        assert_eq!(of(&e, Service::Ec2), "https://ec2.us-west-2.amazonaws.com");
    }
}
