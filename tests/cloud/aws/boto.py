"""Amazon's own client, for tests of the doubles: boto.py ENDPOINT SCENARIO [WORD...]; prints JSON, or fails."""

import base64
import hashlib
import json
import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def client(service, region="us-west-2"):
    return boto3.client(
        service,
        endpoint_url=sys.argv[1],
        region_name=region,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def refused(code, call, *words, **parameters):
    try:
        call(*words, **parameters)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return
    raise AssertionError(f"{code} expected")


def imported(key):
    s3, ec2 = client("s3"), client("ec2")
    s3.create_bucket(Bucket="images", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="images", Key=key, Body=b"disk")
    place = {"Format": "VMDK", "UserBucket": {"S3Bucket": "images", "S3Key": key}}
    task = ec2.import_snapshot(Description="test", DiskContainer=place)["ImportTaskId"]
    details = []
    while not details or details[-1]["Status"] in ("active", "deleting"):
        tasks = ec2.describe_import_snapshot_tasks(ImportTaskIds=[task])["ImportSnapshotTasks"]
        details.append(tasks[0]["SnapshotTaskDetail"])
    return details


def imports():
    details = imported("good.vmdk")
    assert [d["Status"] for d in details] == ["active"] * 3 + ["completed"], details
    assert "Progress" in details[0] and "Progress" not in details[1] and "StatusMessage" not in details[1]
    ec2 = client("ec2")
    snapshot = details[-1]["SnapshotId"]
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"
    place = {"Format": "VMDK", "UserBucket": {"S3Bucket": "images", "S3Key": "absent"}}
    refused("InvalidParameter", ec2.import_snapshot, DiskContainer=place)
    return snapshot


def broken_imports():
    details = imported("broken.vmdk")
    assert [d["Status"] for d in details] == ["active"] * 3 + ["deleting", "deleted"], details
    return details[-1]["StatusMessage"]


def register(snapshot, name="mantle-test"):
    wish = {
        "Name": name, "Architecture": "x86_64", "VirtualizationType": "hvm", "RootDeviceName": "/dev/xvda",
        "EnaSupport": True, "SriovNetSupport": "simple",
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "DeleteOnTermination": True}},
            {"DeviceName": "/dev/xvdb", "VirtualName": "ephemeral0"},
        ],
    }  # fmt: skip
    return wish, client("ec2").register_image(**wish)["ImageId"]


def images():
    ec2, there = client("ec2"), client("ec2", "eu-west-1")
    snapshot = imports()
    wish, image = register(snapshot)
    shown = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == snapshot
    assert shown["BlockDeviceMappings"][1] == wish["BlockDeviceMappings"][1]
    assert (shown["RootDeviceName"], shown["EnaSupport"], shown["Architecture"]) == ("/dev/xvda", True, "x86_64")
    refused("InvalidAMIName.Duplicate", ec2.register_image, **wish)
    gone = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-00000000"}}]
    refused("InvalidSnapshot.NotFound", ec2.register_image, **{**wish, "Name": "other", "BlockDeviceMappings": gone})
    refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=snapshot)
    copy = {"SourceRegion": "us-west-2", "SourceImageId": image, "Name": "mantle-copy", "ClientToken": "once"}
    copied = there.copy_image(**copy)["ImageId"]
    assert copied == there.copy_image(**copy)["ImageId"] != image
    refused("IdempotentParameterMismatch", there.copy_image, **{**copy, "Name": "mantle-other"})
    states = [there.describe_images(ImageIds=[copied])["Images"][0]["State"] for _ in range(3)]
    assert states == ["pending", "pending", "available"], states
    bad = there.copy_image(**{**copy, "Name": "broken", "ClientToken": "two"})["ImageId"]
    states = [there.describe_images(ImageIds=[bad])["Images"][0]["State"] for _ in range(3)]
    assert states[-1] == "failed", states
    mapping = there.describe_images(ImageIds=[copied])["Images"][0]["BlockDeviceMappings"][0]
    assert mapping["Ebs"]["SnapshotId"] not in ("", snapshot)


