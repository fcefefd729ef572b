//! EC2 and IAM as far as a kola run needs them, with dependencies, delays, and failures that a test orders.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::super::network::UNFINISHED;
use crate::http::fake::{Asked, Fake, Said};

/// Something that EC2 has.
#[derive(Clone, Debug, Default)]
struct Thing {
    tags: Vec<(String, String)>,
    vpc: String,
    /// Zone of a subnet, name of a group, state of an instance.
    word: String,
    /// Of an instance.
    token: String,
    /// How often an instance was described.
    seen: u32,
    /// Links of a route table.
    links: Vec<String>,
}

#[derive(Default)]
pub struct State {
    next: u32,
    things: BTreeMap<(String, u32), Thing>,
    keys: Vec<String>,
    role: bool,
    profile: Option<bool>,
    profile_asked: u32,
    scripted: Vec<(String, u16, String, String)>,
    calls: usize,
    /// Why instances end at once.
    pub dies: Option<&'static str>,
    /// Instances never run.
    pub stuck: bool,
    /// So many instances are there besides.
    pub many: usize,
    /// From this call on, while it is the same operation: refused, or executed and the answer lost.
    pub fail_from: Option<(usize, String, bool)>,
    /// After so many calls no answer is given.
    pub dead_after: Option<usize>,
}

pub struct Cloud {
    fake: Fake,
    state: Arc<Mutex<State>>,
    died: Arc<Notify>,
}

fn item(fields: &[(&str, &str)]) -> String {
    let fields: String = fields.iter().map(|(n, v)| format!("<{n}>{v}</{n}>")).collect();
    format!("<item>{fields}</item>")
}

fn error(status: u16, code: &str, message: &str) -> Said {
    let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    (status, format!("<Response><Errors>{text}</Errors><RequestID>r-1</RequestID></Response>"))
}

fn list(asked: &Asked, prefix: &str) -> Vec<String> {
    (1..).map_while(|i| asked.form.get(&format!("{prefix}.{i}")).cloned()).collect()
}

fn given_tags(asked: &Asked, prefix: &str) -> Vec<(String, String)> {
    let field = |i: u32, what: &str| asked.form.get(&format!("{prefix}{i}.{what}")).cloned();
    (1..).map_while(|i| Some((field(i, "Key")?, field(i, "Value").unwrap_or_default()))).collect()
}

impl Cloud {
    pub async fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let died = Arc::new(Notify::new());
        let (shared, notify) = (state.clone(), died.clone());
        let fake = Fake::start(move |asked| {
            let mut state = shared.lock().unwrap();
            let said = state.handle(asked);
            if said.0 == 1 {
                notify.notify_one();
            }
            said
        })
        .await;
        Self { fake, state, died }
    }

    pub fn url(&self) -> &str {
        &self.fake.url
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub async fn dead(&self) {
        self.died.notified().await;
    }

    pub fn actions(&self) -> Vec<String> {
        self.fake.actions()
    }

    pub fn asked(&self, action: &str) -> Vec<Asked> {
        self.fake.journal().into_iter().filter(|a| a.action() == action).collect()
    }

    pub fn count_of(&self, kind: &str) -> usize {
        self.state.lock().unwrap().things.keys().filter(|(k, _)| k == kind).count()
    }

    /// What should not be there: instances, keys, parts of networks.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let mut left: Vec<String> = state.keys.iter().map(|k| format!("key {k}")).collect();
        for ((kind, number), thing) in &state.things {
            let unfinished = thing.tags.iter().any(|(n, _)| n == UNFINISHED);
            let live = kind == "i" && thing.word != "terminated";
            let barren = kind == "vpc"
                && !state.things.iter().any(|((k, _), t)| k == "sg" && t.vpc == format!("vpc-{number}"));
            if unfinished || live || barren {
                left.push(format!("{kind}-{number}"));
            }
        }
        left
    }
}

impl State {
    /// Once, in this order, among the calls of an operation.
    pub fn script(&mut self, action: &str, status: u16, code: &str, message: &str) {
        self.scripted.push((action.into(), status, code.into(), message.into()));
    }

