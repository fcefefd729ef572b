"""moto with what mantle needs and moto lacks, or does too kindly.

  moto_server.py -H 127.0.0.1 -p PORT

Added: snapshot import with its tasks; images that keep their device mappings, names of images that are unique,
images that are pending at first; blocks of the EBS direct API with their checksums; client tokens; pages;
machines that are pending until somebody gives them an address (MANTLE_MACHINES).

A marker word makes things fail: an import of a key with "broken" in it, a copy to a name with "broken" in it.

Under /mantle/ the test speaks to it (see control()).
"""

import base64
import copy
import datetime
import hashlib
import json
import os
import sys
import threading

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, EmptyResult
from moto.ebs.models import EBSBackend, EBSSnapshot
from moto.ebs.responses import EBSResponse
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.instances import Instance, InstanceState, Reservation, StateReason
from moto.ec2.models.key_pairs import KeyPair
from moto.ec2.responses import EC2Response
from moto.ec2.utils import random_reservation_id
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends

ACCOUNT = "123456789012"
IMPORT_POLLS = int(os.environ.get("MANTLE_IMPORT_POLLS", "3"))  # an import is active for so many answers
PENDING_POLLS = int(os.environ.get("MANTLE_PENDING_POLLS", "2"))  # a machine or copied image is pending as long
MACHINES = bool(os.environ.get("MANTLE_MACHINES"))  # machines get their addresses from outside
PAGE = int(os.environ.get("MANTLE_PAGE", "1000"))  # no list is longer
BLOCK = 512 * 1024
USER_DATA = 16384
GIB = 1 << 30

LOCK = threading.RLock()


class Refused(EC2ClientError):
    """An error of EC2."""

    __module__ = "moto.ec2.mantle"  # moto takes the service from the second word


class BlockRefused(ServiceException):
    """An error of the EBS direct API."""

    __module__ = "moto.ebs.mantle"


def kept(backend, name):
    """A dictionary of ours that lives as long as moto's own state: until the next reset."""
    return backend.__dict__.setdefault("mantle_" + name, {})


def once(backend, action, token, parameters, make):
    """What a client token stands for: the same answer for the same request, an error for another."""
    if not token:
        return make()
    tokens = kept(backend, "tokens")
    known = tokens.get((action, token))
    if known is None:
        known = tokens[(action, token)] = (parameters, make())
    elif known[0] != parameters:
        raise Refused(
            "IdempotentParameterMismatch",
            "The request uses the same client token as a previous, but non-identical request.",
        )
    return known[1]


def paged(response, key, make):
    """One page of a list, which is made once: a token names the list and the items before the page."""
    lists = kept(response.ec2_backend, "lists")
    token = response._get_param("NextToken")
    name, _, start = (token or ":0").partition(":")
    if token and name not in lists:
        raise Refused("InvalidNextToken", "The token is not valid")
    items = lists.pop(name) if token else make()
    start, size = int(start), min(int(response._get_param("MaxResults") or PAGE), PAGE)
    end = start + size
    if end < len(items):
        name = os.urandom(8).hex()
        lists[name] = items
    return ActionResult({key: items[start:end], "NextToken": f"{name}:{end}" if end < len(items) else None})


# Import of snapshots


