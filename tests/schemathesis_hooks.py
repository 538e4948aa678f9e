"""What schemathesis.toml cannot say of the requests."""

import itertools
import re

import schemathesis

KEY = re.compile(r"[!-~]{1,128}")
numbers = itertools.count(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    """A key that keeps its rule is a new one each time: with those of the schema most requests would be refused, since
    another request had the same key."""
    for name, key in (case.headers or {}).items():
        if name.lower() == "idempotency-key" and KEY.fullmatch(str(key)):
            case.headers[name] = f"schemathesis-{next(numbers)}"