def blocks():
    ebs, ec2 = client("ebs"), client("ec2")
    start = {"VolumeSize": 1, "ClientToken": "t", "Tags": [{"Key": "k", "Value": "v"}], "Description": "d"}
    begun = ebs.start_snapshot(**start)
    snapshot = begun["SnapshotId"]
    assert (begun["Status"], begun["BlockSize"]) == ("pending", 524288)
    assert ebs.start_snapshot(**start)["SnapshotId"] == snapshot
    refused("ConflictException", ebs.start_snapshot, **{**start, "VolumeSize": 2})
    data = bytes(range(256)) * 2048
    sum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    put = {
        "SnapshotId": snapshot, "BlockIndex": 7, "BlockData": data, "DataLength": len(data), "Checksum": sum,
        "ChecksumAlgorithm": "SHA256",
    }  # fmt: skip
    ebs.put_snapshot_block(**put)
    ebs.put_snapshot_block(**put)
    refused("ValidationException", ebs.put_snapshot_block, **{**put, "Checksum": "A" * 43 + "="})
    refused("ValidationException", ebs.put_snapshot_block, **{**put, "BlockIndex": 2048})
    refused("ValidationException", ebs.complete_snapshot, SnapshotId=snapshot, ChangedBlocksCount=2)
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "pending"
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=1)
    shown = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert (shown["State"], shown["Tags"]) == ("completed", [{"Key": "k", "Value": "v"}])
    refused("ValidationException", ebs.put_snapshot_block, **put)
    refused("ResourceNotFoundException", ebs.put_snapshot_block, **{**put, "SnapshotId": "snap-00000000000000000"})
    return {"snapshot": snapshot, "sha256": hashlib.sha256(data).hexdigest()}


def pages():
    snapshot = imports()
    for n in range(7):
        register(snapshot, f"mantle-{n}")
    sizes = [len(p["Images"]) for p in client("ec2").get_paginator("describe_images").paginate(Owners=["self"])]
    assert sizes == [3, 3, 1], sizes


def slow():
    """Ids that are not found at first."""
    ec2 = client("ec2")
    vpc = ec2.create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
    refused("InvalidVpcID.NotFound", ec2.describe_vpcs, VpcIds=[vpc])
    refused("InvalidVpcID.NotFound", ec2.create_subnet, VpcId=vpc, CidrBlock="172.31.0.0/20")
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.0.0/20")["Subnet"]["SubnetId"]
    for _ in range(2):
        refused("InvalidSubnetID.NotFound", ec2.describe_subnets, SubnetIds=[subnet])
    assert ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]


def run(image, userdata, **more):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "kola-1"}, {"Key": "CreatedBy", "Value": "mantle"}]}]
    return client("ec2").run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="m4.large", UserData=userdata, TagSpecifications=tags, **more
    )["Instances"][0]


def machine():
    """From RunInstances to the end, and whether something listens at the address."""
    import socket
    import time

    image, userdata = sys.argv[3:5]
    ec2 = client("ec2")
    token = {"ClientToken": "once"}
    made = run(image, userdata, **token)
    assert made["State"]["Name"] == "pending", made
    assert run(image, userdata, **token)["InstanceId"] == made["InstanceId"]
    me = {"InstanceIds": [made["InstanceId"]]}
    seen = []
    guard = float(os.environ["MANTLE_TEST_GUARD"])  # seconds, for hangs only
    deadline = time.time() + guard
    while True:
        shown = ec2.describe_instances(**me)["Reservations"][0]["Instances"][0]
        state = (shown["State"]["Name"], "PublicIpAddress" in shown)
        seen += [] if state in seen else [state]
        if state == ("running", True):
            break
        assert time.time() < deadline, f"a guard against hangs fired: waited {guard} s for an address: {seen}"
        time.sleep(0.02)
    assert seen == [("pending", False), ("running", False), ("running", True)], seen
    host, port = shown["PublicIpAddress"].split(":")
    assert shown["PrivateIpAddress"] and shown["LaunchTime"]
    greeting = b""
    while not greeting.startswith(b"SSH-2.0-"):
        if time.time() >= deadline:
            said = ec2.get_console_output(InstanceId=made["InstanceId"]).get("Output", "")
            sys.exit(f"a guard against hangs fired: waited {guard} s for sshd: {said}")
        try:
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.settimeout(60)
                greeting = connection.recv(8)
        except OSError:
            time.sleep(0.02)
    for name, value, count in (("CreatedBy", "mantle", 1), ("CreatedBy", "Mantle", 0)):
        found = ec2.describe_instances(Filters=[{"Name": f"tag:{name}", "Values": [value]}])["Reservations"]
        assert len(found) == count, found
    console = ec2.get_console_output(**{"InstanceId": made["InstanceId"]})
    change = ec2.terminate_instances(**me)["TerminatingInstances"][0]
    assert change["InstanceId"] == made["InstanceId"] and change["CurrentState"]["Name"] == "shutting-down"
    shown = ec2.describe_instances(**me)["Reservations"][0]["Instances"][0]
    assert shown["State"]["Name"] == "terminated" and "PublicIpAddress" not in shown, shown
    refused("InvalidInstanceID.NotFound", ec2.describe_instances, InstanceIds=["i-00000000000000000"])
    refused("InvalidInstanceID.NotFound", ec2.get_console_output, InstanceId="i-00000000000000000")
    refused("InvalidInstanceID.NotFound", ec2.terminate_instances, InstanceIds=["i-00000000000000000"])
    return {"id": made["InstanceId"], "console": console.get("Output", ""), "address": f"{host}:{port}"}


