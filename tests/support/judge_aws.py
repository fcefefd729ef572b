"""Judges requests to AWS by botocore's models of its interfaces.

Reads one JSON object a line: method, target, headers {name: value}, body (base64). Prints one line for every
mistake: the number of the request from 0, a tab, and what is wrong. Prints nothing, and ends with 0, if nothing is.
"""

import base64
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

import botocore.loaders
import botocore.model

LOADER = botocore.loaders.Loader()
# What every request may have, whatever the operation.
HEADERS = {
    "x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "x-amz-user-agent", "x-amz-target",
    "x-amz-decoded-content-length", "x-amz-trailer",
}  # fmt: skip
INTEGER = re.compile(r"-?[0-9]+$")


@lru_cache
def model(service, version=None):
    return botocore.model.ServiceModel(LOADER.load_service_model(service, "service-2", api_version=version), service)


def scalar(shape, value, path):
    kind = shape.type_name
    text = value if isinstance(value, str) else json.dumps(value)
    if shape.enum if hasattr(shape, "enum") else None:
        if text not in shape.enum:
            yield f"{path}: {text!r} is none of {', '.join(shape.enum)}"
    if kind in ("integer", "long") and not INTEGER.match(text):
        yield f"{path}: {text!r} is no integer"
    if kind == "boolean" and text not in ("true", "false"):
        yield f"{path}: {text!r} is neither true nor false"
    if kind in ("float", "double") and not re.match(r"-?[0-9.]+(e-?[0-9]+)?$", text):
        yield f"{path}: {text!r} is no number"
    if kind == "blob" and text:
        try:
            base64.b64decode(text, validate=True)
        except ValueError:
            yield f"{path}: not base64"
    yield from limits(shape, text, path) if kind == "string" else ()


def limits(shape, text, path):
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if (least is not None and len(text) < least) or (most is not None and len(text) > most):
        yield f"{path}: {len(text)} characters, allowed are {least} to {most}"


def tree(fields):
    """`A.1.B=x` as {"A": {"1": {"B": "x"}}}."""
    top = {}
    for name, value in fields:
        *folders, last = name.split(".")
        at = top
        for word in folders:
            at = at.setdefault(word, {})
            if not isinstance(at, dict):
                raise ValueError(f"{name}: both a value and a structure")
        if last in at:
            raise ValueError(f"{name}: given twice")
        at[last] = value
    return top


def query_name(protocol, name, shape):
    """How a member is called in a form."""
    s = shape.serialization
    if protocol == "ec2":
        if "queryName" in s:
            return s["queryName"]
        name = s.get("name", name)
        return name[:1].upper() + name[1:]
    if shape.type_name == "list" and s.get("flattened"):
        return shape.member.serialization.get("name", s.get("name", name))
    return s.get("name", name)


def numbered(given, path):
    if not isinstance(given, dict):
        yield f"{path}: a list is given as {given!r}"
        return
    for n, index in enumerate(sorted(given, key=lambda i: int(i) if INTEGER.match(i) else 0), 1):
        if index != str(n):
            yield f"{path}: the list's numbers are {', '.join(given)}, not 1 to {len(given)}"
            return


def form(protocol, shape, given, path):
    if shape.type_name == "structure":
        if not isinstance(given, dict):
            yield f"{path}: a structure is given as {given!r}"
            return
        names = {query_name(protocol, n, m): (n, m) for n, m in shape.members.items()}
        for name, value in given.items():
            if name not in names:
                yield f"{path}.{name}: unknown parameter"
            else:
                yield from form(protocol, names[name][1], value, f"{path}.{name}")
        found = {names[n][0] for n in given if n in names}
        for name in shape.required_members:
            if name not in found:
                yield f"{path}.{name}: missing"
    elif shape.type_name == "list":
        if protocol == "query" and not shape.serialization.get("flattened"):
            if given == "":
                return
            word = shape.member.serialization.get("name", "member")
            if not isinstance(given, dict) or list(given) != [word]:
                yield f"{path}: expected {word}.N"
                return
            given = given[word]
        yield from numbered(given, path)
        for index, value in given.items() if isinstance(given, dict) else ():
            yield from form(protocol, shape.member, value, f"{path}.{index}")
    elif isinstance(given, dict):
        yield f"{path}: a value is given as a structure"
    else:
        yield from scalar(shape, given, path)


