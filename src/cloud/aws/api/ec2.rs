//! EC2: machines, key pairs, tags, regions.

use openssl::base64;
use rusoto_core::RusotoError;
use rusoto_ec2::{
    self as ec2, CreateTagsRequest, DeleteKeyPairRequest, DeleteTagsRequest, DescribeInstancesRequest,
    DescribeKeyPairsRequest, DescribeRegionsRequest, Ec2 as _, Ec2Client, GetConsoleOutputRequest,
    IamInstanceProfileSpecification, ImportKeyPairRequest, RunInstancesRequest, StopInstancesRequest,
    TerminateInstancesRequest,
};

use super::super::endpoints::Service;
use super::types::time;
use super::{Api, Error, Filter, Instance, KeyPair, Region, Repeat, Result, RunInstance, Tags, required};

/// As many as EC2 takes in one call without being slow.
const CHUNK: usize = 100;

pub(super) fn filters(filters: &[Filter<'_>]) -> Option<Vec<ec2::Filter>> {
    let filter = |(name, values): &Filter<'_>| ec2::Filter {
        name: Some((*name).to_owned()),
        values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
    };
    (!filters.is_empty()).then(|| filters.iter().map(filter).collect())
}

pub(super) fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

pub(super) fn from_tags(tags: Option<Vec<ec2::Tag>>) -> Tags {
    let pair = |t: ec2::Tag| Some((t.key?, t.value.unwrap_or_default()));
    tags.unwrap_or_default().into_iter().filter_map(pair).collect()
}

fn to_tags(tags: &[(String, String)]) -> Vec<ec2::Tag> {
    let tag =
        |(key, value): &(String, String)| ec2::Tag { key: Some(key.clone()), value: Some(value.clone()) };
    tags.iter().map(tag).collect()
}

/// Tags for a resource that a call makes.
pub(super) fn specification(kind: &str, tags: &[(String, String)]) -> Option<Vec<ec2::TagSpecification>> {
    (!tags.is_empty()).then(|| {
        vec![ec2::TagSpecification { resource_type: Some(kind.to_owned()), tags: Some(to_tags(tags)) }]
    })
}

fn instance(i: ec2::Instance) -> Option<Instance> {
    let reason = i.state_reason.and_then(|r| match (r.code, r.message) {
        (Some(code), Some(message)) if !message.starts_with(&code) => Some(format!("{code}: {message}")),
        (code, message) => message.or(code),
    });
    Some(Instance {
        id: i.instance_id?,
        state: i.state.and_then(|s| s.name).unwrap_or_default(),
        reason: reason.or(i.state_transition_reason).filter(|r| !r.is_empty()),
        public_ip: i.public_ip_address.filter(|a| !a.is_empty()),
        private_ip: i.private_ip_address.filter(|a| !a.is_empty()),
        launched: time(i.launch_time.as_deref()),
        tags: from_tags(i.tags),
    })
}

