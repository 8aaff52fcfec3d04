"""Renders every template of jinja.json with Jinja2, set up as transformers 4.57.1 does, and stores
what comes out. Needs jinja2==3.1.6. Add a pair [template, ""] to the file, then run this."""

import json
import pathlib

from jinja2 import ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

PLACE = pathlib.Path(__file__).with_name("jinja.json")


class Generation(ext.Extension):
    """{% generation %} … {% endgeneration %}: a scope of its own, else nothing."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
)
environment.filters["tojson"] = tojson
content = json.loads(PLACE.read_text(encoding="utf-8"))
content["cases"] = [
    [source, environment.from_string(source).render(**content["variables"])]
    for source, _ in content["cases"]
]
PLACE.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
