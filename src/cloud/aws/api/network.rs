//! EC2: VPCs and what belongs to them.
//!
//! What makes something that EC2 would make twice is not repeated after a lost answer: [`super::Error::is_certain`] tells the
//! caller, who looks for it by its tags.

use rusoto_ec2::{
    self as ec2, AssociateRouteTableRequest, AttachInternetGatewayRequest, AttributeBooleanValue,
    AuthorizeSecurityGroupIngressRequest, CreateInternetGatewayRequest, CreateRouteRequest,
    CreateRouteTableRequest, CreateSecurityGroupRequest, CreateSubnetRequest, CreateVpcRequest,
    DeleteInternetGatewayRequest, DeleteRouteTableRequest, DeleteSecurityGroupRequest, DeleteSubnetRequest,
    DeleteVpcRequest, DescribeAvailabilityZonesRequest, DescribeInternetGatewaysRequest,
    DescribeRouteTablesRequest, DescribeSecurityGroupsRequest, DescribeSubnetsRequest, DescribeVpcsRequest,
    DetachInternetGatewayRequest, DisassociateRouteTableRequest, Ec2 as _, Ec2Client, IpPermission, IpRange,
    ModifySubnetAttributeRequest, ModifyVpcAttributeRequest, UserIdGroupPair,
};

use super::ec2::{filters, from_tags, owned, specification};
use super::{
    Api, Filter, Gateway, Ingress, Repeat, Result, RouteTable, SecurityGroup, Subnet, Vpc, required,
};

/// The outcome, where these codes say that the work was done before.
fn done_before<T>(outcome: Result<T>, codes: &[&str]) -> Result<()> {
    match outcome {
        Err(e) if !e.is(codes) => Err(e),
        _ => Ok(()),
    }
}

