"""DigitalOcean's own client, pydo, as a judge of the double: what it makes of each answer. Arguments: endpoint, token."""

import sys

from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.policies import SansIOHTTPPolicy
from pydo import Client


class Plain(SansIOHTTPPolicy):
    """The token in plain HTTP, which pydo's own policy refuses to send."""

    def __init__(self, token):
        self.token = token

    def on_request(self, request):
        request.http_request.headers["Authorization"] = f"Bearer {self.token}"


def refused(status, call, *args, **more):
    """Fails unless the call is refused so, or answers with the refusal, as pydo does with some."""
    try:
        answer = call(*args, **more)
    except HttpResponseError as error:
        assert error.status_code == status, error
        return
    assert answer["id"] in ("not_found", "unprocessable_entity"), answer


def main(endpoint, token):
    client = Client(token, endpoint=endpoint, authentication_policy=Plain(token))
    account = client.account.get()["account"]
    assert account["status"] == "active" and account["team"]["uuid"], account

    key = client.ssh_keys.create({"name": "pydo", "public_key": "ssh-rsa AAAA pydo"})["ssh_key"]
    assert [k["name"] for k in client.ssh_keys.list(per_page=200)["ssh_keys"]] == ["pydo"]
    refused(422, client.ssh_keys.create, {"name": "again", "public_key": "ssh-rsa AAAA pydo"})

    order = {"name": "pydo", "url": "http://example.com/x.bz2", "region": "sfo2", "distribution": "CoreOS", "tags": []}
    image = client.images.create_custom(order)["image"]
    assert image["status"] == "NEW", image
    while image["status"] != "available":
        image = client.images.get(image["id"])["image"]
    assert image["regions"] == ["sfo2"], image

    order = {
        "name": "pydo-1", "region": "sfo2", "size": "s-1vcpu-1gb", "image": image["id"], "ssh_keys": [key["id"]],
        "tags": ["mantle"], "user_data": "{}",
    }
    refused(422, client.droplets.create, {**order, "size": "none"})
    refused(422, client.droplets.create, {**order, "ipv6": True})
    refused(422, client.droplets.create, {**order, "ssh_keys": [1]})
    droplet = client.droplets.create(order)["droplet"]
    assert droplet["status"] == "new" and droplet["networks"]["v4"] == [], droplet
    while droplet["status"] != "off":
        droplet = client.droplets.get(droplet["id"])["droplet"]
    for tag, names in (("mantle", ["pydo-1"]), ("other", [])):
        assert [d["name"] for d in client.droplets.list(tag_name=tag)["droplets"]] == names

    action = client.droplet_actions.post(droplet["id"], {"type": "snapshot", "name": "pydo-snap"})["action"]
    while action["status"] != "completed":
        action = client.actions.get(action["id"])["action"]
    assert client.droplet_actions.list(droplet["id"])["actions"][0]["type"] == "snapshot"
    assert client.droplets.list_snapshots(droplet["id"])["snapshots"][0]["name"] == "pydo-snap"
    names = [i["name"] for i in client.images.list(private=True)["images"]]
    assert names == ["pydo", "pydo-snap"], names
    # Pages: one item each, and the last one leads nowhere.
    page = client.images.list(private=True, per_page=1, page=1)
    assert len(page["images"]) == 1 and page["links"]["pages"]["next"], page
    page = client.images.list(private=True, per_page=1, page=2)
    assert page["images"][0]["name"] == "pydo-snap" and "pages" not in page["links"], page

    client.droplets.destroy(droplet["id"])
    refused(404, client.droplets.get, droplet["id"])
    client.images.delete(image["id"])
    client.ssh_keys.delete(key["id"])
    refused(404, client.ssh_keys.delete, key["id"])
    assert client.ssh_keys.list()["ssh_keys"] == []


main(*sys.argv[1:])