impl Api {
    pub(super) async fn ec2_with<R: Clone, T, E, F>(
        &self,
        call: &'static str,
        repeat: Repeat,
        request: R,
        once: impl Fn(Ec2Client, R) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, RusotoError<E>>>,
    {
        let once = |client, region| once(Ec2Client::new_with_client(client, region), request.clone());
        self.call(Service::Ec2, call, repeat, once).await
    }

    pub(super) async fn ec2<R: Clone, T, E, F>(
        &self,
        call: &'static str,
        request: R,
        once: impl Fn(Ec2Client, R) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, RusotoError<E>>>,
    {
        self.ec2_with(call, Repeat::Freely, request, once).await
    }

    /// Tells EC2 a public key, a line of `authorized_keys`. The name must be unique: should it be taken, it is taken
    /// by this call's first try, whose answer was lost.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn import_key_pair(
        &self,
        name: &str,
        public_key: &str,
        tags: &[(String, String)],
    ) -> Result<()> {
        let request = ImportKeyPairRequest {
            key_name: name.to_owned(),
            public_key_material: base64::encode_block(public_key.trim().as_bytes()).into(),
            tag_specifications: specification("key-pair", tags),
            ..Default::default()
        };
        match self.ec2("ImportKeyPair", request, |c, r| async move { c.import_key_pair(r).await }).await {
            Err(e) if !e.is(&["InvalidKeyPair.Duplicate"]) => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes a public key; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn delete_key_pair(&self, name: &str) -> Result<()> {
        let request = DeleteKeyPairRequest { key_name: Some(name.to_owned()), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.delete_key_pair(r).await };
        match self.ec2("DeleteKeyPair", request, once).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// The public keys that EC2 knows.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn key_pairs(&self, by: &[Filter<'_>]) -> Result<Vec<KeyPair>> {
        let request = DescribeKeyPairsRequest { filters: filters(by), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.describe_key_pairs(r).await };
        let answer = self.ec2("DescribeKeyPairs", request, once).await?;
        let pair = |k: ec2::KeyPairInfo| Some(KeyPair { name: k.key_name?, tags: from_tags(k.tags) });
        Ok(answer.key_pairs.unwrap_or_default().into_iter().filter_map(pair).collect())
    }

    /// Starts one machine.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn run_instance(&self, order: &RunInstance) -> Result<Instance> {
        let call = "RunInstances";
        let user_data = (!order.user_data.is_empty()).then(|| base64::encode_block(&order.user_data));
        let request = RunInstancesRequest {
            image_id: Some(order.image.clone()),
            min_count: 1,
            max_count: 1,
            key_name: order.key_name.clone(),
            instance_type: Some(order.instance_type.clone()),
            security_group_ids: Some(vec![order.security_group.clone()]),
            subnet_id: Some(order.subnet.clone()),
            user_data,
            iam_instance_profile: order
                .profile
                .clone()
                .map(|name| IamInstanceProfileSpecification { name: Some(name), arn: None }),
            tag_specifications: specification("instance", &order.tags),
            client_token: Some(order.client_token.clone()),
            ..Default::default()
        };
        let answer = self.ec2(call, request, |c, r| async move { c.run_instances(r).await }).await?;
        let made = answer.instances.unwrap_or_default().into_iter().find_map(instance);
        required(call, "instance", made)
    }

    /// Machines, of all pages. `ids` that do not exist are an error of EC2's, `InvalidInstanceID.NotFound`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn instances(&self, by: &[Filter<'_>], ids: &[&str]) -> Result<Vec<Instance>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request = DescribeInstancesRequest {
                filters: filters(by),
                instance_ids: (!ids.is_empty()).then(|| owned(ids)),
                // Not together with ids.
                max_results: ids.is_empty().then_some(1000),
                next_token: next,
                ..Default::default()
            };
            let once = |c: Ec2Client, r| async move { c.describe_instances(r).await };
            let page = self.ec2("DescribeInstances", request, once).await?;
            let reservations = page.reservations.unwrap_or_default().into_iter();
            found.extend(reservations.filter_map(|r| r.instances).flatten().filter_map(instance));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Ends machines, 100 a call. Those that are gone are an error of EC2's for all of a call.
    ///
    /// # Errors
    /// Any [`Error`]; the first, after which no further call is made.
    pub async fn terminate(&self, ids: &[&str]) -> Result<()> {
        for chunk in ids.chunks(CHUNK) {
            let request = TerminateInstancesRequest { instance_ids: owned(chunk), ..Default::default() };
            let once = |c: Ec2Client, r| async move { c.terminate_instances(r).await };
            self.ec2("TerminateInstances", request, once).await?;
        }
        Ok(())
    }

    /// Stops machines; with `force`, without asking their operating systems.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn stop(&self, ids: &[&str], force: bool) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let request = StopInstancesRequest {
            instance_ids: owned(ids),
            force: force.then_some(true),
            ..Default::default()
        };
        self.ec2("StopInstances", request, |c, r| async move { c.stop_instances(r).await }).await?;
        Ok(())
    }

    /// What the serial console of a machine said, 64 KiB of it at most; `None` when AWS has nothing yet. `latest` asks
    /// for what is there now, which only newer instance types can (`UnsupportedOperation` from the others).
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn console_output(&self, id: &str, latest: bool) -> Result<Option<Vec<u8>>> {
        let call = "GetConsoleOutput";
        let request = GetConsoleOutputRequest {
            instance_id: id.to_owned(),
            latest: latest.then_some(true),
            ..Default::default()
        };
        let answer = self.ec2(call, request, |c, r| async move { c.get_console_output(r).await }).await?;
        let text: String = answer.output.unwrap_or_default().split_whitespace().collect();
        if text.is_empty() {
            return Ok(None);
        }
        let decoded =
            base64::decode_block(&text).map_err(|_| Error::answer(call, "the output is not base64"))?;
        Ok(Some(decoded))
    }

    /// Adds tags to resources of any kind.
    ///
    /// # Errors
    /// Any [`Error`]; `….NotFound` for resources that are too new, too.
    pub async fn create_tags(&self, ids: &[&str], tags: &[(String, String)]) -> Result<()> {
        let request = CreateTagsRequest { resources: owned(ids), tags: to_tags(tags), ..Default::default() };
        self.ec2("CreateTags", request, |c, r| async move { c.create_tags(r).await }).await
    }

    /// Removes tags of this name from resources of any kind.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn delete_tag(&self, ids: &[&str], name: &str) -> Result<()> {
        let tag = ec2::Tag { key: Some(name.to_owned()), value: None };
        let request =
            DeleteTagsRequest { resources: owned(ids), tags: Some(vec![tag]), ..Default::default() };
        self.ec2("DeleteTags", request, |c, r| async move { c.delete_tags(r).await }).await
    }

    /// The regions of the partition; with `all`, also those that the account has not opted in to.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn regions(&self, all: bool) -> Result<Vec<Region>> {
        let request = DescribeRegionsRequest { all_regions: all.then_some(true), ..Default::default() };
        let answer =
            self.ec2("DescribeRegions", request, |c, r| async move { c.describe_regions(r).await }).await?;
        let region = |r: ec2::Region| {
            Some(Region {
                name: r.region_name?,
                opted_in: r.opt_in_status.as_deref() != Some("not-opted-in"),
            })
        };
        Ok(answer.regions.unwrap_or_default().into_iter().filter_map(region).collect())
    }
}
