"""What an application of its own would do with a provider's webhooks: uvicorn takes them on every processor, checks the
signature, and inserts each event into PostgreSQL, which makes it durable before the answer.

Run as: receiver.py FOLDER PORT KEY. It makes a database cluster in FOLDER with the settings that PostgreSQL comes with,
reached over a unix socket only, and ends it again.
"""

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import uvicorn

SCHEMA = """
create table events (
    upstream text not null,
    identity text not null,
    kind text not null,
    happened double precision not null,
    recipient text,
    send text,
    payload jsonb not null,
    arrived timestamptz not null default now(),
    primary key (upstream, identity)
);
create index on events (send);
"""
INSERT = """
insert into events (upstream, identity, kind, happened, recipient, send, payload)
values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
"""
pool = None


async def app(scope, receive, send):
    global pool
    if scope["type"] == "lifespan":
        await receive()
        pool = await asyncpg.create_pool(host=os.environ["BENCH_SOCKET"], user="bench", database="postgres", min_size=16, max_size=16)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await pool.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    status = await take(scope["path"].rpartition("/")[2], body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def take(upstream, body):
    try:
        report = json.loads(body)
        signature, event = report["signature"], report["event-data"]
        signed = (signature["timestamp"] + signature["token"]).encode()
        made = hmac.new(os.environ["BENCH_KEY"].encode(), signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(made, signature["signature"]):
            return 406
        send = event["user-variables"].get("mailtrail")
        row = event["id"], event["event"], event["timestamp"], event["recipient"], send, body.decode()
    except (ValueError, KeyError):
        return 406
    await pool.execute(INSERT, upstream, *row)
    return 200


def program(name):
    """Debian keeps PostgreSQL's programs in a folder of their version."""
    there = sorted(str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (there[-1] if there else None)
    return found or sys.exit(f"{name} is not installed (PostgreSQL)")


def main(folder, port, key):
    # PostgreSQL refuses to run as root.
    other = {"user": "nobody"} if os.getuid() == 0 else {}
    data = os.path.join(folder, "postgres")
    os.mkdir(data, 0o700)
    if other:
        os.chmod(folder, 0o755)
        shutil.chown(data, "nobody")
    quiet = {"stdout": subprocess.DEVNULL, "cwd": "/", **other}
    subprocess.run([program("initdb"), "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8"], check=True, **quiet)
    postgres = subprocess.Popen([program("postgres"), "-D", data, "-k", data, "-c", "listen_addresses="], **quiet)
    try:
        ready = [program("pg_isready"), "-q", "-h", data, "-U", "bench", "-t", "20"]
        while subprocess.run(ready).returncode != 0:
            if postgres.poll() is not None:
                sys.exit("PostgreSQL does not start")
        client = [program("psql"), "-q", "-h", data, "-U", "bench", "-d", "postgres", "-c", SCHEMA]
        subprocess.run(client, check=True)
        os.environ.update(BENCH_SOCKET=data, BENCH_KEY=key)
        uvicorn.run("receiver:app", port=port, workers=os.cpu_count(), log_level="warning", access_log=False)
    finally:
        postgres.terminate()
        postgres.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
