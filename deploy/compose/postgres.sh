#!/bin/sh
# postgres.sh: the database of bots' stores, in its container. The one that LOTA_STORE_HOST names is the primary; another (its
# name is LOTA_STORE_SELF) follows it, from a copy that it takes when its volume is empty. Where LOTA_STORE_STANDBY names who
# follows, a commit counts when that one has it too.
set -eu
data=/var/lib/postgresql/data/lota
self=$LOTA_STORE_SELF primary=$LOTA_STORE_HOST

# A cluster that is whole when it gets its name: whatever broke off before is begun anew.
make_primary() {
    rm -rf "$data.new"
    initdb --pgdata "$data.new" --username postgres --encoding UTF8 --locale C.UTF-8 --data-checksums \
        --auth-local peer --auth-host scram-sha-256 --pwfile /store/admin.password
    # Other containers of the fleet's network, each with its password.
    printf 'host all all all scram-sha-256\nhost replication replicator all scram-sha-256\n' >>"$data.new/pg_hba.conf"
    printf "CREATE DATABASE lota\nCREATE ROLE replicator LOGIN REPLICATION PASSWORD '%s'\n" "$(cat /store/replicator.password)" |
        postgres --single -D "$data.new" postgres >/dev/null
    mv "$data.new" "$data"
}

follow_primary() {
    rm -rf "$data.new"
    until pg_isready --quiet --host "$primary"; do sleep 1; done
    pg_basebackup --host "$primary" --username replicator --pgdata "$data.new" --wal-method stream --checkpoint fast --write-recovery-conf
    mv "$data.new" "$data"
}

if [ "$self" = "$primary" ]; then
    [ -s "$data/PG_VERSION" ] || make_primary
else
    (umask 077; printf '*:5432:*:replicator:%s\n' "$(cat /store/replicator.password)" >"$PGPASSFILE")
    [ -s "$data/PG_VERSION" ] || follow_primary
    # Two primaries would each take writes that the other has not.
    [ -e "$data/standby.signal" ] || {
        echo "postgres.sh: LOTA_STORE_HOST names $primary as the primary, and $self was one too: remove the volume of $self, and it follows $primary" >&2
        exit 78
    }
fi
[ -z "${LOTA_STORE_STANDBY:-}" ] || set -- -c "synchronous_standby_names=\"$LOTA_STORE_STANDBY\""
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp -c "cluster_name=$self" \
    -c max_connections="${LOTA_STORE_CONNECTIONS:-100}" -c shared_buffers=128MB -c wal_keep_size=1GB -c hot_standby=on "$@"
