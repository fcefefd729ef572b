//! The network that machines are in: found by the name of its security group, made when missing, and kept.
//!
//! Everything that is made carries the tag [`UNFINISHED`] with a token until the whole is finished: what a run that
//! died, failed or lost an answer leaves is found by it and removed. Parallel runs that make the same network agree
//! on one in the end, the others remove theirs.

use chrono::{DateTime, Utc};

use super::super::{Error, Result, ResultExt};
use super::NAME;
use crate::cloud::aws::MARK;
use crate::cloud::aws::api::{self, Api, Ingress, SecurityGroup, tag};
use crate::ledger::{Ledger, Leftover, Resource};
use crate::text::chain;

/// Tag of what is being made; its value is the token of the run.
pub const UNFINISHED: &str = "mantle-unfinished";
/// Kind of a ledger entry: a network being made, by its token.
pub(super) const KIND: &str = "network";

const ADDRESSES: &str = "172.31.0.0/16";
/// As many subnets of 12 bits as fit.
const MAX_ZONES: usize = 16;

const INGRESS: [Ingress; 4] = [
    Ingress { protocol: "tcp", from: 22, to: 22, cidr: Some("0.0.0.0/0") },
    Ingress { protocol: "tcp", from: 1, to: 65535, cidr: None },
    Ingress { protocol: "udp", from: 1, to: 65535, cidr: None },
    Ingress { protocol: "icmp", from: -1, to: -1, cidr: None },
];

/// Where machines go.
#[derive(Clone, Debug)]
pub struct Network {
    /// `sg-…`
    pub group: String,
    /// Subnets of its VPC, at least one.
    pub subnets: Vec<String>,
}

/// Finds the network of the security group of this name, or makes it.
///
/// # Errors
/// What could not be looked up or made; then nothing is left of it, or a warning says what.
pub(super) async fn find_or_create(api: &Api, name: &str, ledger: &Ledger) -> Result<Network> {
    let found = finished(api, name).await.during(|| format!("looking for security group {name:?}"))?;
    let group = match found {
        Some(group) => group,
        None => create(api, name, ledger).await?,
    };
    let no_vpc = || Error::new(format!("no vpc found for security group {}", group.id));
    let vpc = group.vpc.as_deref().ok_or_else(no_vpc)?;
    let subnets = api.subnets(&[("vpc-id", &[vpc])]).await.during(|| format!("listing subnets of {vpc}"))?;
    if subnets.is_empty() {
        return Err(Error::new(format!("no subnets found for vpc {vpc}")));
    }
    Ok(Network { group: group.id, subnets: subnets.into_iter().map(|s| s.id).collect() })
}

/// The finished group of this name; of several the same for everybody.
async fn finished(api: &Api, name: &str) -> api::Result<Option<SecurityGroup>> {
    let groups = api.security_groups(&[("group-name", &[name])], &[]).await?;
    let groups = groups.into_iter().filter(|g| tag(&g.tags, UNFINISHED).is_none());
    // One without VPC is of no use, but says so better than a second one would.
    Ok(groups.min_by(|a, b| (a.vpc.is_none(), &a.id).cmp(&(b.vpc.is_none(), &b.id))))
}

async fn create(api: &Api, name: &str, ledger: &Ledger) -> Result<SecurityGroup> {
    // With the time, so that clean-up can tell old from new: VPCs have no date.
    let token = format!("{}-{}", Utc::now().timestamp(), uuid::Uuid::new_v4());
    let entry = Resource {
        kind: KIND.into(),
        id: token.clone(),
        platform: NAME.into(),
        place: api.region().to_owned(),
    };
    ledger.create(&entry).during(|| "cannot record a network")?;
    crate::notice!("aws", "security group {name:?} is missing: making it, with a network");
    let mut kept = Vec::new();
    let outcome = make(api, name, &token, &mut kept).await;
    if outcome.is_err() {
        kept.clear();
    }
    // What failed, what was given up, and what was made twice because an answer was lost.
    match remove_but(api, &token, &kept).await {
        Ok(()) => ledger.delete(&entry),
        Err(e) => {
            let leftover = Leftover { resource: entry, why: chain(&e) };
            crate::error!("aws", "{leftover}");
            ledger.keep(&leftover);
        }
    }
    outcome
}