/// The outcome of a deletion, where there may be nothing to delete.
fn gone<T>(outcome: Result<T>) -> Result<()> {
    match outcome {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

const ON: AttributeBooleanValue = AttributeBooleanValue { value: Some(true) };

impl Api {
    /// Makes a VPC; returns its id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn create_vpc(&self, cidr: &str, tags: &[(String, String)]) -> Result<String> {
        let call = "CreateVpc";
        let request = CreateVpcRequest {
            cidr_block: cidr.to_owned(),
            tag_specifications: specification("vpc", tags),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.create_vpc(r).await };
        let answer = self.ec2_with(call, Repeat::IfNotExecuted, request, once).await?;
        required(call, "VPC", answer.vpc.and_then(|v| v.vpc_id))
    }

    /// Lets a VPC resolve names, and gives its machines names.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn enable_dns(&self, vpc: &str) -> Result<()> {
        // One attribute a call is all that EC2 takes.
        let hostnames = ModifyVpcAttributeRequest {
            vpc_id: vpc.to_owned(),
            enable_dns_hostnames: Some(ON),
            ..Default::default()
        };
        let support = ModifyVpcAttributeRequest {
            vpc_id: vpc.to_owned(),
            enable_dns_support: Some(ON),
            ..Default::default()
        };
        for request in [hostnames, support] {
            let once = |c: Ec2Client, r| async move { c.modify_vpc_attribute(r).await };
            self.ec2("ModifyVpcAttribute", request, once).await?;
        }
        Ok(())
    }

    /// VPCs.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn vpcs(&self, by: &[Filter<'_>]) -> Result<Vec<Vpc>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request =
                DescribeVpcsRequest { filters: filters(by), next_token: next, ..Default::default() };
            let once = |c: Ec2Client, r| async move { c.describe_vpcs(r).await };
            let page = self.ec2("DescribeVpcs", request, once).await?;
            let vpc = |v: ec2::Vpc| Some(Vpc { id: v.vpc_id?, tags: from_tags(v.tags) });
            found.extend(page.vpcs.unwrap_or_default().into_iter().filter_map(vpc));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Deletes a VPC; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`]; `DependencyViolation` while something is in it.
    pub async fn delete_vpc(&self, id: &str) -> Result<()> {
        let request = DeleteVpcRequest { vpc_id: id.to_owned(), ..Default::default() };
        gone(self.ec2("DeleteVpc", request, |c, r| async move { c.delete_vpc(r).await }).await)
    }

    /// Makes a route table; returns its id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn create_route_table(&self, vpc: &str, tags: &[(String, String)]) -> Result<String> {
        let call = "CreateRouteTable";
        let request = CreateRouteTableRequest {
            vpc_id: vpc.to_owned(),
            tag_specifications: specification("route-table", tags),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.create_route_table(r).await };
        let answer = self.ec2_with(call, Repeat::IfNotExecuted, request, once).await?;
        required(call, "route table", answer.route_table.and_then(|t| t.route_table_id))
    }

    /// Route tables.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn route_tables(&self, by: &[Filter<'_>]) -> Result<Vec<RouteTable>> {
        let request = DescribeRouteTablesRequest { filters: filters(by), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.describe_route_tables(r).await };
        let answer = self.ec2("DescribeRouteTables", request, once).await?;
        let link =
            |a: ec2::RouteTableAssociation| a.route_table_association_id.filter(|_| a.main != Some(true));
        let table = |t: ec2::RouteTable| {
            let associations = t.associations.unwrap_or_default().into_iter().filter_map(link).collect();
            Some(RouteTable { id: t.route_table_id?, associations })
        };
        Ok(answer.route_tables.unwrap_or_default().into_iter().filter_map(table).collect())
    }

    /// Sends everything that leaves the VPC to a gateway.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn create_default_route(&self, table: &str, gateway: &str) -> Result<()> {
        let request = CreateRouteRequest {
            route_table_id: table.to_owned(),
            destination_cidr_block: Some("0.0.0.0/0".into()),
            gateway_id: Some(gateway.to_owned()),
            ..Default::default()
        };
        let outcome = self.ec2("CreateRoute", request, |c, r| async move { c.create_route(r).await }).await;
        done_before(outcome, &["RouteAlreadyExists"])
    }

    /// Makes a subnet use a route table.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn associate_route_table(&self, table: &str, subnet: &str) -> Result<()> {
        let request = AssociateRouteTableRequest {
            route_table_id: table.to_owned(),
            subnet_id: Some(subnet.to_owned()),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.associate_route_table(r).await };
        let outcome = self.ec2("AssociateRouteTable", request, once).await;
        done_before(outcome, &["Resource.AlreadyAssociated"])
    }

    /// Undoes a link of a route table; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn disassociate_route_table(&self, association: &str) -> Result<()> {
        let request =
            DisassociateRouteTableRequest { association_id: association.to_owned(), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.disassociate_route_table(r).await };
        gone(self.ec2("DisassociateRouteTable", request, once).await)
    }

    /// Deletes a route table; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn delete_route_table(&self, id: &str) -> Result<()> {
        let request = DeleteRouteTableRequest { route_table_id: id.to_owned(), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.delete_route_table(r).await };
        gone(self.ec2("DeleteRouteTable", request, once).await)
    }

    /// Makes an Internet gateway; returns its id.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn create_internet_gateway(&self, tags: &[(String, String)]) -> Result<String> {
        let call = "CreateInternetGateway";
        let request = CreateInternetGatewayRequest {
            tag_specifications: specification("internet-gateway", tags),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.create_internet_gateway(r).await };
        let answer = self.ec2_with(call, Repeat::IfNotExecuted, request, once).await?;
        required(call, "gateway", answer.internet_gateway.and_then(|g| g.internet_gateway_id))
    }

    /// Internet gateways.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn internet_gateways(&self, by: &[Filter<'_>]) -> Result<Vec<Gateway>> {
        let request = DescribeInternetGatewaysRequest { filters: filters(by), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.describe_internet_gateways(r).await };
        let answer = self.ec2("DescribeInternetGateways", request, once).await?;
        let gateway = |g: ec2::InternetGateway| {
            let vpcs = g.attachments.unwrap_or_default().into_iter().filter_map(|a| a.vpc_id).collect();
            Some(Gateway { id: g.internet_gateway_id?, vpcs, tags: from_tags(g.tags) })
        };
        Ok(answer.internet_gateways.unwrap_or_default().into_iter().filter_map(gateway).collect())
    }

    /// Gives a VPC its way to the Internet.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn attach_internet_gateway(&self, gateway: &str, vpc: &str) -> Result<()> {
        let request = AttachInternetGatewayRequest {
            internet_gateway_id: gateway.to_owned(),
            vpc_id: vpc.to_owned(),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.attach_internet_gateway(r).await };
        let outcome = self.ec2("AttachInternetGateway", request, once).await;
        done_before(outcome, &["Resource.AlreadyAssociated"])
    }

    /// Takes a VPC its way to the Internet; one that has none is no error.
    ///
    /// # Errors
    /// Any [`super::Error`]; `DependencyViolation` while machines have public addresses.
    pub async fn detach_internet_gateway(&self, gateway: &str, vpc: &str) -> Result<()> {
        let request = DetachInternetGatewayRequest {
            internet_gateway_id: gateway.to_owned(),
            vpc_id: vpc.to_owned(),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.detach_internet_gateway(r).await };
        let outcome = gone(self.ec2("DetachInternetGateway", request, once).await);
        done_before(outcome, &["Gateway.NotAttached"])
    }

    /// Deletes an Internet gateway; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn delete_internet_gateway(&self, id: &str) -> Result<()> {
        let request =
            DeleteInternetGatewayRequest { internet_gateway_id: id.to_owned(), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.delete_internet_gateway(r).await };
        gone(self.ec2("DeleteInternetGateway", request, once).await)
    }

    /// The zones of the region, local and wavelength zones left out.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn availability_zones(&self) -> Result<Vec<String>> {
        let request = DescribeAvailabilityZonesRequest::default();
        let once = |c: Ec2Client, r| async move { c.describe_availability_zones(r).await };
        let answer = self.ec2("DescribeAvailabilityZones", request, once).await?;
        let zones = answer.availability_zones.unwrap_or_default().into_iter();
        let plain =
            |z: &ec2::AvailabilityZone| z.zone_type.as_deref().is_none_or(|t| t == "availability-zone");
        Ok(zones.filter(plain).filter_map(|z| z.zone_name).collect())
    }

    /// Makes a subnet in a zone; returns its id.
    ///
    /// # Errors
    /// Any [`super::Error`]; `InvalidParameterValue` from zones that take none, `InvalidSubnet.Conflict` when there is one with
    /// these addresses.
    pub async fn create_subnet(
        &self,
        vpc: &str,
        zone: &str,
        cidr: &str,
        tags: &[(String, String)],
    ) -> Result<String> {
        let call = "CreateSubnet";
        let request = CreateSubnetRequest {
            vpc_id: vpc.to_owned(),
            availability_zone: Some(zone.to_owned()),
            cidr_block: cidr.to_owned(),
            tag_specifications: specification("subnet", tags),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.create_subnet(r).await };
        let answer = self.ec2_with(call, Repeat::IfNotExecuted, request, once).await?;
        required(call, "subnet", answer.subnet.and_then(|s| s.subnet_id))
    }

    /// Gives machines in a subnet public addresses.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn map_public_ips(&self, subnet: &str) -> Result<()> {
        let request = ModifySubnetAttributeRequest {
            subnet_id: subnet.to_owned(),
            map_public_ip_on_launch: Some(ON),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.modify_subnet_attribute(r).await };
        self.ec2("ModifySubnetAttribute", request, once).await
    }

    /// Subnets, of all pages.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn subnets(&self, by: &[Filter<'_>]) -> Result<Vec<Subnet>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request =
                DescribeSubnetsRequest { filters: filters(by), next_token: next, ..Default::default() };
            let once = |c: Ec2Client, r| async move { c.describe_subnets(r).await };
            let page = self.ec2("DescribeSubnets", request, once).await?;
            let subnet = |s: ec2::Subnet| {
                Some(Subnet { id: s.subnet_id?, zone: s.availability_zone.unwrap_or_default() })
            };
            found.extend(page.subnets.unwrap_or_default().into_iter().filter_map(subnet));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Deletes a subnet; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn delete_subnet(&self, id: &str) -> Result<()> {
        let request = DeleteSubnetRequest { subnet_id: id.to_owned(), ..Default::default() };
        gone(self.ec2("DeleteSubnet", request, |c, r| async move { c.delete_subnet(r).await }).await)
    }

    /// Makes a security group; returns its id, also that of an earlier one of this name in the VPC.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn create_security_group(
        &self,
        name: &str,
        description: &str,
        vpc: &str,
        tags: &[(String, String)],
    ) -> Result<String> {
        let call = "CreateSecurityGroup";
        let request = CreateSecurityGroupRequest {
            group_name: name.to_owned(),
            description: description.to_owned(),
            vpc_id: Some(vpc.to_owned()),
            tag_specifications: specification("security-group", tags),
            ..Default::default()
        };
        match self.ec2(call, request, |c, r| async move { c.create_security_group(r).await }).await {
            Ok(answer) => required(call, "group", answer.group_id),
            Err(e) if e.is(&["InvalidGroup.Duplicate"]) => {
                let found = self.security_groups(&[("group-name", &[name]), ("vpc-id", &[vpc])], &[]).await?;
                found.into_iter().next().map(|g| g.id).ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Lets traffic into members of a group.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn authorize_ingress(&self, group: &str, what: &[Ingress]) -> Result<()> {
        let permission = |i: &Ingress| {
            let range = |cidr: &str| vec![IpRange { cidr_ip: Some(cidr.to_owned()), description: None }];
            let members = || vec![UserIdGroupPair { group_id: Some(group.to_owned()), ..Default::default() }];
            IpPermission {
                ip_protocol: Some(i.protocol.to_owned()),
                from_port: Some(i.from),
                to_port: Some(i.to),
                ip_ranges: i.cidr.map(range),
                user_id_group_pairs: i.cidr.is_none().then(members),
                ..Default::default()
            }
        };
        let request = AuthorizeSecurityGroupIngressRequest {
            group_id: Some(group.to_owned()),
            ip_permissions: Some(what.iter().map(permission).collect()),
            ..Default::default()
        };
        let once = |c: Ec2Client, r| async move { c.authorize_security_group_ingress(r).await };
        let outcome = self.ec2("AuthorizeSecurityGroupIngress", request, once).await;
        done_before(outcome, &["InvalidPermission.Duplicate"])
    }

    /// Security groups. Ids that do not exist are an error of EC2's, `InvalidGroup.NotFound`.
    ///
    /// # Errors
    /// Any [`super::Error`].
    pub async fn security_groups(&self, by: &[Filter<'_>], ids: &[&str]) -> Result<Vec<SecurityGroup>> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let request = DescribeSecurityGroupsRequest {
                filters: filters(by),
                group_ids: (!ids.is_empty()).then(|| owned(ids)),
                next_token: next,
                ..Default::default()
            };
            let once = |c: Ec2Client, r| async move { c.describe_security_groups(r).await };
            let page = self.ec2("DescribeSecurityGroups", request, once).await?;
            let group = |g: ec2::SecurityGroup| {
                Some(SecurityGroup {
                    id: g.group_id?,
                    name: g.group_name.unwrap_or_default(),
                    vpc: g.vpc_id.filter(|v| !v.is_empty()),
                    tags: from_tags(g.tags),
                })
            };
            found.extend(page.security_groups.unwrap_or_default().into_iter().filter_map(group));
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Deletes a security group; one that is gone is no error.
    ///
    /// # Errors
    /// Any [`super::Error`]; `DependencyViolation` while machines are in it.
    pub async fn delete_security_group(&self, id: &str) -> Result<()> {
        let request = DeleteSecurityGroupRequest { group_id: Some(id.to_owned()), ..Default::default() };
        let once = |c: Ec2Client, r| async move { c.delete_security_group(r).await };
        gone(self.ec2("DeleteSecurityGroup", request, once).await)
    }
}
