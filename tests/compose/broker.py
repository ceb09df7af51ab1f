"""What a cluster is like: `cluster` says how many nodes run and on how many of them each quorum queue is; `node USER`, a service
that a connection of that user goes to. Runs in the container of `lota`, with the broker's administrator's password."""
import base64, json, sys, urllib.request

password = open("/broker/admin.password").read().strip()


def get(path):
    authorization = "Basic " + base64.b64encode(f"lota-admin:{password}".encode()).decode()
    request = urllib.request.Request("http://brokers:15672/api/" + path, headers={"Authorization": authorization})
    return json.load(urllib.request.urlopen(request, timeout=10))


if sys.argv[1] == "cluster":
    nodes = sum(node["running"] for node in get("nodes"))
    members = {len(queue.get("online", [])) for queue in get("queues") if queue["type"] == "quorum"}
    print(f"{nodes} nodes, {', '.join(str(count) for count in sorted(members))} members of each quorum queue")
else:
    nodes = {c["node"] for c in get("connections") if c.get("user") == sys.argv[2]}
    print(min((node.split("@")[1] for node in nodes), default=""))
