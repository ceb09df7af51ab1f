"""What was said since the fleet began, counted: lines `type correlation count` from the queue `outside.tap.events`, which
hears everything and which nobody empties. Runs in the container of `lota`, with the broker's administrator's password."""
import base64, collections, json, os, urllib.request

password = open("/broker/admin.password").read().strip()
request = urllib.request.Request(
    f"http://{os.environ['LOTA_BROKER_HOST']}:15672/api/queues/lota/outside.tap.events/get",
    json.dumps({"count": 5000, "ackmode": "ack_requeue_true", "encoding": "auto"}).encode(),
    {
        "Authorization": "Basic " + base64.b64encode(f"lota-admin:{password}".encode()).decode(),
        "Content-Type": "application/json",
    },
)
counts = collections.Counter()
for message in json.load(urllib.request.urlopen(request)):
    body = json.loads(message["payload"])
    counts[body["type"], body.get("correlation_id", "-")] += 1
for (kind, correlation), count in sorted(counts.items()):
    print(kind, correlation, count)
