#!/usr/bin/env bash
# PostgreSQL on this machine: postgresql.sh start FOLDER PORT, and postgresql.sh stop FOLDER. Needs its server's programs.
# The database is postgresql://postgres@127.0.0.1:PORT/postgres; all files lie in FOLDER, which becomes that of the user postgres.
set -euo pipefail
folder=$(realpath -m "$2")
programs=$(dirname "$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb "$(command -v initdb)" | grep -v '\*' | sort -V | tail -1)")

as_owner() { # PostgreSQL refuses to run as root
    if ((EUID == 0)); then
        runuser -u postgres -- "$@"
    else
        "$@"
    fi
}

start() {
    mkdir -p "$folder"
    ((EUID != 0)) || chown postgres "$folder"
    cd "$folder"
    as_owner "$programs/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --no-sync >"$folder/initdb.log"
    as_owner "$programs/pg_ctl" --pgdata="$folder/data" --log="$folder/server.log" --wait --silent \
        --options="-p $1 -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off" start
}

stop() {
    cd "$folder"
    as_owner "$programs/pg_ctl" --pgdata="$folder/data" --mode=immediate --silent stop
}

"$1" "${@:3}"