def import_snapshot(self):
    disk = self._get_param("DiskContainer", {})
    description = self._get_param("Description", "")
    tags = self._parse_tag_specification().get("import-snapshot-task", {})
    if disk.get("Format", "").upper() not in ("VHD", "VMDK", "RAW"):
        raise Refused("InvalidParameter", f"The value {disk.get('Format')} for parameter Format is invalid")
    place = disk.get("UserBucket", {})
    bucket, key = place.get("S3Bucket"), place.get("S3Key")
    if not bucket and disk.get("Url", "").startswith("s3://"):
        bucket, _, key = disk["Url"][5:].partition("/")
    objects = s3_backends[self.current_account]["aws"]
    held = objects.buckets.get(bucket)
    held = held and held.keys.get(key)
    if held is None:
        raise Refused("InvalidParameter", "The given S3 object is not accessible")

    def make():
        tasks = kept(self.ec2_backend, "imports")
        task = {
            "ImportTaskId": f"import-snap-{os.urandom(8).hex()}",
            "Description": description,
            "Tags": [{"Key": k, "Value": v} for k, v in tags.items()],
            "size": max(1, -(-held.size // GIB)),
            "format": disk["Format"].upper(),
            "bucket": bucket,
            "key": key,
            "answers": 0,
            "snapshot": None,
        }
        tasks[task["ImportTaskId"]] = task
        return task["ImportTaskId"]

    with LOCK:
        token = self._get_param("ClientToken")
        task = once(self.ec2_backend, "import", token, (bucket, key, description), make)
        return ActionResult(shown_import(self, kept(self.ec2_backend, "imports")[task]))


def shown_import(self, task):
    n = task["answers"]
    detail = {
        "Description": task["Description"],
        "Format": task["format"],
        "DiskImageSize": float(task["size"] * GIB),
        "UserBucket": {"S3Bucket": task["bucket"], "S3Key": task["key"]},
        "Status": "active",
    }
    broken = "broken" in task["key"]
    if n < IMPORT_POLLS:
        if n != 1:  # Amazon leaves them out at times
            detail["Progress"] = str(3 + 90 * n // IMPORT_POLLS)
            detail["StatusMessage"] = "pending" if n == 0 else "downloading/converting"
    elif broken:
        detail["Status"] = "deleting" if n == IMPORT_POLLS else "deleted"
        detail["StatusMessage"] = "ClientError: Disk validation failed [Unsupported VMDK File]"
    else:
        if task["snapshot"] is None:
            # As Amazon does: the snapshot is not tagged, and its description is not the task's.
            volume = self.ec2_backend.create_volume(size=task["size"], zone_name=f"{self.region}a")
            made = f"Created by AWS-VMImport service for {task['ImportTaskId']}"
            task["snapshot"] = self.ec2_backend.create_snapshot(volume.id, made).id
            self.ec2_backend.delete_volume(volume.id)
        detail["Status"] = "completed"
        detail["Progress"] = "100"
        detail["SnapshotId"] = task["snapshot"]
    shown = {k: task[k] for k in ("ImportTaskId", "Description", "Tags")}
    return {**shown, "SnapshotTaskDetail": detail}


def describe_import_snapshot_tasks(self):
    with LOCK:
        tasks = kept(self.ec2_backend, "imports")
        wanted = self._get_param("ImportTaskIds", [])
        for task in wanted:
            if task not in tasks:
                raise Refused("InvalidConversionTaskId.Malformed", f"Import task ID {task} does not exist")

        def make():
            answers = []
            for task in [tasks[t] for t in wanted or tasks]:
                answers.append(shown_import(self, task))
                task["answers"] += 1
            return answers

        return paged(self, "ImportSnapshotTasks", make)


# Images


class Registered(Ami):
    """An image made of what the request says."""

    __module__ = "moto.ec2.mantle"  # as of Refused
    mappings = ()
    ena_support = False
    imds_support = None
    polls = 0
    end = "available"

    @property
    def block_device_mappings(self):
        return list(self.mappings)


def forget_own_snapshot(backend, ami):
    """moto makes a snapshot with every image."""
    backend.snapshots.pop(ami.ebs_snapshot.id, None)


def unique(backend, name):
    for ami in backend.amis.values():
        if ami.name == name and ami.owner_id == backend.account_id:
            raise Refused(
                "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {ami.id}"
            )


def register_image(self):
    backend = self.ec2_backend
    get = self._get_param
    name = get("Name") or ""
    if not 3 <= len(name) <= 128:
        raise Refused("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long")
    mappings = []
    for wish in get("BlockDeviceMappings", []):
        ebs = wish.get("Ebs", {})
        if "SnapshotId" in ebs:
            snapshot = backend.snapshots.get(ebs["SnapshotId"])
            if snapshot is None:
                raise Refused(
                    "InvalidSnapshot.NotFound", f"The snapshot '{ebs['SnapshotId']}' does not exist."
                )
            if snapshot.status != "completed":
                raise Refused(
                    "InvalidSnapshot.Pending", f"Snapshot {snapshot.id} is in invalid state - {snapshot.status}"
                )
            ebs = {"VolumeSize": snapshot.volume.size, **ebs}
        shown = {"DeviceName": wish.get("DeviceName"), "VirtualName": wish.get("VirtualName")}
        if ebs:
            shown["Ebs"] = {"DeleteOnTermination": False, "VolumeType": "standard", **ebs}
        mappings.append(shown)
    root = get("RootDeviceName")
    if root not in [m["DeviceName"] for m in mappings]:
        raise Refused(
            "InvalidBlockDeviceMapping", "The device mapping of the root device is missing."
        )
    with LOCK:
        unique(backend, name)
        self.error_on_dryrun()
        ami = Registered(
            backend,
            f"ami-{os.urandom(9).hex()[:17]}",
            name=name,
            description=get("Description"),
            virtualization_type=get("VirtualizationType", "paravirtual"),
            architecture=get("Architecture", "i386"),
            root_device_type="ebs",
            root_device_name=root,
            sriov=get("SriovNetSupport"),
            boot_mode=get("BootMode"),
            image_location=f"{backend.account_id}/{name}",
            hypervisor="xen",
        )
        forget_own_snapshot(backend, ami)
        ami.mappings = mappings
        ami.ena_support = get("EnaSupport", False) in (True, "true")
        ami.imds_support = get("ImdsSupport")
        ami.add_tags(self._parse_tag_specification().get("image", {}))
        for m in mappings:
            if "SnapshotId" in m.get("Ebs", {}):
                ami.ebs_snapshot = backend.snapshots[m["Ebs"]["SnapshotId"]]
                ami.ebs_snapshot.from_ami = ami.id
        backend.amis[ami.id] = ami
    return ActionResult({"ImageId": ami.id})


def copy_image(self):
    get = self._get_param
    source_backend = ec2_backends[self.current_account][get("SourceRegion")]
    source = source_backend.describe_images(ami_ids=[get("SourceImageId")])
    if not source:
        raise Refused("InvalidAMIID.NotFound", f"The image id '[{get('SourceImageId')}]' does not exist")
    source, backend = source[0], self.ec2_backend
    if source.state != "available":
        raise Refused("InvalidAMIID.Unavailable", f"Image {source.id} is {source.state}")
    name, description = get("Name"), get("Description")

    def make():
        unique(backend, name)
        image = f"ami-{os.urandom(9).hex()[:17]}"
        ami = Registered(
            backend,
            image,
            source_ami=source,
            name=name,
            description=description,
            state="pending",
            root_device_type="ebs",
            root_device_name=source.root_device_name,
            sriov=source.sriov,
            boot_mode=source.boot_mode,
            image_location=f"{backend.account_id}/{name}",
            hypervisor="xen",
        )
        forget_own_snapshot(backend, ami)
        mappings = []
        for mapping in source.block_device_mappings:
            ebs = dict(mapping.get("Ebs") or {})
            if ebs.get("SnapshotId"):
                volume = backend.create_volume(size=ebs.get("VolumeSize") or 1, zone_name=f"{self.region}a")
                made = (
                    f"Copied for DestinationAmi {image} from SourceAmi {source.id} for SourceSnapshot "
                    f"{ebs['SnapshotId']}."
                )
                ami.ebs_snapshot = backend.create_snapshot(volume.id, made, from_ami=image)
                backend.delete_volume(volume.id)
                ebs["SnapshotId"] = ami.ebs_snapshot.id
            mappings.append({**mapping, "Ebs": ebs} if ebs else mapping)
        ami.mappings = mappings
        ami.ena_support = getattr(source, "ena_support", False)
        ami.imds_support = getattr(source, "imds_support", None)
        ami.polls = PENDING_POLLS
        ami.end = "failed" if "broken" in name else "available"
        backend.amis[image] = ami
        return image

    self.error_on_dryrun()
    with LOCK:
        return ActionResult({"ImageId": once(backend, "copy", get("ClientToken"), (source.id, name), make)})


def describe_images(self):
    self.error_on_dryrun()

    def make():
        images = self.ec2_backend.describe_images(
            ami_ids=self._get_param("ImageIds", []),
            filters=self._filters_from_querystring(),
            exec_users=self._get_param("ExecutableUsers", []),
            owners=self._get_param("Owners", []),
        )
        for ami in images:
            if ami.state == "pending":
                if ami.polls <= 0:
                    ami.state = ami.end
                ami.polls -= 1
        return images

    with LOCK:
        return paged(self, "Images", make)


def describe_snapshots(self):
    def make():
        return self.ec2_backend.describe_snapshots(
            snapshot_ids=self._get_param("SnapshotIds", []), filters=self._filters_from_querystring()
        )

    with LOCK:
        return paged(self, "Snapshots", make)


# Blocks of snapshots


def refuse(code, message, **more):
    error = BlockRefused(code, message)
    for name, value in more.items():
        setattr(error, name, value)
    return error


def start_snapshot(self):
    size = self._get_param("VolumeSize")
    token, description = self._get_param("ClientToken"), self._get_param("Description")
    if not size or not 1 <= int(size) <= 65536:
        raise refuse("ValidationException", "Invalid volume size", Reason="INVALID_VOLUME_SIZE")

    def make():
        snapshot = self.ebs_backend.start_snapshot(
            volume_size=size, tags=self._get_param("Tags"), description=description
        )
        snapshot.block_size = BLOCK
        self.ebs_backend.ec2_backend.snapshots[snapshot.snapshot_id].status = "pending"
        return snapshot

    with LOCK:
        try:
            snapshot = once(self.ebs_backend, "start", token, (size, description), make)
        except ServiceException as error:
            raise refuse("ConflictException", str(error)) from None
    return ActionResult(
        {
            "SnapshotId": snapshot.snapshot_id,
            "OwnerId": snapshot.account_id,
            "Status": snapshot.status,
            "StartTime": snapshot.start_time,
            "VolumeSize": snapshot.volume_size,
            "BlockSize": BLOCK,
            "Tags": snapshot.tags,
            "Description": snapshot.description,
        }
    )


def open_snapshot(self):
    name = self._get_param("SnapshotId")
    snapshot = self.ebs_backend.snapshots.get(name)
    if snapshot is None or name not in self.ebs_backend.ec2_backend.snapshots:
        raise refuse("ResourceNotFoundException", "The snapshot does not exist", Reason="SNAPSHOT_NOT_FOUND")
    if snapshot.status != "pending":
        raise refuse("ValidationException", "The snapshot is not pending", Reason="INVALID_SNAPSHOT_ID")
    return snapshot


def put_snapshot_block(self):
    get = self._get_param
    snapshot = open_snapshot(self)
    data, index, checksum = get("BlockData"), int(get("BlockIndex")), get("Checksum")
    data = data.encode("latin-1") if isinstance(data, str) else bytes(data or b"")
    right = base64.b64encode(hashlib.sha256(data).digest()).decode()
    wrong = None
    if len(data) != BLOCK or int(get("DataLength") or 0) != BLOCK:
        wrong = f"Blocks have {BLOCK} bytes, this has {len(data)}"
    elif not 0 <= index < snapshot.volume_size * GIB // BLOCK:
        wrong = f"Block {index} is beyond the end"
    elif get("ChecksumAlgorithm") != "SHA256" or checksum != right:
        wrong = "The checksum is wrong"
    if wrong:
        raise refuse("ValidationException", wrong, Reason="INVALID_BLOCK")
    with LOCK:
        snapshot.put_block(index, data, checksum, "SHA256", BLOCK)
    return ActionResult({"Checksum": checksum, "ChecksumAlgorithm": "SHA256"})


def complete_snapshot(self):
    name, changed = self._get_param("SnapshotId"), self._get_param("ChangedBlocksCount")
    snapshot = self.ebs_backend.snapshots.get(name)
    if snapshot is not None and snapshot.status == "completed":
        return ActionResult({"Status": "completed"})
    snapshot = open_snapshot(self)
    if int(changed) != len(snapshot.blocks):
        raise refuse(
            "ValidationException",
            f"{len(snapshot.blocks)} blocks were written, not {changed}",
            Reason="INVALID_PARAMETER_VALUE",
        )
    snapshot.status = "completed"
    self.ebs_backend.ec2_backend.snapshots[name].status = "completed"
    return ActionResult({"Status": "completed"})


# Who may use a snapshot

moto_modify_snapshot_attribute = EC2Response.modify_snapshot_attribute


def modify_snapshot_attribute(self):
    """moto knows the older of the two ways to say it."""
    wish = self._get_param("CreateVolumePermission", {})
    if not wish:
        return moto_modify_snapshot_attribute(self)
    self.error_on_dryrun()
    for verb, change in (
        ("Add", self.ec2_backend.add_create_volume_permission),
        ("Remove", self.ec2_backend.remove_create_volume_permission),
    ):
        who = wish.get(verb, [])
        users, groups = [w["UserId"] for w in who if "UserId" in w], [w["Group"] for w in who if "Group" in w]
        if who:
            change(self._get_param("SnapshotId"), user_ids=users, groups=groups)
    return EmptyResult()


# Machines

moto_run_instances = EC2Response.run_instances


def run_instances(self):
    data = self._get_param("UserData") or ""
    try:
        size = len(base64.b64decode(str(data), validate=True))
    except ValueError:
        raise Refused("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if size > USER_DATA:
        raise Refused("InvalidParameterValue", f"User data is limited to {USER_DATA} bytes")
    profile = self._get_param("IamInstanceProfile.Name")

    def make():
        try:
            reservation = moto_run_instances(self)._result
        except ServiceException as error:
            if profile and error.code in ("NoSuchEntity", "InvalidIamInstanceProfileArn.NotFound"):
                raise Refused(
                    "InvalidParameterValue",
                    f"Value ({profile}) for parameter iamInstanceProfile.name is invalid. "
                    "Invalid IAM Instance Profile name",
                ) from None
            raise
        for instance in reservation.instances if MACHINES else []:
            instance._state = InstanceState("pending", 0)
            instance.mantle = {"polls": PENDING_POLLS, "address": None, "shown": None}
        return reservation

    with LOCK:
        parameters = (self._get_param("ImageId"), self._get_param("SubnetId"), str(data))
        return ActionResult(once(self.ec2_backend, "run", self._get_param("ClientToken"), parameters, make))


def describe_instances(self):
    self.error_on_dryrun()
    wanted = self._get_param("InstanceIds", [])
    if wanted and self._get_param("MaxResults"):
        raise Refused(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )

    def make():
        for instance in self.ec2_backend.all_instances() if MACHINES else []:
            machine = getattr(instance, "mantle", None)
            if machine is None or (wanted and instance.id not in wanted):
                continue
            if instance._state.name == "pending":
                machine["polls"] -= 1
                if machine["polls"] < 0 and machine["address"]:
                    instance._state = InstanceState("running", 16)
            elif instance._state.name == "running":
                machine["shown"] = machine["address"]  # running comes first, the address later
        filters = self._filters_from_querystring()
        if wanted:
            return self.ec2_backend.get_reservations_by_instance_ids(wanted, filters=filters)
        return self.ec2_backend.describe_instances(filters=filters)

    with LOCK:
        return paged(self, "Reservations", make)


moto_public_ip = Instance.public_ip.fget


def public_ip(self):
    machine = getattr(self, "mantle", None)
    if machine is None:
        return moto_public_ip(self)
    return machine["shown"] if self._state.name == "running" else None


def public_dns_name(self):
    address = self.public_ip
    return f"ec2-{address.split(':')[0].replace('.', '-')}.{self.region_name}.compute.amazonaws.com" if address else None


def get_tags(self):
    """By name, where moto reads all tags of all resources."""
    tags = self.ec2_backend.tags.get(self.id, {})
    return [{"key": k, "value": v, "resource_id": self.id} for k, v in tags.items()]


# What the test says


def control(path, body):
    """POST /mantle/<word> with JSON; the answer is JSON.

    machine {region, id, address}: its public address, or {region, id, failed}: it ends with this reason.
    age {seconds}: all there is becomes so much older.
    crowd {region, like, count, tags}: so many machines like that one, each with these tags, {n} in them counted.
    keys {count, name}: so many key pairs, {n} in their name counted.
    census {region}: everything there is, as {kind: {id: state or name}}.
    encrypt {region}: new snapshots of the region are encrypted from now on.
    published {region}: its images as others see them, by name, the number of snapshots, what is left in buckets.
    block {region, snapshot, index}: SHA-256 of a block that was put, null if none was.
    pid: the number of this process.
    """
    with LOCK:
        if path == "pid":
            return os.getpid()
        if path == "encrypt":
            ec2_backends[ACCOUNT][body["region"]].ebs_encryption_by_default = True
            return {}
        if path == "published":
            backend = ec2_backends[ACCOUNT][body["region"]]
            images = {}
            for ami in backend.amis.values():
                snapshot = ami.ebs_snapshot
                images.setdefault(ami.name, []).append(
                    {
                        "id": ami.id,
                        "state": ami.state,
                        "description": ami.description,
                        "architecture": ami.architecture,
                        "public": ami.is_public and "all" in snapshot.create_volume_permission_groups,
                        "users": sorted(p["UserId"] for p in ami.launch_permissions if "UserId" in p),
                        "tags": {t["key"]: t["value"] for t in ami.get_tags()},
                        "snapshot_tags": {t["key"]: t["value"] for t in snapshot.get_tags()},
                    }
                )
            buckets = s3_backends[ACCOUNT]["aws"].buckets.values()
            return {
                "images": images,
                "snapshots": len(backend.snapshots),
                "objects": sorted(key for b in buckets for key in b.keys),
                "uploads": sum(len(b.multiparts) for b in buckets),
            }
        if path == "machine":
            instance = ec2_backends[ACCOUNT][body["region"]].get_instance(body["id"])
            if "failed" in body:
                instance._state = InstanceState("terminated", 48)
                instance.state_reason = StateReason(body["failed"], "Server.InternalError")
                instance._reason = body["failed"]
            else:
                instance.mantle["address"] = body["address"]
            return {}
        if path == "age":
            back = datetime.timedelta(seconds=body["seconds"])
            for backend in ec2_backends[ACCOUNT].values():
                for instance in backend.all_instances():
                    instance.launch_time -= back
                for name, items in (
                    ("create_time", backend.key_pairs),
                    ("start_time", backend.snapshots),
                    ("creation_date", backend.amis),
                ):
                    for item in items.values():
                        setattr(item, name, getattr(item, name) - back)
            return {}
        if path == "crowd":
            backend = ec2_backends[ACCOUNT][body["region"]]
            model = backend.get_instance(body["like"])
            for n in range(body["count"]):
                instance = copy.copy(model)
                instance.id = f"i-{os.urandom(9).hex()[:17]}"
                instance._state = InstanceState("running", 16)
                reservation = Reservation(random_reservation_id(), ACCOUNT)
                reservation.instances.append(instance)
                backend.reservations[reservation.id] = reservation
                instance.add_tags({k: v.replace("{n}", str(n)) for k, v in body["tags"].items()})
            return {}
        if path == "keys":
            backend = ec2_backends[ACCOUNT][body["region"]]
            for n in range(body["count"]):
                name = body["name"].replace("{n}", str(n))
                backend.key_pairs[name] = KeyPair(name, "rsa", "00", b"", b"", {}, backend)
            return {}
        if path == "census":
            backend = ec2_backends[ACCOUNT][body["region"]]
            iam = iam_backends[ACCOUNT]["aws"]
            all = {
                "instance": {i.id: i._state.name for i in backend.all_instances()},
                "key-pair": {name: "" for name in backend.key_pairs},
                "vpc": {v.id: "" for v in backend.vpcs.values()},
                "subnet": {id: "" for zone in backend.subnets.values() for id in zone},
                "group": {id: g.name for vpc in backend.groups.values() for id, g in vpc.items()},
                "gateway": {id: "" for id in backend.internet_gateways},
                "route-table": {id: "" for id in backend.route_tables},
                "snapshot": {id: s.status for id, s in backend.snapshots.items()},
                "image": {id: a.name for id, a in backend.amis.items()},
                "role": {r.name: "" for r in iam.roles.values()},
                "instance-profile": {p.name: "" for p in iam.instance_profiles.values()},
            }
            # moto keeps the tags of what is gone
            there = {id for kind in all.values() for id in kind}
            tagged = {id for id, tags in backend.tags.items() if "mantle-unfinished" in tags}
            return {**all, "unfinished": {id: "" for id in tagged & there}}
        if path == "block":
            from moto.ebs.models import ebs_backends

            snapshot = ebs_backends[ACCOUNT][body["region"]].snapshots[body["snapshot"]]
            block = snapshot.blocks.get(body["index"])
            return {"sha256": block and hashlib.sha256(block.block_data).hexdigest()}
    raise KeyError(path)


def install():
    ours = globals()
    for name in (
        "import_snapshot", "describe_import_snapshot_tasks", "register_image", "copy_image", "describe_images",
        "describe_snapshots", "modify_snapshot_attribute", "run_instances", "describe_instances",
    ):  # fmt: skip
        setattr(EC2Response, name, ours[name])
    for name in ("start_snapshot", "put_snapshot_block", "complete_snapshot"):
        setattr(EBSResponse, name, ours[name])
    TaggedEC2Resource.get_tags = get_tags
    if MACHINES:
        Instance.public_ip = Instance.public_ip_address = property(public_ip)
        Instance.public_dns_name = property(public_dns_name)

    import moto.server

    dispatch = moto.server.DomainDispatcherApplication

    class Dispatcher(dispatch):
        def __call__(self, environ, start_response):
            path = environ.get("PATH_INFO", "")
            if not path.startswith("/mantle/"):
                return super().__call__(environ, start_response)
            length = int(environ.get("CONTENT_LENGTH") or 0)
            try:
                answer, status = control(path[8:], json.loads(environ["wsgi.input"].read(length) or "{}")), "200 OK"
            except Exception as error:  # a mistake in the test: it should read of it
                answer, status = {"error": repr(error)}, "400 Bad Request"
            start_response(status, [("Content-Type", "application/json")])
            return [json.dumps(answer).encode()]

    moto.server.DomainDispatcherApplication = Dispatcher


if __name__ == "__main__":
    install()
    from moto.server import main

    main(sys.argv[1:])
