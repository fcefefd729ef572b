"""Judges requests to Compute Engine by Google's own description of the interface (its discovery document).

Reads one JSON object a line: method, target, body. Prints a line for every mistake, the number of the request from 0
before it, and ends with 1 if there is one.
"""

import json
import re
import sys
from urllib.parse import parse_qsl, unquote, urlsplit

from googleapiclient import discovery_cache

DOCUMENT = json.loads(discovery_cache.get_static_doc("compute", "v1"))
ROOT = "/" + DOCUMENT["servicePath"]
SCHEMAS = DOCUMENT["schemas"]


def methods(resources):
    for resource in resources.values():
        yield from resource.get("methods", {}).values()
        yield from methods(resource.get("resources", {}))


def pattern(method):
    path = re.escape(method.get("flatPath", method["path"]))
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", path) + "$")


METHODS = [(m["httpMethod"], pattern(m), m) for m in methods(DOCUMENT["resources"])]


def check(schema, value, path):
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"]]
    kind = schema.get("type")
    if kind == "any":
        return
    if kind == "object":
        if not isinstance(value, dict):
            yield f"{path}: no object"
            return
        known = schema.get("properties", {})
        more = schema.get("additionalProperties")
        for key, item in value.items():
            if key in known:
                yield from check(known[key], item, f"{path}.{key}")
            elif more is not None:
                yield from check(more, item, f"{path}.{key}")
            else:
                yield f"{path}.{key}: there is no such field"
    elif kind == "array":
        if not isinstance(value, list):
            yield f"{path}: no list"
            return
        for number, item in enumerate(value):
            yield from check(schema["items"], item, f"{path}[{number}]")
    elif kind == "string":
        if not isinstance(value, str):
            yield f"{path}: {value!r} is no string"
        elif "enum" in schema and value not in schema["enum"]:
            yield f"{path}: {value!r} is none of {', '.join(schema['enum'])}"
        elif "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
        elif schema.get("format") in ("int64", "uint64") and not re.fullmatch(r"-?[0-9]+", value):
            yield f"{path}: {value!r} is no number"
    elif kind == "boolean":
        if not isinstance(value, bool):
            yield f"{path}: {value!r} is neither true nor false"
    elif kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield f"{path}: {value!r} is no number"


def judge(method, target, body):
    url = urlsplit(target)
    if not url.path.startswith(ROOT):
        yield f"{url.path} is not below {ROOT}"
        return
    path = url.path[len(ROOT) :]
    # The path without variables is the one that is meant: images/family/x is not an image.
    fits = [(p.match(path), m) for verb, p, m in METHODS if verb == method and p.match(path)]
    if not fits:
        yield f"there is no method {method} {path}"
        return
    match, found = min(fits, key=lambda fit: len(fit[0].groupdict()))
    parameters = found.get("parameters", {})
    for name, value in match.groupdict().items():
        rule = parameters[name]
        if "pattern" in rule and not re.fullmatch(rule["pattern"], unquote(value)):
            yield f"{found['id']}: {name}={value} does not match {rule['pattern']}"
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        rule = parameters.get(name) or DOCUMENT["parameters"].get(name)
        if rule is None or rule.get("location") == "path":
            yield f"{found['id']}: there is no parameter {name}"
        elif rule["type"] == "integer" and not re.fullmatch(r"-?[0-9]+", value):
            yield f"{found['id']}: {name}={value} is no number"
        elif rule["type"] == "boolean" and value not in ("true", "false"):
            yield f"{found['id']}: {name}={value} is neither true nor false"
        elif rule.get("format") == "uuid" and not re.fullmatch(r"[0-9a-f-]{36}", value):
            yield f"{found['id']}: {name}={value} is no UUID"
    for name, rule in parameters.items():
        given = dict(parse_qsl(url.query, keep_blank_values=True))
        if rule.get("required") and rule["location"] == "query" and name not in given:
            yield f"{found['id']}: {name} is missing"
    if "request" in found:
        yield from check(found["request"], json.loads(body), found["id"])
    elif body:
        yield f"{found['id']}: it has no body"


def main():
    wrong = 0
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        for complaint in judge(request["method"], request["target"], request["body"]):
            wrong = 1
            print(f"{number}\t{complaint}")
    return wrong


sys.exit(main())
