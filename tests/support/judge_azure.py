"""Judges requests to Azure by Microsoft's own clients: the paths that they know, the models of bodies, and what
azure-identity asks the server of tokens for.

Reads one JSON object a line: method, target, body. Prints a line for every mistake, the number of the request from 0
before it, and ends with 1 if there is one.
"""

import functools
import importlib
import json
import logging
import pathlib
import re
import sys
import typing
from enum import Enum
from urllib.parse import parse_qs, parse_qsl, urlsplit

# Clients by what they are for; they are large, and loaded when something is asked of theirs.
PACKAGES = {
    "Microsoft.Compute": "azure.mgmt.compute",
    "Microsoft.Network": "azure.mgmt.network",
    "Microsoft.Storage": "azure.mgmt.storage",
    "": "azure.mgmt.resource.resources",
}

# What the bodies of these operations are. Paths are the same in small and large letters.
BODIES = {
    ("PUT", "virtualmachines"): "VirtualMachine",
    ("PUT", "images"): "Image",
    ("PUT", "galleries"): "Gallery",
    ("PUT", "galleries/images"): "GalleryImage",
    ("PUT", "galleries/images/versions"): "GalleryImageVersion",
    ("PUT", "networksecuritygroups"): "NetworkSecurityGroup",
    ("PUT", "virtualnetworks"): "VirtualNetwork",
    ("PUT", "publicipaddresses"): "PublicIPAddress",
    ("PUT", "networkinterfaces"): "NetworkInterface",
    ("PUT", "storageaccounts"): "StorageAccountCreateParameters",
    ("POST", "storageaccounts/listservicesas"): "ServiceSasParameters",
    ("PUT", "resourcegroups"): "ResourceGroup",
}


@functools.cache
def package(provider):
    """A client, and the paths of its operations: method and pattern."""
    found = importlib.import_module(PACKAGES[provider])
    text = (pathlib.Path(found.__file__).parent / "operations/_operations.py").read_text()
    paths = []
    for part in text.split("\ndef build_")[1:]:
        url = re.search(r'_url = \(?\s*((?:"[^"]*"\s*)+)', part)
        method = re.search(r'HttpRequest\(method="(\w+)"', part)
        if url and method:
            path = "".join(re.findall(r'"([^"]*)"', url.group(1)))
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
            paths.append((method.group(1), re.compile(pattern + "/?$", re.IGNORECASE)))
    return found, paths


def hints(model):
    """The fields of a model by their names in JSON: type and whether clients may send it."""
    found = {}
    for cls in reversed(model.__mro__):
        # As their own sources import it, for type checkers only.
        names = {**vars(sys.modules[cls.__module__]), "_models": sys.modules.get(cls.__module__.rpartition(".")[0])}
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            field = vars(cls).get(name)
            if not name.startswith("_") and hasattr(field, "_rest_name_input"):
                kind = typing.get_type_hints(type("x", (), {"__annotations__": {"x": annotation}}), names, names)["x"]
                found[field._rest_name_input or name] = (kind, getattr(field, "_visibility", None) == ["read"])
    return found


