"""Judges requests to DigitalOcean, and answers to them, by the vendor's own description of the interface, of which
digitalocean.yaml is an extract.

Reads one JSON object a line: method, target, body, and, if the answer is to be judged, status and answer. Prints a line
for every mistake, the number of the exchange from 0 before it, and ends with 1 if there is one.
"""

import json
import pathlib
import re
import sys
from urllib.parse import parse_qsl, urlsplit

import yaml
from openapi_core import OpenAPI
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.testing import MockRequest, MockResponse

DOCUMENT = yaml.load(
    (pathlib.Path(__file__).parent / "digitalocean.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
)
for methods in DOCUMENT["paths"].values():
    for parameter in (p for o in methods.values() for p in o.get("parameters", ())):
        # Ids cannot be written by bodies; openapi-core takes that for a rule of paths, too.
        for schema in (parameter["schema"], *parameter["schema"].get("anyOf", ())):
            schema.pop("readOnly", None)
API = OpenAPI.from_dict(DOCUMENT)
HOST = "https://api.digitalocean.com"
JSON = "application/json"


def causes(error):
    """What is wrong: the mistakes that a schema names, else the deepest cause."""
    while error is not None:
        last, faults = error, getattr(error, "schema_errors", None)
        if faults:
            for fault in (f for top in faults for f in (top, *(top.context or ()))):
                yield f"{'/'.join(map(str, fault.absolute_path))}: {fault.message}"
            return
        error = error.__cause__
    yield f"{type(last).__name__}: {last}"


def resolved(schema):
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def fields(schema):
    """The names of all fields that an object may have: the schemas let others pass."""
    schema = resolved(schema)
    yield from schema.get("properties", {})
    for part in (*schema.get("allOf", ()), *schema.get("oneOf", ()), *schema.get("anyOf", ())):
        yield from fields(part)


def operation(method, path):
    for pattern, methods in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(pattern)), path) and method.lower() in methods:
            return methods[method.lower()]
    return None


def judge(method, target, body, status=None, answer=None):
    url = urlsplit(target)
    query = parse_qsl(url.query, keep_blank_values=True)
    known = operation(method, url.path)
    if known is None:
        yield f"there is no operation {method} {url.path}"
        return
    names = {p["name"] for p in map(resolved, known.get("parameters", ())) if p["in"] == "query"}
    yield from (f"there is no parameter {name}" for name, _ in query if name not in names)
    if "requestBody" in known:
        schema = known["requestBody"]["content"][JSON]["schema"]
        yield from (f"there is no field {name}" for name in json.loads(body) if name not in set(fields(schema)))
    elif body:
        yield "it has no body"
    request = MockRequest(
        HOST, method.lower(), url.path, args=dict(query), data=body.encode() if body else None, content_type=JSON
    )
    for error in API.unmarshal_request(request).errors:
        yield from causes(error)
    if status is None:
        return
    if str(status) not in known["responses"]:
        yield f"there is no answer with status {status}"
        return
    # Addresses of doubles have ports.
    answer = re.sub(r'("ip_address": ?"[0-9.]+):[0-9]+"', r'\1"', answer)
    response = MockResponse(data=answer.encode() or None, status_code=status, content_type=JSON)
    try:
        for error in API.unmarshal_response(request, response).errors:
            yield from causes(error)
    except PathError as error:
        yield from causes(error)


def main():
    wrong = 0
    for number, line in enumerate(sys.stdin):
        for complaint in judge(**json.loads(line)):
            wrong = 1
            print(f"{number}\t{complaint}")
    return wrong


sys.exit(main())