def query(service, request, body):
    fields = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
    fields = tree(fields)
    action, version = fields.pop("Action", None), fields.pop("Version", None)
    versions = {"ec2": "2016-11-15", "iam": "2010-05-08", "sts": "2011-06-15"}
    described = model(service, versions[service])
    if version != described.api_version:
        yield f"{action}: Version {version}, the model has {described.api_version}"
    if action not in described.operation_names:
        yield f"{action}: no operation of {service}"
        return
    if request["method"] != "POST" or urlsplit(request["target"]).path != "/":
        yield f"{action}: {request['method']} {request['target']} in place of POST /"
    shape = described.operation_model(action).input_shape
    if shape is None:
        if fields:
            yield f"{action}: takes no parameters"
        return
    yield from form("ec2" if service == "ec2" else "query", shape, fields, action)


def operation_of(described, method, path, given):
    """The operation whose method, path and fixed parameters are the request's, the most particular one."""
    best = None
    for name in described.operation_names:
        operation = described.operation_model(name)
        uri, _, fixed = operation.http["requestUri"].partition("?")
        fixed = dict(parse_qsl(fixed, keep_blank_values=True))
        pattern = re.sub(r"\\{(\w+)\\\+\\}", r"(?P<\1>.+)", re.escape(uri))
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", pattern)
        found = re.match(pattern + "/?$", path)
        if operation.http["method"] != method or not found:
            continue
        if any(k not in given or (v and given[k] != v) for k, v in fixed.items()):
            continue
        members = operation.input_shape.members if operation.input_shape else {}
        wanted = {m.serialization["name"] for m in members.values() if m.serialization.get("location") == "querystring"}
        required = operation.input_shape.required_members if operation.input_shape else []
        headers = [members[r].serialization.get("name", r).lower() for r in required
                   if members[r].serialization.get("location") == "header"]  # fmt: skip
        missing = [r for r in required if members[r].serialization.get("location") == "querystring"
                   and members[r].serialization["name"] not in given]  # fmt: skip
        if missing:
            continue
        rank = (len(fixed), len(wanted & set(given)), len(uri), -len(headers))
        if best is None or rank > best[0]:
            best = (rank, operation, fixed, found.groupdict(), wanted)
    return best and best[1:]


def rest(service, request, body):
    described = model(service)
    url = urlsplit(request["target"])
    given = dict(parse_qsl(url.query, keep_blank_values=True))
    found = operation_of(described, request["method"], url.path, given)
    if found is None:
        yield f"{request['method']} {request['target']}: no operation of {service}"
        return
    operation, fixed, places, wanted = found
    name, shape = operation.name, operation.input_shape
    headers = {k.lower(): v for k, v in request["headers"].items()}
    for parameter in given:
        if parameter not in wanted and parameter not in fixed:
            yield f"{name}: unknown parameter {parameter}"
    known, inside = set(HEADERS), {}
    for member, m in shape.members.items() if shape else ():
        place, as_name = m.serialization.get("location"), m.serialization.get("name", member)
        required = member in shape.required_members
        value = None
        if place in ("header", "headers"):
            known.add(as_name.lower())
            value = headers.get(as_name.lower())
        elif place == "querystring":
            value = given.get(as_name)
        elif place == "uri":
            value = unquote(places[as_name])
        else:
            inside[as_name] = (member, m)
            continue
        if value is None and required:
            yield f"{name}.{member}: missing"
        elif value is not None and m.type_name not in ("map", "timestamp", "structure", "list"):
            yield from scalar(m, value, f"{name}.{member}")
    prefixes = ("x-amz-meta-", "x-amz-sdk-", "amz-sdk-")
    for header in headers:
        if header.startswith("x-amz-") and header not in known and not header.startswith(prefixes):
            yield f"{name}: unknown header {header}"
    payload = shape.serialization.get("payload") if shape else None
    if service == "ebs" and not payload and inside:
        yield from json_body(shape, inside, json.loads(body or b"{}"), name)
    elif service == "s3" and payload and shape.members[payload].type_name == "structure" and body:
        root = ElementTree.fromstring(body)
        member = shape.members[payload]
        if bare(root) != member.serialization.get("name", payload):
            yield f"{name}: the body is {bare(root)}, expected {member.serialization.get('name', payload)}"
        yield from xml(member, root, f"{name}.{payload}")