def check(kind, value, path):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        options = [a for a in arguments if a is not type(None)]
        enums = [a for a in options if isinstance(a, type) and issubclass(a, Enum)]
        if enums:
            # There are more sizes every year.
            if enums[0].__name__ != "VirtualMachineSizeTypes" and value not in [e.value for e in enums[0]]:
                yield f"{path}: {value!r} is no {enums[0].__name__}"
            return
        complaints = [list(check(option, value, path)) for option in options]
        if all(complaints):
            yield from complaints[0]
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: no list"
            return
        for number, item in enumerate(value):
            yield from check(arguments[0], item, f"{path}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{path}: no object"
            return
        for key, item in value.items():
            yield from check(arguments[1], item, f"{path}.{key}")
    elif isinstance(kind, type) and hasattr(kind, "_deserialize") and hasattr(kind, "as_dict"):
        if not isinstance(value, dict):
            yield f"{path}: no object"
            return
        known = hints(kind)
        for key, item in value.items():
            if key not in known:
                yield f"{path}.{key}: {kind.__name__} has no such field"
            elif known[key][1]:
                yield f"{path}.{key}: it is the service that says this"
            else:
                yield from check(known[key][0], item, f"{path}.{key}")
        kind(value)  # its own reader
    elif kind in (str, bool):
        if not isinstance(value, kind):
            yield f"{path}: {value!r} is no {kind.__name__}"
    elif kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield f"{path}: {value!r} is no number"


class Asked(Exception):
    pass


def identity(path, form):
    """What azure-identity asks for in the same place: the fields of its form."""
    from azure.core.pipeline.transport import HttpTransport
    from azure.identity import ClientAssertionCredential, ClientSecretCredential

    host = "https://login.microsoftonline.com"
    tenant = path.split("/")[1]

    class Transport(HttpTransport):
        def send(self, request, **_):
            if request.method == "POST":
                raise Asked(request.url, request.data if hasattr(request, "data") else request.body)
            body = {
                "token_endpoint": f"{host}/{tenant}/oauth2/v2.0/token",
                "authorization_endpoint": f"{host}/{tenant}/oauth2/v2.0/authorize",
                "issuer": f"{host}/{tenant}/v2.0",
            }
            return Answer(request, body)

        def open(self):
            pass

        def close(self):
            pass

        def __exit__(self, *_):
            pass

    class Answer:
        def __init__(self, request, body):
            self.request, self.status_code, self.reason = request, 200, "OK"
            self.headers, self.content_type, self._text = {"Content-Type": "application/json"}, "application/json", json.dumps(body)

        def text(self, encoding=None):
            return self._text

        def body(self):
            return self._text.encode()

    common = {"transport": Transport(), "disable_instance_discovery": True, "authority": host, "retry_total": 0}
    if "client_secret" in form:
        credential = ClientSecretCredential(tenant, form["client_id"], form["client_secret"], **common)
    else:
        assertion = form["client_assertion"]
        credential = ClientAssertionCredential(tenant, form["client_id"], lambda: assertion, **common)
    try:
        credential.get_token(form["scope"])
    except Exception as e:
        while e is not None and not isinstance(e, Asked):
            e = e.__cause__ or e.__context__
        if e is None:
            raise
        url, data = e.args
        data = dict(parse_qsl(data)) if isinstance(data, str) else dict(data)
        return urlsplit(url).path, data
    raise AssertionError("azure-identity asked for nothing")


def token(path, query, body):
    form = {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
    if len(dict(parse_qsl(body))) != len(parse_qsl(body)):
        yield "token: a field stands twice"
    if path.endswith("/oauth2/token"):
        # Of the files of late Container Linux: the first version, which azure-identity does not speak.
        wanted = {"grant_type", "client_id", "client_secret", "resource"}
        if set(form) != wanted or query.get("api-version") != ["1.0"]:
            yield f"token: {sorted(form)} is not {sorted(wanted)}"
        return
    own_path, own = identity(path, form)
    if own_path != path:
        yield f"token: {path} is not {own_path}"
    for name, value in form.items():
        if str(own.get(name)) != value:
            yield f"token: {name} is another one in azure-identity"
    for name in own:
        # What it tells of itself.
        if name not in form and not name.startswith(("x-client", "client_info")):
            yield f"token: {name} is missing"


def types(path):
    parts = path.strip("/").split("/")
    if "providers" not in parts:
        return "resourceGroups"
    return "/".join(parts[parts.index("providers") + 2 :: 2])


def judge(method, target, body):
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    if url.path.endswith("/token"):
        yield from token(url.path, query, body)
        return
    if not url.path.startswith("/subscriptions/"):
        return  # a blob
    if "/operations/" in url.path or "/operationresults/" in url.path:
        return  # the service's own addresses
    provider = re.search("/providers/([^/]+)", url.path)
    client, paths = package(provider.group(1) if provider else "")
    if not any(m == method and p.match(url.path) for m, p in paths):
        yield f"no client asks {method} {url.path}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", query.get("api-version", [""])[0]):
        yield f"{method} {url.path}: it asks in no version"
    model = BODIES.get((method, types(url.path).lower()))
    if model is not None:
        yield from check(getattr(client.models, model), json.loads(body), types(url.path))
    elif body:
        yield f"{method} {url.path}: nobody knows what its body is"


def main():
    logging.disable(logging.CRITICAL)  # azure-identity says that it got no token
    wrong = 0
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        for complaint in judge(request["method"], request["target"], request["body"]):
            wrong = 1
            print(f"{number}\t{complaint}")
    return wrong


sys.exit(main())