    fn handle(&mut self, asked: &Asked) -> Said {
        let action = asked.action();
        let call = self.calls;
        self.calls += 1;
        if let Some(at) = self.scripted.iter().position(|(a, ..)| *a == action) {
            let (_, status, code, message) = self.scripted.remove(at);
            return error(status, &code, &message);
        }
        if let Some((from, operation, lost)) = &self.fail_from
            && call >= *from
        {
            if *operation != action {
                self.fail_from = None;
            } else if *lost {
                self.execute(asked, &action);
                return (0, String::new());
            } else {
                return error(400, "OperationNotPermitted", "no");
            }
        }
        let said = self.execute(asked, &action);
        match self.dead_after {
            Some(calls) if call + 1 >= calls => (1, String::new()),
            _ => said,
        }
    }

    fn make(&mut self, kind: &str, thing: Thing) -> String {
        self.next += 1;
        self.things.insert((kind.into(), self.next), thing);
        format!("{kind}-{}", self.next)
    }

    fn find(&mut self, id: &str) -> Option<&mut Thing> {
        let (kind, number) = id.rsplit_once('-')?;
        self.things.get_mut(&(kind.to_owned(), number.parse().ok()?))
    }

    fn remove(&mut self, id: &str) {
        if let Some((kind, number)) = id.rsplit_once('-') {
            self.things.remove(&(kind.to_owned(), number.parse().unwrap_or_default()));
        }
    }

    /// The things of a kind that the request's filters let through.
    fn matching(&self, asked: &Asked, kind: &str) -> Vec<(String, Thing)> {
        let filters: Vec<(String, Vec<String>)> = (1..)
            .map_while(|i| {
                let name = asked.form.get(&format!("Filter.{i}.Name"))?.clone();
                Some((name, list(asked, &format!("Filter.{i}.Value"))))
            })
            .collect();
        let passes = |t: &Thing| {
            filters.iter().all(|(name, values)| match name.as_str() {
                "vpc-id" => values.contains(&t.vpc),
                "group-name" | "availability-zone" => values.contains(&t.word),
                "tag-key" => t.tags.iter().any(|(n, _)| values.contains(n)),
                tag => {
                    let tag = tag.strip_prefix("tag:").unwrap();
                    t.tags.iter().any(|(n, v)| n == tag && values.contains(v))
                }
            })
        };
        let of_kind = self.things.iter().filter(|((k, _), t)| k == kind && passes(t));
        of_kind.map(|((k, n), t)| (format!("{k}-{n}"), t.clone())).collect()
    }

    fn in_vpc(&self, vpc: &str) -> bool {
        self.things.iter().any(|((kind, _), t)| kind != "i" && t.vpc == vpc)
    }

