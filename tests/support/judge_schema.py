"""Judges documents by the schemas in the folder beside this.

Reads lines {"schema": NAME, "document": ...}; prints what is wrong, a line each; exits 1 if anything is.
"""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator

SCHEMAS = pathlib.Path(__file__).with_name("schemas")

wrong = 0
for line in sys.stdin:
    asked = json.loads(line)
    schema = json.loads((SCHEMAS / f"{asked['schema']}.json").read_text())
    Draft202012Validator.check_schema(schema)
    for error in Draft202012Validator(schema).iter_errors(asked["document"]):
        wrong += 1
        print(f"{asked['schema']}: {error.json_path}: {error.message}")
sys.exit(wrong > 0)
