"""What was said since the fleet began, counted: lines `type correlation count` from the queue `outside.tap.events`, which
hears everything and which nobody empties. Copies of one id are one message: who published it sent it again, since a node
was lost before it confirmed. Runs in the container of `lota`, with the broker's administrator's password."""
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
bodies = [json.loads(message["payload"]) for message in json.load(urllib.request.urlopen(request))]
said = {(body["type"], body.get("correlation_id", "-"), body["id"]) for body in bodies}
counts = collections.Counter((kind, correlation) for kind, correlation, _ in said)
for (kind, correlation), count in sorted(counts.items()):
    print(kind, correlation, count)