/// Makes everything, then lets all runs see it; `all` are the ids of what is to stay.
async fn make(api: &Api, name: &str, token: &str, all: &mut Vec<String>) -> Result<SecurityGroup> {
    // What was made a moment ago may not be found yet.
    let api = &api.patient();
    let tags = [(MARK.0.into(), MARK.1.into()), (UNFINISHED.into(), token.to_owned())];
    let by: &[api::Filter<'_>] = &[(&format!("tag:{UNFINISHED}"), &[token])];
    let vpc = once(
        api,
        || api.create_vpc(ADDRESSES, &tags),
        || async { Ok(api.vpcs(by).await?.into_iter().next().map(|v| v.id)) },
    )
    .await
    .during(|| "creating VPC")?;
    all.push(vpc.clone());
    api.enable_dns(&vpc).await.during(|| format!("enabling DNS in {vpc}"))?;
    let table = once(
        api,
        || api.create_route_table(&vpc, &tags),
        || async { Ok(api.route_tables(by).await?.into_iter().next().map(|t| t.id)) },
    )
    .await
    .during(|| "creating route table")?;
    all.push(table.clone());
    let gateway = once(
        api,
        || api.create_internet_gateway(&tags),
        || async { Ok(api.internet_gateways(by).await?.into_iter().next().map(|g| g.id)) },
    )
    .await
    .during(|| "creating Internet gateway")?;
    all.push(gateway.clone());
    api.attach_internet_gateway(&gateway, &vpc).await.during(|| format!("attaching {gateway} to {vpc}"))?;
    api.create_default_route(&table, &gateway).await.during(|| format!("creating a route in {table}"))?;
    let zones = api.availability_zones().await.during(|| "listing availability zones")?;
    for (i, zone) in zones.iter().take(MAX_ZONES).enumerate() {
        let addresses = format!("172.31.{}.0/20", 16 * i);
        let in_zone = [by[0], ("availability-zone", &[zone.as_str()][..])];
        let subnet = once(
            api,
            || api.create_subnet(&vpc, zone, &addresses, &tags),
            || async { Ok(api.subnets(&in_zone).await?.into_iter().next().map(|s| s.id)) },
        )
        .await;
        let subnet = match subnet {
            // A zone that takes no more subnets.
            Err(e) if e.is(&["InvalidParameterValue"]) => {
                crate::debug!("aws", "no subnet in {zone}: {}", chain(&e));
                continue;
            }
            other => other.during(|| format!("creating a subnet in {zone}"))?,
        };
        all.push(subnet.clone());
        api.map_public_ips(&subnet).await.during(|| format!("giving {subnet} public addresses"))?;
        api.associate_route_table(&table, &subnet).await.during(|| format!("routing {subnet}"))?;
    }
    let group = api
        .create_security_group(name, "mantle security group for testing", &vpc, &tags)
        .await
        .during(|| format!("creating security group {name:?}"))?;
    all.push(group.clone());
    api.authorize_ingress(&group, &INGRESS)
        .await
        .during(|| format!("letting traffic into security group {group}"))?;
    let ids: Vec<&str> = all.iter().map(String::as_str).collect();
    api.delete_tag(&ids, UNFINISHED).await.during(|| "finishing the network")?;
    let own = SecurityGroup { id: group, name: name.into(), vpc: Some(vpc), tags: Vec::new() };
    let chosen = finished(api, name).await.during(|| format!("looking for security group {name:?}"));
    match chosen {
        Ok(Some(other)) if other.id != own.id && other.vpc.is_some() => {
            crate::info!("aws", "another run made security group {name:?} too: using {}", other.id);
            api.create_tags(&ids, &tags[1..]).await.during(|| "giving up a network")?;
            all.clear();
            Ok(other)
        }
        // Not to be seen yet.
        Ok(_) => Ok(own),
        Err(e) => {
            crate::debug!("aws", "{}", chain(&e));
            Ok(own)
        }
    }
}

/// Makes one thing; where an answer was lost, looks for it before trying again.
async fn once<C, F>(api: &Api, create: impl Fn() -> C, find: impl Fn() -> F) -> api::Result<String>
where
    C: Future<Output = api::Result<String>>,
    F: Future<Output = api::Result<Option<String>>>,
{
    let mut budget = api.retry().budget();
    loop {
        let error = match create().await {
            Ok(id) => return Ok(id),
            Err(e) if e.is_certain() => return Err(e),
            Err(e) => e,
        };
        budget.again("aws", error).await?;
        if let Some(id) = find().await? {
            return Ok(id);
        }
    }
}

/// Removes what is tagged [`UNFINISHED`] with this token, in the order that dependencies demand.
///
/// # Errors
/// The first failure; the rest is tried all the same.
pub async fn remove(api: &Api, token: &str) -> api::Result<()> {
    remove_but(api, token, &[]).await
}

/// Networks that runs began and did not finish: their tokens, with the time of the beginning. Those of runs under
/// way are among them.
///
/// # Errors
/// When they cannot be listed.
pub async fn unfinished(api: &Api) -> api::Result<Vec<(String, Option<DateTime<Utc>>)>> {
    let by: &[api::Filter<'_>] = &[("tag-key", &[UNFINISHED])];
    let vpcs = api.vpcs(by).await?.into_iter().map(|v| v.tags);
    let gateways = api.internet_gateways(by).await?.into_iter().map(|g| g.tags);
    let mut tokens: Vec<String> = vpcs
        .chain(gateways)
        .filter(|tags| tag(tags, MARK.0) == Some(MARK.1))
        .filter_map(|tags| tag(&tags, UNFINISHED).map(str::to_owned))
        .collect();
    tokens.sort();
    tokens.dedup();
    let time = |token: &str| DateTime::from_timestamp(token.split('-').next()?.parse().ok()?, 0);
    Ok(tokens.into_iter().map(|t| (t.clone(), time(&t))).collect())
}

/// As [`remove`], but for these ids: listings may show the tags of things that have lost them since.
async fn remove_but(api: &Api, token: &str, kept: &[String]) -> api::Result<()> {
    let gone = |id: &str| !kept.iter().any(|k| k == id);
    let filter = format!("tag:{UNFINISHED}");
    let by: &[api::Filter<'_>] = &[(&filter, &[token])];
    let mut failed = None;
    let mut note = |outcome: api::Result<()>| {
        if let Err(e) = outcome {
            failed.get_or_insert(e);
        }
    };
    for group in api.security_groups(by, &[]).await?.iter().filter(|g| gone(&g.id)) {
        note(api.delete_security_group(&group.id).await);
    }
    let mut tables = api.route_tables(by).await?;
    tables.retain(|t| gone(&t.id));
    for link in tables.iter().flat_map(|t| &t.associations) {
        note(api.disassociate_route_table(link).await);
    }
    for subnet in api.subnets(by).await?.iter().filter(|s| gone(&s.id)) {
        note(api.delete_subnet(&subnet.id).await);
    }
    for table in &tables {
        note(api.delete_route_table(&table.id).await);
    }
    for gateway in api.internet_gateways(by).await?.iter().filter(|g| gone(&g.id)) {
        for vpc in &gateway.vpcs {
            note(api.detach_internet_gateway(&gateway.id, vpc).await);
        }
        note(api.delete_internet_gateway(&gateway.id).await);
    }
    for vpc in api.vpcs(by).await?.iter().filter(|v| gone(&v.id)) {
        note(api.delete_vpc(&vpc.id).await);
    }
    failed.map_or(Ok(()), Err)
}
