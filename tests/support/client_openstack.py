"""openstacksdk as a client: of what a cloud's configuration means, and of a whole cloud.

`login`: reads a case a line, a JSON object with a folder of clouds.yaml and the like, the variables, and the name of
the cloud or null; logs in, and prints region and interface, or the name of the error.
`tour URL PASSWORD IMAGE`: uses everything that mantle uses, by the SDK's own calls; prints a line about each.
"""

import base64
import json
import os
import sys
import warnings

warnings.simplefilter("ignore")

import openstack
from openstack.config import OpenStackConfig


def login():
    for line in sys.stdin:
        case = json.loads(line)
        for name in [n for n in os.environ if n.startswith("OS_")]:
            del os.environ[name]
        os.environ.update(case["variables"])
        at = lambda name: [os.path.join(case["folder"], name)]
        try:
            config = OpenStackConfig(
                config_files=at("clouds.yaml"), secure_files=at("secure.yaml"), vendor_files=at("clouds-public.yaml")
            )
            region = config.get_one(cloud=case["cloud"])
            region.get_session().get_token()
            print(json.dumps([region.region_name, region.get_interface()]), flush=True)
        except Exception as e:
            print(json.dumps(type(e).__name__), flush=True)


def tour(url, password, name):
    cloud = openstack.connect(
        auth_url=url, username="robot", password=password, project_name="demo", user_domain_id="default",
        project_domain_id="default", region_name="RegionOne", load_envvars=False, load_yaml_config=False,
    )
    image = cloud.image.find_image(name, ignore_missing=False)
    print("image", image.status)
    flavor = cloud.compute.find_flavor("m1.tiny", ignore_missing=False)
    inner = cloud.network.find_network("private", ignore_missing=False)
    outer = cloud.network.find_network("public", ignore_missing=False)
    print("external", outer.is_router_external, inner.is_router_external)
    group = cloud.network.create_security_group(name="tour", description="x")
    cloud.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol="tcp", port_range_min=22,
        port_range_max=22, remote_ip_prefix="0.0.0.0/0",
    )
    pair = cloud.compute.create_keypair(name="tour", public_key="ssh-rsa AAAA")
    print("pairs", [p.name for p in cloud.compute.keypairs()])
    server = cloud.compute.create_server(
        name="tour", flavor_id=flavor.id, image_id=image.id, networks=[{"uuid": inner.id}], key_name=pair.name,
        user_data=base64.b64encode(b"{\"ignition\":{\"version\":\"2.2.0\"}}").decode(),
        security_groups=[{"name": group.id}], metadata={"a": "b"},
    )
    server = cloud.compute.wait_for_server(server, interval=0.1, wait=60)
    print("server", server.status, server.metadata)
    port = next(iter(cloud.network.ports(device_id=server.id)))
    ip = cloud.network.create_ip(floating_network_id=outer.id, port_id=port.id, description="tour")
    print("floating", [i.floating_ip_address == ip.floating_ip_address for i in cloud.network.ips(description="tour")])
    print("console", "output" in cloud.compute.get_server_console_output(server))
    cloud.network.delete_ip(ip)
    cloud.compute.delete_server(server)
    cloud.compute.wait_for_delete(server, interval=0.1, wait=60)
    cloud.compute.delete_keypair(pair)
    cloud.network.delete_security_group(group)
    made = cloud.image.create_image(name="tour", data=b"x" * 5000, container_format="bare", disk_format="raw", tags=["t"])
    print("made", cloud.image.get_image(made.id).status, len(cloud.image.download_image(made).content))
    cloud.image.delete_image(made)
    print("servers", len(list(cloud.compute.servers())))


if sys.argv[1] == "login":
    login()
else:
    tour(*sys.argv[2:])
