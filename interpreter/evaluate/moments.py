"""The forms in which `import { … } from @now` gives the moment."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

from interpreter.values import Value

from .core import Env

TOKEN = re.compile("YYYY|YY|MM|DD|HH|mm|SSS|ss")
DIRECTIVES = {"YYYY": "%Y", "YY": "%y", "MM": "%m", "DD": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def forms(env: Env, wanted: Iterable[str]) -> dict[str, Value]:
    """What has a name, and those of the wanted names that spell a form: `import { YYYY-MM-DD as @today } from @now`. In UTC."""
    moment = datetime.datetime.fromtimestamp(env.ports.clock.now(), datetime.UTC)
    millis = f"{moment.microsecond // 1000:03d}"
    iso = moment.strftime(f"%Y-%m-%dT%H:%M:%S.{millis}Z")
    found = {
        "iso": Value(iso), "unix": Value(str(int(moment.timestamp()))), "date": Value(moment.strftime("%Y-%m-%d")),
        "time": Value(moment.strftime("%H:%M:%S")), "timestamp": Value(iso), "year": Value(moment.year),
    }  # fmt: skip

    def spelt(token: re.Match[str]) -> str:
        return millis if token.group() == "SSS" else moment.strftime(DIRECTIVES[token.group()])

    for name in wanted:
        if name not in found and TOKEN.search(name):
            found[name] = Value(TOKEN.sub(spelt, name))
    return found
