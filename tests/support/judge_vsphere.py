"""Judges requests to vSphere by the type tables of VMware's own client library, pyvmomi.

Called with "requests", reads one JSON object a line: body, an envelope of SOAP. Prints a line for every mistake, the number
of the request from 0 before it, and ends with 1 if there is one.
"""

import json
import sys
import xml.etree.ElementTree as ET

from pyVmomi import VmomiSupport
from pyVmomi.VmomiSupport import F_OPTIONAL, DataObject, ManagedObject

VIM = "urn:vim25"
BODY = "{http://schemas.xmlsoap.org/soap/envelope/}Body"
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


def local(tag):
    return tag.rsplit("}", 1)[-1]


def type_named(name):
    try:
        return VmomiSupport.GetWsdlType(VIM, name.rsplit(":", 1)[-1])
    except KeyError:
        return None


def value(element, declared, place):
    """What is wrong with an element of a declared type."""
    said = element.get(XSI_TYPE)
    if said is not None and said.startswith("xsd:"):
        return
    actual = declared if said is None else type_named(said)
    if actual is None:
        yield f"{place}: there is no type {said}"
        return
    if issubclass(actual, ManagedObject) or issubclass(declared, ManagedObject):
        kind = type_named(element.get("type", ""))
        if kind is None or not issubclass(kind, declared):
            yield f"{place}: {element.get('type')} is no {declared.__name__}"
        if not element.text:
            yield f"{place}: it refers to nothing"
        return
    if said is not None and not issubclass(actual, declared):
        yield f"{place}: {said} is no {declared.__name__}"
        return
    if issubclass(actual, DataObject):
        yield from members(list(element), actual._GetPropertyList(), place)
        return
    text = element.text or ""
    if actual is bool:
        if text not in ("true", "false"):
            yield f"{place}: {text!r} is no truth value"
    elif issubclass(actual, int):
        try:
            int(text)
        except ValueError:
            yield f"{place}: {text!r} is no number"
    elif hasattr(actual, "values"):
        if text not in actual.values:
            yield f"{place}: {text!r} is none of {actual.values}"
    elif len(element):
        yield f"{place}: there are elements in it"


def members(children, properties, place):
    """What is wrong with elements that stand for these properties, in this order."""
    left = list(children)
    for prop in properties:
        many = issubclass(prop.type, VmomiSupport.Array)
        kind = prop.type.Item if many else prop.type
        found = 0
        while left and local(left[0].tag) == prop.name and (many or found == 0):
            if not left[0].tag.startswith("{" + VIM + "}"):
                yield f"{place}/{prop.name}: it is in no namespace of vSphere's"
            yield from value(left.pop(0), kind, f"{place}/{prop.name}")
            found += 1
        if not found and not prop.flags & F_OPTIONAL:
            yield f"{place}: there is no {prop.name}"
    for child in left:
        yield f"{place}: {local(child.tag)} is unknown, or in the wrong place"


def judge(body):
    asked = ET.fromstring(body).find(BODY)[0]
    name = local(asked.tag)
    try:
        info = VmomiSupport.GetWsdlMethod(VIM, name).info
    except KeyError:
        yield f"there is no method {name}"
        return
    this, *children = list(asked)
    kind = type_named(this.get("type", ""))
    if local(this.tag) != "_this" or kind is None or not issubclass(kind, info.type):
        yield f"{name}: {this.get('type')} has no such method"
    yield from members(children, info.params, name)


def main():
    wrong = 0
    for number, line in enumerate(sys.stdin):
        for mistake in judge(json.loads(line)["body"]):
            wrong += 1
            print(f"{number}: {mistake}")
    sys.exit(1 if wrong else 0)


main()
