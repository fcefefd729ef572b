"""Reads back what is at Amazon's, by Amazon's own client: read_aws.py ENDPOINT REGION...

Prints {region: {"images": [...], "snapshots": [...]}} as mantle's double says it of itself.
"""

import json
import sys

import boto3
from botocore.config import Config


def tags(item):
    return {t["Key"]: t["Value"] for t in item.get("Tags", [])}


def permissions(given):
    return sorted(p.get("Group") or p["UserId"] for p in given)


def read(endpoint, region):
    ec2 = boto3.client(
        "ec2", region, endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s",
        config=Config(proxies={}),
    )  # fmt: skip
    images, snapshots = [], []
    for image in ec2.describe_images(Owners=["self"])["Images"]:
        launch = ec2.describe_image_attribute(ImageId=image["ImageId"], Attribute="launchPermission")
        root = [m for m in image["BlockDeviceMappings"] if m["DeviceName"] == image["RootDeviceName"]]
        assert image["State"] == "available" and image["Public"] == ({"Group": "all"} in launch["LaunchPermissions"])
        images.append(
            {
                "id": image["ImageId"],
                "name": image["Name"],
                "description": image.get("Description"),
                "architecture": image["Architecture"],
                "virtualization": image["VirtualizationType"],
                "kernel": image.get("KernelId"),
                "root_device": image["RootDeviceName"],
                "snapshot": root[0]["Ebs"]["SnapshotId"],
                "tags": tags(image),
                "permissions": permissions(launch["LaunchPermissions"]),
                "ena": image.get("EnaSupport", False),
                "sriov": image.get("SriovNetSupport"),
                "created": image["CreationDate"],
            }
        )
    for page in ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"]):
        for snapshot in page["Snapshots"]:
            volume = ec2.describe_snapshot_attribute(
                SnapshotId=snapshot["SnapshotId"], Attribute="createVolumePermission"
            )
            assert snapshot["State"] == "completed" and not snapshot["Encrypted"]
            snapshots.append(
                {
                    "id": snapshot["SnapshotId"],
                    "size_gib": snapshot["VolumeSize"],
                    "description": snapshot["Description"],
                    "tags": tags(snapshot),
                    "permissions": permissions(volume["CreateVolumePermissions"]),
                    "started": snapshot["StartTime"].strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
                }
            )
    return {"images": images, "snapshots": snapshots}


def main():
    endpoint, *regions = sys.argv[1:]
    print(json.dumps({region: read(endpoint, region) for region in regions}))


main()
