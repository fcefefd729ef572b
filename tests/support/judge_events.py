"""Judges events by their JSON Schema. stdin: the schema in a line, then the events."""

import json
import sys

import jsonschema

schema, *events = map(json.loads, sys.stdin)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for event in events:
    for error in validator.iter_errors(event):
        print(f"{event}: {error.message}")
