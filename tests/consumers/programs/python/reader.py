"""A consumer: reads one prefix through etcd's own JSON gateway, with nothing but Python's standard library, keeps up by a
watch, and prints a line for every change of what it knows. Each value is HOST:PORT, as Plain writes it."""

import base64
import json
import sys
import urllib.request


def encode(text):
    return base64.b64encode(text.encode()).decode()


def decode(text):
    return base64.b64decode(text).decode()


def post(endpoint, path, body):
    request = urllib.request.Request(endpoint + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request)


def tell(known):
    print(json.dumps({"addresses": sorted(known.values())}), flush=True)


def main(endpoint, prefix):
    # Every key that starts with the prefix, which ends with a slash: up to the same with what comes after the slash.
    keys = {"key": encode(prefix), "range_end": encode(prefix[:-1] + "0")}
    with post(endpoint, "/v3/kv/range", keys) as answer:
        read = json.load(answer)
    known = {decode(kv["key"]): decode(kv["value"]) for kv in read.get("kvs", [])}
    tell(known)
    watch = {"create_request": {**keys, "start_revision": str(int(read["header"]["revision"]) + 1)}}
    for line in post(endpoint, "/v3/watch", watch):
        events = json.loads(line)["result"].get("events", [])
        for event in events:
            key = decode(event["kv"]["key"])
            if event.get("type") == "DELETE":
                known.pop(key, None)
            else:
                known[key] = decode(event["kv"]["value"])
        if events:
            tell(known)


main(*sys.argv[1:])
