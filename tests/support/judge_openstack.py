"""Judges requests to OpenStack by the models of its own client library, openstacksdk.

Reads one JSON object a line: method, target, body. Prints a line for every mistake, the number of the request from 0
before it, and ends with 1 if there is one.
"""

import json
import re
import sys
from urllib.parse import parse_qsl, urlsplit

from openstack.compute.v2 import flavor, keypair, server
from openstack.image.v2 import image
from openstack.network.v2 import floating_ip, network, port, security_group, security_group_rule

MODELS = {
    "/compute/v2.1": [flavor.Flavor, keypair.Keypair, server.Server],
    "/network/v2.0": [
        floating_ip.FloatingIP,
        network.Network,
        port.Port,
        security_group.SecurityGroup,
        security_group_rule.SecurityGroupRule,
    ],
    "/image/v2": [image.Image],
}
# What the models do not have: the compute documents of versions, the identity service, whose requests are compared
# with the SDK's own elsewhere.
OTHERS = re.compile(r"^/(identity|compute/v2\.1/$|compute/v2\.1$)")


def model_of(path):
    for prefix, models in MODELS.items():
        if not path.startswith(prefix + "/"):
            continue
        rest = path[len(prefix) :]
        for model in models:
            if rest == model.base_path or rest.startswith(model.base_path + "/"):
                return model, rest[len(model.base_path) :].strip("/").split("/")
    return None, []


def judge(method, target, body):
    url = urlsplit(target)
    if OTHERS.match(url.path):
        return
    model, below = model_of(url.path)
    if model is None:
        yield f"{url.path}: openstacksdk knows nothing there"
        return
    below = [part for part in below if part]
    allowed = {"GET": ("allow_list", "allow_fetch"), "POST": ("allow_create",), "DELETE": ("allow_delete",)}
    allowed = allowed.get(method, ("allow_commit",))
    if below[1:] == ["action"]:
        if method != "POST" or list(json.loads(body)) != ["os-getConsoleOutput"]:
            yield f"{method} {url.path}: no action that is known"
        return
    if not any(getattr(model, name) for name in allowed):
        yield f"{model.__name__}: {method} is not allowed"
    if method == "GET" and not (below and below != ["detail"]):
        wire = {v["name"] if isinstance(v, dict) else v for v in model._query_mapping._mapping.values()}
        for name, _ in parse_qsl(url.query, keep_blank_values=True):
            if name not in wire:
                yield f"{model.__name__}: there is no filter {name}"
    if method in ("POST", "PUT"):
        fields = json.loads(body)
        if model.resource_key:
            if list(fields) != [model.resource_key]:
                yield f"{model.__name__}: the body has {list(fields)}, not {model.resource_key}"
                return
            fields = fields[model.resource_key]
        known = set(model._body_mapping())
        if model is server.Server:
            known.add("user_data")  # as the SDK itself calls it in orders
        for name in fields:
            if name not in known and model is not image.Image:
                yield f"{model.__name__}: there is no field {name}"
        if model is server.Server:
            for entry in fields.get("networks", []):
                if set(entry) - {"uuid", "port", "fixed_ip", "tag"}:
                    yield f"Server: {entry} is no network"
    elif method == "PATCH":
        for change in json.loads(body):
            if set(change) - {"op", "path", "value"} or change["op"] not in ("add", "replace", "remove"):
                yield f"{model.__name__}: {change} is no change"
    elif body:
        yield f"{model.__name__}: {method} has no body"


def main():
    wrong = 0
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        for complaint in judge(request["method"], request["target"], request["body"]):
            wrong = 1
            print(f"{number}\t{complaint}")
    return wrong


sys.exit(main())
