"""What Amazon's client makes of files, variables and a profile: cases on stdin, answers on stdout, both lists of JSON."""

import json
import os
import sys

import botocore.credentials
import botocore.exceptions
import botocore.session
import botocore.tokens


def answer(case):
    os.environ.clear()
    os.environ.update(case["environment"])
    # It looks for its home when it is loaded.
    tokens = os.path.expanduser("~/.aws/sso/cache")
    botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR = tokens
    botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR = tokens
    try:
        session = botocore.session.Session(profile=case["profile"])
        region = session.get_config_variable("region")
        keys = session.get_credentials()
        if keys is None:
            return "nothing"
        role = getattr(getattr(keys, "_refresh_using", None), "__self__", None)
        if hasattr(role, "_source_credentials"):
            keys = f"{role._role_arn} by {role._source_credentials.access_key}"
        elif keys.method in ("assume-role-with-web-identity", "custom-process"):
            keys = keys.method
        else:
            keys = ":".join([keys.access_key, keys.secret_key, keys.token or ""])
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, UnicodeDecodeError):
        return "error"
    except KeyError:  # for tokens that are no JSON
        return "error"
    return f"{keys} {region if isinstance(region, str) and region else '-'}"


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