    fn execute(&mut self, asked: &Asked, action: &str) -> Said {
        let ok =
            |body: String| (200, format!("<{action}Response>{body}<return>true</return></{action}Response>"));
        let tags = given_tags(asked, "TagSpecification.1.Tag.");
        let thing = |word: &str| Thing {
            tags: tags.clone(),
            vpc: asked.get("VpcId").to_owned(),
            word: word.to_owned(),
            ..Thing::default()
        };
        let tag_set = |t: &Thing| -> String {
            let tags: String = t.tags.iter().map(|(k, v)| item(&[("key", k), ("value", v)])).collect();
            format!("<tagSet>{tags}</tagSet>")
        };
        let iam_error = |status, code: &str| {
            (status, format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>"))
        };
        match action {
            "ImportKeyPair" => {
                let name = asked.get("KeyName").to_owned();
                if self.keys.contains(&name) {
                    return error(400, "InvalidKeyPair.Duplicate", "there");
                }
                self.keys.push(name);
                ok(String::new())
            }
            "DeleteKeyPair" => {
                self.keys.retain(|k| k != asked.get("KeyName"));
                ok(String::new())
            }
            "GetInstanceProfile" => match self.profile {
                None => iam_error(404, "NoSuchEntity"),
                Some(role) => {
                    self.profile_asked += 1;
                    let role = if role && self.profile_asked > 1 {
                        "<member><RoleName>kola</RoleName><RoleId>1</RoleId><Path>/</Path><Arn>a</Arn><CreateDate>d\
                         </CreateDate></member>"
                    } else {
                        ""
                    };
                    let profile = format!(
                        "<InstanceProfile><InstanceProfileName>kola</InstanceProfileName><InstanceProfileId>1\
                         </InstanceProfileId><Path>/</Path><Arn>a</Arn><CreateDate>d</CreateDate><Roles>{role}</Roles>\
                         </InstanceProfile>"
                    );
                    ok(format!("<GetInstanceProfileResult>{profile}</GetInstanceProfileResult>"))
                }
            },
            "CreateRole" if self.role => iam_error(409, "EntityAlreadyExists"),
            "CreateRole" => {
                self.role = true;
                ok("<CreateRoleResult><Role><RoleName>kola</RoleName><RoleId>1</RoleId><Path>/</Path><Arn>a</Arn>\
                    <CreateDate>d</CreateDate></Role></CreateRoleResult>"
                    .into())
            }
            "PutRolePolicy" => ok(String::new()),
            "CreateInstanceProfile" if self.profile.is_some() => iam_error(409, "EntityAlreadyExists"),
            "CreateInstanceProfile" => {
                self.profile = Some(false);
                ok("<CreateInstanceProfileResult><InstanceProfile><InstanceProfileName>kola</InstanceProfileName>\
                    <InstanceProfileId>1</InstanceProfileId><Path>/</Path><Arn>a</Arn><CreateDate>d</CreateDate>\
                    <Roles></Roles></InstanceProfile></CreateInstanceProfileResult>"
                    .into())
            }
            "AddRoleToInstanceProfile" if self.profile == Some(true) => iam_error(409, "LimitExceeded"),
            "AddRoleToInstanceProfile" => {
                self.profile = Some(true);
                ok(String::new())
            }
            "CreateVpc" => {
                let id = self.make("vpc", thing(""));
                ok(format!("<vpc><vpcId>{id}</vpcId></vpc>"))
            }
            "CreateRouteTable" => {
                let id = self.make("rtb", thing(""));
                ok(format!("<routeTable><routeTableId>{id}</routeTableId></routeTable>"))
            }
            "CreateInternetGateway" => {
                let id = self.make("igw", thing(""));
                ok(format!("<internetGateway><internetGatewayId>{id}</internetGatewayId></internetGateway>"))
            }
            "AttachInternetGateway" => {
                let vpc = asked.get("VpcId").to_owned();
                let Some(gateway) = self.find(asked.get("InternetGatewayId")) else {
                    return error(400, "InvalidInternetGatewayID.NotFound", "no");
                };
                if !gateway.vpc.is_empty() {
                    return error(400, "Resource.AlreadyAssociated", "there");
                }
                gateway.vpc = vpc;
                ok(String::new())
            }
            "DescribeAvailabilityZones" => {
                let zone = |name, kind| item(&[("zoneName", name), ("zoneType", kind)]);
                let zones = zone("us-west-2a", "availability-zone")
                    + &zone("us-west-2b", "availability-zone")
                    + &zone("us-west-2-lax-1a", "local-zone")
                    + &zone("us-west-2c", "availability-zone");
                ok(format!("<availabilityZoneInfo>{zones}</availabilityZoneInfo>"))
            }
            "CreateSubnet" if asked.get("AvailabilityZone") == "us-west-2b" => {
                error(400, "InvalidParameterValue", "no subnets there")
            }
            "CreateSubnet" => {
                let id = self.make("subnet", thing(asked.get("AvailabilityZone")));
                ok(format!("<subnet><subnetId>{id}</subnetId></subnet>"))
            }
            "AssociateRouteTable" => {
                let subnet = asked.get("SubnetId").to_owned();
                let Some(table) = self.find(asked.get("RouteTableId")) else {
                    return error(400, "InvalidRouteTableID.NotFound", "no");
                };
                if table.links.contains(&subnet) {
                    return error(400, "Resource.AlreadyAssociated", "there");
                }
                table.links.push(subnet);
                ok("<associationId>rtbassoc-1</associationId>".into())
            }
            "DisassociateRouteTable" => {
                let subnet = asked.get("AssociationId").trim_start_matches("assoc:").to_owned();
                self.things.values_mut().for_each(|t| t.links.retain(|l| *l != subnet));
                ok(String::new())
            }
            "CreateSecurityGroup" => {
                let name = asked.get("GroupName");
                let same = |((k, _), t): (&(String, u32), &Thing)| {
                    k == "sg" && t.word == name && t.vpc == asked.get("VpcId")
                };
                if self.things.iter().any(same) {
                    return error(400, "InvalidGroup.Duplicate", "there");
                }
                let id = self.make("sg", thing(name));
                ok(format!("<groupId>{id}</groupId>"))
            }
            "CreateRoute"
            | "ModifyVpcAttribute"
            | "ModifySubnetAttribute"
            | "AuthorizeSecurityGroupIngress" => ok(String::new()),
            "CreateTags" | "DeleteTags" => {
                let (ids, tags) = (list(asked, "ResourceId"), given_tags(asked, "Tag."));
                for id in ids {
                    let Some(thing) = self.find(&id) else {
                        return error(400, "InvalidID", "no");
                    };
                    thing.tags.retain(|(n, _)| tags.iter().all(|(t, _)| t != n));
                    if action == "CreateTags" {
                        thing.tags.extend(tags.iter().cloned());
                    }
                }
                ok(String::new())
            }
            "DeleteSecurityGroup" => {
                self.remove(asked.get("GroupId"));
                ok(String::new())
            }
            "DeleteSubnet" => {
                let id = asked.get("SubnetId");
                if self.things.values().any(|t| t.links.iter().any(|l| l == id)) {
                    return error(400, "DependencyViolation", "it is linked");
                }
                self.remove(id);
                ok(String::new())
            }
            "DeleteRouteTable" => {
                let id = asked.get("RouteTableId").to_owned();
                if self.find(&id).is_some_and(|t| !t.links.is_empty()) {
                    return error(400, "DependencyViolation", "it has links");
                }
                self.remove(&id);
                ok(String::new())
            }
            "DetachInternetGateway" => {
                if let Some(gateway) = self.find(asked.get("InternetGatewayId")) {
                    gateway.vpc.clear();
                }
                ok(String::new())
            }
            "DeleteInternetGateway" => {
                let id = asked.get("InternetGatewayId").to_owned();
                if self.find(&id).is_some_and(|g| !g.vpc.is_empty()) {
                    return error(400, "DependencyViolation", "it is attached");
                }
                self.remove(&id);
                ok(String::new())
            }
            "DeleteVpc" => {
                let id = asked.get("VpcId").to_owned();
                if self.in_vpc(&id) {
                    return error(400, "DependencyViolation", "there is something in it");
                }
                self.remove(&id);
                ok(String::new())
            }
            "DescribeVpcs" => {
                let found = self.matching(asked, "vpc");
                let items: String = found
                    .iter()
                    .map(|(id, t)| format!("<item><vpcId>{id}</vpcId>{}</item>", tag_set(t)))
                    .collect();
                ok(format!("<vpcSet>{items}</vpcSet>"))
            }
            "DescribeSubnets" => {
                let found = self.matching(asked, "subnet");
                let items: String = found.iter().map(|(id, _)| item(&[("subnetId", id)])).collect();
                ok(format!("<subnetSet>{items}</subnetSet>"))
            }
            "DescribeRouteTables" => {
                let link = |l: &String| item(&[("routeTableAssociationId", &format!("assoc:{l}"))]);
                let table = |(id, t): &(String, Thing)| {
                    let links: String = t.links.iter().map(link).collect();
                    format!(
                        "<item><routeTableId>{id}</routeTableId><associationSet>{links}</associationSet></item>"
                    )
                };
                let items: String = self.matching(asked, "rtb").iter().map(table).collect();
                ok(format!("<routeTableSet>{items}</routeTableSet>"))
            }
            "DescribeInternetGateways" => {
                let gateway = |(id, t): &(String, Thing)| {
                    let vpc = if t.vpc.is_empty() { String::new() } else { item(&[("vpcId", &t.vpc)]) };
                    let id = format!("<internetGatewayId>{id}</internetGatewayId>");
                    format!("<item>{id}<attachmentSet>{vpc}</attachmentSet>{}</item>", tag_set(t))
                };
                let items: String = self.matching(asked, "igw").iter().map(gateway).collect();
                ok(format!("<internetGatewaySet>{items}</internetGatewaySet>"))
            }
            "DescribeSecurityGroups" => {
                let group = |(id, t): &(String, Thing)| {
                    let (name, vpc) = (&t.word, &t.vpc);
                    format!(
                        "<item><groupId>{id}</groupId><groupName>{name}</groupName><vpcId>{vpc}</vpcId>{}</item>",
                        tag_set(t)
                    )
                };
                let items: String = self.matching(asked, "sg").iter().map(group).collect();
                ok(format!("<securityGroupInfo>{items}</securityGroupInfo>"))
            }
            "RunInstances" => {
                let token = asked.get("ClientToken").to_owned();
                let there = self.things.iter().find(|((k, _), t)| k == "i" && t.token == token);
                let id = match there {
                    Some(((_, number), _)) => format!("i-{number}"),
                    None => {
                        let made =
                            Thing { tags: tags.clone(), word: "pending".into(), token, ..Thing::default() };
                        self.make("i", made)
                    }
                };
                ok(format!("<instancesSet>{}</instancesSet>", item(&[("instanceId", &id)])))
            }
            "DescribeInstances" => self.describe_instances(asked),
            "TerminateInstances" => {
                for id in list(asked, "InstanceId") {
                    if let Some(instance) = self.find(&id) {
                        "terminated".clone_into(&mut instance.word);
                    }
                }
                ok("<instancesSet></instancesSet>".into())
            }
            "GetConsoleOutput" => {
                let ended = self.find(asked.get("InstanceId")).is_some_and(|i| i.word == "terminated");
                let text = if ended { "booted\nshut down\n" } else { "booted\n" };
                ok(format!("<output>{}</output>", openssl::base64::encode_block(text.as_bytes())))
            }
            other => error(400, "InvalidAction", other),
        }
    }

    fn describe_instances(&mut self, asked: &Asked) -> Said {
        let (dies, stuck) = (self.dies, self.stuck);
        let wanted = list(asked, "InstanceId");
        for ((kind, number), thing) in &mut self.things {
            if kind == "i" && wanted.contains(&format!("i-{number}")) && thing.word != "terminated" {
                thing.seen += 1;
                let state = match dies {
                    Some(_) => "terminated",
                    None if thing.seen > 1 && !stuck => "running",
                    None => "pending",
                };
                state.clone_into(&mut thing.word);
            }
        }
        let mut found = self.matching(asked, "i");
        found.retain(|(id, _)| wanted.is_empty() || wanted.contains(id));
        if self.many > 0 {
            found = (0..self.many).map(|i| (format!("i-many{i}"), Thing::default())).collect();
        }
        let from: usize = asked.get("NextToken").parse().unwrap_or_default();
        let instance = |(id, t): &(String, Thing)| {
            let number = id.rsplit('-').next().unwrap_or_default();
            let running = t.word == "running";
            let address = if running { item(&[("ipAddress", "127.0.0.1:40022")]) } else { String::new() };
            let address = address.replace("<item>", "").replace("</item>", "");
            let reason = dies.filter(|_| t.word == "terminated").unwrap_or_default();
            let reason = format!("<stateReason><message>{reason}</message></stateReason>");
            format!(
                "<item><instanceId>{id}</instanceId><instanceState><name>{}</name></instanceState><privateIpAddress>\
                 10.0.0.{number}</privateIpAddress>{address}{reason}</item>",
                t.word
            )
        };
        let page: String = found.iter().skip(from).take(1000).map(instance).collect();
        let next = if from + 1000 < found.len() { (from + 1000).to_string() } else { String::new() };
        let set =
            format!("<reservationSet><item><instancesSet>{page}</instancesSet></item></reservationSet>");
        (
            200,
            format!(
                "<DescribeInstancesResponse>{set}<nextToken>{next}</nextToken></DescribeInstancesResponse>"
            ),
        )
    }
}