def refusals():
    """What RunInstances does not take."""
    image = sys.argv[3]
    refused("InvalidAMIID.NotFound", run, "ami-00000000", "x")
    refused("InvalidKeyPair.NotFound", run, image, "x", KeyName="absent")
    refused("InvalidGroup.NotFound", run, image, "x", SecurityGroupIds=["sg-00000000"])
    refused("InvalidSubnetID.NotFound", run, image, "x", SubnetId="subnet-00000000")
    refused("InvalidParameterValue", run, image, "x" * 16385)
    profile = {"IamInstanceProfile": {"Name": "absent"}}
    try:
        run(image, "x", **profile)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "InvalidParameterValue", error
        assert "iamInstanceProfile.name" in error.response["Error"]["Message"], error
    # What cannot boot ends by itself, and says why.
    ec2 = client("ec2")
    me = {"InstanceIds": [run(image, "\0no userdata\xff")["InstanceId"]]}
    while True:
        shown = ec2.describe_instances(**me)["Reservations"][0]["Instances"][0]
        if shown["State"]["Name"] != "pending":
            break
    assert shown["State"]["Name"] == "terminated", shown
    return shown["StateReason"]["Message"]


def everything():
    """One call of each kind that mantle makes, for the judge."""
    images()
    blocks()
    s3, ec2, iam = client("s3"), client("ec2"), client("iam")
    client("sts").get_caller_identity()
    key = "a b/ü+c.vmdk"
    upload = s3.create_multipart_upload(Bucket="images", Key=key)["UploadId"]
    tag = s3.upload_part(Bucket="images", Key=key, PartNumber=1, UploadId=upload, Body=b"part")["ETag"]
    s3.list_parts(Bucket="images", Key=key, UploadId=upload)
    s3.list_multipart_uploads(Bucket="images", Prefix="a")
    parts = {"Parts": [{"ETag": tag, "PartNumber": 1}]}
    s3.complete_multipart_upload(Bucket="images", Key=key, UploadId=upload, MultipartUpload=parts)
    s3.head_object(Bucket="images", Key=key)
    s3.delete_object(Bucket="images", Key=key)
    iam.create_role(RoleName="kola", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="kola")
    iam.add_role_to_instance_profile(InstanceProfileName="kola", RoleName="kola")
    iam.get_instance_profile(InstanceProfileName="kola")
    group = ec2.create_security_group(GroupName="kola", Description="test")["GroupId"]
    own = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[own])
    ec2.describe_instances(Filters=[{"Name": "tag:CreatedBy", "Values": ["mantle", "other"]}])


def put():
    """BUCKET KEY...: public objects whose content is their key."""
    for key in sys.argv[4:]:
        client("s3").put_object(Bucket=sys.argv[3], Key=key, Body=key.encode(), ACL="public-read")


def parts():
    """BUCKET KEY FILE LENGTH: a file, in parts of so many bytes, as other tools send it; the object's tag."""
    s3, (bucket, key, file, length) = client("s3"), sys.argv[3:]
    place = {"Bucket": bucket, "Key": key}
    begun = {**place, "UploadId": s3.create_multipart_upload(**place)["UploadId"]}
    sent = []
    with open(file, "rb") as data:
        while piece := data.read(int(length)):
            part = s3.upload_part(**begun, PartNumber=len(sent) + 1, Body=piece)
            sent.append({"PartNumber": len(sent) + 1, "ETag": part["ETag"]})
    return s3.complete_multipart_upload(**begun, MultipartUpload={"Parts": sent})["ETag"]


def lengths():
    """BUCKET: all keys, and how long their objects are."""
    pages = client("s3").get_paginator("list_objects_v2").paginate(Bucket=sys.argv[3])
    return {shown["Key"]: shown["Size"] for page in pages for shown in page.get("Contents", [])}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[2]]()))
