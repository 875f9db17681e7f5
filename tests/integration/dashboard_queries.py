"""Checks that every query of a Grafana dashboard returns data from a Prometheus.

    python3 dashboard_queries.py http://127.0.0.1:9090 deploy/grafana/keyload.json [--wait 60] [--rate-interval 1m]

Prints each query that returns nothing and ends with 1 if there is any. With --wait it asks again until then. Dashboard
variables stand for everything; what a query returns counts as data when at least one value of it is a number.
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ANSWER_SECONDS = 30


def panels(items):
    """Panels, those inside of rows too."""
    for panel in items:
        yield panel
        yield from panels(panel.get("panels", ()))


def expressions(dashboard):
    """(title, query) of every target."""
    for panel in panels(dashboard["panels"]):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def fill_in(expression, variables, rate_interval):
    expression = expression.replace("$__rate_interval", rate_interval)
    for name in variables:
        expression = re.sub(rf"\$(\{{{name}\}}|{name}\b)", ".*", expression)
    if "$" in expression:
        raise ValueError(f"a variable that is not known: {expression}")
    return expression


def query(url, expression):
    """The values that the query returns now; what Prometheus says against it is a ValueError."""
    parameters = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{parameters}", timeout=ANSWER_SECONDS) as answer:
            data = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(f"{expression}: {error.read().decode(errors='replace')}") from error
    return [float(sample["value"][1]) for sample in data["result"]]


def without_data(url, dashboard, rate_interval):
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    for title, expression in expressions(dashboard):
        filled = fill_in(expression, variables, rate_interval)
        if all(math.isnan(value) for value in query(url, filled)):
            yield f"{title}: {filled}"


def wait_for_data(url, dashboard, seconds, rate_interval):
    """What is without data still after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        lacking = list(without_data(url, dashboard, rate_interval))
        if not lacking or time.monotonic() > deadline:
            return lacking
        time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the Prometheus")
    parser.add_argument("dashboard", help="JSON file")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="until every query has data")
    parser.add_argument("--rate-interval", default="1m", help="what $__rate_interval stands for (default 1m)")
    arguments = parser.parse_args()
    with open(arguments.dashboard, encoding="utf-8") as file:
        dashboard = json.load(file)
    lacking = wait_for_data(arguments.url.rstrip("/"), dashboard, arguments.wait, arguments.rate_interval)
    count = sum(1 for _ in expressions(dashboard))
    print("\n".join(f"no data: {line}" for line in lacking) if lacking else f"{count} queries have data")
    return 1 if lacking or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