def json_body(shape, inside, given, path):
    for key, value in given.items():
        if key not in inside:
            yield f"{path}.{key}: unknown member"
        else:
            yield from json_value(inside[key][1], value, f"{path}.{key}")
    for key, (member, _) in inside.items():
        if member in shape.required_members and key not in given:
            yield f"{path}.{key}: missing"


def json_value(shape, value, path):
    if value is None:
        return
    if shape.type_name == "structure":
        inside = {m.serialization.get("name", n): (n, m) for n, m in shape.members.items()}
        yield from json_body(shape, inside, value, path)
    elif shape.type_name == "list":
        for n, item in enumerate(value):
            yield from json_value(shape.member, item, f"{path}.{n}")
    elif shape.type_name == "string" and not isinstance(value, str):
        yield f"{path}: {value!r} is no string"
    elif shape.type_name in ("integer", "long") and (isinstance(value, bool) or not isinstance(value, int)):
        yield f"{path}: {value!r} is no integer"
    else:
        yield from scalar(shape, value, path)


def rpc(headers, body):
    """The Service Quotas: the operation in a header, its parameters as JSON."""
    described = model("service-quotas")
    prefix, _, action = headers.get("x-amz-target", "").partition(".")
    if prefix != described.metadata["targetPrefix"] or action not in described.operation_names:
        yield f"{prefix}.{action}: no operation of service-quotas"
        return
    kind = f"application/x-amz-json-{described.metadata['jsonVersion']}"
    if headers.get("content-type") != kind:
        yield f"{action}: the body is {headers.get('content-type')}, expected {kind}"
    yield from json_value(described.operation_model(action).input_shape, json.loads(body), action)


def bare(element):
    return element.tag.rpartition("}")[2]


def xml(shape, element, path):
    if shape.type_name != "structure":
        yield from scalar(shape, element.text or "", path) if shape.type_name not in ("list", "map") else ()
        return
    names = {}
    for member, m in shape.members.items():
        s = m.serialization
        names[s.get("name", member)] = (member, m.member if m.type_name == "list" and s.get("flattened") else m)
    for child in element:
        if bare(child) not in names:
            yield f"{path}.{bare(child)}: unknown element"
        else:
            yield from xml(names[bare(child)][1], child, f"{path}.{bare(child)}")
    found = {names[bare(c)][0] for c in element if bare(c) in names}
    for member in shape.required_members:
        if member not in found:
            yield f"{path}.{member}: missing"


def judge(request):
    headers = {k.lower(): v for k, v in request["headers"].items()}
    scope = re.search(r"Credential=[^/]+/(\d{8})/([^/]+)/([^/]+)/aws4_request", headers.get("authorization", ""))
    body = base64.b64decode(request["body"])
    if scope is None and b"Action=AssumeRoleWith" not in body:  # which asks for the keys to sign with
        yield f"{request['method']} {request['target']}: not signed"
        return
    service = scope.group(3) if scope else "sts"
    if service in ("ec2", "iam", "sts"):
        yield from query(service, request, body)
    elif service in ("s3", "ebs"):
        yield from rest(service, request, body)
    elif service == "servicequotas":
        yield from rpc(headers, body)
    else:
        yield f"{request['method']} {request['target']}: signed for {service}"


def main():
    bad = 0
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        try:
            complaints = list(judge(request))
        except ValueError as error:
            complaints = [f"{request['method']} {request['target']}: {error}"]
        for complaint in complaints:
            print(f"{number}\t{complaint}")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
