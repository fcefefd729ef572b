"""Uses a Resource Manager as Microsoft's own clients do: python peer_azure.py URL SUBSCRIPTION TOKEN.

Everything that mantle asks for is asked for here by those clients, which wait for operations and read pages and models
in their own way. Says nothing and ends with 0 if they are content.
"""

import sys

from azure.core.credentials import AccessToken
from azure.core.polling.base_polling import LROBasePolling
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.storage import StorageManagementClient

URL, SUBSCRIPTION, TOKEN = sys.argv[1:]
WHERE = "westus"


class Credential:
    def get_token(self, *_, **__):
        return AccessToken(TOKEN, 1 << 40)


def client(kind):
    from azure.core.pipeline.policies import SansIOHTTPPolicy

    class Bearer(SansIOHTTPPolicy):
        """Their own policy speaks to https only."""

        def on_request(self, request):
            request.http_request.headers["Authorization"] = f"Bearer {TOKEN}"

    return kind(
        Credential(),
        SUBSCRIPTION,
        base_url=URL,
        credential_scopes=["x/.default"],
        authentication_policy=Bearer(),
        polling_interval=0,
    )


groups, compute = client(ResourceManagementClient), client(ComputeManagementClient)
network, storage = client(NetworkManagementClient), client(StorageManagementClient)


# What the service asks for as a pause is read, and not waited for.
LROBasePolling._sleep = lambda self, delay: None


def done(poller):
    return poller.result(timeout=60)


def refused(kind, call):
    try:
        call()
    except kind as e:
        return e
    raise AssertionError("not refused")


for n in range(7):
    group = groups.resource_groups.create_or_update(f"peer-{n}", {"location": WHERE, "tags": {"n": str(n)}})
    assert (group.name, group.location, group.properties.provisioning_state) == (f"peer-{n}", WHERE, "Succeeded"), group
# More than one page: the test says how long one is.
assert {g.name for g in groups.resource_groups.list()} >= {f"peer-{n}" for n in range(7)}
assert groups.resource_groups.get("peer-3").tags == {"n": "3"}
refused(ResourceNotFoundError, lambda: groups.resource_groups.get("none"))

IN = "peer-0"
rules = {"location": WHERE, "properties": {"securityRules": []}}
rules = done(network.network_security_groups.begin_create_or_update(IN, "r", rules))
net = {
    "location": WHERE,
    "properties": {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "s", "properties": {"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": {"id": rules.id}}}],
    },
}
net = done(network.virtual_networks.begin_create_or_update(IN, "n", net))
assert net.provisioning_state == "Succeeded" and net.subnets[0].name == "s", net
ip = {"location": WHERE, "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
ip = done(network.public_ip_addresses.begin_create_or_update(IN, "ip", ip))
conf = {"subnet": {"id": net.id + "/subnets/s"}, "publicIPAddress": {"id": ip.id}}
nic = {"location": WHERE, "properties": {"ipConfigurations": [{"name": "c", "properties": conf}]}}
nic = done(network.network_interfaces.begin_create_or_update(IN, "nic", nic))
assert nic.ip_configurations[0].private_ip_address == "10.0.0.4", nic
e = refused(HttpResponseError, lambda: done(network.public_ip_addresses.begin_delete(IN, "ip")))
assert e.error.code == "InUse", e

image = {"location": WHERE, "properties": {"storageProfile": {"osDisk": {"osType": "Linux", "osState": "Generalized", "blobUri": "https://a/b"}}}}
image = done(compute.images.begin_create_or_update(IN, "image", image))
assert image.provisioning_state == "Succeeded" and image.id.endswith("/images/image"), image
done(compute.galleries.begin_create_or_update(IN, "g", {"location": WHERE, "properties": {}}))
definition = {
    "location": WHERE,
    "properties": {"osType": "Linux", "osState": "Generalized", "identifier": {"publisher": "p", "offer": "o", "sku": "s"}},
}
done(compute.gallery_images.begin_create_or_update(IN, "g", "i", definition))
version = {"location": WHERE, "properties": {"storageProfile": {"source": {"id": image.id}}}}
version = done(compute.gallery_image_versions.begin_create_or_update(IN, "g", "i", "1.0.0", version))
assert version.provisioning_state == "Succeeded", version
assert [v.name for v in compute.gallery_image_versions.list_by_gallery_image(IN, "g", "i")] == ["1.0.0"]
done(compute.gallery_image_versions.begin_delete(IN, "g", "i", "1.0.0"))
done(compute.gallery_images.begin_delete(IN, "g", "i"))
done(compute.galleries.begin_delete(IN, "g"))

account = {"location": WHERE, "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
account = done(storage.storage_accounts.begin_create(IN, "sa", account))
assert account.provisioning_state == "Succeeded", account
sas = {"canonicalizedResource": "/blob/sa/c/b", "signedResource": "b", "signedPermission": "r"}
assert "sig=" in storage.storage_accounts.list_service_sas(IN, "sa", sas).service_sas_token

order = {
    "location": WHERE,
    "properties": {
        "hardwareProfile": {"vmSize": "Standard_D2_v2"},
        "storageProfile": {"imageReference": {"id": image.id}, "osDisk": {"createOption": "FromImage"}},
        "osProfile": {"computerName": "m", "adminUsername": "core", "customData": "e30="},
        "networkProfile": {"networkInterfaces": [{"id": nic.id, "properties": {"primary": True}}]},
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
    },
}
machine = done(compute.virtual_machines.begin_create_or_update(IN, "m", order))
assert machine.provisioning_state == "Succeeded", machine
assert [m.name for m in compute.virtual_machines.list(IN)] == ["m"]
assert network.public_ip_addresses.get(IN, "ip").ip_address.startswith("127.0.0.1:")
blobs = compute.virtual_machines.retrieve_boot_diagnostics_data(IN, "m")
assert "sig=" in blobs.serial_console_log_blob_uri, blobs
foreign = {"networkInterfaces": [{"id": nic.id + "x"}]}
lost = dict(order, properties=dict(order["properties"], networkProfile=foreign))
e = refused(HttpResponseError, lambda: done(compute.virtual_machines.begin_create_or_update(IN, "lost", lost)))
assert e.error.code == "InvalidResourceReference", e
done(compute.virtual_machines.begin_delete(IN, "m"))
refused(ResourceNotFoundError, lambda: compute.virtual_machines.get(IN, "m"))
done(network.network_interfaces.begin_delete(IN, "nic"))
done(network.public_ip_addresses.begin_delete(IN, "ip"))
for n in range(7):
    done(groups.resource_groups.begin_delete(f"peer-{n}"))
assert not [g for g in groups.resource_groups.list() if g.name.startswith("peer-")]
