"""Says something to Codex on a node and prints the answer: turn.py http://127.0.0.1:4317 [TEXT]

Knows the node's address and nothing else: how to ask is what /describe and the page that it points to tell.
"""

import json
import sys
import urllib.request

base, text = sys.argv[1].rstrip("/"), " ".join(sys.argv[2:]) or "Say hello."


def call(path, method="GET", body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["data"]


def endpoint(wanted):
    return next(row for row in business["endpoints"] if wanted(row))


def names(fields):
    return {field["name"]: field["type"] for field in fields or []}


business = call(call("/describe")["describe_endpoints"]["business"]["path"])
create = endpoint(lambda row: row["success"] == [201] and names(row["returns"]) == {"session": "Session"})
submit = endpoint(lambda row: {"sessionId", "input"} <= names(row["body"]).keys())
look = endpoint(lambda row: row["path_parameters"] and names(row["returns"]) == {"turn": "Turn"})

session = call(create["path"], create["method"], {})["session"]["sessionId"]
turn_id = call(submit["path"], submit["method"], {"sessionId": session, "input": text})["turnId"]
path = look["path"].replace(":" + look["path_parameters"][0], turn_id) + "?waitMs=60000"
while (turn := call(path)["turn"])["status"] in ("accepted", "inProgress"):
    pass
print(turn["text"] if turn["status"] == "completed" else f"{turn['status']}: {turn['error']}")
